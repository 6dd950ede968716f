"""`examine`: the doctor for a model, its optimizer, its data, its schedulers and its results."""

from typing import Any

from torch import nn

from tlcourse.doctor import checks
from tlcourse.doctor.parts import parts_of
from tlcourse.doctor.report import Report, functions, listed, run_checks
from tlcourse.doctor.setup import Setup
from tlcourse.doctor.snapshots import compare
from tlcourse.models import Stage, unwrap_model
from tlcourse.side_effects import preserve_rng_state
from tlcourse.table import Table
from tlcourse.train import Schedule

# In this order the checks run and, within one severity, the findings come.
CHECKS = functions(checks.model, checks.schedule, checks.data, checks.results)


def examine(
    model: nn.Module,
    optimizer: Any = None,
    data: Any = None,
    scheduler: Any = None,
    *,
    loss: Any = None,
    epochs: int | None = None,
    history: Any = None,
    evaluation: Any = None,
    evaluating: bool = False,
) -> Report:
    """Look at a set-up and say what is wrong with it, with the evidence and what to do.

    Nothing is changed: weights, buffers, gradients, modes, random numbers and the order of the loaders stay as they
    are. A few images of each part are looked at; to find copies, up to 2,000 of training and 1,000 of every other
    part. What is not given is not checked.

    Args:
        model: on any device, compiled or wrapped or not.
        optimizer: one, or a list of them.
        data: splits, loaders, a mapping of names (`train`, `val`, `test`) to loaders or data sets, `(train, val)`,
            or the training loader or data set alone.
        scheduler: one, or a list of them; in a `Schedule`, which says when it is stepped, or as it is.
        loss: the loss module or function, `nn.CrossEntropyLoss()` for example.
        epochs: planned passes over the training set.
        history: what `tl.train.fit` returned, or a list of training losses.
        evaluation: what `tl.evaluation.evaluate` returned.
        evaluating: whether the model is about to be measured, so that nothing may be in training mode.

    Returns:
        A report: true where nothing is wrong, with `.table` (one row per stage) and `.findings`.

    Raises:
        ValueError: an argument is not of the kind that it is for.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}: give the nn.Module first, then its optimizer and data.")
    model = unwrap_model(model)
    schedulers = _as_list(scheduler)
    with preserve_rng_state():
        setup = Setup(
            model=model,
            optimizers=_unwrapped(optimizer, "optimizer", "param_groups"),
            schedulers=_unwrapped(scheduler, "scheduler", "step"),
            parts=parts_of(data),
            intervals={id(one.scheduler): one.interval for one in schedulers if isinstance(one, Schedule)},
            changes=compare(model),
            loss=loss,
            epochs=epochs,
            losses=_losses(history),
            history=history if hasattr(history, "column") else None,
            evaluation=evaluation,
            evaluating=evaluating,
        )
        findings = run_checks(CHECKS, setup)
    title = getattr(model, "architecture", type(model).__name__)
    return Report(title, _table(setup), findings, _remarks(setup))


def _as_list(given: Any) -> list[Any]:
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def _unwrapped(given: Any, name: str, attribute: str) -> list[Any]:
    """Return optimizers or schedulers without what accelerate or a `Schedule` wraps around them.

    They are known by an attribute: timm's schedulers are no subclass of torch's.
    """
    found = [getattr(one, name, one) if hasattr(getattr(one, name, None), "step") else one for one in _as_list(given)]
    odd = [one for one in found if not hasattr(one, attribute)]
    if odd:
        raise ValueError(f"{name} is {type(odd[0]).__name__}: give a torch {name}, or a list of them.")
    return found


def _losses(history: Any) -> list[float]:
    """Return the training losses."""
    if hasattr(history, "column"):
        return history.column("train_loss")
    try:
        return [float(value) for value in (() if history is None else history)]
    except (TypeError, ValueError) as error:
        kind = type(history).__name__
        raise ValueError(f"history is {kind}: give what `tl.train.fit` returned, or a list of losses.") from error


def _table(setup: Setup) -> Table:
    rows = Table()
    for stage in setup.stages:
        row = {"stage": stage.name, "parameters": stage.count, "trainable": stage.trainable}
        if setup.optimizers:
            row["learning rate"] = _rates(setup, stage)
        modes = {"train" if norm.module.training else "eval" for norm in setup.norms if norm.stage == stage.name}
        rows.append(row | {"batch norm": " and ".join(sorted(modes)) or "none", "moved": _moved(setup, stage)})
    total = {key: sum(row[key] for row in rows) for key in ("parameters", "trainable")}
    rows.append((dict.fromkeys(rows[0], "") if rows else {}) | {"stage": "all", **total})
    return rows


def _rates(setup: Setup, stage: Stage) -> str:
    if not stage.trainable:
        return "frozen" if stage.parameters else ""
    trainable = [name for name in stage.parameters if name in setup.trainable]
    rates = sorted({setup.rates[name] for name in trainable if name in setup.rates})
    texts = [" to ".join(f"{rate:.3g}" for rate in dict.fromkeys([rates[0], rates[-1]]))] if rates else []
    return ", ".join(texts + ["not in optimizer"] * any(name not in setup.rates for name in trainable))


def _moved(setup: Setup, stage: Stage) -> str:
    changes = setup.changes
    if changes is None:
        return "first look"
    known = [changes[name] for name in stage.parameters if name in changes]
    if stage.parameters and not known:
        return "new"
    # What began at zero, as many biases do, moved by no share of itself.
    weights = [change.size for change in known if not change.from_zero]
    if any(weights):
        return f"{sum(weights) / len(weights):.2%}"
    if any(change.from_zero for change in known):
        return "from 0"
    return "statistics only" if any(changes[name].size for name in stage.buffers if name in changes) else "no"


def _remarks(setup: Setup) -> list[str]:
    given = {"optimizer": setup.optimizers, "data": setup.parts, "scheduler": setup.schedulers}
    given |= {"history": setup.losses, "evaluation": setup.evaluation is not None}
    missing = [name for name, value in given.items() if not value]
    remarks = [f"Not given, and not checked: {listed(missing, 9)}."] if missing else []
    for part in setup.parts:
        if part.sample is None and not part.faults:
            remarks.append(f"The {part.name} part gives no tensors (images, labels): its images were not checked.")
        if len(setup.parts) > 1 and len(part.compared) < len(part):
            read = f"{len(part.compared):,} of {len(part):,} {part.name} images"
            remarks.append(f"To find copies, {read} were read; `tl.data.find_duplicates(data)` reads all.")
    return remarks
