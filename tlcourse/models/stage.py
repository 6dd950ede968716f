"""Freezing, stage by stage: a stage is frozen when none of its parameters takes gradients.

`freeze` and `unfreeze_from` set `requires_grad`. That alone does not keep a frozen batch norm still: in training mode,
its running statistics follow the batches. `train_mode` puts it into evaluation mode. `stages` gives the stages.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile

import torch
from torch import nn

from tlcourse.models.heads import unwrap_model
from tlcourse.models.stage_rules import StagePlan, check_plan, infer_stages, tensors
from tlcourse.table import Table

# timm's batch norm with a built-in activation is a BatchNorm2d, too.
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def freeze(model: nn.Module) -> nn.Module:
    """Freeze every stage but the head: the model becomes a feature extractor with a trainable classifier.

    A head that you put in the classifier's place is trained as a whole, norms and scales too; of a library's own layers
    (VGG, MobileNetV3), whose lower ones are pre-trained, the last. `summary` shows what trains.
    """
    return unfreeze_from(model, "head")


def unfreeze(model: nn.Module) -> nn.Module:
    """Make every parameter trainable."""
    return model.requires_grad_(True)


def unfreeze_from(model: nn.Module, stage: str, *, max_stages: int | None = None) -> nn.Module:
    """Make a stage and all stages above it trainable, and freeze all stages below.

    Freeze before you wrap a model in `DistributedDataParallel`, which expects the same gradients in every step.

    Raises:
        ValueError: the model has no such stage.
    """
    parts = stages(model, max_stages=max_stages)
    names = [part.name for part in parts]
    if stage not in names:
        raise ValueError(f"There is no stage {stage!r}. From stem to head: {', '.join(names)}.")
    for i, part in enumerate(parts):
        for parameter in part.parameters.values():
            parameter.requires_grad_(i >= names.index(stage))
            if not parameter.requires_grad:
                parameter.grad = None  # the optimizer would still apply an old gradient
    return model


def train_mode(model: nn.Module, *, frozen_bn: str = "eval") -> nn.Module:
    """Call `model.train()`, then put the frozen modules back into evaluation mode.

    A frozen module in training mode still changes: batch norm updates its running statistics, and normalises by the
    batch's statistics instead; dropout still drops. `frozen_bn="train"` lets that happen, as in a plain loop.
    Call this wherever you would call `model.train()`, or call `keep_frozen` once.
    """
    if frozen_bn not in ("eval", "train"):
        raise ValueError(f"frozen_bn is {frozen_bn!r}: choose 'eval' (keep the statistics) or 'train'.")
    model.train()
    if frozen_bn == "eval":
        _eval_frozen(model)
    return model


def _eval_frozen(model: nn.Module) -> None:
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()  # this line keeps a frozen batch norm still
    bare = {  # such as a batch norm without parameters of its own: it is as frozen as its stage
        name: module
        for name, module in unwrap_model(model).named_modules()
        if any(True for _ in module.buffers()) and not any(True for _ in module.parameters())
    }
    if bare:
        with suppress(ValueError):  # of a model without a recognisable head
            for stage in takewhile(lambda stage: not stage.trainable, stages(model)):
                for owner in {name.rpartition(".")[0] for name in stage.buffers} & set(bare):
                    bare[owner].eval()


def keep_frozen(model: nn.Module) -> nn.Module:
    """Make every later `model.train()` behave like `train_mode(model)`, and return the model.

    For your own loop that calls `model.train()`; `tl.train.fit` does not need it. Each call looks up which modules are
    frozen, so you can freeze and unfreeze as before. It also works for copies of the model and inside the wrappers of
    `torch.compile` and `DistributedDataParallel`, and overrides `frozen_bn="train"`. `del model.train` ends it.
    """
    inner = unwrap_model(model)
    inner.train = partial(_train, inner)
    return model.train(model.training)


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    type(model).train(model, mode)  # the method that `keep_frozen` has replaced
    if mode:
        _eval_frozen(model)
    return model


@dataclass(frozen=True)
class Stage:
    """One stage: its name, and its parameters and buffers by their full names."""

    name: str
    parameters: dict[str, nn.Parameter]
    buffers: dict[str, torch.Tensor]

    @property
    def count(self) -> int:
        """Number of values in the parameters."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def trainable(self) -> int:
        """Number of values in the parameters that take gradients."""
        return sum(p.numel() for p in self.parameters.values() if p.requires_grad)


