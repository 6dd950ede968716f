"""Training and evaluation mode, as a script shows it: frozen batch norms, and measuring without `eval()`."""

import ast
import re

from tlcourse.doctor.report import Findings, suspicious, wrong
from tlcourse.doctor.scripts.data import EVALUATED
from tlcourse.doctor.scripts.networks import BATCH_NORM, all_networks, heads_alone, networks, switches
from tlcourse.doctor.scripts.nodes import MODELS, argument, constant, dotted, last, owner, position, quoted, runs_over
from tlcourse.doctor.scripts.reader import Script

CALMING = re.compile(r"freeze|set_bn|bn_|train_mode|fix_?bn|^eval$", re.IGNORECASE)
BACK = re.compile(r"(^|_)(train(ing)?|fit|(?<!inference_)mode)(_|$)")  # calls that may put a model into training mode
# Where other modes are right.
FRAMEWORKS = re.compile(r"(import|from) .*(lightning|fastai|ignite|skorch)|(?i:mc_?dropout|monte.?carlo)")


def frozen_bn(script: Script) -> Findings:
    """`model.train()` puts the batch norms of a frozen backbone into training mode."""
    if any([arg.arg for arg in one.args.args] == ["self", "mode"] for one in script.functions.get("train", [])):
        return  # a class of this file decides what its `train()` does
    frozen = switches(script, False)
    still = [(one, networks(script, one.model)) for one in frozen or heads_alone(script)]
    still = [(one, nets) for one, nets in still if nets and all(BATCH_NORM.search(net.name) for net in nets)]
    for call in script.named("train") if still else []:
        mode = argument(call, "mode", 0)
        trains = mode is None or constant(mode) is True or isinstance(mode, ast.Compare)
        if not owner(call) or not trains or not isinstance(script.parents[call], ast.Expr | ast.IfExp):
            continue
        nets = {net.call for net in networks(script, call.func.value)}
        # What a function builds for several callers may be a teacher and its student.
        alone = {one for one in nets if len(script.callers.get(script.scopes[one], ())) < 2}
        same = [one for one, own in still if alone & {net.call for net in own}]
        scope = script.scopes[call]
        same = [one for one in same if script.scopes[one.at] is not scope or position(one.at) < position(call)]
        thawed = [one.at for one in switches(script, True) if one.whole and script.scopes[one.at] is scope]
        if any(position(at) < position(call) and not script.chosen(at) for at in thawed):
            continue  # a second phase trains everything
        # A parameter of a function that nobody calls here.
        alike = script.origins(call.func.value) == [call.func.value] and MODELS.match(owner(call))
        alike = alike and all(BATCH_NORM.search(net.name) for net in all_networks(script))
        if (same or alike) and not _calmed(script, call):
            models = {ast.unparse(one.model) for one in same}
            free = any(one.whole and ast.unparse(one.model) in models for one in switches(script, True))
            sure = same and frozen and all(one.sure for one in same) and not free
            variant = "frozen-statistics-move/train" if frozen else "frozen-statistics-move/head-only"
            evidence = f"{quoted(call)}; {still[0][1][0].name} has batch norms, and nothing calls their `eval()`"
            some = switches(script, True) or not (same or [one for one, _ in still])[0].whole
            part = "Part of the network" if some else "The backbone"
            yield (wrong if sure else suspicious)(variant, evidence, script.place(call), part=part)


def evaluation_mode(script: Script) -> Findings:
    """Where a loader is run through to measure, the model must be in evaluation mode."""
    seen = set()
    for call in [] if FRAMEWORKS.search(script.text) else script.calls:
        loop, model = script.loop(call, "batches"), dotted(call).removesuffix(".forward")
        if loop is None or loop in seen or not MODELS.match(model) or isinstance(script.parents[call], ast.Expr):
            continue
        backward = bool(script.named("backward", within=loop))
        over = ast.unparse(loop.iter)
        grad = _gradients(script, call)
        off = grad == "off" and "train" not in over.lower()
        measures = grad == "by phase" if backward else off or (grad == "on" and EVALUATED.search(over))
        mode = _mode(script, script.scopes[call], call, model) if measures else "eval"
        if mode == "train" or (mode == "" and (script.named("backward") or grad == "off")):
            seen.add(loop)
            sure = mode == "train" and not script.chosen(loop)
            evidence = f"{quoted(call)}, over {quoted(loop.iter)}"
            yield (wrong if sure else suspicious)("training-mode/loop", evidence, script.place(loop), model=model)


