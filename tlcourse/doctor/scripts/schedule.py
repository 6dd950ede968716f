"""When schedulers step, and what with, as far as the text of a script shows it."""

import ast
import re

from tlcourse.doctor.report import Findings, suspicious, wrong
from tlcourse.doctor.scripts.reader import SCHEDULERS, Script, argument, constant, last, quoted, receiver

# Where each scheduler is told how long it is: the argument's name and position.
LENGTHS = {
    **{"OneCycleLR": ("total_steps", 2), "CosineAnnealingLR": ("T_max", 1)},
    **{"StepLR": ("step_size", 1), "MultiStepLR": ("milestones", 1), "ExponentialLR": ("gamma", 1)},
}
LONG = 300  # epochs: a T_max, step_size or milestone up to here counts epochs, not batches


def schedulers_step(script: Script) -> Findings:
    """A scheduler is stepped at the interval that it was built for, and a plateau scheduler with a measurement."""
    built = {target: value for target, value, _ in script.assignments if last(value) in SCHEDULERS}
    kinds = {last(value) for value in built.values()}
    for call in script.named("step"):
        name = receiver(call)
        # A loop for schedulers of any kind asks for the class of the one that it has.
        guarded = any(isinstance(n, ast.If) and "isinstance" in ast.unparse(n.test) for n in script.above(call))
        if guarded or (name not in built and not re.search("sched", name, re.IGNORECASE)):
            continue
        # A function's parameter stands for the one scheduler that there is.
        scheduler = built.get(name) or (next(iter(built.values())) if len(kinds) == 1 else None)
        if scheduler is not None:
            yield from _interval(script, call, scheduler)
        if last(scheduler) == "ReduceLROnPlateau":
            yield from _metric(script, call)


def _interval(script: Script, call: ast.Call, scheduler: ast.Call) -> Findings:
    kind, where = last(scheduler), script.place(call)
    by_batch = script.batch_loop(call) is not None or any(
        script.statement(backward)[1] is script.statement(call)[1] for backward in script.named("backward")
    )
    by_epoch = not by_batch and script.epoch_loop(call) is not None
    evidence = f"{quoted(scheduler)}, and {quoted(call)} once per {'batch' if by_batch else 'epoch'}"
    length = argument(scheduler, *LENGTHS[kind]) if kind in LENGTHS else None
    text, value = ("" if length is None else ast.unparse(length)), constant(length)
    batches = "len(" in text or argument(scheduler, "steps_per_epoch") is not None
    if kind in ("OneCycleLR", "CosineAnnealingLR") and by_epoch and batches:
        yield wrong("scheduler-interval/counts-batches", evidence, where, kind=kind)
    elif kind == "CosineAnnealingLR" and by_batch:
        epochs = re.fullmatch(r"\w*epochs?", text)
        if epochs or (isinstance(value, int) and value <= LONG):
            yield (wrong if epochs else suspicious)("scheduler-interval/counts-epochs", evidence, where, kind=kind)
    elif kind in LENGTHS and kind != "OneCycleLR" and by_batch:
        end = max(value) if isinstance(value, list | tuple) and value else value
        if isinstance(end, int | float) and end <= (0.99 if kind == "ExponentialLR" else LONG):
            yield wrong("scheduler-interval/decayed", evidence, where, kind=kind)
    elif kind == "ReduceLROnPlateau" and by_batch:
        yield suspicious("scheduler-interval/plateau", evidence, where)


def _metric(script: Script, call: ast.Call) -> Findings:
    metric, scope = argument(call, "metrics", 0), script.scopes[call]
    if metric is None:
        yield wrong("plateau-constant/no-number", quoted(call), script.place(call))
        return
    name = ast.unparse(metric)
    given = [value for target, value, at in script.assignments if target == name and script.scopes[at] is scope]
    changed = [n for n in ast.walk(scope) if isinstance(n, ast.AugAssign) and ast.unparse(n.target) == name]
    values = [metric] if isinstance(metric, ast.Constant) else given
    if values and all(isinstance(value, ast.Constant) for value in values) and not changed:
        evidence = f"{quoted(call)}, with {quoted(values[-1])}, which never changes"
        yield wrong("plateau-constant", evidence, script.place(call))
