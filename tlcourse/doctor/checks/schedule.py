"""Checks of schedulers: one for each optimizer, stepped at the interval that it counts in, fed with what changes."""

import gc
from collections.abc import Iterator
from typing import Any

from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)

from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup
from tlcourse.train import schedules

DECAYING = (StepLR, MultiStepLR, ExponentialLR)
GONE = 1e-4  # of the first rate: what a decaying scheduler leaves when it is stepped once a batch
FEW = 4  # batches of an epoch from which on steps and epochs are told apart


def one_scheduler_each(setup: Setup) -> Iterator[Finding]:
    """Each constructor of a scheduler rewrites the rates of its optimizer: the last one wins."""
    for number, optimizer in enumerate(setup.optimizers):
        given = [s for s in setup.schedulers if getattr(s, "optimizer", None) is optimizer]
        inner = [child for s in given for child in getattr(s, "_schedulers", [])]
        alive = [s for s in _alive(optimizer) if not any(s is child for child in inner)]
        alive = [s for s in alive if not any(s in getattr(other, "_schedulers", []) for other in alive)]
        # Ours start from the base rates, whatever came before: one that was given has put an older one right.
        alive = [s for s in alive if not (schedules.is_ours(s) and any(schedules.is_ours(other) for other in given))]
        found = list({id(s): s for s in [*given, *alive]}.values())
        # What a one-cycle leaves in the groups outlives it.
        trace = "max_lr" in optimizer.param_groups[0] and not any(isinstance(s, OneCycleLR | CyclicLR) for s in found)
        if len(found) + trace > 1:
            names = [type(s).__name__ for s in found] + ["a one-cycle that is gone"] * trace
            rewriting = trace or any(isinstance(s, OneCycleLR | CyclicLR) for s in found)
            rates = listed(f"{group['lr']:.3g}" for group in optimizer.param_groups)
            finding = wrong if rewriting else suspicious
            yield finding(
                "several-schedulers",
                "Several schedulers were built on one optimizer; each rewrote its rates.",
                f"{listed(names)} on optimizer {number} ({type(optimizer).__name__}); its rates are now {rates}, "
                f"and it was built with {optimizer.defaults['lr']:.3g}",
                "Build a new optimizer for each scheduler that you try; chain schedulers with SequentialLR.",
            )
    strangers = [s for s in setup.schedulers if not any(getattr(s, "optimizer", o) is o for o in setup.optimizers)]
    if strangers and setup.optimizers:
        yield wrong(
            "foreign-scheduler",
            "The scheduler changes the rates of another optimizer.",
            f"{listed(type(s).__name__ for s in strangers)} was built on an optimizer that was not given",
            "Build the scheduler again after the optimizer.",
        )


def one_cycle_has_the_runs_length(setup: Setup) -> Iterator[Finding]:
    """A one-cycle is as long as the run: then the rate ends near 0, and no step is one too many."""
    for scheduler in setup.schedulers:
        plan = _plan(setup)
        if not isinstance(scheduler, OneCycleLR) or plan is None:
            continue
        total, (epochs, batches) = scheduler.total_steps, plan
        run, interval = epochs * batches, _interval(setup, scheduler)
        evidence = f"total_steps is {total:,}; the run has {epochs} epochs of {batches} batches, {run:,} steps"
        advice = f"OneCycleLR(..., total_steps={run}), stepped after every optimizer step."
        if interval == "epoch" and total > 2 * epochs:
            what = f"The one-cycle is stepped once an epoch: it gets through its first {epochs / total:.0%} only."
            yield wrong("scheduler-interval", what, evidence + f"; {_stepped(setup, scheduler)}", advice)
        elif total == epochs and batches > 1 and interval != "step":
            if id(scheduler) not in setup.intervals:
                what = "The one-cycle counts epochs: step it once an epoch."
                yield note("scheduler-interval", what, evidence, advice)
        elif total < run:
            over = _accumulated(total, epochs, batches)
            unknown = over and (interval is None or id(scheduler) in setup.intervals)
            finding = suspicious if unknown else wrong
            what = "The one-cycle runs out before the run ends, and then raises an error."
            if unknown:
                evidence += f"; right if you accumulate gradients over {over} batches"
            yield finding("scheduler-interval", what, evidence, advice)
        elif total > 1.2 * run:
            finding = wrong if total >= 2 * run else suspicious
            what = f"The run ends after {run / total:.0%} of the one-cycle: the rate never comes down."
            yield finding("scheduler-interval", what, evidence, advice)