def training_mode_comes_back(script: Script) -> Findings:
    """A model that is put into evaluation mode in each epoch goes back into training mode."""
    for loop in [] if FRAMEWORKS.search(script.text) else script.nodes(ast.For | ast.While):
        scope, models = script.scopes[loop], set()
        sites = [call for call in script.nodes(ast.Call, loop) if script.scopes[call] is scope]
        reached = [(site, call) for site in sites for call in [site, *script.reached(script.function(site))]]
        scopes = {script.scopes[call] for _, call in reached} - {scope}
        around = {script.scopes[call] for _, call in reached if last(call) == "backward"}
        for run in [call.func for inner in around for call in script.inside(inner)]:
            name = run.value if getattr(run, "attr", "") in ("forward", "training_step") else run
            models |= _keys(script, name, scopes, loop) - {""}
        back = [c for _, c in reached if BACK.search(last(c)) and ("mode" in last(c) or script.function(c) is None)]
        if back:
            continue
        start = min((position(site) for site, call in reached if last(call) == "backward"), default=(0, 0))
        for site, call in [(site, call) for site, call in reached if last(call) == "eval" and owner(call)]:
            inner = [dotted(c).removesuffix(".forward") for c in script.inside(script.scopes[call])]
            # A function that measures, or what stands after the training; `eval()` in front of it is meant.
            late = position(site) > start or (call is not site and owner(call) in inner and "backward" not in inner)
            tests = [up for up in script.above(site) if isinstance(up, ast.If) and loop in script.above(up)]
            ends = any(re.search(r"^if [^%\n]*==[^%\n]*:|\b(break|return|raise)\b", ast.unparse(up)) for up in tests)
            if late and not ends and _keys(script, call.func.value, scopes, loop) <= models:
                before = [c for c in script.inside(scope) if last(c) == "train" and position(c) < position(loop)]
                before = [c for c in before if owner(c) and _keys(script, c.func.value, scopes, loop) & models]
                evidence = "".join(f"; {quoted(c)} stands before the loop, at {script.place(c)}" for c in before[-1:])
                found, where = (wrong if before else suspicious), script.place(call)
                yield found("training-mode/left", f"{quoted(call)}{evidence}", where, model=owner(call))
                return


def _keys(script: Script, model: ast.expr, scopes: set[ast.AST], loop: ast.AST) -> set[str]:
    """Tell models apart by where they are built; "" for one that the loop builds, here or there, or that has copies."""
    made = script.origins(model)
    built = [one for one in made if isinstance(one, ast.Call)]
    fresh = any(loop in script.above(one) or script.scopes[one] in scopes for one in built)
    fresh = fresh or any(loop in script.above(b.at) for b in script.bindings.get(ast.unparse(made[0]), ()))
    copied = [c for c in script.named("deepcopy") if c.args and set(script.origins(c.args[0])) & {*built}]
    return {""} if fresh or copied else {str(id(one)) if one in built else ast.unparse(one) for one in made}


def _calmed(script: Script, call: ast.Call) -> bool:
    """Whether something goes into evaluation mode between `train()` and the end of the batches that follow."""
    scope, around = script.scopes[call], script.loop(call, "batches")
    loops = [n for n in script.nodes(ast.For, scope) if runs_over(n) == "batches" and position(n) > position(call)]
    if not around and not loops and not re.search("train|fit|epoch", getattr(scope, "name", "")):
        return True  # nothing trains here
    end = getattr(around or min(loops, key=position, default=scope), "end_lineno", len(script.places))
    between = [c for c in script.inside(scope) if position(c) > position(call) and c.lineno <= end]
    for other in between:
        passed = [dotted(arg) for arg in other.args] if last(other) in ("apply", "map") else []
        called = [f for name in passed for f in script.functions.get(name, [])]
        called += [script.function(other)] if script.function(other) else []
        names = [last(other), *(last(c) for f in called for c in script.nodes(ast.Call, f))]
        if any(map(CALMING.search, names)) and (names[0] != "eval" or owner(other) != owner(call)):
            return True
    return False


def _gradients(script: Script, node: ast.AST) -> str:
    """Tell whether gradients are "off", "on" or on "by phase" where a node is."""
    blocks = [item.context_expr for n in script.above(node) if isinstance(n, ast.With) for item in n.items]
    blocks += [d for n in script.above(node) if isinstance(n, ast.FunctionDef) for d in n.decorator_list]
    enabled = [constant(argument(block, "mode", 0)) for block in blocks if last(block) == "set_grad_enabled"]
    off = any(last(block) in ("no_grad", "inference_mode") for block in blocks) or False in enabled
    return "off" if off else "by phase" if enabled else "on"


def _mode(script: Script, scope: ast.AST, before: ast.AST, model: str, depth: int = 3) -> str:
    """Return the mode that the file last puts the model into before a node: "train", "eval", "unknown", or ""."""
    mode = ""
    for call in [c for c in script.inside(scope) if position(c) < position(before)]:
        function, flag = script.function(call), argument(call, "mode", 0)
        inner = [last(one) for one in script.reached(function)] if function is not None else []
        flagged = last(call) == "train" and owner(call) and flag is not None and constant(flag) is not True
        if last(call) in ("eval", "evaluation_mode") or "eval" in inner or flagged:
            mode = "eval"
        elif last(call) == "train" and owner(call) == model:
            others = {(up, not side) for up, side in script.branches(call) - script.branches(before)}
            mode = "eval" if any(others & script.branches(one) for one in script.named("eval")) else "train"
    callers = script.callers.get(scope, []) if not model.startswith("self.") and depth else []
    if mode or (isinstance(scope, ast.Module) and "eval()" not in script.text):
        return mode
    names = [ast.unparse(call.args[0]) if call.args else model for call in callers]
    modes = {_mode(script, script.scopes[c], c, name, depth - 1) for c, name in zip(callers, names, strict=True)}
    anywhere = re.search(r"\.eval\(\)|\.train\((?!\)|True)", script.text)
    return modes.pop() if len(modes) == 1 else "unknown" if modes or anywhere else ""
