"""What goes wrong in loops, as far as a script shows it: modes, gradients, state from outside, and schedulers."""

import ast
import re

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.reader import MODELS, SCHEDULERS, Script, argument, constant, dotted, last, owner, quoted

WITH_BATCH_NORM = re.compile(
    r"(?i)resne[xs]?t|efficientnet|densenet|mobilenet|regnet|inception|googlenet|shufflenet|mnasnet|vgg\d+_bn|BatchNorm"
)
WITHOUT_BATCH_NORM = re.compile(r"\bvit_|swin|convnext|deit|squeezenet|alexnet|vgg\d+\(|mixer", re.IGNORECASE)
FREEZING = re.compile(r"requires_grad\s*=\s*False|requires_grad_\(False\)|\bmodels\.freeze\(|unfreeze_from\(")
# Every parameter trains at some time: then this `train()` may be right.
UNFREEZING = re.compile(
    r"in \w+\.(named_)?parameters\(\):\s*\w+\.requires_grad(\s*=\s*True|_\((True)?\))|"
    r"\b(model|net)\.requires_grad_\((True)?\)|models\.unfreeze\("
)
NO_GRAD = ("no_grad", "inference_mode")
FROM_OUTSIDE = ("model", "optimizer", "criterion", "scheduler", "device")
# Where each scheduler is told how long it is: the argument's name and position.
LENGTHS = {
    **{"OneCycleLR": ("total_steps", 2), "CosineAnnealingLR": ("T_max", 1)},
    **{"StepLR": ("step_size", 1), "MultiStepLR": ("milestones", 1), "ExponentialLR": ("gamma", 1)},
}
LONG = 300  # epochs: a T_max, step_size or milestone up to here counts epochs, not batches


def frozen_bn(script: Script) -> Findings:
    """`model.train()` puts the batch norms of a frozen backbone into training mode."""
    text, has_bn = script.source, WITH_BATCH_NORM.search(script.source)
    if not FREEZING.search(text) or "train_mode" in text or "def train(self" in text:
        return
    if not has_bn and WITHOUT_BATCH_NORM.search(text):
        return
    for call in script.named("train"):
        mode = argument(call, "mode", 0)
        trains = MODELS.match(owner(call)) and (mode is None or constant(mode) is True)
        if trains and isinstance(script.parents[call], ast.Expr) and not _eval_follows(script, call):
            evidence = f"{quoted(call)}, and no `.eval()` for the frozen part before the batches"
            found = wrong if has_bn and not UNFREEZING.search(text) else suspicious
            yield found("frozen-statistics-move/train", evidence, script.place(call))


def evaluation_mode(script: Script) -> Findings:
    """Where a loader is run through without gradients, the model must be in evaluation mode."""
    anywhere = any(isinstance(call.func, ast.Attribute) for call in script.named("eval"))
    seen = set()
    for call in script.calls:
        loop = script.loop(call, "batches")
        if loop is None or loop in seen or not MODELS.match(dotted(call)) or not _without_gradients(script, call):
            continue
        if isinstance(script.parents[call], ast.Expr):  # nothing is measured: a pass for new batch-norm statistics
            continue
        earlier = [one for one in script.inside(script.scopes[call]) if one.lineno <= call.lineno]
        evals = [one.lineno for one in earlier if last(one) in ("eval", "evaluation_mode")]
        trains = [one.lineno for one in earlier if last(one) == "train" and owner(one) == dotted(call)]
        if not evals or (trains and evals[-1] <= trains[-1]):
            seen.add(loop)
            evidence = f"{quoted(call)} without gradients, over {quoted(loop.iter)}"
            found = suspicious if anywhere and not trains else wrong
            yield found("training-mode/loop", evidence, script.place(loop), model=dotted(call))