def cosine_has_the_runs_length(setup: Setup) -> Iterator[Finding]:
    """A cosine comes down over T_max steps of its own, and climbs again after them."""
    for scheduler in setup.schedulers:
        if not isinstance(scheduler, CosineAnnealingLR):
            continue
        length, made, plan = scheduler.T_max, scheduler.last_epoch, _plan(setup)
        if made > length:
            yield wrong(
                "scheduler-interval",
                "The cosine was stepped past its end, and the rate climbs again.",
                f"stepped {made:,} times with T_max={length:,}; the rate is {_rate(scheduler):.3g}",
                "Let T_max count what you count: batches of the whole run where you step after each batch "
                "(`tl.train.fit` does), epochs where you step after each epoch. "
                "`tl.train.schedules.cosine` stays down.",
            )
            continue
        if plan is None:
            continue
        (epochs, batches), interval = plan, _interval(setup, scheduler)
        run = epochs * batches
        evidence = f"T_max is {length:,}; the run has {epochs} epochs of {batches} batches, {run:,} steps"
        by_epoch, by_step = (abs(length - whole) <= 0.1 * whole for whole in (epochs, run))
        if by_epoch and interval == "step" and run > 2 * epochs:
            what = "The cosine counts epochs and is stepped after every batch: it will climb again."
            yield wrong("scheduler-interval", what, evidence, f"T_max={run}, or step it once an epoch.")
        elif by_step and interval == "epoch" and run > 2 * epochs:
            what = f"The cosine counts batches and is stepped once an epoch: it gets {epochs / length:.0%} of the way."
            yield wrong("scheduler-interval", what, evidence, f"T_max={epochs}, or step it after every batch.")
        elif by_epoch and not by_step and interval is None:
            advice = f'For `tl.train.fit`: T_max={run}, or `tl.train.Schedule(scheduler, "epoch")`.'
            yield note("scheduler-interval", "T_max counts epochs: step the cosine once an epoch.", evidence, advice)
        elif interval == "epoch" and length < 0.9 * epochs:
            what = f"The cosine is at its end after {length:,} of {epochs:,} epochs, and the rate climbs again."
            yield wrong("scheduler-interval", what, evidence, f"T_max={epochs}.")
        elif (
            (interval is None or (id(scheduler) in setup.intervals and interval == "step"))
            and not (by_epoch or by_step or _accumulated(length, epochs, batches))
            and length < run
        ):
            what = "T_max is neither the run's epochs nor its steps."
            yield suspicious("scheduler-interval", what, evidence, f"T_max={run} by batches, {epochs} by epochs.")
        elif length > 1.5 * (whole := epochs if interval == "epoch" else run):
            what = f"The run ends after {whole / length:.0%} of the cosine: the rate stays high."
            yield suspicious("scheduler-interval", what, evidence, f"T_max={run} by batches, {epochs} by epochs.")


def decay_leaves_a_rate(setup: Setup) -> Iterator[Finding]:
    """A scheduler made for epochs takes the rate away when it is stepped after every batch."""
    for scheduler in setup.schedulers:
        if not isinstance(scheduler, DECAYING):
            continue
        first, now = max(scheduler.base_lrs), _rate(scheduler)
        if now < GONE * first:
            finding = wrong if _interval(setup, scheduler) == "step" else suspicious
            yield finding(
                "scheduler-interval",
                "The scheduler has taken the learning rate away.",
                f"{type(scheduler).__name__} went from {first:g} to {now:.2g} in {_stepped(setup, scheduler)}",
                "Step it once an epoch, or let its step_size, milestones or gamma count batches.",
            )


