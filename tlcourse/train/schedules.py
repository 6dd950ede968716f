"""Learning-rate schedules: torch's own schedulers, each with the interval at which it is stepped.

A schedule multiplies every group's base rate by one factor, so discriminative rates keep their ratio. The base rate is
what the group was built with, by `tl.models.param_groups` for example, and not where the last schedule ended: each
function here resets the groups to it first. torch stores it as `initial_lr` once a scheduler was built. So
`tl.models.extend_optimizer`, whose groups are new, gives new base rates; by hand, set both `lr` and `initial_lr`.

`steps` are the optimizer steps of the whole training, `epochs * len(loaders.train)`. All functions raise a `ValueError`
for an argument out of range or in the wrong place, and where torch's one-cycle has overwritten the base rates.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau


@dataclass(frozen=True)
class Schedule:
    """One of torch's schedulers, and when it is stepped.

    `"step"` is after each optimizer step, `"epoch"` after each epoch, and `"metric"` after each epoch with the
    validation loss.

    Raises:
        ValueError: no such interval, not one of torch's schedulers, or one that does not go with the interval.
    """

    scheduler: LRScheduler
    interval: str

    def __post_init__(self) -> None:
        name, plateau = type(self.scheduler).__name__, isinstance(self.scheduler, ReduceLROnPlateau)
        if not isinstance(self.scheduler, LRScheduler | ReduceLROnPlateau):
            raise ValueError(f"scheduler is {name}: give one of torch.optim.lr_scheduler, built on your optimizer.")
        if self.interval not in ("step", "epoch", "metric"):
            raise ValueError(f"interval is {self.interval!r}: choose among 'step', 'epoch', 'metric'.")
        if plateau != (self.interval == "metric"):
            fitting = "'metric', the validation loss of each epoch" if plateau else "'step' or 'epoch'"
            raise ValueError(f"interval is {self.interval!r}, but {name} needs {fitting}.")

    def step(self, interval: str, metric: float | None = None) -> None:
        """Step the scheduler, if this is its interval."""
        if interval == self.interval:
            self.scheduler.step() if interval != "metric" else self.scheduler.step(metric)


def as_schedule(scheduler: Schedule | LRScheduler | None) -> Schedule | None:
    """Return a schedule as it is, a `ReduceLROnPlateau` by metric, and any other of torch's schedulers by step."""
    if scheduler is None or isinstance(scheduler, Schedule):
        return scheduler
    return Schedule(scheduler, "metric" if isinstance(scheduler, ReduceLROnPlateau) else "step")


def constant(optimizer: Optimizer) -> Schedule:
    """Keep every group at its base rate."""
    return _by_step(optimizer, constant_factor)


def cosine(optimizer: Optimizer, steps: int, *, min_factor: float = 0.0, restarts: int = 0) -> Schedule:
    """Let the rate fall along half a cosine wave, and start again at the base rate after each restart.

    At step t of n the factor is `min_factor + (1 - min_factor) * (1 + cos(pi * t / n)) / 2`. The minimum is reached
    after the last step and kept, where torch's `CosineAnnealingLR` would climb again. With restarts, the training has
    `restarts + 1` such cycles of equal length.
    Source: Loshchilov and Hutter 2017, SGDR.
    """
    _check(steps, min_factor=min_factor)
    if not 0 <= restarts < steps:
        raise ValueError(f"restarts={restarts}: give 0 or more, and fewer than the {steps} steps.")
    return _by_step(optimizer, partial(cosine_factor, steps=steps, min_factor=min_factor, cycles=restarts + 1))


def warmup_cosine(optimizer: Optimizer, steps: int, *, warmup: float = 0.1, min_factor: float = 0.0) -> Schedule:
    """Let the rate rise linearly over the first part of the training, then fall along half a cosine wave.

    With `w = round(warmup * steps)`, step t has the factor `(t + 1) / (w + 1)` before step w, which has the full base
    rate; from there it is `cosine` over the steps that are left.
    Source: Goyal et al. 2017, Accurate, large minibatch SGD, for the warm-up.
    """
    _check(steps, min_factor=min_factor, warmup=warmup)
    warmup_steps = min(round(warmup * steps), steps - 1)
    factor = partial(warmup_cosine_factor, steps=steps, warmup_steps=warmup_steps, min_factor=min_factor)
    return _by_step(optimizer, factor)