def stages(model: nn.Module, *, max_stages: int | None = None) -> list[Stage]:
    """Split a model into stages, in the order of the forward pass, from the stem to the head.

    Every parameter and every buffer is in exactly one stage. This works for the classifiers of torchvision and timm,
    and for your own model if its modules are defined in the order of use and its classifier is called `fc`, `head`,
    `heads` or `classifier`. For any other model, set `model.stage_plan`: a dictionary of stages from stem to head, each
    with a list of names of modules or tensors.

    Args:
        model: wrapped or not; the names are those inside the wrappers.
        max_stages: join stages between stem and head into groups of equal length until there are this many.

    Raises:
        ValueError: there is no head, a tensor is in no stage of the plan, or a name in the plan is not in the model or
            is in two stages.
    """
    model = unwrap_model(model)
    plan = getattr(model, "stage_plan", None)
    if plan:
        check_plan(model, plan)
    found = _partition(model, plan or infer_stages(model))
    return found if max_stages is None else _joined(found, max_stages)


def unfreeze_order(model: nn.Module, phases: int, *, max_stages: int | None = None) -> list[str]:
    """Return the stage to unfreeze from in each phase: the head, one more stage in each phase, and at last all.

    A ResNet in 4 phases gives head, layer4, layer3, stem. `tl.train.plan` adds rates and epochs.
    Source: Howard and Ruder 2018 (ULMFiT), gradual unfreezing.

    Raises:
        ValueError: fewer than two phases, or more phases than stages.
    """
    names = [part.name for part in stages(model, max_stages=max_stages)][::-1]
    if not 2 <= phases <= len(names):
        raise ValueError(f"phases={phases}: give 2 to {len(names)}, the number of stages: {', '.join(names)}.")
    return [*names[: phases - 1], names[-1]]


def summary(model: nn.Module, *, max_stages: int | None = None) -> Table:
    """Show for each stage its parameters, how many of them are trainable, and the mode of its batch norms."""
    rows, modules = Table(), dict(unwrap_model(model).named_modules())
    for stage in stages(model, max_stages=max_stages):
        owners = [modules[name.rpartition(".")[0]] for name in stage.buffers]
        modes = {"train" if owner.training else "eval" for owner in owners if isinstance(owner, NORMS)}
        row = {"stage": stage.name, "parameters": stage.count, "trainable": stage.trainable}
        rows.append({**row, "batch norm": " and ".join(sorted(modes)) or "none"})
    total = {key: sum(row[key] for row in rows) for key in ("parameters", "trainable")}
    rows.append({"stage": "all", **total, "batch norm": ""})
    return rows


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Count the values in some parameters, each parameter once."""
    return sum(p.numel() for p in set(parameters))


def _partition(model: nn.Module, plan: StagePlan) -> list[Stage]:
    """Put each tensor into the stage that names it, or else the closest module around it."""
    stage_of = {name: stage for stage, names in plan.items() for name in names}
    found = {stage: Stage(stage, {}, {}) for stage in plan}
    for name, tensor in tensors(model):
        parts = name.split(".")
        around = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
        stage = next((stage_of[module] for module in around if module in stage_of), None)
        if stage is None:
            kind = getattr(model, "architecture", type(model).__name__)
            raise ValueError(f"{kind}: no stage holds {name!r}. Add it, or a module around it, to a stage.")
        part = found[stage].parameters if isinstance(tensor, nn.Parameter) else found[stage].buffers
        part[name] = tensor
    return list(found.values())


def _joined(parts: list[Stage], max_stages: int) -> list[Stage]:
    """Join neighbours between stem and head into groups of equal length, as far as that is possible."""
    if max_stages < 3:
        raise ValueError(f"max_stages is {max_stages}: there are at least stem, body and head, so give 3 or more.")
    stem, *body, head = parts
    groups = min(max_stages - 2, len(body))
    bounds = [round(i * len(body) / groups) for i in range(groups + 1)] if groups else [0]
    return [stem, *(_join(body[start:end]) for start, end in pairwise(bounds)), head]


def _join(parts: list[Stage]) -> Stage:
    first, last = parts[0].name, parts[-1].name
    name = first if len(parts) == 1 else f"{first}-{last.removeprefix(first.rpartition('.')[0] + '.')}"
    parameters = {name: p for part in parts for name, p in part.parameters.items()}
    return Stage(name, parameters, {name: buffer for part in parts for name, buffer in part.buffers.items()})
