"""What goes wrong in loops, as far as the text of a script shows it: modes, gradients, and when schedulers step."""

import ast
import re
from collections.abc import Iterator

from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.reader import MODELS, Script, argument, constant, dotted, last, receiver

WITH_BATCH_NORM = re.compile(
    r"resne[xs]?t|wide_resnet|efficientnet|densenet|mobilenet|regnet|inception|googlenet|shufflenet|mnasnet|"
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


def frozen_bn(script: Script) -> Iterator[Finding]:
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
            beside = [c for c in calls if script.statement(c) in block]  # in the order of the text
            pushed = [c for c in beside[: beside.index(call)] if last(c) == "backward"]
            after = [c for c in beside[beside.index(call) :] if c in steps]
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


RULES = (frozen_bn, evaluation_mode, gradients, graph_is_kept, hidden_state)
