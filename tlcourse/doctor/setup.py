"""Everything that the checks look at, gathered once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
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
from tlcourse.side_effects import no_side_effects

FORWARD = 8  # images of the one forward pass


class OptimizerEntry(NamedTuple):
    """A parameter in an optimizer: where, and at which rate."""

    parameter: torch.Tensor
    optimizer: int
    group: int
    lr: float


class Norm(NamedTuple):
    """A batch norm with running statistics: its stage, its name, and whether its parameters are frozen."""

    stage: str
    name: str
    module: nn.Module
    frozen: bool


class Answers(NamedTuple):
    """One forward pass in evaluation mode: outputs `(B, C)`, or the error instead.

    `bn_mismatch` says how far the values in front of the first batch norm are from what it remembers: the median over
    its channels of the log of the ratio of variances, and of the distance of the means in remembered deviations.
    """

    outputs: torch.Tensor | None
    error: str | None
    bn_mismatch: float | None


@dataclass(eq=False)
class Setup:
    """A model, and what belongs to its training; what was not given is empty or None."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    parts: list[Part]
    intervals: dict[int, str] = field(default_factory=dict)  # by the scheduler's id, where a `Schedule` says it
    changes: dict[str, Change] | None = None
    loss: Any = None
    epochs: int | None = None
    losses: list[float] = field(default_factory=list)
    history: Any = None
    evaluation: Evaluation | None = None
    evaluating: bool = False

    @property
    def name(self) -> str:
        """What the model is called."""
        return getattr(self.model, "architecture", type(self.model).__name__)

    def part(self, name: str) -> Part | None:
        """Return a part by name, if it was given."""
        return next((part for part in self.parts if part.name == name), None)

    @cached_property
    def stages(self) -> list[Stage]:
        """The model's stages; for an architecture without known stages, its outermost modules."""
        try:
            return stages(self.model)
        except ValueError:
            return _outermost(self.model)

    @cached_property
    def head(self) -> tuple[str, nn.Module] | None:
        """The classifier's name and module: the known one, else what the model ends in, where that is linear."""
        try:
            name = head_name(self.model)
        except ValueError:
            owners = [n.rpartition(".")[0] for n in self.parameters]
            name = owners[-1] if owners and isinstance(self.model.get_submodule(owners[-1]), nn.Linear) else None
        return None if name is None else (name, self.model.get_submodule(name))

    @cached_property
    def outputs(self) -> int | None:
        """How many outputs the classifier has."""
        return None if self.head is None else len(self.head[1].weight)

    @cached_property
    def classes(self) -> tuple[int, bool] | None:
        """How many classes the data has, and whether it names them (labels alone may lack some)."""
        for part in self.parts:
            if part.classes is not None:
                return len(part.classes), True
        highest = [int(part.labels.max()) for part in self.parts if part.labels is not None and len(part.labels)]
        return (max(highest) + 1, False) if highest else None

    @cached_property
    def optimizer_entries(self) -> list[OptimizerEntry]:
        """Every parameter of every optimizer, as often as it is there."""
        return [
            OptimizerEntry(parameter, number, position, float(group["lr"]))
            for number, optimizer in enumerate(self.optimizers)
            for position, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        ]

    @cached_property
    def rates(self) -> dict[int, float]:
        """Learning rate by the parameter's id."""
        return {id(held.parameter): held.lr for held in self.optimizer_entries}

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The model's parameters by name, each once."""
        return dict(self.model.named_parameters())

    @cached_property
    def norms(self) -> list[Norm]:
        """The batch norms that keep running statistics."""
        found = []
        for stage in self.stages:
            frozen_stage = bool(stage.parameters) and not stage.trainable
            for owner in dict.fromkeys(name.rpartition(".")[0] for name in stage.buffers):
                module = self.model.get_submodule(owner)
                if isinstance(module, NORMS) and module.running_mean is not None:
                    own = list(module.parameters())
                    frozen = not any(p.requires_grad for p in own) if own else frozen_stage
                    found.append(Norm(stage.name, owner, module, frozen))
        return found

    @property
    def stepped(self) -> bool:
        """Whether an optimizer has made a step."""
        return any(optimizer.state for optimizer in self.optimizers) or any(
            getattr(optimizer, "_opt_called", False) for optimizer in self.optimizers
        )

    @property
    def steps(self) -> int | None:
        """Optimizer steps made so far, where the optimizer counts them (Adam does, SGD does not)."""
        counted = [
            state["step"] for optimizer in self.optimizers for state in optimizer.state.values() if "step" in state
        ]
        return int(max(counted)) if counted else None

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer scales each step by the gradients' size, as Adam does: its rates are small."""
        return not all(type(optimizer).__name__ in ("SGD", "ASGD", "Rprop") for optimizer in self.optimizers)

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
        """Whether the body looks trained: its norms are far from ones and zeros. None where it has no norms.

        A few steps of training move the scales by less than that. Scales of exactly 0 are an initialisation, too.
        """
        body = [m for m in self.model.modules() if isinstance(m, (*NORMS, nn.LayerNorm, nn.GroupNorm))]
        scales = [m.weight.detach().float().flatten().cpu() for m in body if m.weight is not None]
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
        """The part whose images the model is shown: one that is measured, because augmentation changes training's."""
        measured = [part for part in self.parts if part.evaluated and part.sample is not None]
        return next(iter(measured or [part for part in self.parts if part.sample is not None]), None)

    @cached_property
    def answers(self) -> Answers | None:
        """What the model answers to a few images; None where there are none."""
        if self.sample_part is None or not self.parameters:
            return None
        images, first = self.sample_part.sample[0][:FORWARD], next(iter(self.parameters.values()))
        images = images.to(first.device, first.dtype)
        norm, seen = (self.norms[0].module if self.norms else None), []
        hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) if norm else None
        try:
            with no_side_effects(self.model):
                outputs = self.model(images)
        except Exception as error:  # whatever it is, training would meet it too
            return Answers(None, f"{type(error).__name__}: {str(error).strip()[:240]}", None)
        finally:
            if hook:
                hook.remove()
        outputs = getattr(outputs, "logits", outputs)
        usable = isinstance(outputs, torch.Tensor) and outputs.ndim == 2
        return Answers(outputs.float().cpu() if usable else None, None, _bn_mismatch(norm, seen[0]) if seen else None)

    def grouped(self, names: Iterable[str]) -> str:
        """Write parameters as stages with counts: `layer4 (15 tensors, 2,099,712 values)`."""
        wanted = set(names)
        texts = []
        for stage in self.stages:
            own = [parameter for name, parameter in stage.parameters.items() if name in wanted]
            if own:
                tensors = f"{len(own)} tensor{'s' * (len(own) != 1)}"
                texts.append(f"{stage.name} ({tensors}, {sum(p.numel() for p in own):,} values)")
        return listed(texts, 6)


def _outermost(model: nn.Module) -> list[Stage]:
    found: dict[str, Stage] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(name.split(".")[0], Stage(name.split(".")[0], {}, {})).parameters[name] = parameter
    for name, buffer in model.named_buffers():
        found.setdefault(name.split(".")[0], Stage(name.split(".")[0], {}, {})).buffers[name] = buffer
    return list(found.values())


def _bn_mismatch(norm: nn.Module, values: torch.Tensor) -> float:
    mean, variance = norm.running_mean.float(), norm.running_var.float().clamp_min(1e-8)
    dims = [dim for dim in range(values.ndim) if dim != 1]
    now = values.detach().float()
    ratio = (now.var(dims).clamp_min(1e-12) / variance).log().abs().median()
    distance = ((now.mean(dims) - mean).abs() / variance.sqrt()).median()
    return max(ratio.item(), distance.item())
