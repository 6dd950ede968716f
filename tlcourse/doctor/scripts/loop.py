"""What goes wrong in loops, as a script shows it: gradients, what is kept, what is selected, state from outside."""

import ast
import re

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.nodes import OPTIMIZERS, last, owner, position, quoted
from tlcourse.doctor.scripts.reader import Script

FROM_OUTSIDE = ("model", "optimizer", "criterion", "scheduler", "device")
ZEROED = re.compile(r"grad = None|\.grad(\.data)?\.(zero_|fill_|detach_)")
DETACHED = re.compile(r"item\(|detach|float\(|\.data|numpy|tolist")
KEPT = ("state_dict", "copy")


def gradients(script: Script) -> Findings:
    """Each step needs a fresh gradient: zero_grad, backward, step."""
    zeroed = "zero_grad" in ast.unparse(script.tree) or ZEROED.search(ast.unparse(script.tree))
    for scope, backward in _training_scopes(script).items():
        calls = script.reached(scope)
        looped = script.loop(backward, "batches") is not None or script.loop(backward, "epochs") is not None
        steps = [c for c in calls if last(c) == "step" and _is_optimizer(script, c)]
        if steps and not zeroed and (looped or isinstance(scope, ast.FunctionDef)):
            yield (wrong if looped else suspicious)("no-zero-grad", f"{quoted(backward)}", script.place(backward))
        zero = [c for c in script.inside(scope) if last(c) == "zero_grad" and _is_optimizer(script, c)]
        handed = [c for c in calls if any(ast.unparse(arg) in map(owner, zero) for arg in c.args)]
        if looped and zero and not handed and not any("step" in last(c) for c in calls):
            yield wrong("no-step", f"{quoted(backward)} in a loop", script.place(backward))
        events = [c for c in script.inside(scope) if last(c) in ("backward", "step", "zero_grad")]
        events = [c for c in events if last(c) != "step" or _is_optimizer(script, c)]
        for before, call, after in zip(events, events[1:], events[2:], strict=False):
            blocks = {id(script.statement(c)[1]) for c in (before, call, after)}
            stepped = owner(call) in (owner(after), *map(ast.unparse, after.args)) or re.search("model|net", owner(call))
            order = [last(c) for c in (before, call, after)] == ["backward", "zero_grad", "step"]
            if order and stepped and len(blocks) == 1:
                yield wrong("zeroed-before-step", f"{quoted(call)} is between them", script.place(call))


def graph_is_kept(script: Script) -> Findings:
    """A loss that is summed as a tensor keeps every batch's graph in memory."""
    for node in script.nodes(ast.AugAssign):
        if not isinstance(node.op, ast.Add) or script.loop(node, "batches") is None:
            continue
        names = {n.id for n in script.nodes(ast.Name, node.value)}
        backward = [owner(c) for c in script.inside(script.scopes[node]) if last(c) == "backward"]
        kept = names & set(backward) and ast.unparse(node.target) not in backward
        if kept and not DETACHED.search(ast.unparse(node.value)) and "backward" not in ast.unparse(node):
            yield suspicious("graph-kept", quoted(node), script.place(node))


def best_weights_are_copied(script: Script) -> Findings:
    """`state_dict()` gives the weights themselves, and not a copy: they go on changing."""
    for name, own in script.bindings.items():
        for one in own:
            loops = [up for up in script.above(one.at) if isinstance(up, ast.For | ast.While)]
            value = one.value
            while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and last(value) == "copy":
                value = value.args[0] if value.args else value.func.value
            if not one.exact or not loops or last(value) != "state_dict" or not isinstance(value, ast.Call):
                continue
            loads = [c for c in script.named("load_state_dict", "save") if c.args and ast.unparse(c.args[0]) == name]
            late = [c for c in loads if position(c) > position(one.at) and loops[0] not in script.above(c)]
            if late and not any(isinstance(up, ast.For) and up is loops[0] for up in script.above(late[0])):
                evidence = f"{quoted(one.at)}, and {quoted(late[0])} at {script.place(late[0])}"
                yield wrong("best-not-copied", evidence, script.place(one.at))


def test_set_does_not_select(script: Script) -> Findings:
    """An epoch that was chosen on the test set looks better than it is."""
    for choice in script.nodes(ast.If):
        if script.loop(choice, "epochs") is None or not isinstance(choice.test, ast.Compare):
            continue
        sides = [choice.test.left, *choice.test.comparators]
        tested = [side for side in sides if re.search("test", _measured_on(script, side), re.IGNORECASE)]
        keeps = [c for part in choice.body for c in script.nodes(ast.Call, part) if last(c) in ("save", "state_dict")]
        if tested and keeps and not isinstance(tested[0], ast.Constant):
            yield suspicious("test-selects", quoted(choice.test), script.place(choice))


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


def _training_scopes(script: Script) -> dict[ast.AST, ast.Call]:
    """Return every function, or the module, that calls `backward`, with its first such call."""
    return {script.scopes[call]: call for call in reversed(script.named("backward"))}


def _is_optimizer(script: Script, call: ast.Call) -> bool:
    """Whether a method is called on an optimizer, or on a scaler that steps one."""
    made = script.origins(call.func.value) if isinstance(call.func, ast.Attribute) else []
    named = re.search(r"opt|scaler|^sgd$|^adam", owner(call), re.IGNORECASE)
    return bool(named) or any(script.kind(one) in OPTIMIZERS for one in made)


def _measured_on(script: Script, node: ast.expr) -> str:
    """Return the names that say what a number was measured on: its own, and those of what measured it."""
    if not isinstance(node, ast.Name | ast.Attribute):
        return ""
    text = ast.unparse(node)
    calls = [one.value for one in script.given(node) if isinstance(one.value, ast.Call)]
    words = [text] if not calls else [text, *(ast.unparse(c) for c in calls)]
    return "" if re.search(r"(^|[_\W])(val|valid|best)", " ".join(words), re.IGNORECASE) else " ".join(words)
