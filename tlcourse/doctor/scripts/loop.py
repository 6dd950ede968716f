"""What goes wrong in loops, as a script shows it: gradients, what is kept, and what is selected."""

import ast
import re

from tlcourse.doctor.report import Findings, suspicious, wrong
from tlcourse.doctor.scripts.networks import is_optimizer
from tlcourse.doctor.scripts.nodes import MODELS, OPTIMIZERS, SCHEDULERS, dotted, last, owner, position, quoted
from tlcourse.doctor.scripts.reader import Script

ZEROED = re.compile(r"zero_grad|clear_grad|grad = None|\.grad(\.data)?\.(zero_|fill_|detach_)")
TESTED = re.compile(r"(?i)(^|[^a-z])test(?!_?env)")
DETACHED = re.compile(r"item\(|detach|float\(|\.data|numpy|tolist|backward")


def gradients_are_fresh(script: Script) -> Findings:
    """Each step needs a fresh gradient."""
    # Distributed autograd keeps the gradients of each step apart.
    passes = [call for call in script.named("backward") if "autograd" not in owner(call)]
    for scope, backward in {script.scopes[call]: call for call in reversed(passes)}.items():
        batches = script.loop(backward, "batches") or script.loop(backward, "epochs")
        steps = [c for c in script.reached(scope) if last(c) == "step" and is_optimizer(script, c)]
        # A function that makes one step of a training that is elsewhere.
        models = [c for c in script.inside[scope] if MODELS.match(dotted(c).removesuffix(".forward"))]
        built = {one.name for own in script.bindings.values() for one in own if script.scopes[one.at] is scope}
        loops = [up for up in script.above(backward) if isinstance(up, ast.For | ast.While)]
        own = not loops and any(script.scopes[one.at] is scope for one in script.made(*OPTIMIZERS))
        step = isinstance(scope, ast.FunctionDef) and not own and any(dotted(c) not in built for c in models)
        if steps and not ZEROED.search(script.text) and (batches or step):
            yield (wrong if batches else suspicious)("no-zero-grad", quoted(backward), script.place(backward))
        outside = [c for c in script.named("zero_grad") if script.scopes[c] is scope and batches not in script.above(c)]
        every = [c for c in steps if batches in script.above(c) and not script.chosen(c, batches)]
        if every and outside and len(ZEROED.findall(script.text)) == len(outside):
            yield wrong("no-zero-grad/outside", quoted(outside[-1]), script.place(outside[-1]))


def optimizer_steps(script: Script) -> Findings:
    """A gradient alone changes nothing."""
    backward = [c for c in script.named("backward") if script.loop(c, "batches") or script.loop(c, "epochs")]
    zeroed = [owner(c) for c in script.named("zero_grad") if is_optimizer(script, c)]
    calls = [c for c in script.calls if script.kind(c) not in (*SCHEDULERS, "unscale_", "print")]
    stepped = any("step" in last(c) and not re.search("(?i)sched", owner(c)) for c in calls)
    handed = any(ast.unparse(arg) in zeroed for c in calls if not script.function(c) for arg in c.args)
    read = re.search(r"\.grad\b(?! *=|(\.data)?\.(zero|fill|detach)_)", script.text)  # the gradients are what is wanted
    if backward and zeroed and not stepped and not handed and not read:
        yield wrong("no-step", f"{quoted(backward[0])} in a loop", script.place(backward[0]))


def gradients_reach_the_step(script: Script) -> Findings:
    """What is zeroed between `backward()` and `step()` changes nothing."""
    events = [c for c in script.named("backward", "zero_grad", "step") if last(c) != "step" or is_optimizer(script, c)]
    for backward, zero, step in zip(events, events[1:], events[2:], strict=False):
        order = [last(call) for call in (backward, zero, step)] == ["backward", "zero_grad", "step"]
        own = owner(zero) in (owner(step), *map(ast.unparse, step.args)) or MODELS.match(owner(zero))
        if order and own and script.beside(backward, zero) and script.beside(zero, step):
            yield wrong("zeroed-before-step", f"{quoted(zero)} is between them", script.place(zero))


def losses_are_summed_as_numbers(script: Script) -> Findings:
    """A loss that is summed as a tensor keeps every batch's graph in memory."""
    for node in script.nodes(ast.AugAssign):
        target, batches = ast.unparse(node.target), script.loop(node, "batches")
        losses = {owner(call) for call in script.named("backward") if script.scopes[call] is script.scopes[node]}
        # What another function makes of it may be a number, and without gradients there is no graph.
        handed = [name for call in script.nodes(ast.Call, node.value) for arg in call.args for name in ast.walk(arg)]
        free = any("no_grad" in ast.unparse(i) for up in script.above(node) for i in getattr(up, "items", ()))
        kept = [name for name in script.nodes(ast.Name, node.value) if name.id in losses - {"self"}]
        kept = [name for name in kept if name not in handed]
        values = [node.value, *(one.value for name in kept for one in script.given(name))]
        number = any(DETACHED.search(ast.unparse(value)) for value in values) or target in losses
        anew = any(one.index is None and batches in script.above(one.at) for one in script.bindings[target])
        if kept and batches and not free and not number and not anew:
            yield suspicious("graph-kept", quoted(node), script.place(node))


def best_is_kept(script: Script) -> Findings:
    """`state_dict()` gives the weights themselves, which go on changing."""
    for one in script.every:
        loop = next((up for up in script.above(one.at) if isinstance(up, ast.For | ast.While)), None)
        value = one.value.func.value if last(one.value) == "copy" and owner(one.value) else one.value
        alias = isinstance(value, ast.Name) and "best" in one.name  # the same model under a second name
        model = ast.unparse(value) if alias else owner(value)
        if loop is None or not MODELS.match(model) or not (alias or last(value) == "state_dict"):
            continue
        uses = [*script.named("load_state_dict", "save"), *script.nodes(ast.Return)]
        used = [node for use in uses for node in script.nodes(ast.Name | ast.Attribute, use)]
        used = [node for node in used if ast.unparse(node) == one.name and one in script.given(node)]
        late = [node for node in used if loop not in script.above(node) and position(node) > position(one.at)]
        if late and not script.renewed(loop, model):
            variant = "best-not-copied/model" if alias else "best-not-copied"
            yield wrong(variant, f"{quoted(one.at)}, used at {script.place(late[0])}", script.place(one.at))


def test_set_does_not_choose(script: Script) -> Findings:
    """The test set must not choose the weights."""
    for choice in [one for one in script.nodes(ast.If) if isinstance(one.test, ast.Compare)]:
        keeps = any(script.named("save", "state_dict", within=part) for part in choice.body)
        sites = [choice, *script.callers[script.scopes[choice]]]
        keeps = keeps and any(script.loop(site, "epochs") for site in sites)
        for side in [choice.test.left, *choice.test.comparators] if keeps else []:
            values = [side, *(one.value for one in script.given(side) if isinstance(side, ast.Name))]
            words = " ".join(map(ast.unparse, values))
            if not TESTED.search(words):  # what the loops run over in which it is counted
                names = [name.id for value in values for name in script.nodes(ast.Name, value)]
                counts = [one.at for name in names for one in script.bindings.get(name, ())]
                loops = [script.loop(at, "batches") for at in counts if isinstance(at, ast.AugAssign)]
                words = " ".join([words, *(ast.unparse(loop.iter) for loop in loops if loop)])
            if TESTED.search(words) and not re.search(r"(^|[_\W])(val|valid|best|train)", words):
                yield suspicious("test-selects", quoted(choice.test), script.place(choice))
