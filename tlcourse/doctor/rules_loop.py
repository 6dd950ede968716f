"""What goes wrong in loops, as far as the text of a script shows it: modes, gradients, and when schedulers step."""

import ast
import re
from collections.abc import Iterator

from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.script import MODELS, SCHEDULERS, Script, argument, constant, dotted, last, receiver

WITH_BATCH_NORM = re.compile(
    r"resne[xs]t|wide_resnet|efficientnet|densenet|mobilenet|regnet|inception|googlenet|shufflenet|mnasnet|"
    r"vgg\d+_bn|BatchNorm",
    re.IGNORECASE,
)
WITHOUT_BATCH_NORM = re.compile(r"\bvit_|swin|convnext|deit|squeezenet|alexnet|vgg\d+\(|mixer", re.IGNORECASE)
# Every parameter trains at some time: then this `train()` may be right.
THAWED_LATER = re.compile(
    r"in \w+\.(named_)?parameters\(\):\s*\w+\.requires_grad(\s*=\s*True|_\((True)?\))|"
    r"\b(model|net)\.requires_grad_\((True)?\)|models\.unfreeze\("
)
NO_GRAD = ("no_grad", "inference_mode")
COUNTS_EPOCHS = {"StepLR": "step_size", "MultiStepLR": "milestones", "ExponentialLR": "gamma"}
LONG = 300  # epochs: a T_max, step_size or milestone up to here counts epochs, not batches


def frozen_norms(script: Script) -> Iterator[Finding]:
    """`model.train()` wakes the batch norms of a frozen body."""
    if not _freezes(script) or "train_mode" in script.source or "def train(self" in script.source:
        return
    if not WITH_BATCH_NORM.search(script.source) and WITHOUT_BATCH_NORM.search(script.source):
        return
    for call in script.calls:
        awakes = (
            last(call) == "train" and MODELS.match(receiver(call)) and constant(argument(call, "mode", 0)) is not False
        )
        if not awakes or not isinstance(script.parents[call], ast.Expr) or _put_back_to_sleep(script, call):
            continue
        sure = WITH_BATCH_NORM.search(script.source) and not THAWED_LATER.search(script.source)
        finding = wrong if sure else suspicious
        yield finding(
            "frozen-statistics-move",
            "The body is frozen, and `train()` puts its batch norms into training mode: their statistics move.",
            f"`{ast.unparse(call)}`, and no `.eval()` for the frozen part before the batches",
            "Call `tl.models.train_mode(model)` instead, or `.eval()` on every frozen batch norm after each `train()`.",
            script.place(call),
        )


def evaluation_mode(script: Script) -> Iterator[Finding]:
    """Where gradients are off and a loader is run through, the model must be in evaluation mode."""
    anywhere = any(last(call) == "eval" and isinstance(call.func, ast.Attribute) for call in script.calls)
    seen = set()
    for call in script.calls:
        loop = script.batch_loop(call)
        if loop is None or not MODELS.match(dotted(call)) or not _without_gradients(script, call):
            continue
        scope = script.scope(call)
        before = [c for c in script.inside(scope) if c.lineno <= call.lineno and last(c) in ("eval", "evaluation_mode")]
        awake = [
            c
            for c in script.inside(scope)
            if c.lineno <= call.lineno and last(c) == "train" and receiver(c) == dotted(call)
        ]
        calm = before and (not awake or before[-1].lineno > awake[-1].lineno)
        if calm or loop in seen:
            continue
        seen.add(loop)
        finding = suspicious if anywhere and not awake else wrong
        yield finding(
            "training-mode",
            "The model is measured without `eval()`: dropout drops, and batch norm uses the batch.",
            f"`{ast.unparse(call)}` without gradients, over `{ast.unparse(loop.iter)}`",
            f"Call `{dotted(call)}.eval()` in front of this loop, and `train()` again after it.",
            script.place(loop),
        )


