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
MEASURES = re.compile(r"eval|valid|^test|predict|infer(?!ence_mode)|(?<!inference_)mode$")  # or into evaluation mode
TRAIN = re.compile(r"\.train\((mode=)?(True)?\)$")
EVAL = re.compile(r"\beval\(\)|eval(uation)?_mode|\.train\((?!\)|True)")  # the file knows evaluation mode
# Where other modes are right.
FRAMEWORKS = re.compile(r"(import|from) .*(lightning|fastai|ignite|skorch)|(?i:mc_?dropout|monte.?carlo)")


def frozen_bn(script: Script) -> Findings:
    """`model.train()` puts the batch norms of a frozen backbone into training mode."""
    frozen, thawed = switches(script, False), switches(script, True)
    still = {one: networks(script, one.model) for one in frozen or heads_alone(script)}
    still = {one: nets for one, nets in still.items() if nets and all(BATCH_NORM.search(net.name) for net in nets)}
    if not still or "def train(self, mode" in script.text:  # a class of this file decides what its `train()` does
        return
    born, trains = _born_in_training_mode(script), script.named("train")
    for call in [*(one for one in trains if constant(argument(one, "mode", 0)) in (None, True)), *born]:
        model = call.func if call in born else getattr(call.func, "value", None)
        second_phase = any(one.whole and script.follows(call, one.at) and not script.chosen(one.at) for one in thawed)
        # What a function builds for several callers may be a teacher and its student.
        built = {net.call for net in networks(script, model) if len(script.callers[script.scopes[net.call]]) < 2}
        same = [one for one, nets in still.items() if built & {net.call for net in nets}]
        alike = script.origins(model) == [model] and MODELS.match(owner(call))  # given to a function that nobody calls
        if (same or alike) and not (frozen and second_phase) and not _calmed(script, call):
            sure = same and all(one.sure for one in same) and not any(one.whole for one in thawed)
            variant = "frozen-statistics-move/train" if frozen else "frozen-statistics-move/head-only"
            variant = "frozen-statistics-move/born" if frozen and call in born else variant
            first = next(iter(same or still))
            evidence = f"{quoted(call)}; {still[first][0].name} has batch norms, and nothing calls their `eval()`"
            part = "The backbone" if first.whole and not thawed else "Part of the network"
            yield (wrong if sure else suspicious)(variant, evidence, script.place(call), part=part)


def _born_in_training_mode(script: Script) -> list[ast.Call]:
    """Return a model's call in each loop that trains, where nothing before its end says in which mode."""
    found = []
    said = [c for c in script.calls if last(c) == "train" or CALMING.search(last(c)) or MEASURES.search(last(c))]
    for batches in filter(None, [script.loop(backward, "batches") for backward in script.named("backward")]):
        loop = script.loop(batches, "epochs") or batches
        if all(script.follows(c, loop) and loop not in script.above(c) for c in said):
            found += [c for c in script.nodes(ast.Call, batches) if MODELS.match(dotted(c))][:1]
    return found


def _calmed(script: Script, call: ast.Call) -> bool:
    """Whether something goes into evaluation mode between `train()` and the end of the batches that follow."""
    scope = script.scopes[call]
    later = [n for n in script.nodes(ast.For, scope) if runs_over(n) == "batches" and position(n) > position(call)]
    loop = script.loop(call, "batches") or min(later, key=position, default=None)
    for other in script.inside[scope]:
        inner = [f for arg in other.args for f in script.functions[dotted(arg)]] + [script.function(other)]
        names = [last(other), *(last(c) for f in inner if f for c in script.nodes(ast.Call, f))]
        within = loop and position(call) < position(other) and other.lineno <= loop.end_lineno
        if within and any(map(CALMING.search, names)) and (names[0] != "eval" or owner(other) != owner(call)):
            return True
    return loop is None  # nothing trains here


def evaluation_mode(script: Script) -> Findings:
    """Where a loader is run through to measure, the model must be in evaluation mode."""
    for loop in script.nodes(ast.For) if _modes_differ(script) else []:
        runs = [call for call in script.nodes(ast.Call, loop) if script.loop(call, "batches") is loop]
        runs = [call for call in runs if MODELS.match(dotted(call).removesuffix(".forward"))]
        for call in [call for call in runs if not isinstance(script.parents[call], ast.Expr)][:1]:
            model, over = call.func.value if last(call) == "forward" else call.func, ast.unparse(loop.iter)
            grad, trains = _gradients(script, call), script.named("backward", within=loop)
            measures = (grad == "off" and "train" not in over.lower()) or (grad == "on" and EVALUATED.search(over))
            # What the loop sums may be trained on after it.
            after = [b for b in script.named("backward") if script.follows(b, loop) and loop not in script.above(b)]
            if not (grad == "by phase" if trains else measures) or any(script.renewed(loop, owner(b)) for b in after):
                continue
            left, name = _left_training(script, call, model), ast.unparse(model)
            bases = {last(base) for base in getattr(script.class_of.get(call), "bases", [])}
            never = not EVAL.search(script.text) and bases <= {*script.classes, "Module", "object"}
            # Where a model is handed to the file, and nothing trains, its mode is not this file's business.
            built = any(isinstance(one, ast.Call) for one in script.origins(model))
            if left or (never and (script.named("backward") or (grad == "off" and built))):
                sure = (left or name in map(owner, script.named("train"))) and not script.chosen(loop)
                evidence = f"{quoted(call)}, over {quoted(loop.iter)}"
                yield (wrong if sure else suspicious)("training-mode/loop", evidence, script.place(loop), model=name)


