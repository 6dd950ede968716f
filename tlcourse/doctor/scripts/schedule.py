"""When schedulers step, and what with, as far as the text of a script shows it."""

import ast
import re
from collections.abc import Iterator

from tlcourse.doctor.report import Finding, suspicious, wrong
from tlcourse.doctor.scripts.reader import SCHEDULERS, Script, argument, constant, dotted, last, receiver

COUNTS_EPOCHS = {"StepLR": "step_size", "MultiStepLR": "milestones", "ExponentialLR": "gamma"}
LONG = 300  # epochs: a T_max, step_size or milestone up to here counts epochs, not batches


def schedulers_step(script: Script) -> Iterator[Finding]:
    """A scheduler is stepped at the interval that it was built for."""
    built = {target: value for target, value, _ in script.assignments if last(value) in SCHEDULERS}
    kinds = {last(value) for value in built.values()}
    for call in script.calls:
        name = receiver(call)
        if last(call) != "step" or not (name in built or re.search("sched", name, re.IGNORECASE)):
            continue
        # A function's parameter stands for the one scheduler that there is.
        one = built.get(name) or (next(iter(built.values())) if len(kinds) == 1 else None)
        guard = _guard(script, call, name)
        if guard:
            one = next((value for value in built.values() if last(value) == guard), None)
        kind = guard or (last(one) if one is not None else "")
        yield from _interval(script, call, kind, one)
        if kind == "ReduceLROnPlateau":
            yield from _metric(script, call)


def _interval(script: Script, call: ast.Call, kind: str, built: ast.Call | None) -> Iterator[Finding]:
    by_batch = script.batch_loop(call) is not None
    by_epoch = not by_batch and script.epoch_loop(call) is not None
    if built is None or not (by_batch or by_epoch):
        return
    evidence = f"`{ast.unparse(built)}`, and `{ast.unparse(call)}` once a {'batch' if by_batch else 'epoch'}"
    if kind == "OneCycleLR" and by_epoch:
        length = argument(built, "total_steps", 2)
        if argument(built, "steps_per_epoch") is not None or (length is not None and "len(" in ast.unparse(length)):
            what = "The one-cycle counts batches and is stepped once an epoch: it never gets beyond its beginning."
            advice = "Step it after every `optimizer.step()`."
            yield wrong("scheduler-interval", what, evidence, advice, script.place(call))
    elif kind == "CosineAnnealingLR":
        length = argument(built, "T_max", 1)
        text, value = ("" if length is None else ast.unparse(length)), constant(length)
        whole_run = bool(re.search(r"len\(|\*|step", text))
        if by_batch and (re.fullmatch(r"\w*epochs?", text) or (isinstance(value, int) and value <= LONG)):
            finding = wrong if "epoch" in text else suspicious
            what = "The cosine counts epochs and is stepped after every batch: it comes down and climbs again."
            advice = "T_max=epochs * len(train_loader), or step it once an epoch."
            yield finding("scheduler-interval", what, evidence, advice, script.place(call))
        elif by_epoch and whole_run and "len(" in text:
            what = "The cosine counts batches and is stepped once an epoch: the rate hardly falls."
            yield wrong("scheduler-interval", what, evidence, "T_max=epochs.", script.place(call))
    elif kind in COUNTS_EPOCHS and by_batch:
        value = constant(argument(built, COUNTS_EPOCHS[kind], 1))
        ends = max(value) if isinstance(value, list | tuple) and value else value
        gone = isinstance(ends, int | float) and (ends < 0.99 if kind == "ExponentialLR" else ends <= LONG)
        if gone:
            what = f"{kind} is stepped after every batch: the rate is gone within the first epochs."
            advice = "Step it once an epoch, outside the loop over batches."
            yield wrong("scheduler-interval", what, evidence, advice, script.place(call))
    elif kind == "ReduceLROnPlateau" and by_batch:
        what = "The plateau scheduler is stepped after every batch: its patience counts batches."
        advice = "Step it once an epoch, with the validation loss or accuracy."
        yield suspicious("scheduler-interval", what, evidence, advice, script.place(call))


def _metric(script: Script, call: ast.Call) -> Iterator[Finding]:
    metric = argument(call, "metrics", 0)
    if metric is None:
        what = "The plateau scheduler is stepped without a measurement, which raises a TypeError."
        advice = "Pass the validation loss, or the accuracy with mode='max'."
        yield wrong("plateau-constant", what, f"`{ast.unparse(call)}`", advice, script.place(call))
        return
    name = ast.unparse(metric)
    scope = script.scope(call)
    given = [(value, at) for target, value, at in script.assignments if target == name and script.scope(at) is scope]
    changed = [n for n in ast.walk(scope) if isinstance(n, ast.AugAssign) and ast.unparse(n.target) == name]
    fixed = isinstance(metric, ast.Constant) or (given and all(isinstance(value, ast.Constant) for value, _ in given))
    if fixed and not changed:
        shown = name if isinstance(metric, ast.Constant) else f"{name} = {ast.unparse(given[-1][0])}"
        yield wrong(
            "plateau-constant",
            "The plateau scheduler is fed with a constant: it lowers the rate every few epochs, for no reason.",
            f"`{ast.unparse(call)}`, and `{shown}` is never changed",
            "Pass what was measured in this epoch.",
            script.place(call),
        )


def _guard(script: Script, call: ast.Call, name: str) -> str:
    """Return the class of `if isinstance(scheduler, Class):` around a call."""
    for node in script.above(call):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Call) and dotted(node.test) == "isinstance":
            inside = any(call in ast.walk(statement) for statement in node.body)
            if inside and len(node.test.args) == 2 and ast.unparse(node.test.args[0]) == name:
                return last(node.test.args[1])
    return ""


RULES = (schedulers_step,)
