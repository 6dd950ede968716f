"""What goes wrong with schedulers, as a script shows it: where they are built, and where they are stepped."""

import ast
import re

from tlcourse.doctor.report import Findings, listed, suspicious, wrong
from tlcourse.doctor.scripts.nodes import OPTIMIZERS, SCHEDULERS, argument, constant, last, owner, position, quoted
from tlcourse.doctor.scripts.reader import Binding, Script

REWRITING = {"OneCycleLR", "CyclicLR"}
COMPOSED = ("SequentialLR", "ChainedScheduler")
# Where each scheduler is told how long it is: the argument's name and position.
LENGTHS = {
    **{"OneCycleLR": ("total_steps", 2), "CosineAnnealingLR": ("T_max", 1)},
    **{"StepLR": ("step_size", 1), "MultiStepLR": ("milestones", 1), "ExponentialLR": ("gamma", 1)},
}
LONG = 300  # epochs: a T_max, step_size or milestone up to here counts epochs, not batches
EPOCHS = re.compile(r"(.*[._\['\"])?(num_?|n_?|max_?|train_?|total_?)*epochs?['\"\]]*", re.IGNORECASE)
LOWER, HIGHER = re.compile(r"loss|err", re.IGNORECASE), re.compile(r"acc|f1|auc|dice|iou|score", re.IGNORECASE)


def one_scheduler_for_each_optimizer(script: Script) -> Findings:
    """A one-cycle's constructor rewrites its optimizer's learning rates, and so does a scheduler made again."""
    parts = {n.id for call in script.named(*COMPOSED) for n in script.nodes(ast.Name, call)}
    built: dict[tuple, list[Binding]] = {}
    for one in script.made(*OPTIMIZERS, *SCHEDULERS - set(COMPOSED)):
        if script.kind(one.value) in OPTIMIZERS:  # a new optimizer with this name starts anew
            built.pop((one.name, script.scopes[one.at]), None)
            continue
        optimizer = argument(one.value, "optimizer", 0)
        if optimizer is None or one.name in parts or script.chosen(one.at):
            continue
        others = built.setdefault((ast.unparse(optimizer), script.scopes[one.at]), [])
        others.append(one)
        kinds, again = [script.kind(other.value) for other in others], one.name in [other.name for other in others[:-1]]
        if len(kinds) > 1 and (again or REWRITING & set(kinds)):
            evidence = f"{listed(kinds)} on `{ast.unparse(optimizer)}`, with no new optimizer in between"
            yield (wrong if REWRITING & set(kinds) else suspicious)("several-schedulers", evidence, script.place(one.at))


def scheduler_follows_its_optimizer(script: Script) -> Findings:
    """A scheduler changes the rates of the optimizer that it was built on, not of a later one with the same name."""
    for one in script.made(*SCHEDULERS):
        scope, optimizer = script.scopes[one.at], argument(one.value, "optimizer", 0)
        own = [b for b in script.bindings.get(one.name, ()) if script.scopes[b.at] is scope]
        new = [] if optimizer is None else script.bindings.get(ast.unparse(optimizer), ())
        new = [b for b in new if script.kind(b.value) in OPTIMIZERS and position(b.at) > position(one.at)]
        new = [b for b in new if script.scopes[b.at] is scope and not script.chosen(b.at) and not script.chosen(one.at)]
        if not new:
            continue
        again = [position(b.at) for b in own if position(b.at) > position(one.at)]
        steps = [call for call in script.named("step") if owner(call) == one.name and script.scopes[call] is scope]
        late = [call for call in steps if position(call) > position(new[0].at)]
        shared = [up for up in script.above(one.at) if isinstance(up, ast.For) and up in script.above(new[0].at)]
        if late and not shared and not any(at < position(late[0]) for at in again):
            evidence = f"{quoted(one.value)} at {script.place(one.at)}, and a new `{new[0].name}`"
            yield wrong("foreign-scheduler", evidence, script.place(new[0].at))


def schedulers_step(script: Script) -> Findings:
    """A scheduler is stepped, after the optimizer, at the interval that it was built for."""
    built = script.made(*SCHEDULERS)
    for one in built:
        uses = [n for n in script.nodes(ast.Name) if n.id == one.name and isinstance(n.ctx, ast.Load)]
        trains = any(owner(call) != one.name for call in script.named("step"))
        if not uses and trains and re.fullmatch(r"\w+", one.name) and not isinstance(script.scopes[one.at], ast.Lambda):
            yield wrong("scheduler-not-stepped", quoted(one.at), script.place(one.at))
    for call in script.named("step"):
        scheduler = _scheduler(script, call, built)
        around = list(script.above(call))
        # A loop for schedulers of any kind asks for the class of the one that it has.
        guarded = any(isinstance(n, ast.If) and "isinstance" in ast.unparse(n.test) for n in around)
        if scheduler is None or guarded:
            continue
        kind = script.kind(scheduler)
        if kind == "ReduceLROnPlateau":
            yield from _metric(script, call, scheduler)
        elif (loop := script.loop(call, "epochs")) is not None and not call.args:
            conditions = [ast.unparse(up.test) for up in script.above(call) if isinstance(up, ast.If)]
            trains = [one for one in script.calls if loop in script.above(one) and _trains(script, one)]
            if trains and position(call) < position(trains[0]) and all("train" in test for test in conditions):
                yield wrong("scheduler-first", quoted(call), script.place(call))
        yield from _interval(script, call, scheduler)