def _left_training(script: Script, node: ast.AST, model: ast.expr, depth: int = 3) -> bool:
    """Whether what comes before a node, or before calls of its function, surely leaves a model in training mode."""
    before = [call for call in script.inside[script.scopes[node]] if position(call) < position(node)]
    mode, callers = _last_mode(script, before, node, model), script.callers[script.scopes[node]]
    if mode or not callers or not depth:
        return mode == "train"
    return all(_left_training(script, call, model, depth - 1) for call in callers)


def _last_mode(script: Script, calls: list[ast.Call], node: ast.AST, model: ast.expr, depth: int = 3) -> str:
    """Return the mode in which calls before a node leave a model: "train" only where that is sure, "eval", or ""."""
    for call in calls[::-1]:
        function, mode = script.function(call), ""
        if function is not None and depth:
            mode = _last_mode(script, script.inside[function], node, model, depth - 1)
        elif TRAIN.search(ast.unparse(call)):
            mode = "train" if _built(script, call.func.value) == _built(script, model) else ""
        elif MEASURES.search(last(call)) or (last(call) == "train" and owner(call)):
            mode = "eval"
        sure = not any(isinstance(up, ast.If) for up, _ in script.branches(call) - script.branches(node))
        if mode == "eval" or (mode and sure):
            return mode
    return ""


def _built(script: Script, model: ast.expr) -> set[ast.AST | str]:
    """Tell models apart by where they are built, or by their names where the file does not say."""
    return {one if isinstance(one, ast.Call) else ast.unparse(one) for one in script.origins(model)}


def _gradients(script: Script, node: ast.AST) -> str:
    """Tell whether gradients are "off", "on" or on "by phase" where a node is."""
    blocks = [item.context_expr for n in script.above(node) if isinstance(n, ast.With) for item in n.items]
    blocks += [d for n in script.above(node) if isinstance(n, ast.FunctionDef) for d in n.decorator_list]
    sides = [b for b in blocks if last(b) == "set_grad_enabled" and ".training" not in ast.unparse(b)]
    enabled = [constant(argument(block, "mode", 0)) for block in sides]
    off = any(last(block) in ("no_grad", "inference_mode") for block in blocks) or False in enabled
    return "off" if off else "by phase" if None in enabled else "on"


def training_mode_comes_back(script: Script) -> Findings:
    """A model that is put into evaluation mode in each epoch goes back into training mode."""
    for loop in script.nodes(ast.For | ast.While) if _modes_differ(script) else []:
        sites = [call for part in loop.body for call in script.nodes(ast.Call, part)]  # `else` comes after the loop
        runs = [(site, call) for site in sites for call in [site, *script.reached(script.function(site))]]
        training = [(site, call) for site, call in runs if last(call) == "backward"]
        back = [c for _, c in runs if BACK.search(last(c)) and ("mode" in last(c) or script.function(c) is None)]
        if back or not training or not any("step" in last(call) for _, call in runs):
            continue
        around = {loop, *(script.scopes[call] for _, call in runs)} - {script.scopes[loop]}
        beside = {(script.scopes[call], script.loop(call, "batches")) for _, call in training}
        called = [c for c in script.calls if (script.scopes[c], script.loop(c, "batches")) in beside]
        called = [c.func.value if dotted(c).endswith(".forward") else c.func for c in called]
        trained = {one for model in called for one in _built(script, model)}
        # What stands before the training may be meant, and so may what is done once, and a model that is built anew.
        for site, call in [(site, call) for site, call in runs if last(call) == "eval" and owner(call)]:
            tests = [up for up in script.above(site) if isinstance(up, ast.If) and loop in script.above(up)]
            once = any(re.search(r"^if [^%\n]*==[^%\n]*:|\b(break|return|raise)\b", ast.unparse(up)) for up in tests)
            late = position(site) > min(position(first) for first, _ in training)
            models = _built(script, call.func.value)
            fresh = any(not around.isdisjoint(script.above(one)) for one in models if isinstance(one, ast.Call))
            if late and not once and not fresh and models <= trained:
                before = [c for c in script.named("train") if script.follows(loop, c) and owner(c)]
                before = [c for c in before if _built(script, c.func.value) & trained]
                evidence = "".join(f"; {quoted(c)} stands before the loop, at {script.place(c)}" for c in before[-1:])
                found, where = (wrong if before else suspicious), script.place(call)
                yield found("training-mode/left", f"{quoted(call)}{evidence}", where, model=owner(call))
                return


def _modes_differ(script: Script) -> bool:
    """Whether the modes may differ, and are this file's business: not for a network of plain layers that it builds."""
    own = (script.named("Sequential") or script.functions["forward"]) and not all_networks(script)
    known = own and not re.search(r"[Dd]rop|Norm(?!alize)|_pretrained|hub\.", script.text)
    return not known and not FRAMEWORKS.search(script.text)
