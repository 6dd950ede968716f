"""Freezing that lasts, and thawing step by step."""

from types import MethodType

from torch import nn

from tlcourse.models.heads import bare
from tlcourse.models.stages import stages, train_mode


def keep_frozen(model: nn.Module) -> nn.Module:
    """Make every later `model.train()` leave what is frozen in evaluation mode, and return the model.

    For a loop of your own that calls `model.train()`; `tl.train.fit` needs no help. What is frozen is looked up at
    each call, so freezing and unfreezing go on as before. It holds inside the wrappers of `torch.compile` and
    `DistributedDataParallel`, for copies of the model, and against `frozen_norms="train"`; `del model.train` ends it.
    """
    inner = bare(model)
    inner.train = MethodType(_train, inner)
    return model.train(model.training)


def gradual_plan(model: nn.Module, steps: int, *, at_most: int | None = None) -> list[str]:
    """Return the stages to unfreeze from, one for each step: first the head, then a stage more each time, then all.

    The way of each step is `unfreeze_from(model, stage)`, `extend_optimizer(optimizer, model, lr, decay=...)`, and a
    `fit` with a scheduler of its own. `tl.train.plan` adds rates and epochs, and `tl.train.gradual` goes that way.
    Source: Howard and Ruder 2018 (ULMFiT), gradual unfreezing.

    Args:
        model: its stages decide.
        steps: at least 2; a ResNet in 4 steps gives head, layer4, layer3, stem.
        at_most: so many stages, as in `stages`; pass the same to the functions of the step.

    Raises:
        ValueError: fewer than two steps, or more steps than stages.
    """
    names = [part.name for part in stages(model, at_most=at_most)][::-1]
    if not 2 <= steps <= len(names):
        raise ValueError(f"steps={steps}: give 2 to {len(names)}, the number of stages: {', '.join(names)}.")
    return [*names[: steps - 1], names[-1]]


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    own = model.__dict__.pop("train")  # so that `model.train` is the class's own for a moment
    try:
        return train_mode(model) if mode else model.train(False)
    finally:
        model.train = own