def gradients(script: Script) -> Findings:
    """Each step needs a fresh gradient: zero_grad, backward, step."""
    for scope, backward in _training_scopes(script).items():
        calls = script.inside(scope)
        if script.loop(backward, "batches") is None and script.loop(backward, "epochs") is None:
            continue
        zero = [c for c in calls if last(c) == "zero_grad" or "grad = None" in ast.unparse(script.statement(c)[0])]
        steps = [c for c in calls if last(c) == "step" and not re.search("sched", owner(c), re.IGNORECASE)]
        for name, missing, there in (("no-zero-grad", zero, steps), ("no-step", steps, zero)):
            if there and not missing:
                yield wrong(name, f"{quoted(backward)} in a loop", script.place(backward))
        for call in zero:
            beside = [c for c in calls if script.statement(c)[0] in script.statement(call)[1]]
            before, after = beside[: beside.index(call)], beside[beside.index(call) :]
            if any(last(c) == "backward" for c in before) and any(c in steps for c in after):
                yield wrong("zeroed-before-step", f"{quoted(call)} is between them", script.place(call))


def graph_is_kept(script: Script) -> Findings:
    """A loss that is summed as a tensor keeps every batch's graph in memory."""
    for node in script.nodes(ast.AugAssign):
        if not isinstance(node.op, ast.Add) or script.loop(node, "batches") is None:
            continue
        names = {n.id for n in script.nodes(ast.Name, node.value)}
        losses = [c for c in script.inside(script.scopes[node]) if last(c) == "backward" and owner(c) in names]
        if losses and not re.search(r"item\(|detach\(|float\(|\.data", ast.unparse(node.value)):
            yield suspicious("graph-kept", quoted(node), script.place(node))


def hidden_state(script: Script) -> Findings:
    """A training function that takes its optimizer from outside trains whatever was defined last."""
    for scope in _training_scopes(script):
        if not isinstance(scope, ast.FunctionDef) or not isinstance(script.parents[scope], ast.Module):
            continue
        names = script.nodes(ast.Name, scope)
        own = {node.arg for node in script.nodes(ast.arg, scope.args)}
        own |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        used = {node.id for node in names if isinstance(node.ctx, ast.Load)} - own
        if outside := listed(name for name in FROM_OUTSIDE if name in used):
            evidence = f"neither parameters nor set in the function: {outside}"
            yield note("hidden-state", evidence, script.place(scope), function=scope.name, names=outside)


def schedulers_step(script: Script) -> Findings:
    """A scheduler is stepped at the interval that it was built for, and a plateau scheduler with a measurement."""
    built = {target: value for target, value, _ in script.made(*SCHEDULERS)}
    kinds = {last(value) for value in built.values()}
    for call in script.named("step"):
        name = owner(call)
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


def _training_scopes(script: Script) -> dict[ast.AST, ast.Call]:
    """Return every function, or the module, that calls `backward`, with its first such call."""
    return {script.scopes[call]: call for call in reversed(script.named("backward"))}


def _eval_follows(script: Script, call: ast.Call) -> bool:
    """Whether `.eval()` is called on something between `train()` and the batches that follow."""
    statement, block = script.statement(call)
    for other in block[block.index(statement) + 1 :]:
        if isinstance(other, ast.For) and script.loop(other.body[0], "batches") is other:
            return False
        if any(re.search(r"eval|freeze|set_bn", last(n)) for n in script.nodes(ast.Call, other)):
            return True
    return False


def _without_gradients(script: Script, node: ast.AST) -> bool:
    around = list(script.above(node))
    blocks = [item.context_expr for n in around if isinstance(n, ast.With) for item in n.items]
    blocks += [d for n in around if isinstance(n, ast.FunctionDef) for d in n.decorator_list]
    return any(last(block) in NO_GRAD for block in blocks)


def _interval(script: Script, call: ast.Call, scheduler: ast.Call) -> Findings:
    kind, where = last(scheduler), script.place(call)
    by_batch = script.loop(call, "batches") is not None or any(
        script.statement(backward)[1] is script.statement(call)[1] for backward in script.named("backward")
    )
    by_epoch = not by_batch and script.loop(call, "epochs") is not None
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
    changed = [n for n in script.nodes(ast.AugAssign, scope) if ast.unparse(n.target) == name]
    values = [metric] if isinstance(metric, ast.Constant) else given
    if values and all(isinstance(value, ast.Constant) for value in values) and not changed:
        evidence = f"{quoted(call)}, with {quoted(values[-1])}, which never changes"
        yield wrong("plateau-constant", evidence, script.place(call))
