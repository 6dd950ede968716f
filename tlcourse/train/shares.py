"""What share of its base rate a group has at each step: the formulas of the schedules.

Pure functions of the step, found by name: a scheduler's state is then one number, and it can be copied and pickled.
"""

import math
from functools import partial

from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def constant(step: int) -> float:
    return 1.0


def cosine(step: int, *, steps: int, floor: float, waves: int) -> float:
    return floor if step >= steps else _between(1.0, floor, step * waves % steps / steps)


def warm_up_cosine(step: int, *, steps: int, rise: int, floor: float) -> float:
    if step < rise:
        return (step + 1) / (rise + 1)
    return cosine(step - rise, steps=steps - rise, floor=floor, waves=1)


def one_cycle(step: int, *, steps: int, peak: float, start: float, floor: float) -> float:
    if step < peak:
        return _between(start, 1.0, step / peak)
    fall = steps - 1 - peak
    return _between(1.0, floor, min((step - peak) / fall, 1.0) if fall > 0 else float(step > peak))


def is_ours(scheduler: LRScheduler) -> bool:
    """Tell whether a scheduler was made by `tl.train.schedules` and multiplies base rates by step."""
    return _share(scheduler) is not None


def length(scheduler: LRScheduler) -> int | None:
    """Return for how many steps one of our schedules was made; None where it has no end, or is another's."""
    return getattr(_share(scheduler), "keywords", {}).get("steps")


def _between(start: float, end: float, way: float) -> float:
    """Go from `start` to `end` along half a cosine wave; `way` is from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2


def _share(scheduler: LRScheduler) -> partial | None:
    functions = scheduler.lr_lambdas if isinstance(scheduler, LambdaLR) else []
    ours = (constant, cosine, warm_up_cosine, one_cycle)
    return next((f for f in functions if getattr(f, "func", f) in ours), None)
