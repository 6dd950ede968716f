"""Everything that the checks look at, gathered once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn

from tlcourse.doctor.parts import Part
from tlcourse.doctor.report import listed
from tlcourse.doctor.snapshots import Change
from tlcourse.evaluation import Evaluation
from tlcourse.models import NORMS, Stage, head_name, stages
from tlcourse.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, get_preprocessing
from tlcourse.side_effects import input_hooks, no_side_effects

FORWARD = 8  # images of the one forward pass


class Norm(NamedTuple):
    """A batch norm with running statistics: its stage, its name, and whether its parameters are frozen."""

    stage: str
    name: str
    module: nn.Module
    frozen: bool


class Answers(NamedTuple):
    """One forward pass in evaluation mode: outputs `(B, C)`, or the error instead, and `_bn_mismatch`."""

    outputs: torch.Tensor | None = None
    error: str | None = None
    bn_mismatch: float | None = None


@dataclass(eq=False)
class Setup:
    """A model, and what belongs to its training; what was not given is empty or None."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    parts: list[Part]
    intervals: dict[int, str]  # by the scheduler's id, where a `Schedule` says it
    changes: dict[str, Change] | None
    loss: Any
    epochs: int | None
    losses: list[float]
    history: Any
    evaluation: Evaluation | None
    evaluating: bool

    def __post_init__(self) -> None:
        # By name: the model's parameters, those that take gradients, and the learning rates of those in an optimizer.
        self.parameters: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        self.trainable = {name: p for name, p in self.parameters.items() if p.requires_grad}
        self.groups: list[dict[str, Any]] = [group for own in self.optimizers for group in own.param_groups]
        # Some optimizers find their rates themselves and have none in their groups, or search along a line (LBFGS).
        known = [math.nan if group.get("lr") is None else float(group["lr"]) for group in self.groups]
        rates = {id(p): rate for group, rate in zip(self.groups, known, strict=True) for p in group["params"]}
        self.rates_by_optimizer = any(group.get("lr") is None or "line_search_fn" in group for group in self.groups)
        self.rates = {name: rates[id(p)] for name, p in self.parameters.items() if id(p) in rates}
        # What was frozen at the last look had no chance to move since.
        self.unfrozen = {name for name, change in (self.changes or {}).items() if change.unfrozen}
        # Whether the optimizer scales each step by the gradients' size, as Adam does: its rates are small.
        self.adaptive = not all(type(own).__name__ in ("SGD", "ASGD", "Rprop") for own in self.optimizers)
        # The loss function's name, or that of its class; empty where it was not given.
        self.loss_name: str = "" if self.loss is None else getattr(self.loss, "__name__", type(self.loss).__name__)

    @cached_property
    def stages(self) -> list[Stage]:
        """The model's stages; for an architecture without known stages, its outermost modules."""
        try:
            return stages(self.model)
        except ValueError:
            found: dict[str, Stage] = {}
            for kind in ("parameters", "buffers"):
                for name, tensor in getattr(self.model, f"named_{kind}")():
                    stage = found.setdefault(name.split(".")[0], Stage(name.split(".")[0], {}, {}))
                    getattr(stage, kind)[name] = tensor
            return list(found.values())

    @cached_property
    def head(self) -> tuple[str, nn.Module] | None:
        """The classifier's name and module: the known one, else what the model ends in, where that is linear."""
        try:
            name = head_name(self.model)
        except ValueError:
            name = next((n.rpartition(".")[0] for n in reversed(self.parameters)), "")
            if not isinstance(self.model.get_submodule(name), nn.Linear):
                return None
        return name, self.model.get_submodule(name)

    @cached_property
    def head_parameters(self) -> set[str]:
        """The names of the classifier's parameters."""
        own = {id(p) for p in self.head[1].parameters()} if self.head else set()
        return {name for name, p in self.parameters.items() if id(p) in own}

    @cached_property
    def outputs(self) -> int | None:
        """How many outputs the classifier has."""
        return None if self.head is None else len(self.head[1].weight)

    @property
    def labelled_parts(self) -> list[Part]:
        """The parts whose labels are known."""
        return [part for part in self.parts if part.labels is not None and len(part.labels)]

    @cached_property
    def batches(self) -> int | None:
        """How many batches the training loader has."""
        return next((len(part.loader) for part in self.parts if part.name == "train" and part.loader), None)

    @cached_property
    def norms(self) -> list[Norm]:
        """The batch norms that keep running statistics."""
        found = []
        for stage in self.stages:
            for owner in dict.fromkeys(name.rpartition(".")[0] for name in stage.buffers):
                module = self.model.get_submodule(owner)
                if isinstance(module, NORMS) and module.running_mean is not None:
                    deciding = list(module.parameters()) or list(stage.parameters.values())
                    frozen = bool(deciding) and not any(p.requires_grad for p in deciding)
                    found.append(Norm(stage.name, owner, module, frozen))
        return found

    @property
    def steps(self) -> int | None:
        """Optimizer steps made so far, where the optimizer counts them (Adam does, SGD does not)."""
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        return max((int(state["step"]) for state in states if "step" in state), default=None)

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """What the model's images must look like: what it carries, or ImageNet's for torchvision's classifiers."""
        try:
            return get_preprocessing(self.model)
        except ValueError:
            known = type(self.model).__module__.startswith("torchvision.models.")
            return Preprocessing(224, 224, IMAGENET_MEAN, IMAGENET_STD) if known else None

    @cached_property
    def pretrained(self) -> bool | None:
        """Whether the backbone looks trained: its norms are far from ones and zeros. None where it has no norms.

        A few steps of training move the scales by less than that. Scales of exactly 0 are an initialisation, too.
        """
        norms = [m for m in self.model.modules() if isinstance(m, (*NORMS, nn.LayerNorm, nn.GroupNorm))]
        scales = [m.weight.detach().float().flatten().cpu() for m in norms if m.weight is not None]
        values = torch.cat(scales) if scales else torch.empty(0)
        return bool((values[values != 0] - 1).abs().mean() > 0.1) if len(values) else None

    @cached_property
    def fresh_head(self) -> bool:
        """Whether the classifier still looks like a new linear layer: no value beyond the bounds it is drawn from."""
        if self.head is None or not isinstance(self.head[1], nn.Linear):
            return False
        bound = 1.01 / math.sqrt(self.head[1].in_features)
        return all(bool(p.detach().abs().max() <= bound) for p in self.head[1].parameters())

    @cached_property
    def sample_part(self) -> Part | None:
        """The part whose images the model is shown: not training, if there is another, because of augmentation."""
        readable = [part for part in self.parts if part.sample is not None]
        return min(readable, key=lambda part: not part.evaluated, default=None)

    @cached_property
    def answers(self) -> Answers:
        """What the model answers to a few images."""
        if self.sample_part is None or not self.parameters:
            return Answers()
        first, norm, seen = next(iter(self.parameters.values())), [norm.module for norm in self.norms[:1]], []
        images = self.sample_part.sample[0][:FORWARD].to(first.device, first.dtype)
        try:
            with no_side_effects(self.model), input_hooks(norm, lambda _, inputs: seen.append(inputs[0])):
                outputs = self.model(images)
        except Exception as error:  # whatever it is, training would meet it too
            return Answers(error=f"{type(error).__name__}: {str(error).strip()[:240]}")
        outputs = getattr(outputs, "logits", outputs)
        usable = isinstance(outputs, torch.Tensor) and outputs.ndim == 2
        mismatch = _bn_mismatch(norm[0], seen[0]) if seen else None
        return Answers(outputs.float().cpu() if usable else None, None, mismatch)

    def by_stage(self, names: Iterable[str]) -> str:
        """Write parameters as stages with counts: `layer4 (15 tensors, 2,099,712 values)`."""
        wanted, texts = set(names), []
        for stage in self.stages:
            if own := [parameter for name, parameter in stage.parameters.items() if name in wanted]:
                tensors = f"{len(own)} tensor{'s' * (len(own) != 1)}"
                texts.append(f"{stage.name} ({tensors}, {sum(p.numel() for p in own):,} values)")
        return listed(texts, 6)


def _bn_mismatch(norm: nn.Module, values: torch.Tensor) -> float:
    """Return how far a batch norm's inputs are from its running statistics, as the median over its channels.

    It is that of the log of the ratio of variances, or of the distance of the means in running deviations.
    """
    dims, values = [dim for dim in range(values.ndim) if dim != 1], values.detach().float()
    variance = norm.running_var.float().clamp_min(1e-8)
    ratio = (values.var(dims).clamp_min(1e-12) / variance).log().abs().median()
    distance = ((values.mean(dims) - norm.running_mean.float()).abs() / variance.sqrt()).median()
    return max(ratio.item(), distance.item())
