"""Learning-rate schedules: torch's own schedulers, each with the interval that it is stepped at.

A schedule multiplies every group's base rate with one number, so discriminative rates keep their ratio. The base rate
is what the group was built with, by `tl.models.param_groups` for example, and not where the last schedule ended: each
function here puts the groups back to it first. torch remembers it as `initial_lr` once a scheduler was built. So
`tl.models.extend_optimizer`, whose groups are new, gives new base rates; by hand, set both `lr` and `initial_lr`.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from tlcourse.train import shares

INTERVALS = ("step", "epoch", "metric")


@dataclass(frozen=True)
class Schedule:
    """A scheduler of torch's, and when it is stepped.

    `"step"` is after each step of the optimizer, `"epoch"` after each epoch, and `"metric"` after each epoch with the
    validation loss.

    Raises:
        ValueError: no such interval, no scheduler of torch's, or one that does not go with the interval.
    """

    scheduler: LRScheduler
    interval: str

    def __post_init__(self) -> None:
        name, plateau = type(self.scheduler).__name__, isinstance(self.scheduler, ReduceLROnPlateau)
        if not isinstance(self.scheduler, LRScheduler | ReduceLROnPlateau):
            raise ValueError(f"scheduler is {name}: give one of torch.optim.lr_scheduler, built on your optimizer.")
        if self.interval not in INTERVALS:
            raise ValueError(f"interval is {self.interval!r}: choose among {', '.join(map(repr, INTERVALS))}.")
        if plateau != (self.interval == "metric"):
            fitting = "'metric', the validation loss of each epoch" if plateau else "'step' or 'epoch'"
            raise ValueError(f"interval is {self.interval!r}, but {name} needs {fitting}.")

    def step(self, interval: str, metric: float | None = None) -> None:
        """Step the scheduler, if this is its interval."""
        if interval == self.interval:
            self.scheduler.step() if interval != "metric" else self.scheduler.step(metric)


def as_schedule(scheduler: Schedule | LRScheduler | None) -> Schedule | None:
    """Return a schedule as it is, a `ReduceLROnPlateau` by metric, and any other scheduler of torch's by step.

    Raises:
        ValueError: it is neither.
    """
    if scheduler is None or isinstance(scheduler, Schedule):
        return scheduler
    return Schedule(scheduler, "metric" if isinstance(scheduler, ReduceLROnPlateau) else "step")


def constant(optimizer: Optimizer) -> Schedule:
    """Keep every group at its base rate."""
    return _by_step(optimizer, shares.constant)


def cosine(optimizer: Optimizer, steps: int, *, floor: float = 0.0, restarts: int = 0) -> Schedule:
    """Let the rate fall along half a cosine wave, and start again at the base rate after each restart.

    At step t of n the share of the base rate is `floor + (1 - floor) * (1 + cos(pi * t / n)) / 2`. The floor is
    reached after the last step, and kept: torch's `CosineAnnealingLR` would climb again. With restarts the run holds
    `restarts + 1` such waves of equal length.
    Source: Loshchilov and Hutter 2017, SGDR.

    Args:
        optimizer: its groups' rates are the base rates.
        steps: of the optimizer in the whole run, `epochs * len(loaders.train)`.
        floor: share of the base rate, from 0 to 1.
        restarts: how often the rate jumps back.

    Raises:
        ValueError: an argument is out of range, or torch's one-cycle has overwritten the base rates.
    """
    _check(steps, floor=floor)
    if not 0 <= restarts < steps:
        raise ValueError(f"restarts={restarts}: give 0 or more, and fewer than the {steps} steps.")
    return _by_step(optimizer, partial(shares.cosine, steps=steps, floor=floor, waves=restarts + 1))


def warm_up_cosine(optimizer: Optimizer, steps: int, *, warm_up: float = 0.1, floor: float = 0.0) -> Schedule:
    """Let the rate rise linearly over the first share of the run, then fall along half a cosine wave.

    With `w = round(warm_up * steps)`, step t has the share `(t + 1) / (w + 1)` before step w, which has the whole base
    rate; from there it is `cosine` over the steps that are left.
    Source: Goyal et al. 2017, Accurate, large minibatch SGD, for the warm-up.

    Args:
        optimizer: its groups' rates are the base rates.
        steps: of the optimizer in the whole run.
        warm_up: share of the steps; for one epoch of ten, 0.1.
        floor: share of the base rate, reached after the last step.

    Raises:
        ValueError: as `cosine`.
    """
    _check(steps, floor=floor, warm_up=warm_up)
    rise = min(round(warm_up * steps), steps - 1)
    return _by_step(optimizer, partial(shares.warm_up_cosine, steps=steps, rise=rise, floor=floor))


def one_cycle(
    optimizer: Optimizer, steps: int, *, warm_up: float = 0.3, start: float = 0.04, floor: float = 4e-6
) -> Schedule:
    """Let the rate rise to the base rate and fall far below its start, along half a cosine wave each way.

    The rates are those of torch's `OneCycleLR` with the base rates as `max_lr`: the peak is at step
    `warm_up * steps - 1`, the floor at the last step. Only rates move: torch's class also turns momentum, and with it
    Adam's first beta, unless it is told not to.
    Source: Smith and Topin 2018, Super-convergence.

    Args:
        optimizer: its groups' rates are the highest rates.
        steps: of the optimizer in the whole run.
        warm_up: share of the steps in which the rate rises.
        start: share of the base rate at the first step.
        floor: share of the base rate at the last step.

    Raises:
        ValueError: as `cosine`.
    """
    _check(steps, start=start, floor=floor, warm_up=warm_up)
    peak = max(warm_up * steps - 1, 0.0)
    return _by_step(optimizer, partial(shares.one_cycle, steps=steps, peak=peak, start=start, floor=floor))


def plateau(optimizer: Optimizer, *, factor: float = 0.5, patience: int = 3) -> Schedule:
    """Multiply all rates with a factor when the validation loss has not come down for more than `patience` epochs.

    The loss and not the accuracy, which moves in jumps of one image and stands still while a model still improves.

    Raises:
        ValueError: the factor is not between 0 and 1, or the patience is negative.
    """
    if not 0 < factor < 1 or patience < 0:
        raise ValueError(f"factor={factor} must lie between 0 and 1, and patience={patience} must not be negative.")
    _to_base(optimizer)
    # With torch's eps of 1e-8 the low rates of early stages would stay where they are, and the ratio would be lost.
    return Schedule(ReduceLROnPlateau(optimizer, "min", factor=factor, patience=patience, eps=0.0), "metric")


def simulate(
    schedule: Schedule | LRScheduler | Callable[[Optimizer], Schedule | LRScheduler],
    steps: int,
    *,
    lr: float | Sequence[float] | None = None,
    metrics: Sequence[float] | None = None,
) -> torch.Tensor:
    """Return the rates of the next steps without training, `(steps, groups)`; nothing that exists is changed.

        simulate(lambda optimizer: cosine(optimizer, 100), 100, lr=1e-3)

    Args:
        schedule: one that exists, of this module or torch's; or a function that makes one for an optimizer, so that no
            model is needed. One that exists is followed from where it stands.
        steps: of the scheduler: epochs where it is stepped by epoch or metric.
        lr: for a function, the base rate, or one for each group; without it the rates are shares of the base rate.
        metrics: for a plateau, the validation loss of each epoch, as many as there are steps.

    Raises:
        ValueError: no step, rates for a schedule that has its own, or metrics that are missing or not asked for.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: simulate at least one.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "lr_scheduler.step() before optimizer.step()", as is meant here
        twin = _made(schedule, lr) if callable(schedule) else _twin(schedule, lr)
        if twin.interval == "metric" and len(metrics if metrics is not None else ()) != steps:
            given = "none" if metrics is None else len(metrics)
            raise ValueError(f"A plateau needs a validation loss for each of the {steps} steps; metrics has {given}.")
        if twin.interval != "metric" and metrics is not None:
            raise ValueError(f"{type(twin.scheduler).__name__} takes no metrics: leave them out.")
        rates = []
        for step in range(steps):
            rates.append([float(group["lr"]) for group in twin.scheduler.optimizer.param_groups])
            if step < steps - 1:
                twin.scheduler.step(*[] if metrics is None else [metrics[step]])
    return torch.tensor(rates, dtype=torch.float64)


