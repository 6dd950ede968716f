"""Gradual fine-tuning: a plan of phases as data, and one function that trains them in turn."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tlcourse.models import NO_DECAY, extend_optimizer, stages, unfreeze_from, unfreeze_order
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.checks import as_loaders, steps_per_epoch
from tlcourse.train.device import HasLoaders
from tlcourse.train.history import History
from tlcourse.train.loop import fit
from tlcourse.train.schedules import Schedule


@dataclass(frozen=True)
class Phase:
    """One phase of a plan: which stages train at which rate, for how many epochs.

    The lowest stage named and all above it train; everything below is frozen. A rate holds from its stage up to the
    next one named: `{"layer3": 5e-5, "head": 1e-3}` trains layer3 and layer4 at 5e-5. Without a name of its own the
    phase takes that of the first stage in it.

    Raises:
        ValueError: no stage, a rate that is not positive, or less than one epoch.
    """

    rates: Mapping[str, float]
    epochs: int
    name: str = ""

    def __post_init__(self) -> None:
        if not self.rates:
            raise ValueError("A phase needs the rate of at least one stage, such as {'head': 1e-3}.")
        if wrong := {stage: rate for stage, rate in self.rates.items() if not (rate > 0 and math.isfinite(rate))}:
            raise ValueError(f"Rates must be positive numbers, not {wrong}; leave out the stages that are frozen.")
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}: a phase trains for at least one.")
        object.__setattr__(self, "rates", dict(self.rates))  # a plan must not change when its author's dict does
        object.__setattr__(self, "name", self.name or next(iter(self.rates)))


# The source chapter's figures for a ResNet. It gives none for its optional last phase. Ours: half of layer3's rate for
# everything below, and five epochs, as these stages have the least to learn.
CHAPTER_PLAN = (
    Phase({"head": 1e-3}, 5, "head"),
    Phase({"layer4": 1e-4, "head": 1e-3}, 10, "layer4"),
    Phase({"layer3": 5e-5, "layer4": 1e-4, "head": 1e-3}, 10, "layer3"),
    Phase({"stem": 2.5e-5, "layer3": 5e-5, "layer4": 1e-4, "head": 1e-3}, 5, "all"),
)


def plan(
    model: nn.Module,
    phases: int = 4,
    *,
    lr: float = 1e-3,
    layer_decay: float = 0.3,
    epochs: int | Sequence[int] = 5,
    max_stages: int | None = None,
) -> list[Phase]:
    """Return a gradual plan for any architecture: the head first, one more stage in each phase, and at last everything.

    Stage i of n has the rate `lr * layer_decay ** (n - i)` in every phase that it trains in. `tl.models.unfreeze_order`
    says at which stage each phase starts.

    Args:
        model: its stages decide.
        phases: their number, at least 2.
        lr: rate of the head.
        layer_decay: factor from each stage to the next one below.
        epochs: of each phase, or one number for each.
        max_stages: at most this many stages, as in `tl.models.stages`; for transformers with many blocks.

    Raises:
        ValueError: as `unfreeze_order`, a rate or `layer_decay` is not positive, or epochs of another number of phases.
    """
    if lr <= 0 or layer_decay <= 0:
        raise ValueError(f"lr={lr} and layer_decay={layer_decay} must be positive.")
    starts, parts = unfreeze_order(model, phases, max_stages=max_stages), stages(model, max_stages=max_stages)
    lengths = [epochs] * phases if isinstance(epochs, int) else list(epochs)
    if len(lengths) != phases:
        raise ValueError(f"epochs={epochs}: give one number, or one for each of the {phases} phases.")
    # Joined stages are named after the first one in them, so that the plan holds without `max_stages`.
    owner = {name: part.name for part in stages(model) for name in (*part.parameters, *part.buffers)}
    first = {part.name: owner[next(iter((*part.parameters, *part.buffers)))] for part in parts}
    rates = {first[part.name]: lr * layer_decay ** (len(parts) - i) for i, part in enumerate(parts, start=1)}
    made = []
    for start, length in zip(starts, lengths, strict=True):
        training = list(rates)[list(first).index(start) :]
        name = "all" if start == parts[0].name else training[0]
        made.append(Phase({stage: rates[stage] for stage in training}, length, name))
    return made


def fit_gradual(
    model: nn.Module,
    data: HasLoaders,
    optimizer: torch.optim.Optimizer,
    phases: Sequence[Phase],
    *,
    make_schedule: Callable[[torch.optim.Optimizer, int], Schedule] | None = None,
    accumulate: int = 1,
    checkpoints: Checkpoints | None = None,
    **options: Any,
) -> History:
    """Train phase by phase, each with more of the network, and leave the model with the best weights of all phases.

    A phase starts from the best weights of the one before. The optimizer keeps its state of parameters that were
    already training; its groups become those of the phase. Ctrl-C ends the phase and the run. Make the same call again
    to continue from the last checkpoint: phases that are complete are not trained again.
    Source: Howard and Ruder 2018 (ULMFiT), gradual unfreezing.

    Args:
        optimizer: built from any of the model's parameters; its class, weight decay and state are kept.
        phases: `CHAPTER_PLAN`, what `plan` returns, or your own.
        make_schedule: makes the schedule of a phase from the optimizer and the number of steps, such as
            `tl.train.schedules.cosine`; without it, the rates stay.
        accumulate: batches per optimizer step.
        checkpoints: where to save; each phase has a folder of its own in there, `phase-1` and so on.
        options: other settings of `fit`, for every phase; see there for `model` and `data` too.

    Returns:
        One history, its epochs numbered consecutively; `phases` has the first epoch and the name of each phase.

    Raises:
        ValueError: there is no phase, or one names a stage that the model does not have; or as `fit`.
    """
    data = as_loaders(data)
    _check(model, phases)
    history, best_weights = History(), None
    for number, phase in enumerate(phases, start=1):
        _enter(phase, model, optimizer)
        steps = steps_per_epoch(data.train, accumulate)
        if make_schedule is not None and steps is None:
            raise ValueError("A schedule needs the number of steps, and the training loader has no length.")
        scheduler = None if make_schedule is None else make_schedule(optimizer, phase.epochs * steps)
        own = checkpoints and replace(checkpoints, folder=checkpoints.folder / f"phase-{number}")
        options |= {"epochs": phase.epochs, "scheduler": scheduler, "accumulate": accumulate, "checkpoints": own}
        part = fit(model, data, optimizer, **options)
        done = len(history.epochs)
        history.epochs += [replace(epoch, epoch=done + epoch.epoch) for epoch in part.epochs]
        history.phases += [(done + 1, phase.name)] if part.epochs else []
        history.interrupted = part.interrupted
        if history.best and history.best.epoch > done:
            best_weights = copy.deepcopy(model.state_dict())  # `fit` left the phase's best weights in the model
        if part.interrupted:
            break
    if best_weights is not None:
        model.load_state_dict(best_weights)
    return history


def _check(model: nn.Module, phases: Sequence[Phase]) -> None:
    if not phases:
        raise ValueError("There is no phase: give CHAPTER_PLAN, or what `plan(model)` returns.")
    names = [part.name for part in stages(model)]
    for number, phase in enumerate(phases, start=1):
        if unknown := [stage for stage in phase.rates if stage not in names]:
            raise ValueError(
                f"Phase {number} names {', '.join(map(repr, unknown))}, which this model does not have. "
                f"From stem to head: {', '.join(names)}. `plan(model)` makes phases for any model."
            )


def _enter(phase: Phase, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Unfreeze what the phase trains, and give each stage's groups their rate."""
    names = [part.name for part in stages(model)]
    unfreeze_from(model, next(name for name in names if name in phase.rates))
    rates, rate = {}, 0.0
    for name in names:
        rates[name] = rate = phase.rates.get(name, rate)
    extend_optimizer(optimizer, model, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rates.get(str(group.get("name")).removesuffix(NO_DECAY), group["lr"])  # a loss has its own
