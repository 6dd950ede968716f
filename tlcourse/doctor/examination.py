"""`examine`: the doctor for a model, its optimizer, its data, its schedulers and its results."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from tlcourse.doctor.checks import data, images, model, optimizer, plateau, results, schedule
from tlcourse.doctor.parts import parts_of
from tlcourse.doctor.report import Finding, Report, listed, note
from tlcourse.doctor.setup import Setup
from tlcourse.doctor.snapshots import compare
from tlcourse.models import Stage, unwrap_model
from tlcourse.side_effects import preserve_rng_state
from tlcourse.table import Table
from tlcourse.train import Schedule

# In this order the checks run and, within one severity, the findings come.
CHECKS = tuple(check for part in (model, optimizer, schedule, plateau, images, data, results) for check in part.CHECKS)


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
    are. A few images of each part are looked at; for copies, up to 2,000 of training and 1,000 of every other part.
    What is not given is not checked.

    Args:
        model: on any device, compiled or wrapped or not.
        optimizer: one, or a list of them.
        data: splits, loaders, a mapping of names (`train`, `val`, `test`) to loaders or data sets, `(train, val)`,
            or the training loader or data set alone.
        scheduler: one, or a list of them; in a `Schedule`, which says when it is stepped, or as it is.
        loss: the loss module or function, `nn.CrossEntropyLoss()` for example.
        epochs: planned passes over the training part.
        history: what `tl.train.fit` returned, or a list of training losses.
        evaluation: what `tl.evaluation.evaluate` returned.
        evaluating: whether the model is about to be measured, so that nothing may be in training mode.

    Returns:
        A report: true where nothing is wrong, with `.table` (a row a stage) and `.findings`.

    Raises:
        ValueError: something given is not what it is taken for.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}: give the nn.Module first, then its optimizer and data.")
    model = unwrap_model(model)
    optimizers = _all_of(optimizer, torch.optim.Optimizer, "optimizer")
    losses, history = _losses(history)
    with preserve_rng_state():
        setup = Setup(
            model=model,
            optimizers=optimizers,
            schedulers=_all_of(scheduler, None, "scheduler"),
            parts=parts_of(data),
            intervals=_intervals(scheduler),
            changes=compare(model),
            loss=loss,
            epochs=epochs,
            losses=losses,
            history=history,
            evaluation=evaluation,
            evaluating=evaluating,
        )
        findings = [finding for check in CHECKS for finding in _run(check, setup)]
    return Report(setup.name, _table(setup), findings, _remarks(setup))


def _run(check: Any, setup: Setup) -> Iterator[Finding]:
    try:
        yield from check(setup)
    except Exception as error:  # one check that stumbles over something unforeseen must not hide the others
        told = f"{type(error).__name__}: {str(error)[:200]}"
        advice = "The other checks ran. Please report it, with this line."
        yield note("check-failed", f"The check {check.__name__} could not be made.", told, advice)


def _all_of(given: Any, kind: type | None, name: str) -> list[Any]:
    if given is None:
        return []
    found = list(given) if isinstance(given, list | tuple) else [given]
    # Schedulers are known by what they do: timm's are no subclass of torch's. accelerate's, and a `Schedule`, have the
    # real ones inside.
    found = [getattr(one, name, one) if hasattr(getattr(one, name, None), "step") else one for one in found]
    odd = [one for one in found if not (isinstance(one, kind) if kind else hasattr(one, "step"))]
    if odd:
        raise ValueError(f"{name} is {type(odd[0]).__name__}: give a torch {name}, or a list of them.")
    return found


def _intervals(scheduler: Any) -> dict[int, str]:
    given = scheduler if isinstance(scheduler, list | tuple) else [scheduler]
    return {id(one.scheduler): one.interval for one in given if isinstance(one, Schedule)}


def _losses(history: Any) -> tuple[list[float], Any]:
    """Return the training losses, and the history where it is more than a list of them."""
    if history is None:
        return [], None
    if hasattr(history, "column"):
        return history.column("train_loss"), history
    if isinstance(history, Iterable) and not isinstance(history, str | dict):
        try:
            return [float(value) for value in history], None
        except (TypeError, ValueError):
            pass
    raise ValueError(f"history is {type(history).__name__}: give what `tl.train.fit` returned, or a list of losses.")


def _table(setup: Setup) -> Table:
    rows = Table()
    for stage in setup.stages:
        row = {"stage": stage.name, "parameters": stage.count, "trainable": stage.trainable}
        if setup.optimizers:
            row["learning rate"] = _rates(setup, stage)
        rows.append(row | {"batch norm": _norms(setup, stage), "moved": _moved(setup, stage)})
    total = {key: sum(row[key] for row in rows) for key in ("parameters", "trainable")}
    rows.append(dict.fromkeys(rows[0], "") | {"stage": "all", **total} if rows else {"stage": "all", **total})
    return rows


def _rates(setup: Setup, stage: Stage) -> str:
    training = [p for p in stage.parameters.values() if p.requires_grad]
    rates = sorted({setup.rates[id(p)] for p in training if id(p) in setup.rates})
    texts = [f"{rate:.3g}" for rate in (rates if len(rates) < 3 else [rates[0], rates[-1]])]
    lost = ["not in optimizer"] * any(id(p) not in setup.rates for p in training)
    return ", ".join([" to ".join(texts)] * bool(texts) + lost) or ("frozen" if stage.parameters else "")


def _norms(setup: Setup, stage: Stage) -> str:
    modes = {"train" if norm.module.training else "eval" for norm in setup.norms if norm.stage == stage.name}
    return " and ".join(sorted(modes)) or "none"


def _moved(setup: Setup, stage: Stage) -> str:
    if setup.changes is None:
        return "first look"
    weights = [setup.changes[name].size for name in stage.parameters if name in setup.changes]
    if stage.parameters and not weights:
        return "new"
    if any(weights):
        return f"{sum(weights) / len(weights):.2%}"
    statistics = [name for name in stage.buffers if name in setup.changes and setup.changes[name].size]
    return "statistics only" if statistics else "no"


def _remarks(setup: Setup) -> list[str]:
    given = {
        "optimizer": setup.optimizers,
        "data": setup.parts,
        "scheduler": setup.schedulers,
        "history": setup.losses,
        "evaluation": setup.evaluation is not None,
    }
    missing = [name for name, value in given.items() if not value]
    remarks = [f"Not given, and not checked: {listed(missing, 9)}."] if missing else []
    for part in setup.parts:
        most = data.MOST_READ.get(part.name, data.MOST_READ_OTHERS)
        if len(setup.parts) > 1 and len(part) > most:
            remarks.append(
                f"For copies, {most:,} of {len(part):,} {part.name} images were read; "
                "`tl.data.find_duplicates(data)` reads all."
            )
    return remarks