def gradients(script: Script) -> Iterator[Finding]:
    """Each step needs a fresh gradient: zero_grad, backward, step."""
    for scope in dict.fromkeys(script.scope(call) for call in script.calls if last(call) == "backward"):
        calls = script.inside(scope)
        backward = next(call for call in calls if last(call) == "backward")
        if script.batch_loop(backward) is None and script.epoch_loop(backward) is None:
            continue
        zero = [
            call for call in calls if last(call) == "zero_grad" or "grad = None" in ast.unparse(script.statement(call))
        ]
        steps = [
            call for call in calls if last(call) == "step" and not re.search("sched", receiver(call), re.IGNORECASE)
        ]
        if steps and not zero:
            yield wrong(
                "no-zero-grad",
                "Gradients are never set to zero: each step adds up those of all batches before.",
                f"`{ast.unparse(backward)}` in a loop, without `zero_grad()`",
                "Call `optimizer.zero_grad()` once for every `optimizer.step()`, before `backward()`.",
                script.place(backward),
            )
        if not steps and zero:
            what = "The optimizer never steps: nothing is learnt."
            evidence = f"`{ast.unparse(backward)}` in a loop, without `optimizer.step()`"
            yield wrong(
                "no-step", what, evidence, "Call `optimizer.step()` after `backward()`.", script.place(backward)
            )
        for call in zero:
            block = script.block(script.statement(call))
            after = [s for s in steps if script.statement(s) in block and s.lineno > call.lineno]
            pushed = [
                b for b in calls if last(b) == "backward" and script.statement(b) in block and b.lineno < call.lineno
            ]
            if pushed and after:
                yield wrong(
                    "zeroed-before-step",
                    "Gradients are zeroed between `backward()` and `step()`: the step has nothing to go by.",
                    f"`{ast.unparse(call)}` stands between them",
                    "Zero them before `backward()`, or after `step()`.",
                    script.place(call),
                )


def graph_is_kept(script: Script) -> Iterator[Finding]:
    """A loss that is summed as a tensor keeps every batch's graph in memory."""
    for node in ast.walk(script.tree):
        if not isinstance(node, ast.AugAssign) or not isinstance(node.op, ast.Add) or script.batch_loop(node) is None:
            continue
        names = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        text = ast.unparse(node.value)
        losses = [c for c in script.inside(script.scope(node)) if last(c) == "backward" and receiver(c) in names]
        if losses and not re.search(r"item\(|detach\(|float\(|\.data", text):
            what = "The loss is summed with its graph: memory grows with every batch."
            advice = "Add `loss.item()`, or `loss.detach()` to stay on the GPU."
            yield suspicious("graph-kept", what, f"`{ast.unparse(node)}`", advice, script.place(node))


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


def hidden_state(script: Script) -> Iterator[Finding]:
    """A training function that takes its optimizer from outside trains whatever was defined last."""
    for scope in dict.fromkeys(script.scope(call) for call in script.calls if last(call) == "backward"):
        if not isinstance(scope, ast.FunctionDef) or not isinstance(script.parents[scope], ast.Module):
            continue
        arguments = {a.arg for a in [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]}
        stored = {n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        used = [n.id for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        outside = [n for n in ("model", "optimizer", "criterion", "scheduler", "device") if n in used]
        outside = [name for name in outside if name not in arguments | stored]
        if outside:
            yield note(
                "hidden-state",
                f"`{scope.name}` takes {listed(outside)} from outside: it trains with whatever was defined last.",
                f"names that are neither parameters nor set in the function: {listed(outside)}",
                "Make them parameters.",
                script.place(scope),
            )


def _freezes(script: Script) -> bool:
    return bool(
        re.search(
            r"requires_grad\s*=\s*False|requires_grad_\(False\)|\bmodels\.freeze\(|unfreeze_from\(", script.source
        )
    )


def _put_back_to_sleep(script: Script, call: ast.Call) -> bool:
    """Whether `.eval()` is called on something between `train()` and the batches that follow."""
    statement = script.statement(call)
    block = script.block(statement)
    for other in block[block.index(statement) + 1 :]:
        if isinstance(other, ast.For) and script.batch_loop(other.body[0]) is other:
            return False
        if any(isinstance(n, ast.Call) and re.search(r"eval|freeze|set_bn", last(n)) for n in ast.walk(other)):
            return True
    return False


def _without_gradients(script: Script, node: ast.AST) -> bool:
    around = list(script.above(node))
    blocks = [item.context_expr for n in around if isinstance(n, ast.With) for item in n.items]
    blocks += [d for n in around if isinstance(n, ast.FunctionDef) for d in n.decorator_list]
    return any(last(block) in NO_GRAD for block in blocks)


def _guard(script: Script, call: ast.Call, name: str) -> str:
    """Return the class of `if isinstance(scheduler, Class):` around a call."""
    for node in script.above(call):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Call) and dotted(node.test) == "isinstance":
            inside = any(call in ast.walk(statement) for statement in node.body)
            if inside and len(node.test.args) == 2 and ast.unparse(node.test.args[0]) == name:
                return last(node.test.args[1])
    return ""


RULES = (frozen_norms, evaluation_mode, gradients, graph_is_kept, schedulers_step, hidden_state)
