"""A network as an ordered list of stages, from stem to head: the unit of freezing, unfreezing and learning rates."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from tlcourse.models.heads import unwrap_model
from tlcourse.models.stage_rules import Plan, infer_stages, tensors
from tlcourse.table import Table

NORMS = (nn.modules.batchnorm._BatchNorm,)  # also timm's batch norm with built-in activation


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


def stages(model: nn.Module, *, max_stages: int | None = None, plan: Plan | None = None) -> list[Stage]:
    """Split a model into stages, in the order of the forward pass; the last one is the head.

    Every parameter and every buffer is in exactly one stage. A model of torchvision or timm needs nothing more, and
    a model of your own neither if its modules are defined in the order of use and its classifier is called `fc`,
    `head`, `heads` or `classifier`. The names are those inside the wrappers of `torch.compile` and
    `DistributedDataParallel`.

    Args:
        model: from anywhere, wrapped or not.
        max_stages: neighbours between stem and head are joined until there are so many, with as many blocks each.
        plan: your own stages: name -> names of modules or tensors, from stem to head. Give it to the model as
            `model.stage_plan`, and every function that needs stages finds it there.

    Raises:
        ValueError: a tensor is in no stage of the plan, a name is not in the model or in two stages, or there is no
            head; the message names it.
    """
    model = unwrap_model(model)
    plan = plan or getattr(model, "stage_plan", None)
    if plan:
        _check_plan(model, plan)
    found = _partition(model, plan or infer_stages(model))
    return found if max_stages is None else _joined(found, max_stages)


def freeze(model: nn.Module) -> nn.Module:
    """Freeze every stage but the head: the model becomes a feature extractor with a trainable classifier."""
    return unfreeze_from(model, "head")


def unfreeze_from(model: nn.Module, stage: str, *, max_stages: int | None = None) -> nn.Module:
    """Make a stage and all stages above it trainable, and freeze everything below.

    A frozen batch norm keeps its statistics too, where `train_mode` or `keep_frozen` take the place of a plain
    `model.train()`. Freeze before you wrap a model in `DistributedDataParallel`, which expects the same gradients in
    every step.

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
                parameter.grad = None  # a gradient left behind would still move it
    return model


def unfreeze(model: nn.Module) -> nn.Module:
    """Make every parameter trainable."""
    return model.requires_grad_(True)


def train_mode(model: nn.Module, *, frozen_bn: str = "eval") -> nn.Module:
    """Call `model.train()`, but leave what is frozen in evaluation mode.

    A frozen module in training mode still changes: batch norm moves its running statistics, and normalises by
    the batch instead of by them; dropout still drops. With `frozen_bn="train"` that is allowed to happen, as
    in a plain loop. Call this again wherever you would call `model.train()`, or call `keep_frozen` once.
    """
    if frozen_bn not in ("eval", "train"):
        raise ValueError(f"frozen_bn is {frozen_bn!r}: choose 'eval' (keep the statistics) or 'train'.")
    model.train()
    if frozen_bn == "eval":
        for module in model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
    return model


def summary(model: nn.Module, *, max_stages: int | None = None) -> Table:
    """Count each stage: parameters, how many of them train, and the mode of its batch norms."""
    rows, modules = Table(), dict(unwrap_model(model).named_modules())
    for stage in stages(model, max_stages=max_stages):
        norms = {n.rpartition(".")[0] for n in stage.buffers}
        modes = {"train" if modules[n].training else "eval" for n in norms if isinstance(modules[n], NORMS)}
        rows.append(
            {
                "stage": stage.name,
                "parameters": stage.count,
                "trainable": stage.trainable,
                "batch norm": " and ".join(sorted(modes)) or "none",
            }
        )
    total = {key: sum(row[key] for row in rows) for key in ("parameters", "trainable")}
    rows.append({"stage": "all", **total, "batch norm": ""})
    return rows


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Count the values in some parameters, each parameter once."""
    return sum(p.numel() for p in {id(p): p for p in parameters}.values())


def _partition(model: nn.Module, plan: Plan) -> list[Stage]:
    """Give each tensor to the stage that names it, or the nearest module around it."""
    stage_of = {name: stage for stage, names in plan.items() for name in names}
    found = {stage: Stage(stage, {}, {}) for stage in plan}
    for name, tensor in tensors(model):
        parts = name.split(".")
        around = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
        stage = next((stage_of[module] for module in around if module in stage_of), None)
        if stage is None:
            raise ValueError(f"{_kind(model)}: no stage holds {name!r}. Add it, or a module around it, to a stage.")
        part = found[stage].parameters if isinstance(tensor, nn.Parameter) else found[stage].buffers
        part[name] = tensor
    return list(found.values())


def _check_plan(model: nn.Module, plan: Plan) -> None:
    there = {name for name, _ in model.named_modules()} | {name for name, _ in tensors(model)}
    named = [name for names in plan.values() for name in names]
    if [*plan][-1] != "head":
        raise ValueError(f"The last stage of a plan is the classifier and is called 'head', not {[*plan][-1]!r}.")
    if strange := [name for name in named if name not in there]:
        raise ValueError(f"{_kind(model)} has no module or tensor {', '.join(map(repr, strange))}.")
    if twice := {name for name in named if named.count(name) > 1}:
        raise ValueError(f"{', '.join(map(repr, sorted(twice)))} is in two stages of the plan; name it once.")


def _joined(parts: list[Stage], max_stages: int) -> list[Stage]:
    """Join neighbours between stem and head into runs of equal length, as far as that goes."""
    if max_stages < 3:
        raise ValueError(f"max_stages is {max_stages}: there are at least stem, body and head, so give 3 or more.")
    stem, *body, head = parts
    runs = min(max_stages - 2, len(body))
    bounds = [round(i * len(body) / runs) for i in range(runs + 1)] if runs else [0]
    return [stem, *(_one(body[start:end]) for start, end in pairwise(bounds)), head]


def _one(parts: list[Stage]) -> Stage:
    first, last = parts[0].name, parts[-1].name
    name = first if len(parts) == 1 else f"{first}-{last.removeprefix(first.rpartition('.')[0] + '.')}"
    parameters, buffers = (
        {k: v for part in parts for k, v in getattr(part, kind).items()} for kind in ("parameters", "buffers")
    )
    return Stage(name, parameters, buffers)


def _kind(model: nn.Module) -> str:
    return getattr(model, "architecture", type(model).__name__)
