"""Training and evaluation mode, as a script shows it: frozen batch norms, and measuring without `eval()`."""

import ast
import re

from tlcourse.doctor.report import Findings, suspicious, wrong
from tlcourse.doctor.scripts.data import EVALUATED
from tlcourse.doctor.scripts.networks import BATCH_NORM, all_networks, heads_alone, networks, switches
from tlcourse.doctor.scripts.nodes import MODELS, argument, constant, dotted, last, owner, position, quoted, runs_over
from tlcourse.doctor.scripts.reader import Script

NO_GRAD = ("no_grad", "inference_mode")
CALMING = re.compile(r"freeze|set_bn|bn_|train_mode|fix_?bn|^eval$", re.IGNORECASE)


def frozen_bn(script: Script) -> Findings:
    """`model.train()` puts the batch norms of a frozen backbone into training mode."""
    if any(isinstance(script.parents[one], ast.ClassDef) and len(one.args.args) > 1 for one in script.functions.get("train", [])):
        return  # a class of this file decides what its `train()` does
    frozen = switches(script, False)
    still = {one.at: {net.call: net for net in networks(script, one.model)} for one in frozen or heads_alone(script)}
    still = {at: nets for at, nets in still.items() if nets and all(BATCH_NORM.search(net.name) for net in nets.values())}
    free = any(one.whole for one in switches(script, True))
    every = all(BATCH_NORM.search(net.name) for net in all_networks(script))
    for call in script.named("train"):
        mode = argument(call, "mode", 0)
        trains = mode is None or constant(mode) is True or isinstance(mode, ast.Compare)
        if not still or not trains or not isinstance(script.parents[call], ast.Expr | ast.IfExp) or not owner(call):
            continue
        nets = {net.call for net in networks(script, call.func.value)}
        same = [one for one in frozen or heads_alone(script) if nets & set(still.get(one.at, ()))]
        same = [one for one in same if script.scopes[one.at] is not script.scopes[call] or position(one.at) < position(call)]
        by_name = not nets and every and MODELS.match(owner(call)) and not script.origins(call.func.value)[1:]
        if (not same and not by_name) or _calmed(script, call):
            continue
        name = next(net.name for one in (same[0].at if same else [*still][0],) for net in still[one].values())
        sure = bool(same) and bool(frozen) and all(one.sure for one in same) and not free
        evidence = f"{quoted(call)}; {name} has batch norms, and nothing puts them into evaluation mode"
        variant = "train" if frozen else "head-only"
        yield (wrong if sure else suspicious)(f"frozen-statistics-move/{variant}", evidence, script.place(call))


def evaluation_mode(script: Script) -> Findings:
    """Where a loader is run through to measure, the model must be in evaluation mode."""
    seen = set()
    for call in script.calls:
        loop = script.loop(call, "batches")
        if loop is None or loop in seen or not MODELS.match(dotted(call)) or isinstance(script.parents[call], ast.Expr):
            continue
        backward = any(last(one) == "backward" for one in script.nodes(ast.Call, loop))
        kind = _gradients(script, call)
        held_out = EVALUATED.search(ast.unparse(loop.iter)) and "train" not in ast.unparse(loop.iter).lower()
        if kind == "off" and backward or kind == "on" and (backward or not held_out) or kind == "by phase" and not backward:
            continue
        mode = _mode(script, script.scopes[call], call, dotted(call))
        trains_here = bool(script.named("backward"))
        if mode == "train" or (mode == "" and (trains_here or kind == "off")):
            seen.add(loop)
            evidence = f"{quoted(call)}, over {quoted(loop.iter)}"
            sure = mode == "train" and not script.chosen(loop)
            yield (wrong if sure else suspicious)("training-mode/loop", evidence, script.place(loop), model=dotted(call))


def _calmed(script: Script, call: ast.Call) -> bool:
    """Whether something goes into evaluation mode between `train()` and the end of the batches that follow."""
    loops = [n for n in script.nodes(ast.For, script.scopes[call]) if runs_over(n) == "batches"]
    around = script.loop(call, "batches")
    following = [n for n in loops if position(n) > position(call) and script.scopes[n] is script.scopes[call]]
    if around is None and not following and not re.search("train|fit|epoch", getattr(script.scopes[call], "name", "")):
        return True  # nothing trains here
    end = around or (min(following, key=position) if following else script.scopes[call])
    last_line = getattr(end, "end_lineno", None) or len(script.places)
    for other in script.inside(script.scopes[call]):
        if other is call or position(other) < position(call) or other.lineno > last_line:
            continue
        if last(other) == "eval" and owner(other) == owner(call):
            continue
        named = [script.function(other)] if script.function(other) else []
        for arg in other.args if last(other) in ("apply", "map") else []:
            named += script.functions.get(dotted(arg), [])
        inner = [one for function in named for one in script.nodes(ast.Call, function)]
        if CALMING.search(last(other)) or any(CALMING.search(last(one)) for one in inner):
            return True
    return False


def _gradients(script: Script, node: ast.AST) -> str:
    """Tell whether gradients are "off", "on" or on "by phase" where a node is."""
    around = list(script.above(node))
    blocks = [item.context_expr for n in around if isinstance(n, ast.With) for item in n.items]
    blocks += [d for n in around if isinstance(n, ast.FunctionDef) for d in n.decorator_list]
    if any(last(block) in NO_GRAD for block in blocks):
        return "off"
    enabled = [argument(block, "mode", 0) for block in blocks if last(block) == "set_grad_enabled"]
    return "on" if not enabled else "off" if constant(enabled[0]) is False else "by phase"


def _mode(script: Script, scope: ast.AST, before: ast.AST, model: str, depth: int = 3) -> str:
    """Return the mode that the file last puts the model into before a node: "train", "eval", or "" where none."""
    mode = ""
    for call in script.inside(scope):
        if position(call) >= position(before) or before in script.nodes(ast.AST, call):
            continue
        function = script.function(call)
        inner = [last(one) for one in script.reached(function)] if function is not None else []
        if last(call) in ("eval", "evaluation_mode") or "eval" in inner or _by_flag(call):
            mode = "eval"
        elif last(call) == "train" and owner(call) == model:
            choices = [n for n in script.above(call) if isinstance(n, ast.If | ast.IfExp) and n not in script.above(before)]
            other = any(last(one) == "eval" for choice in choices for one in script.nodes(ast.Call, choice))
            mode = "eval" if other else "train"
    if mode:
        return mode
    if model.startswith("self.") or not script.callers.get(scope):
        anywhere = any(isinstance(call.func, ast.Attribute) for call in script.named("eval"))
        return "unknown" if anywhere or any(map(_by_flag, script.named("train"))) else ""
    modes = [
        _mode(script, script.scopes[call], call, ast.unparse(call.args[0]) if call.args else model, depth - 1)
        for call in script.callers[scope]
        if depth
    ]
    return modes[0] if len(set(modes)) == 1 else "unknown"


def _by_flag(call: ast.Call) -> bool:
    """Whether this is `model.train(flag)`, which a flag may make `eval()`."""
    mode = argument(call, "mode", 0)
    return last(call) == "train" and owner(call) != "" and mode is not None and constant(mode) is not True
