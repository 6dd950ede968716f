"""What goes wrong in loops, as a script shows it: gradients, what is kept, and what is selected."""

import ast
import re

from tlcourse.doctor.report import Findings, suspicious, wrong
from tlcourse.doctor.scripts.networks import is_optimizer
from tlcourse.doctor.scripts.nodes import MODELS, SCHEDULERS, dotted, last, owner, position, quoted
from tlcourse.doctor.scripts.reader import Script

ZEROED = re.compile(r"zero_grad|grad = None|\.grad(\.data)?\.(zero_|fill_|detach_)")
DETACHED = re.compile(r"item\(|detach|float\(|\.data|numpy|tolist|backward")


def gradients(script: Script) -> Findings:
    """Each step needs a fresh gradient: zero_grad, backward, step."""
    for scope, backward in {script.scopes[call]: call for call in reversed(script.named("backward"))}.items():
        calls, own = script.reached(scope), script.inside(scope)
        looped = script.loop(backward, "batches") or script.loop(backward, "epochs")
        steps = [c for c in calls if last(c) == "step" and is_optimizer(script, c)]
        built = [one.name for one in script.every if script.scopes[one.at] is scope]
        models = [c for c in own if MODELS.match(dotted(c).removesuffix(".forward")) and dotted(c) not in built]
        whole = isinstance(scope, ast.FunctionDef) and models
        if steps and not ZEROED.search(script.text) and (looped or whole):
            yield (wrong if looped else suspicious)("no-zero-grad", quoted(backward), script.place(backward))
        inner = next((up for up in script.above(backward) if isinstance(up, ast.For | ast.While)), None)
        zeroed = [c for c in script.named("zero_grad") if script.scopes[c] is scope and inner not in script.above(c)]
        every = [c for c in steps if inner in script.above(c) and not script.chosen(c, inner)]
        if looped and every and zeroed and len(ZEROED.findall(script.text)) == len(zeroed):
            yield wrong("no-zero-grad/outside", quoted(zeroed[-1]), script.place(zeroed[-1]))
        zero = [owner(c) for c in own if last(c) == "zero_grad" and is_optimizer(script, c)]
        handed = any("step" in last(c) and not re.search("(?i)sched", owner(c)) for c in calls)
        others = [c for c in calls if script.kind(c) not in (*SCHEDULERS, "unscale_", "print")]
        handed = handed or any(ast.unparse(arg) in zero for c in others for arg in c.args)
        if looped and zero and not handed:
            yield wrong("no-step", f"{quoted(backward)} in a loop", script.place(backward))
        events = [c for c in own if last(c) in ("backward", "zero_grad") or (last(c) == "step" and c in steps)]
        for before, call, after in zip(events, events[1:], events[2:], strict=False):
            order = [last(c) for c in (before, call, after)] == ["backward", "zero_grad", "step"]
            stepped = owner(call) in (owner(after), *map(ast.unparse, after.args)) or MODELS.match(owner(call))
            if order and stepped and script.branches(before) == script.branches(call) == script.branches(after):
                yield wrong("zeroed-before-step", f"{quoted(call)} is between them", script.place(call))


def graph_is_kept(script: Script) -> Findings:
    """A loss that is summed as a tensor keeps every batch's graph in memory."""
    for node in script.nodes(ast.AugAssign):
        names = {n.id: script.given(n) for n in script.nodes(ast.Name, node.value)}
        names = {n for n, own in names.items() if not any(DETACHED.search(ast.unparse(one.value)) for one in own)}
        backward = {owner(c) for c in script.inside(script.scopes[node]) if last(c) == "backward"}
        kept = names & backward and ast.unparse(node.target) not in backward and script.loop(node, "batches")
        if kept and isinstance(node.op, ast.Add) and not DETACHED.search(ast.unparse(node.value)):
            yield suspicious("graph-kept", quoted(node), script.place(node))


def best_is_kept(script: Script) -> Findings:
    """`state_dict()` gives the weights themselves, which go on changing; and the test set must not choose them."""
    for one in script.every:
        loop = next((up for up in script.above(one.at) if isinstance(up, ast.For | ast.While)), None)
        value = one.value.func.value if last(one.value) == "copy" and owner(one.value) else one.value
        if last(value) != "state_dict" or not MODELS.match(owner(value)) or loop is None:
            continue
        if any(loop in (b.at, *script.above(b.at)) for b in script.bindings.get(owner(value), ())):
            continue  # the loop makes a new model each time
        used = [call.args[0] for call in script.named("load_state_dict", "save") if call.args]
        used += [n for node in script.nodes(ast.Return) if node.value for n in script.nodes(ast.Name, node.value)]
        used = [node for node in used if ast.unparse(node) == one.name and loop not in script.above(node)]
        if late := [node for node in used if position(node) > position(one.at) and one in script.given(node)]:
            evidence = f"{quoted(one.at)}, used at {script.place(late[0])}"
            yield wrong("best-not-copied", evidence, script.place(one.at))
    for choice in script.nodes(ast.If):
        sides = [choice.test.left, *choice.test.comparators] if isinstance(choice.test, ast.Compare) else []
        keeps = any(script.named("save", "state_dict", within=part) for part in choice.body)
        for side in sides if keeps and script.loop(choice, "epochs") else []:
            measured = [ast.unparse(one.value) for one in script.given(side)] if isinstance(side, ast.Name) else []
            words = " ".join([ast.unparse(side), *measured])
            if re.search("test", words) and not re.search(r"(^|[_\W])(val|valid|best|train)", words):
                yield suspicious("test-selects", quoted(choice.test), script.place(choice))
