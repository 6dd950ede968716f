"""What goes wrong before the loop: heads, losses, optimizers and schedulers, as a script's text shows it."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.reader import OPTIMIZERS, SCHEDULERS, Script, argument, constant, dotted, last, quoted

HEADS = re.compile(r"^(\w+)\.(fc|classifier|head|heads)\b")
REWRITING = {"OneCycleLR", "CyclicLR"}
COMPOSED = ("SequentialLR", "ChainedScheduler")
CLOCKS = ("time.time", "time.perf_counter", "perf_counter", "time.monotonic")


def softmax_before_cross_entropy(script: Script) -> Findings:
    """Cross-entropy applies softmax itself."""
    if not script.named("cross_entropy", "CrossEntropyLoss"):
        return
    losses = [target for target, _, _ in script.made("CrossEntropyLoss")]
    found: list[ast.AST] = []
    for call in script.calls:
        if call.args and (last(call) in ("cross_entropy", "CrossEntropyLoss") or dotted(call) in losses):
            if _is_softmax(script, _value_before(script, call.args[0], call)):
                found.append(call)
        elif last(call) == "Sequential" and call.args and last(call.args[-1]) == "Softmax":
            found.append(call.args[-1])
    for node in script.nodes(ast.Return):
        function = script.scopes[node]
        attention = "attention" in getattr(script.parents.get(function), "name", "").lower()
        if getattr(function, "name", "") == "forward" and not attention and _is_softmax(script, node.value):
            found.append(node)
    for node in found:
        yield wrong("softmax-before-cross-entropy", quoted(node), script.place(node))


def optimizer_after_head(script: Script) -> Findings:
    """An optimizer built before the head was replaced holds the old head."""
    for model, _, at in _new_heads(script):
        made = [one for one in script.made(*OPTIMIZERS) if script.scopes[one[2]] is script.scopes[at]]
        own = [(name, built) for name, value, built in made if re.search(rf"\b{model}\.", ast.unparse(value))]
        if own and own[-1][1].lineno < at.lineno:
            name, built = own[-1]
            evidence = f"`{name}` is built at {script.place(built)}; then {quoted(at)}"
            yield wrong("foreign-parameters/head", evidence, script.place(at))


def head_frozen_with_the_rest(script: Script) -> Findings:
    """Freezing everything after the head was replaced freezes the new head too."""
    for loop in script.nodes(ast.For):
        match = re.fullmatch(r"(\w+)\.(named_)?parameters\(\)", ast.unparse(loop.iter))
        if not match or not re.search(r"requires_grad(_\(| = )False", ast.unparse(loop)) or "if " in ast.unparse(loop):
            continue
        heads = [(name, at) for model, name, at in _new_heads(script) if model == match[1]]
        heads = [(name, at) for name, at in heads if script.scopes[at] is script.scopes[loop]]
        later = "\n".join(script.source.splitlines()[loop.end_lineno :])
        unfrozen = re.search(r"requires_grad\s*=\s*True|requires_grad_\(\s*(True)?\s*\)|unfreeze", later)
        if heads and heads[-1][1].lineno < loop.lineno and not unfrozen:
            name, at = heads[-1]
            evidence = f"`{name}` is set at {script.place(at)}, and frozen here with the rest"
            yield wrong("head-frozen/with-the-rest", evidence, script.place(loop), head=name)


def one_scheduler_for_each_optimizer(script: Script) -> Findings:
    """Each scheduler's constructor rewrites its optimizer's learning rates."""
    parts = {n.id for call in script.named(*COMPOSED) for n in script.nodes(ast.Name, call)}
    built: dict[tuple, list[str]] = {}
    for target, value, at in script.assignments:
        if last(value) in OPTIMIZERS:  # a new optimizer with this name starts anew
            built.pop((target, script.scopes[at]), None)
        optimizer = argument(value, "optimizer", 0) if last(value) in SCHEDULERS - set(COMPOSED) else None
        choice = any(isinstance(node, ast.If | ast.Match) for node in script.above(at))
        if optimizer is None or target in parts or choice:
            continue
        kinds = built.setdefault((ast.unparse(optimizer), script.scopes[at]), [])
        kinds.append(last(value))
        if len(kinds) > 1:
            evidence = f"{listed(kinds)} on `{ast.unparse(optimizer)}`, with no new optimizer in between"
            found = wrong if REWRITING & set(kinds) else suspicious
            yield found("several-schedulers", evidence, script.place(at))


def optimizer_per_stage(script: Script) -> Findings:
    """A new optimizer for each unfrozen stage forgets the moments of what was already training."""
    if not re.search(r"requires_grad\s*=\s*True|requires_grad_\(|unfreeze", script.source):
        return
    made = script.made(*OPTIMIZERS - {"SGD"})
    held = [(name, at, set(re.findall(r"(\w+\.\w+)\.parameters\(\)", ast.unparse(v)))) for name, v, at in made]
    for (_, at, before), (name, later, after) in pairwise(held):
        if before & after and script.scopes[at] is script.scopes[later]:
            evidence = f"`{name}` holds {listed(sorted(before & after))}, as does the optimizer of {script.place(at)}"
            yield note("moments-forgotten", evidence, script.place(later))


def deprecated_arguments(script: Script) -> Findings:
    """Names and arguments that current versions warn about or refuse."""
    for call in script.calls:
        name, evidence, where = dotted(call), quoted(call), script.place(call)
        if constant(argument(call, "pretrained")) is True and not re.search(r"timm|create_model|hub", name):
            yield suspicious("deprecated/pretrained", evidence, where)
        if last(call) == "ReduceLROnPlateau" and argument(call, "verbose") is not None:
            yield wrong("deprecated/verbose", evidence, where)
        if name in ("torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler"):
            yield note("deprecated/amp", evidence, where)
        if name == "torch.save" and call.args and re.fullmatch(r"(model|net)\w*", ast.unparse(call.args[0])):
            yield note("pickle/save", evidence, where)
        if name == "torch.load" and constant(argument(call, "weights_only")) is False:
            yield suspicious("pickle/load", evidence, where)


def numbers_with_commas(script: Script) -> Findings:
    """`{7,102,466:,}` is a tuple, and a tuple takes no format."""
    for node in script.nodes(ast.FormattedValue):
        if isinstance(node.value, ast.Tuple) and node.format_spec is not None:
            yield wrong("tuple-formatted", quoted(node.value), script.place(node))


def clocks_wait_for_the_gpu(script: Script) -> Findings:
    """A GPU computes while Python goes on: the clock must wait for it."""
    if "cuda" not in script.source or re.search(r"synchronize|Event\(|Timer\(", script.source):
        return
    clocks = [call for call in script.calls if dotted(call) in CLOCKS]
    for scope in dict.fromkeys(script.scopes[call] for call in clocks):
        own = [call for call in clocks if script.scopes[call] is scope]
        # Whole epochs end by reading a loss, which waits; single forward passes do not.
        between = [call for call in script.inside(scope) if own[0].lineno < call.lineno < own[-1].lineno]
        forward = [call for call in between if re.fullmatch(r"(self\.)?(model|net)\w*", dotted(call))]
        if forward and not any(last(call) in ("item", "cpu", "backward", "tolist") for call in between):
            evidence = f"{quoted(forward[0])} between two readings of the clock, without `synchronize`"
            yield suspicious("clock", evidence, script.place(own[-1]))


def _new_heads(script: Script) -> Iterator[tuple[str, str, ast.stmt]]:
    """Yield the model, the head and the statement of each assignment that replaces a head."""
    for target, value, at in script.assignments:
        match = HEADS.match(target)
        if match and isinstance(value, ast.Call) and last(value) not in ("to", "cuda", "half"):
            yield match[1], target, at


def _value_before(script: Script, node: ast.expr, call: ast.Call) -> ast.expr:
    """Return what a name was given last before a call, in its function or in the module; anything else as it is."""
    scopes, name = (script.scopes[call], script.tree), ast.unparse(node)
    before = [one for one in script.assignments if one[2].lineno < call.lineno and script.scopes[one[2]] in scopes]
    return next((value for target, value, _ in reversed(before) if target == name), node)


def _is_softmax(script: Script, value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call):
        return False
    made = next((made for target, made, _ in script.assignments if target == dotted(value)), value)
    return last(made) in ("softmax", "Softmax")
