"""What `fit` refuses before it trains: loaders, schedules and checkpoints that do not belong to the run."""

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, MultiStepLR, OneCycleLR, SequentialLR, StepLR
from torch.utils.data import Dataset, IterableDataset

from tlcourse.train.device import HasLoaders
from tlcourse.train.schedules import Schedule, as_schedule, total_steps

# What changes in the state of torch's schedulers from step to step; all else is how they were made.
CHANGING = {"last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "base_lrs"}
MIN_FACTOR = 1e-3  # of the base rate: less trains next to nothing
CHANGING |= {"T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "mode_worse", "lr_lambdas", "_schedulers"}


def as_loaders(data: Any, *, saved: bool = False) -> HasLoaders:
    """Return what has loaders `train` and `val`; a dictionary of loaders will do.

    Raises:
        ValueError: one of them is missing; or, with `saved`, holds random numbers that no checkpoint does.
    """
    data = SimpleNamespace(**data) if isinstance(data, Mapping) else data
    if not (hasattr(data, "train") and hasattr(data, "val")) or hasattr(data, "loaders"):
        raise ValueError("data needs loaders `train` and `val`: pass `splits.loaders(batch_size=32)`.")
    if data.train is None or data.val is None:
        raise ValueError(
            "A loader is None. The best epoch is chosen on validation images: hold some of the training images back "
            "for them, for example with torch.utils.data.random_split."
        )
    for part in (data.train, data.val):
        data_set = isinstance(part, Dataset) and not isinstance(part, IterableDataset)  # streams batch by themselves
        if data_set or isinstance(part, Iterator):
            why = "a data set, of single images" if data_set else "an iterator, used up after an epoch"
            raise ValueError(f"A loader is {why}: give DataLoader(data_set, batch_size=32), or a list of batches.")
    if saved and getattr(data.train, "persistent_workers", False):
        raise ValueError(
            "The training loader keeps its worker processes, and with them random numbers that no checkpoint holds. "
            "Make it with persistent_workers=False."
        )
    return data


def check_schedule(
    schedule: Schedule | LRScheduler | None, optimizer: Optimizer, epochs: int, steps: int | None, saved: bool
) -> None:
    """Raise a ValueError unless a schedule belongs to the optimizer as it is now, and is stepped as it was meant.

    Ours have ended after their steps, and torch's one-cycle raises.

    `steps` are those of one epoch. Given without an interval, a scheduler of torch's is stepped by step: those that
    have a length, and one of at most as many steps as there are epochs, were made for epochs.
    """
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS runs the network several times in each step; `fit` does so once: take SGD or AdamW.")
    made = as_schedule(schedule)
    if made is None:
        return
    scheduler = made.scheduler
    if scheduler.optimizer.param_groups is not optimizer.param_groups:  # a wrapper shows those of its optimizer
        raise ValueError("The scheduler was made for another optimizer: its rates would never reach this one.")
    first = getattr(scheduler, "_schedulers", [scheduler])[0]  # of several in one
    groups = len(getattr(first, "base_lrs", getattr(first, "min_lrs", ())))
    new = [g for g in optimizer.param_groups if "initial_lr" not in g and made.interval != "metric"]
    if new or groups != len(optimizer.param_groups):
        raise ValueError(
            f"The scheduler was made for {groups} groups, and the optimizer has {len(optimizer.param_groups)} now, "
            "some of them new: make the scheduler anew after `extend_optimizer` or `add_param_group`."
        )
    if made.interval == "metric" and scheduler.mode == "max":
        raise ValueError("The plateau scheduler gets the validation loss here: make it with mode='min', the default.")
    # A checkpoint sets it; several schedulers in one may have none.
    length, done = total_steps(scheduler), 0 if saved else getattr(scheduler, "last_epoch", 0)
    needed = epochs * (steps or 1) if made.interval == "step" else epochs
    # A rate of almost nothing for whole epochs: `epochs *` was forgotten.
    early = length and made.interval == "step" and length - done <= needed - (steps or 1)
    early = early and max(factor(length) for factor in scheduler.lr_lambdas) < MIN_FACTOR
    short = isinstance(scheduler, OneCycleLR) and scheduler.total_steps - done < needed
    if (length and done >= length) or early or short:
        raise ValueError(
            f"The schedule has {length or scheduler.total_steps} steps, and {done} are done; training takes {needed}: "
            "make a new one for each call of `fit`, with steps=epochs * len(loaders.train)."
        )
    if isinstance(schedule, Schedule) or made.interval == "metric" or steps in (None, 1):
        return
    name, length = type(scheduler).__name__, _length(scheduler)
    if isinstance(scheduler, StepLR | MultiStepLR | ExponentialLR) or (length or math.inf) <= epochs:
        raise ValueError(
            f"{name} would be stepped after each of {steps} optimizer steps per epoch. For epochs, as in most "
            f"tutorials, give tl.train.Schedule(scheduler, 'epoch'); for steps, tl.train.Schedule(scheduler, 'step')."
        )


def _length(scheduler: LRScheduler) -> int | None:
    """Return how many of its steps one of torch's schedulers was made for; None if it has no end."""
    inner = getattr(scheduler, "_schedulers", [])
    if isinstance(scheduler, SequentialLR):  # the milestones, and what follows the last one
        return sum(scheduler._milestones[-1:]) + (_length(inner[-1]) or 0)
    lengths = [getattr(scheduler, name, None) for name in ("total_steps", "T_max", "total_iters", "T_0")]
    return max([n for n in (*lengths, *map(_length, inner)) if n], default=None)


def steps_per_epoch(loader: Any, accumulate: int) -> int | None:
    """Return the number of optimizer steps, or None for a stream: its loader has a `__len__`, which raises."""
    try:
        return -(-len(loader) // accumulate)
    except TypeError:
        return None


def fingerprint(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint and this run must have in common."""
    groups = state["optimizer"]["param_groups"]
    # Some optimizers count in their groups, and torch's one-cycle and cyclic schedules change the momentum.
    kept = {"eps", "nesterov", "amsgrad", "dampening"} | (set() if state["schedule"] else {"momentum", "betas"})
    settings = [{key: g[key] for key in sorted(kept & g.keys())} for g in groups]
    return {
        "format": state["format"],
        "model": {name: tuple(value.shape) for name, value in state["model"].items()},
        "optimizer's groups": [(g.get("name"), len(g["params"]), sorted(g)) for g in groups],
        "learning rate or weight decay": [
            (g.get("initial_lr", None if state["schedule"] else g["lr"]), g.get("weight_decay")) for g in groups
        ],
        "momentum or other setting of the optimizer": settings,
        "number of parameters beside the model's": [tuple(p.shape) for p in state.get("beside", [])],
        "schedule": state["schedule"] and {k: v for k, v in state["schedule"].items() if k not in CHANGING},
        "weight average": state.get("ema") is not None,
        "batches": state["batches"],
    }
