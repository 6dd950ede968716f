"""Checks of schedulers: one per optimizer, as long as the run, stepped at the interval that it counts in."""

import gc
import math
from typing import Any

from torch.optim import lr_scheduler

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup
from tlcourse.train import schedules

REWRITING = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)  # what they leave in the groups outlives them
DECAYING = (lr_scheduler.StepLR, lr_scheduler.MultiStepLR, lr_scheduler.ExponentialLR)
GONE = 1e-4  # of the first rate: what a decaying scheduler leaves when it is stepped after every batch
FEW = 4  # batches per epoch from which on steps and epochs are told apart
CALLS = 4  # calls of a plateau scheduler from which on it is odd that none was better than the first


def one_scheduler_for_each_optimizer(setup: Setup) -> Findings:
    """Each constructor of a scheduler rewrites the learning rates of its optimizer: the last one wins."""
    for number, optimizer in enumerate(setup.optimizers):
        given = [s for s in setup.schedulers if getattr(s, "optimizer", None) is optimizer]
        alive = _alive(optimizer)
        parts = {id(part) for s in [*given, *alive] for part in _parts(s)}
        # Ours start from the base rates, whatever came before: one that was given has put an older one right.
        ours = any(schedules.made_here(s) for s in given)
        forgotten = [s for s in alive if id(s) not in parts and not (ours and schedules.made_here(s))]
        found = list({id(s): s for s in [*given, *forgotten]}.values())
        rewriting = any(isinstance(s, REWRITING) for s in found)
        trace = "max_lr" in optimizer.param_groups[0] and not rewriting
        if len(found) + trace > 1:
            names = listed([type(s).__name__ for s in found] + ["a one-cycle that is gone"] * trace)
            rates = listed(f"{group['lr']:.3g}" for group in optimizer.param_groups)
            evidence = f"{names} on optimizer {number} ({type(optimizer).__name__}); its rates are now {rates}, and it "
            evidence += f"was built with {optimizer.defaults['lr']:.3g}"
            yield (wrong if rewriting or trace else suspicious)("several-schedulers", evidence)
    foreign = [s for s in setup.schedulers if not any(getattr(s, "optimizer", o) is o for o in setup.optimizers)]
    if foreign and setup.optimizers:
        names = listed(type(s).__name__ for s in foreign)
        yield wrong("foreign-scheduler", f"{names} was built on an optimizer that was not given")


def schedule_is_as_long_as_the_run(setup: Setup) -> Findings:
    """A schedule with a length covers the run, and counts what it is stepped after: batches, or epochs."""
    for scheduler in setup.schedulers:
        length, interval = _length(scheduler), _interval(setup, scheduler)
        raises = isinstance(scheduler, lr_scheduler.OneCycleLR)
        climbs = isinstance(scheduler, lr_scheduler.CosineAnnealingLR)
        if climbs and scheduler.last_epoch > length:
            evidence = f"stepped {scheduler.last_epoch:,} times with T_max={length:,}; the rate is {_rate(scheduler):g}"
            yield wrong("scheduler-interval/past-its-end", evidence)
            continue
        if length is None or not setup.epochs or not setup.batches:
            continue
        epochs, steps = setup.epochs, setup.epochs * setup.batches
        run = epochs if interval == "epoch" else steps
        counts_epochs = abs(length - epochs) <= 0.1 * epochs and setup.batches > 2
        batches = _accumulated(length, epochs, setup.batches) if interval != "epoch" else None
        kind = "The schedule" if schedules.made_here(scheduler) else type(scheduler).__name__
        values = {"kind": kind, "run": run}
        evidence = f"made for {length:,} steps; the run has {epochs} epochs of {setup.batches} batches, {steps:,} steps"
        if interval == "epoch" and length >= 0.9 * steps and setup.batches > 2:
            yield wrong("scheduler-interval/counts-batches", evidence, **values)
        elif counts_epochs and interval is None:
            yield note("scheduler-interval/unknown", evidence, **values)
        elif counts_epochs and interval == "step":
            yield (wrong if raises or climbs else suspicious)("scheduler-interval/counts-epochs", evidence, **values)
        elif batches:  # a one-cycle that is stepped too often raises an error
            if raises:
                evidence += f"; right if you accumulate gradients over {batches} batches"
                yield suspicious("scheduler-interval/too-short", evidence, **values)
        elif length < (run if raises else 0.9 * run):
            sure = raises or (climbs and interval == "epoch")
            yield (wrong if sure else suspicious)("scheduler-interval/too-short", evidence, **values)
        elif length >= 1.5 * run:
            found = wrong if raises and length >= 2 * run else suspicious
            yield found("scheduler-interval/too-long", evidence, share=f"{run / length:.0%}", **values)


def scheduler_is_stepped(setup: Setup) -> Findings:
    """A scheduler that is never stepped is none; one that decays by epoch is not stepped after every batch."""
    for scheduler in setup.schedulers:
        kind, made = type(scheduler).__name__, getattr(scheduler, "last_epoch", None)
        if isinstance(scheduler, DECAYING) and _rate(scheduler) < GONE * max(scheduler.base_lrs):
            evidence = f"from {max(scheduler.base_lrs):g} to {_rate(scheduler):.2g} in {made:,} steps"
            found = wrong if _interval(setup, scheduler) == "step" else suspicious
            yield found("scheduler-interval/decayed", evidence, kind=kind)
        # `tl.train.fit` steps one in a `Schedule`, which may be new on an optimizer that is not.
        by_hand = id(scheduler) not in setup.intervals
        if made == 0 and by_hand and setup.batches and (setup.steps or 0) >= 2 * setup.batches:
            yield suspicious("scheduler-not-stepped", f"{setup.steps:,} steps of the optimizer, and none of {kind}")


