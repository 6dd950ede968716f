"""What goes wrong with schedulers, as a script shows it: where they are built, and where they are stepped."""

import ast
import re

from tlcourse.doctor.report import Findings, suspicious, wrong
from tlcourse.doctor.scripts.networks import is_optimizer
from tlcourse.doctor.scripts.nodes import OPTIMIZERS, SCHEDULERS, Binding, argument, constant, owner, position, quoted
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
    steps = script.named("step")
    for one in script.made(*SCHEDULERS):
        uses = [node for node in script.nodes(ast.Name) if node.id == one.name and isinstance(node.ctx, ast.Load)]
        if one.name.isidentifier() and not uses and steps:
            yield wrong("scheduler-not-stepped", quoted(one.at), script.place(one.at))
        own = argument(one.value, "optimizer", 0)
        new = [b.at for b in script.made(*OPTIMIZERS) if own and b.name == ast.unparse(own) and not script.chosen(b.at)]
        old = own and any(position(b.at) < position(one.at) for b in script.bindings.get(ast.unparse(own), ()))
        new = [at for at in new if old and script.follows(at, one.at)]
        late = [c for c in steps if new and owner(c) == one.name and script.follows(c, new[0])]
        if late and not script.between(one.at, late[0], one.name):
            yield wrong("foreign-scheduler", f"{quoted(one.at)}, and later {quoted(new[0])}", script.place(new[0]))


def schedulers_step(script: Script) -> Findings:
    """A scheduler is stepped after the optimizer, at the interval that it was built for, or with a measurement."""
    built = {script.kind(one.value): one.value for one in script.made(*SCHEDULERS)}
    for call in [call for call in script.named("step") if owner(call)]:
        origins, above = script.origins(call.func.value), list(script.above(call))
        made = {script.kind(one): one for one in origins if script.kind(one) in SCHEDULERS}
        if origins == [call.func.value] and re.search("sched", owner(call), re.IGNORECASE):
            made = built  # the one that there is
        tests = [ast.unparse(up.test) for up in above if isinstance(up, ast.If)]
        other = any(isinstance(one, ast.Call) and script.kind(one) not in SCHEDULERS for one in origins)
        other = other or any(isinstance(up, ast.ExceptHandler) for up in above)
        if len(made) != 1 or other or any("isinstance" in test for test in tests):
            continue
        ((kind, scheduler),) = made.items()
        epochs, batches = script.loop(call, "epochs"), script.loop(call, "batches")
        # Conditions that pick some of the batches, as for accumulated gradients; the phase is no such condition.
        inner = above[: above.index(batches)] if batches else []
        inner = [ast.unparse(up.test) for up in inner if isinstance(up, ast.If | ast.IfExp | ast.While)]
        some = any("%" in test or not re.search("train|phase", test) for test in inner)
        if kind == "ReduceLROnPlateau":
            yield from _metric(script, call, scheduler, batches)
        elif not call.args and not some:
            training = [one for one in script.calls if epochs in script.above(one) and script.trains(one)]
            early = training and position(call) < position(training[0]) and all("train" in test for test in tests)
            steps = [c for c in script.named("step", within=batches) if batches and is_optimizer(script, c)]
            if early or (steps and position(call) < position(steps[0]) and script.beside(call, steps[0])):
                yield wrong("scheduler-first", quoted(call), script.place(call))
            # One step in each turn of a loop over epochs counts epochs.
            loop = next((up for up in above if isinstance(up, ast.For | ast.While)), None)
            within = epochs and loop is not epochs and any(script.beside(one, call) for one in script.named("backward"))
            yield from _interval(script, call, scheduler, bool(batches or within))


def _interval(script: Script, call: ast.Call, scheduler: ast.Call, by_batch: bool) -> Findings:
    kind, where = script.kind(scheduler), script.place(call)
    evidence = f"{quoted(scheduler)}, and {quoted(call)} once per {'batch' if by_batch else 'epoch'}"
    length = argument(scheduler, *LENGTHS.get(kind, ("", None)))
    value, text = constant(length), " ".join(map(ast.unparse, [scheduler, *script.origins(length)]))
    end = max(value) if isinstance(value, list | tuple) and value else value
    short = isinstance(end, int | float) and end <= (0.99 if kind == "ExponentialLR" else LONG)
    if kind in ("OneCycleLR", "CosineAnnealingLR") and not by_batch and script.loop(call, "epochs"):
        if BATCHES.search(text):
            yield wrong("scheduler-interval/counts-batches", evidence, where, kind=kind)
    elif kind == "CosineAnnealingLR" and by_batch and (short or (length and EPOCHS.fullmatch(ast.unparse(length)))):
        yield (suspicious if short else wrong)("scheduler-interval/counts-epochs", evidence, where, kind=kind)
    elif kind in ("StepLR", "MultiStepLR", "ExponentialLR") and by_batch and short:
        yield wrong("scheduler-interval/decayed", evidence, where, kind=kind)


def _metric(script: Script, call: ast.Call, scheduler: ast.Call, batches: ast.For | None) -> Findings:
    metric, where, evidence = (
        argument(call, "metrics", 0),
        script.place(call),
        f"{quoted(scheduler)}, and {quoted(call)}",
    )
    if metric is None:
        yield wrong("plateau-constant/no-number", quoted(call), where)
        return
    if batches and not script.chosen(call, batches):
        yield suspicious("scheduler-interval/plateau", f"{evidence} once per batch", where)
    mode, name = constant(argument(scheduler, "mode", 1) or ast.Constant("min")), ast.unparse(metric)
    own = [b for b in script.bindings.get(name, ()) if script.scopes[b.at] is script.scopes[call]]
    if all(isinstance(b.value, ast.Constant) and b.index is None for b in own or [Binding(name, metric, call)]):
        yield wrong("plateau-constant", f"{quoted(call)}, with a number that never changes", where)
    lower, higher = bool(LOWER.search(name)), bool(HIGHER.search(name))
    named = isinstance(metric, ast.Name | ast.Attribute | ast.Subscript)
    if named and lower != higher and mode == ("max" if lower else "min"):
        yield wrong("plateau-direction", evidence, where, measurement=name)
