"""Checks of the scheduler that waits for a plateau: it must see a measurement, the right way round, once an epoch."""

import math
from collections.abc import Iterator

from torch.optim.lr_scheduler import ReduceLROnPlateau

from tlcourse.doctor.report import Finding, suspicious, wrong
from tlcourse.doctor.setup import Setup

CALLS = 4  # from so many calls on, one that was never better than the first is odd


def plateau_sees_what_changes(setup: Setup) -> Iterator[Finding]:
    """A plateau scheduler must be fed with a measurement, in the direction that is better."""
    for scheduler in setup.schedulers:
        if not isinstance(scheduler, ReduceLROnPlateau) or scheduler.last_epoch < 1:
            continue
        best, calls = float(scheduler.best), scheduler.last_epoch
        rate = scheduler.optimizer.param_groups[0]["lr"]
        evidence = f"best is {best:.4g} (mode {scheduler.mode!r}) after {calls} calls; the rate is {rate:.3g}"
        advice = "Pass the validation loss with mode='min', or the validation accuracy with mode='max', once an epoch."
        done = len(setup.losses)
        if not math.isfinite(best):
            yield wrong("plateau-constant", "The plateau scheduler has seen no number yet.", evidence, advice)
        elif setup.history is not None and (name := _fed_the_wrong_way(setup, scheduler)):
            yield wrong(
                "plateau-direction", f"The plateau scheduler takes {name} the wrong way round.", evidence, advice
            )
        elif calls >= CALLS and _never_better(scheduler):
            improved = _improved(setup, scheduler)
            finding = wrong if best == 0 or improved else suspicious
            told = f"; the history's {improved}" if improved else ""
            what = "The plateau scheduler was never fed anything better than at its first call: is it a constant?"
            yield finding("plateau-constant", what, evidence + told, advice)
        if done >= 2 and calls >= 2 * done:
            what = "The plateau scheduler is stepped more than once an epoch: its patience counts calls, not epochs."
            yield suspicious("scheduler-interval", what, f"{calls} calls in {done} epochs", advice)


def _never_better(scheduler: ReduceLROnPlateau) -> bool:
    """Whether every call after the first counted as no better; reductions so far are read off the rate."""
    group, first = scheduler.optimizer.param_groups[0], scheduler.optimizer.defaults["lr"]
    ratio = float(group["lr"]) / float(first)
    cuts = round(math.log(ratio) / math.log(scheduler.factor)) if 0 < ratio < 1 else 0
    rest = scheduler.cooldown * cuts  # calls in a cooldown count as neither
    bad = cuts * (scheduler.patience + 1) + scheduler.num_bad_epochs
    return bad + rest >= scheduler.last_epoch - 1


def _improved(setup: Setup, scheduler: ReduceLROnPlateau) -> str | None:
    """Name a column of the history that did get better in the scheduler's direction."""
    if setup.history is None:
        return None
    name = "val_accuracy" if scheduler.mode == "max" else "val_loss"
    values = setup.history.column(name)
    best = max(values) if scheduler.mode == "max" else min(values)
    return f"{name} went from {values[0]:.3g} to {best:.3g}" if best != values[0] else None


def _fed_the_wrong_way(setup: Setup, scheduler: ReduceLROnPlateau) -> str | None:
    """Name what the scheduler's best value is the worst of."""
    losses, accuracies = (setup.history.column(name) for name in ("val_loss", "val_accuracy"))
    told = {"max": ("the validation loss", losses, accuracies), "min": ("the validation accuracy", accuracies, losses)}
    name, other, right = told[scheduler.mode]
    extreme = max if scheduler.mode == "max" else min
    as_other, as_right = (math.isclose(extreme(values), scheduler.best, rel_tol=1e-6) for values in (other, right))
    return name if as_other and not as_right and len(set(other)) > 1 else None


CHECKS = (plateau_sees_what_changes,)
