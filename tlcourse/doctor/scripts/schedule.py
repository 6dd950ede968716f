"""What goes wrong with schedulers, as a script shows it: where they are built, and where they are stepped."""

import ast
import re

from tlcourse.doctor.report import Findings, suspicious, wrong
from tlcourse.doctor.scripts.networks import is_optimizer
from tlcourse.doctor.scripts.nodes import OPTIMIZERS, SCHEDULERS, argument, constant, owner, position, quoted
from tlcourse.doctor.scripts.reader import Script

# Where a scheduler is told how long it is: the argument's name and position.
LENGTHS = {"OneCycleLR": ("total_steps", 2), "CosineAnnealingLR": ("T_max", 1), "StepLR": ("step_size", 1)}
LENGTHS |= {"MultiStepLR": ("milestones", 1), "ExponentialLR": ("gamma", 1)}
LONG = 300  # epochs: a T_max, step_size or milestone up to here counts epochs, not batches
EPOCHS = re.compile(r"([\w.\['\"\]]*[._\['\"])?(num_?|n_?|max_?|train_?|total_?)*epochs?['\"\]]*", re.IGNORECASE)
BATCHES = re.compile(r"len\(\w*(load|dl|train|batch)|steps_per_epoch=")
LOWER, HIGHER = re.compile(r"loss|err", re.IGNORECASE), re.compile(r"acc|f1|auc|dice|iou", re.IGNORECASE)


def schedulers_reach_their_optimizer(script: Script) -> Findings:
    """A scheduler is stepped, and changes the optimizer that it was built on, not a later one with the same name."""
    for one in script.made(*SCHEDULERS):
        scope, optimizer = script.scopes[one.at], argument(one.value, "optimizer", 0)
        uses = [n for n in script.nodes(ast.Name) if n.id == one.name and isinstance(n.ctx, ast.Load)]
        trains = any(owner(call) != one.name for call in script.named("step"))
        if one.name.isidentifier() and not uses and trains:
            yield wrong("scheduler-not-stepped", quoted(one.at), script.place(one.at))
        new = [] if optimizer is None else script.bindings.get(ast.unparse(optimizer), ())
        new = [b for b in new if script.kind(b.value) in OPTIMIZERS and position(b.at) > position(one.at)]
        new = [b for b in new if script.scopes[b.at] is scope and not script.chosen(b.at)]
        late = [c for c in script.named("step") if new and owner(c) == one.name and position(c) > position(new[0].at)]
        late = [c for c in late if script.scopes[c] is scope and [b.at for b in script.given(c.func.value)] == [one.at]]
        if late and not any(isinstance(up, ast.For) and up in script.above(new[0].at) for up in script.above(one.at)):
            evidence = f"{quoted(one.at)}, and later {quoted(new[0].at)}"
            yield wrong("foreign-scheduler", evidence, script.place(new[0].at))


def schedulers_step(script: Script) -> Findings:
    """A scheduler is stepped after the optimizer, at the interval that it was built for, or with a measurement."""
    built = script.made(*SCHEDULERS)
    for call in [call for call in script.named("step") if isinstance(call.func, ast.Attribute)]:
        origins = script.origins(call.func.value)
        made = [one for one in origins if script.kind(one) in SCHEDULERS]
        if origins == [call.func.value] and re.search("sched", owner(call), re.IGNORECASE):  # the one that there is
            made = [one.value for one in built] if len({script.kind(one.value) for one in built}) == 1 else []
        tests = [ast.unparse(up.test) for up in script.above(call) if isinstance(up, ast.If)]
        if len({script.kind(one) for one in made}) != 1 or any("isinstance" in test for test in tests):
            continue
        epochs, batches = script.loop(call, "epochs"), script.loop(call, "batches")
        if script.kind(made[0]) == "ReduceLROnPlateau":
            yield from _metric(script, call, made[0], batches)
        elif not call.args and not (batches and script.chosen(call, batches)):
            steps = [one for one in script.calls if epochs in script.above(one) and script.trains(one)]
            if steps and position(call) < position(steps[0]) and all("train" in test for test in tests):
                yield wrong("scheduler-first", quoted(call), script.place(call))
            steps = [c for c in script.named("step", within=batches) if is_optimizer(script, c)] if batches else []
            early = steps and all(position(call) < position(c) for c in steps)
            if early and script.branches(call) == script.branches(steps[0]):
                yield wrong("scheduler-first", quoted(call), script.place(call))
            together = epochs and any(script.branches(one) == script.branches(call) for one in script.named("backward"))
            yield from _interval(script, call, made[0], bool(batches or together))


def _interval(script: Script, call: ast.Call, scheduler: ast.Call, by_batch: bool) -> Findings:
    kind, where = script.kind(scheduler), script.place(call)
    evidence = f"{quoted(scheduler)}, and {quoted(call)} once per {'batch' if by_batch else 'epoch'}"
    length = argument(scheduler, *LENGTHS.get(kind, ("", None)))
    text = ast.unparse(length) if length else ""
    text = ast.unparse(script.origins(length)[0]) if length and not EPOCHS.fullmatch(text) else text
    value = constant(length)
    end = max(value) if isinstance(value, list | tuple) and value else value
    short = isinstance(end, int | float) and end <= (0.99 if kind == "ExponentialLR" else LONG)
    if kind in ("OneCycleLR", "CosineAnnealingLR") and not by_batch and script.loop(call, "epochs"):
        if BATCHES.search(text + ast.unparse(scheduler)):
            yield wrong("scheduler-interval/counts-batches", evidence, where, kind=kind)
    elif kind == "CosineAnnealingLR" and by_batch and (short or EPOCHS.fullmatch(text)):
        found = suspicious if short else wrong
        yield found("scheduler-interval/counts-epochs", evidence, where, kind=kind)
    elif kind in ("StepLR", "MultiStepLR", "ExponentialLR") and by_batch and short:
        yield wrong("scheduler-interval/decayed", evidence, where, kind=kind)


def _metric(script: Script, call: ast.Call, scheduler: ast.Call, batches: ast.For | None) -> Findings:
    metric, where = argument(call, "metrics", 0), script.place(call)
    evidence = f"{quoted(scheduler)}, and {quoted(call)}"
    if metric is None:
        yield wrong("plateau-constant/no-number", quoted(call), where)
        return
    if batches and not script.chosen(call, batches):
        yield suspicious("scheduler-interval/plateau", f"{evidence} once per batch", where)
    name, mode = ast.unparse(metric), argument(scheduler, "mode", 1)
    mode, lower, higher = constant(mode) if mode else "min", LOWER.search(name), HIGHER.search(name)
    plain = isinstance(metric, ast.Name | ast.Attribute | ast.Subscript) and bool(lower) != bool(higher)
    if plain and mode == ("max" if lower else "min"):
        yield wrong("plateau-direction", evidence, where, measurement=name)
    given = [one for one in script.bindings.get(name, ()) if script.scopes[one.at] is script.scopes[call]]
    fixed = all(one.exact and isinstance(one.value, ast.Constant) for one in given)
    if isinstance(metric, ast.Constant) or (given and fixed):
        yield wrong("plateau-constant", f"{quoted(call)}, with a number that never changes", where)