def schedule_has_the_runs_length(setup: Setup) -> Iterator[Finding]:
    """One of our schedules knows its length, and a `Schedule` its interval: together they cover the run."""
    for scheduler in setup.schedulers:
        plan, interval = _plan(setup), setup.intervals.get(id(scheduler), "step")
        steps = schedules.length(scheduler)
        if steps is None or plan is None:
            continue
        epochs, batches = plan
        run = epochs * batches if interval == "step" else epochs
        evidence = f"made for {steps:,} steps; the run has {epochs} epochs of {batches} batches, {run:,} times to step"
        advice = f"Give it {run} steps: `epochs * len(loaders.train)`, less where you accumulate gradients."
        over = interval == "step" and steps != epochs and _accumulated(steps, epochs, batches)
        if steps > 1.5 * run:
            what = f"The run ends after {run / steps:.0%} of the schedule: the rate stays high."
            yield suspicious("scheduler-interval", what, evidence, advice)
        elif steps < 0.9 * run and not over:
            what = f"The schedule ends before the run: the last {run - steps:,} steps have its last rate."
            yield suspicious("scheduler-interval", what, evidence, advice)


def scheduler_is_stepped(setup: Setup) -> Iterator[Finding]:
    """A scheduler that is never stepped is none."""
    batches = _batches(setup)
    for scheduler in setup.schedulers:
        made = getattr(scheduler, "last_epoch", None)
        if id(scheduler) in setup.intervals:
            continue  # `tl.train.fit` steps it, and it may be new on an optimizer that is not
        if made == 0 and setup.steps and batches and setup.steps >= 2 * batches:
            yield suspicious(
                "scheduler-not-stepped",
                "The scheduler was never stepped.",
                f"{setup.steps:,} steps of the optimizer, two epochs or more, and none of {type(scheduler).__name__}",
                "Call `scheduler.step()` in the loop. Right if you built it after these steps.",
            )


def _alive(optimizer: Any) -> list[Any]:
    """Every scheduler in memory on this optimizer: those that a notebook forgot still rewrote its rates."""
    found = []
    for holder in gc.get_referrers(optimizer):
        # Older Pythons answer with an object's dictionary instead of the object.
        owners = gc.get_referrers(holder) if type(holder) is dict and holder.get("optimizer") is optimizer else [holder]
        # type(), because isinstance() runs code of whatever it is asked about.
        found += [owner for owner in owners if issubclass(type(owner), LRScheduler)]
    return [scheduler for scheduler in found if scheduler.optimizer is optimizer]


def _batches(setup: Setup) -> int | None:
    train = setup.part("train")
    return len(train.loader) if train is not None and train.loader is not None else None


def _plan(setup: Setup) -> tuple[int, int] | None:
    """Epochs of the run, and batches of an epoch, where both are known."""
    batches = _batches(setup)
    return (setup.epochs, batches) if setup.epochs and batches else None


def _interval(setup: Setup, scheduler: Any) -> str | None:
    """Tell whether a scheduler is stepped once a "step" or an "epoch": its `Schedule` says it, or the counts do."""
    if id(scheduler) in setup.intervals:
        return setup.intervals[id(scheduler)]
    batches, made = _batches(setup), scheduler.last_epoch
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


def _stepped(setup: Setup, scheduler: Any) -> str:
    steps = f" over {setup.steps:,} steps of the optimizer" if setup.steps else ""
    return f"{scheduler.last_epoch:,} steps of the scheduler{steps}"


def _rate(scheduler: Any) -> float:
    return max(float(group["lr"]) for group in scheduler.optimizer.param_groups)


CHECKS = (
    one_scheduler_each,
    one_cycle_has_the_runs_length,
    cosine_has_the_runs_length,
    decay_leaves_a_rate,
    schedule_has_the_runs_length,
    scheduler_is_stepped,
)