def one_cycle(
    optimizer: Optimizer, steps: int, *, warmup: float = 0.3, start_factor: float = 0.04, min_factor: float = 4e-6
) -> Schedule:
    """Let the rate rise to the base rate and fall far below its start, along half a cosine wave each way.

    The rates are those of torch's `OneCycleLR` with the base rates as `max_lr`: the factor is `start_factor` at the
    first step, 1 at step `warmup * steps - 1` and `min_factor` at the last one. Only rates change: torch's class also
    changes momentum, and with it Adam's first beta, unless it is told not to.
    Source: Smith and Topin 2018, Super-convergence.
    """
    _check(steps, start_factor=start_factor, min_factor=min_factor, warmup=warmup)
    peak = max(warmup * steps - 1, 0.0)
    factor = partial(one_cycle_factor, steps=steps, peak=peak, start_factor=start_factor, min_factor=min_factor)
    return _by_step(optimizer, factor)


def plateau(optimizer: Optimizer, *, factor: float = 0.5, patience: int = 3) -> Schedule:
    """Multiply all rates by a factor when the validation loss has not decreased for more than `patience` epochs.

    It is the loss and not the accuracy, which changes by whole images and can stay the same while a model improves.
    """
    if not 0 < factor < 1 or patience < 0:
        raise ValueError(f"factor={factor} must lie between 0 and 1, and patience={patience} must not be negative.")
    _reset_to_base(optimizer)
    # With torch's eps of 1e-8 the low rates of early stages would not be reduced, and the ratio would be lost.
    return Schedule(ReduceLROnPlateau(optimizer, "min", factor=factor, patience=patience, eps=0.0), "metric")


def simulate(
    schedule: Schedule | LRScheduler | Callable[[Optimizer], Schedule | LRScheduler],
    steps: int,
    *,
    lr: float | Sequence[float] | None = None,
    metrics: Sequence[float] | None = None,
) -> torch.Tensor:
    """Return the rates of the next steps without training, `(steps, groups)`; the schedule itself is not changed.

        simulate(lambda optimizer: cosine(optimizer, 100), 100, lr=1e-3)

    Args:
        schedule: one of this module or torch's, which is followed from where it is now; or a function that makes one
            for an optimizer, so that no model is needed.
        steps: of the scheduler: epochs where it is stepped by epoch or metric.
        lr: for a function, the base rate, or one for each group; without it the rates are factors of the base rate.
        metrics: for a plateau, the validation loss of each epoch, as many as there are steps.
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
    stand_in.param_groups = [copy.deepcopy(group | {"params": [torch.zeros(1)]}) for group in optimizer.param_groups]
    return copy.deepcopy(schedule, {id(optimizer): stand_in})  # what is found under an id is taken for its copy


def made_here(scheduler: LRScheduler) -> bool:
    """Tell whether a scheduler was made by this module and multiplies base rates by step."""
    return _factor(scheduler) is not None


def total_steps(scheduler: LRScheduler) -> int | None:
    """Return for how many steps one of our schedules was made; None if it has no end, or is not ours."""
    return getattr(_factor(scheduler), "keywords", {}).get("steps")


# The factors by which the base rates are multiplied. They are pure functions of the step that can be found by name: a
# scheduler's state is then one number, and it can be copied and pickled.


def constant_factor(step: int) -> float:
    return 1.0


def cosine_factor(step: int, *, steps: int, min_factor: float, cycles: int) -> float:
    return min_factor if step >= steps else _half_cosine(1.0, min_factor, step * cycles % steps / steps)


def warmup_cosine_factor(step: int, *, steps: int, warmup_steps: int, min_factor: float) -> float:
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return cosine_factor(step - warmup_steps, steps=steps - warmup_steps, min_factor=min_factor, cycles=1)


def one_cycle_factor(step: int, *, steps: int, peak: float, start_factor: float, min_factor: float) -> float:
    if step < peak:
        return _half_cosine(start_factor, 1.0, step / peak)
    fall = steps - 1 - peak
    return _half_cosine(1.0, min_factor, min((step - peak) / fall, 1.0) if fall > 0 else float(step > peak))


def _half_cosine(start: float, end: float, fraction: float) -> float:
    """Go from `start` to `end` along half a cosine wave."""
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def _factor(scheduler: LRScheduler) -> Callable[[int], float] | None:
    functions = scheduler.lr_lambdas if isinstance(scheduler, LambdaLR) else []
    ours = (constant_factor, cosine_factor, warmup_cosine_factor, one_cycle_factor)
    return next((f for f in functions if getattr(f, "func", f) in ours), None)


def _by_step(optimizer: Optimizer, factor: Callable[[int], float]) -> Schedule:
    _reset_to_base(optimizer)
    return Schedule(LambdaLR(optimizer, factor), "step")


def _reset_to_base(optimizer: Optimizer) -> None:
    """Reset every group to its base rate, which is stored where torch stores it."""
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


def _check(steps: int, **fractions: float) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps}: a schedule has at least one, epochs * len(loaders.train).")
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise ValueError(f"{name}={fraction}: give a number from 0 to 1.")
