"""Freezing that lasts, and thawing step by step."""

from types import MethodType

from torch import nn

from tlcourse.models.heads import unwrap_model
from tlcourse.models.stage import stages, train_mode


def keep_frozen(model: nn.Module) -> nn.Module:
    """Make every later `model.train()` leave what is frozen in evaluation mode, and return the model.

    For a loop of your own that calls `model.train()`; `tl.train.fit` needs no help. What is frozen is looked up at
    each call, so freezing and unfreezing go on as before. It holds inside the wrappers of `torch.compile` and
    `DistributedDataParallel`, for copies of the model, and against `frozen_bn="train"`; `del model.train` ends it.
    """
    inner = unwrap_model(model)
    inner.train = MethodType(_train, inner)
    return model.train(model.training)


def gradual_plan(model: nn.Module, steps: int, *, max_stages: int | None = None) -> list[str]:
    """Return the stages to unfreeze from, one for each step: first the head, then a stage more each time, then all.

    The way of each step is `unfreeze_from(model, stage)`, `extend_optimizer(optimizer, model, lr, decay=...)`, and a
    `fit` with a scheduler of its own. `tl.train.plan` adds rates and epochs, and `tl.train.fit_gradual` goes that way.
    Source: Howard and Ruder 2018 (ULMFiT), gradual unfreezing.

    Args:
        model: its stages decide.
        steps: at least 2; a ResNet in 4 steps gives head, layer4, layer3, stem.
        max_stages: so many stages, as in `stages`; pass the same to the functions of the step.

    Raises:
        ValueError: fewer than two steps, or more steps than stages.
    """
    names = [part.name for part in stages(model, max_stages=max_stages)][::-1]
    if not 2 <= steps <= len(names):
        raise ValueError(f"steps={steps}: give 2 to {len(names)}, the number of stages: {', '.join(names)}.")
    return [*names[: steps - 1], names[-1]]


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    own = model.__dict__.pop("train")  # so that `model.train` is the class's own for a moment
    try:
        return train_mode(model) if mode else model.train(False)
    finally:
        model.train = own