def _made(make: Callable[[Optimizer], Schedule | LRScheduler], lr: float | Sequence[float] | None) -> Schedule:
    rates = [1.0] if lr is None else [lr] if isinstance(lr, int | float) else list(lr)
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    made = as_schedule(make(torch.optim.SGD(groups, lr=1.0, momentum=0.9)))  # a momentum, for those that turn it
    if made is None:
        raise ValueError("The function returned None: let it return the schedule that it makes.")
    return made


def _twin(schedule: Schedule | LRScheduler, lr: float | Sequence[float] | None) -> Schedule:
    """Copy a schedule for an optimizer with the same groups, which hold one number each."""
    if lr is not None:
        raise ValueError(f"lr={lr}: this schedule has an optimizer with rates of its own; give lr with a function.")
    schedule = as_schedule(schedule)
    optimizer = schedule.scheduler.optimizer
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    stand_in.defaults = copy.deepcopy(optimizer.defaults)
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    stand_in.param_groups = [{"params": [torch.zeros(1)], **copy.deepcopy(group)} for group in settings]
    return copy.deepcopy(schedule, {id(optimizer): stand_in})  # what is found under an id is taken for its copy


def _by_step(optimizer: Optimizer, share: Callable[[int], float]) -> Schedule:
    _to_base(optimizer)
    return Schedule(LambdaLR(optimizer, share), "step")


def _to_base(optimizer: Optimizer) -> None:
    """Put every group back to its base rate, and remember it where torch does."""
    for group in optimizer.param_groups:
        if "max_lr" in group:
            raise ValueError(
                "A OneCycleLR was built on this optimizer before and overwrote its base rates "
                f"(a group's is {float(group['initial_lr']):g} now). Build the optimizer anew, or extend it."
            )
        rate = group.setdefault("initial_lr", copy.deepcopy(group["lr"]))
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _check(steps: int, **shares: float) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps}: a schedule has at least one, epochs * len(loaders.train).")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is a share, from 0 to 1.")