def _scheduler(script: Script, call: ast.Call, built: list[Binding]) -> ast.Call | None:
    """Return what built the scheduler that is stepped; a parameter stands for the one kind that there is."""
    if not isinstance(call.func, ast.Attribute):
        return None
    made = [one for one in script.origins(call.func.value) if script.kind(one) in SCHEDULERS]
    kinds = {script.kind(one.value) for one in built}
    if not made and re.search("sched", owner(call), re.IGNORECASE) and len(kinds) == 1:
        made = [built[0].value] if script.origins(call.func.value) == [call.func.value] else []
    return made[0] if len({script.kind(one) for one in made}) == 1 else None


def _trains(script: Script, call: ast.Call) -> bool:
    """Whether a call is a backward pass, or makes some."""
    function = script.function(call)
    return "backward" in [last(one) for one in [call, *(script.reached(function) if function else [])]]


def _interval(script: Script, call: ast.Call, scheduler: ast.Call) -> Findings:
    kind, where, loop = script.kind(scheduler), script.place(call), script.loop(call, "batches")
    block = script.block(call)
    by_batch = loop is not None or any(script.block(one) is block for one in script.named("backward"))
    by_epoch = not by_batch and script.loop(call, "epochs") is not None
    if call.args or (loop is not None and script.chosen(call, loop)):
        return
    evidence = f"{quoted(scheduler)}, and {quoted(call)} once per {'batch' if by_batch else 'epoch'}"
    length = argument(scheduler, *LENGTHS[kind]) if kind in LENGTHS else None
    text, value = ("" if length is None else ast.unparse(length)), constant(length)
    text = ast.unparse(script.origins(length)[0]) if length is not None and not EPOCHS.fullmatch(text) else text
    batches = bool(re.search(r"len\(\w*(load|dl|train|batch)", text)) or argument(scheduler, "steps_per_epoch") is not None
    if kind in ("OneCycleLR", "CosineAnnealingLR") and by_epoch and batches:
        yield wrong("scheduler-interval/counts-batches", evidence, where, kind=kind)
    elif kind == "CosineAnnealingLR" and by_batch:
        epochs = EPOCHS.fullmatch(text)
        if epochs or (isinstance(value, int) and value <= LONG):
            yield (wrong if epochs else suspicious)("scheduler-interval/counts-epochs", evidence, where, kind=kind)
    elif kind in LENGTHS and kind != "OneCycleLR" and by_batch:
        end = max(value) if isinstance(value, list | tuple) and value else value
        if isinstance(end, int | float) and end <= (0.99 if kind == "ExponentialLR" else LONG):
            yield wrong("scheduler-interval/decayed", evidence, where, kind=kind)


def _metric(script: Script, call: ast.Call, scheduler: ast.Call) -> Findings:
    metric, scope = argument(call, "metrics", 0), script.scopes[call]
    loop = script.loop(call, "batches")
    if metric is None:
        yield wrong("plateau-constant/no-number", quoted(call), script.place(call))
        return
    if loop is not None and not script.chosen(call, loop):
        evidence = f"{quoted(scheduler)}, and {quoted(call)} once per batch"
        yield suspicious("scheduler-interval/plateau", evidence, script.place(call))
    name, mode = ast.unparse(metric), argument(scheduler, "mode", 1)
    mode = "min" if mode is None else constant(mode)
    lower, higher = LOWER.search(name), HIGHER.search(name)
    plain = isinstance(metric, ast.Name | ast.Attribute | ast.Subscript)
    if plain and ((mode == "max" and lower and not higher) or (mode == "min" and higher and not lower)):
        yield wrong("plateau-direction", f"{quoted(scheduler)}, and {quoted(call)}", script.place(call), measurement=name)
    given = [one for one in script.bindings.get(name, ()) if script.scopes[one.at] is scope]
    values = [metric] if isinstance(metric, ast.Constant) else [one.value for one in given]
    if values and all(isinstance(value, ast.Constant) for value in values) and all(one.exact for one in given):
        evidence = f"{quoted(call)}, with {quoted(values[-1])}, which never changes"
        yield wrong("plateau-constant", evidence, script.place(call))