def plateau_sees_a_measurement(setup: Setup) -> Findings:
    """A plateau scheduler must be fed with a measurement, in the direction that is better."""
    for scheduler in setup.schedulers:
        if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) or scheduler.last_epoch < 1:
            continue
        calls, epochs, best = scheduler.last_epoch, len(setup.losses), float(scheduler.best)
        evidence = f"best is {best:.4g} (mode {scheduler.mode!r}) after {calls} calls; the rate is {_rate(scheduler):g}"
        names, better = ("val_accuracy", "val_loss"), max
        if scheduler.mode == "min":
            names, better = names[::-1], min
        right, other = ((setup.history.column(name) if setup.history is not None else []) or [0.0] for name in names)
        is_right, is_other = (math.isclose(better(values), best, rel_tol=1e-6) for values in (right, other))
        if not math.isfinite(best):
            yield wrong("plateau-constant/no-number", evidence)
        elif is_other and not is_right and len(set(other)) > 1:
            yield wrong("plateau-direction", evidence, measurement=names[1])
        elif calls >= CALLS and _never_better(scheduler):
            improved = better(right) != right[0]
            if improved:
                evidence += f"; the history's {names[0]} went from {right[0]:.3g} to {better(right):.3g}"
            yield (wrong if improved or best == 0 else suspicious)("plateau-constant", evidence)
        if epochs >= 2 and calls >= 2 * epochs:
            yield suspicious("scheduler-interval/plateau", f"{calls} calls in {epochs} epochs")


def _never_better(scheduler: lr_scheduler.ReduceLROnPlateau) -> bool:
    """Whether every call after the first counted as no better; reductions so far are read off the learning rate."""
    ratio = float(scheduler.optimizer.param_groups[0]["lr"]) / float(scheduler.optimizer.defaults["lr"])
    cuts = round(math.log(ratio) / math.log(scheduler.factor)) if 0 < ratio < 1 else 0
    # A cut takes patience + 1 bad calls; calls in a cooldown count as neither good nor bad.
    return cuts * (scheduler.patience + 1 + scheduler.cooldown) + scheduler.num_bad_epochs >= scheduler.last_epoch - 1


def _alive(optimizer: Any) -> list[lr_scheduler.LRScheduler]:
    """Return every scheduler in memory on this optimizer: those that a notebook forgot still rewrote its rates."""
    found = []
    for holder in gc.get_referrers(optimizer):
        # Older Pythons answer with an object's dictionary instead of the object.
        owners = gc.get_referrers(holder) if type(holder) is dict and holder.get("optimizer") is optimizer else [holder]
        # type(), because isinstance() runs code of whatever it is asked about.
        found += [owner for owner in owners if issubclass(type(owner), lr_scheduler.LRScheduler)]
    return [scheduler for scheduler in found if scheduler.optimizer is optimizer]


def _parts(scheduler: Any) -> list[lr_scheduler.LRScheduler]:
    """Return the schedulers that one is composed of, such as those of a `SequentialLR`."""
    lists = [value for value in getattr(scheduler, "__dict__", {}).values() if isinstance(value, list | tuple)]
    return [part for values in lists for part in values if isinstance(part, lr_scheduler.LRScheduler)]


def _length(scheduler: Any) -> int | None:
    """Return for how many steps of its own a schedule is made; None where it has no end."""
    if isinstance(scheduler, lr_scheduler.OneCycleLR):
        return scheduler.total_steps
    is_cosine = isinstance(scheduler, lr_scheduler.CosineAnnealingLR)
    return scheduler.T_max if is_cosine else schedules.total_steps(scheduler)


def _interval(setup: Setup, scheduler: Any) -> str | None:
    """Tell whether a scheduler is stepped once per "step" or "epoch": its `Schedule` says it, or the counts do."""
    if id(scheduler) in setup.intervals or schedules.made_here(scheduler):
        return setup.intervals.get(id(scheduler), "step")
    batches, made = setup.batches, getattr(scheduler, "last_epoch", 0)
    if not batches or batches < FEW or made < 1:
        return None
    steps = setup.steps or batches * len(setup.losses)
    if steps >= batches and abs(made - steps) <= 0.1 * steps:
        return "step"
    epochs = steps / batches
    return "epoch" if epochs >= 2 and abs(made - epochs) <= max(1, 0.1 * epochs) else None


def _accumulated(steps: int, epochs: int, batches: int) -> int | None:
    """Return over how many batches gradients must be accumulated for a run to have so many steps of the optimizer."""
    return next((k for k in range(2, 33) if steps in (epochs * -(-batches // k), epochs * batches // k)), None)


def _rate(scheduler: Any) -> float:
    return max(float(group["lr"]) for group in scheduler.optimizer.param_groups)
