"""What goes wrong before the loop: heads, freezing, optimizers and losses, as a script shows it."""

import ast
from itertools import pairwise

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import HEADS, networks, new_heads, switches
from tlcourse.doctor.scripts.nodes import OPTIMIZERS, last, owner, position, quoted
from tlcourse.doctor.scripts.reader import Script

LOSSES = {
    **dict.fromkeys(("CrossEntropyLoss", "cross_entropy"), "cross-entropy"),
    **dict.fromkeys(("NLLLoss", "nll_loss"), "NLL"),
    **dict.fromkeys(("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"), "BCE with logits"),
}
# What a network must not end in, by loss: the finding, and whether the training suffers.
ENDS = {
    ("cross-entropy", "softmax"): ("softmax-before-cross-entropy", True),
    ("cross-entropy", "logsoftmax"): ("softmax-before-cross-entropy/log", False),
    ("cross-entropy", "relu"): ("softmax-before-cross-entropy/relu", True),
    ("BCE with logits", "sigmoid"): ("softmax-before-cross-entropy/sigmoid", True),
    ("NLL", "softmax"): ("loss-wants-log-probabilities", True),
}


def outputs_fit_the_loss(script: Script) -> Findings:
    """A loss wants logits or log-probabilities; what a network ends in must not take them away."""
    traced, used = [], []
    for call in script.calls:
        names = [last(one) for one in ([call] if isinstance(call.func, ast.Attribute) else []) + _origins(script, call)]
        loss = next((LOSSES[name] for name in [script.kind(call), *names] if name in LOSSES), None)
        if loss is None:
            continue
        used.append(loss)
        if call.args and not script.kind(call).endswith("Loss"):
            traced += [(loss, end, node) for end, node in _ends(script, call.args[0])]
    untraced = []
    if len(set(used)) == 1 and not traced:
        forwards = [f for f in script.functions.get("forward", []) if isinstance(script.parents[f], ast.ClassDef)]
        untraced = [(used[0], *end) for f in forwards if len(forwards) == 1 for end in _ends_of_forward(script, f)]
        heads = [one for one in script.made("Sequential") if HEADS.match(one.name) or not script.classes]
        untraced += [(used[0], *end) for one in heads for end in _ends_of_module(script, one.value)]
    for loss, end, node in dict.fromkeys(traced + untraced):
        name, harmful = ENDS.get((loss, end), ("", False))
        if name:
            found = note if not harmful else wrong if (loss, end, node) in traced and end != "relu" else suspicious
            yield found(name, f"{quoted(node)}, for {loss}", script.place(node))


def optimizer_after_head(script: Script) -> Findings:
    """An optimizer built before the head was replaced holds the old head."""
    for model, _, at in new_heads(script):
        scope = script.scopes[at]
        made = [one for one in script.made(*OPTIMIZERS) if script.scopes[one.at] is scope]
        own = [one for one in made if any(n == model or n.startswith(f"{model}.") for n in _held(script, one.value))]
        again = [b.at for b in script.bindings.get(model, ()) if own and position(own[-1].at) < position(b.at)]
        if own and position(own[-1].at) < position(at) and not any(position(b) < position(at) for b in again):
            evidence = f"`{own[-1].name}` is built at {script.place(own[-1].at)}; then {quoted(at)}"
            yield (suspicious if script.chosen(at) else wrong)("foreign-parameters/head", evidence, script.place(at))


def head_frozen_with_the_rest(script: Script) -> Findings:
    """Freezing everything after the head was replaced freezes the new head too."""
    on = switches(script, True)
    for switch in switches(script, False):
        model, scope = ast.unparse(switch.model), script.scopes[switch.at]
        heads = [(name, at) for own, name, at in new_heads(script) if own == model and script.scopes[at] is scope]
        before = [(name, at) for name, at in heads if position(at) < position(switch.at)]
        later = len(before) < len(heads) or any(position(one.at) > position(switch.at) for one in on)
        later = later or any("unfreeze" in last(call) for call in script.calls)
        if switch.whole and before and not later:
            name, at = before[-1]
            evidence = f"`{name}` is set at {script.place(at)}, and frozen here with the rest"
            yield (wrong if switch.sure else suspicious)("head-frozen/with-the-rest", evidence, script.place(switch.at))


def frozen_weights_are_pretrained(script: Script) -> Findings:
    """A frozen network with random weights gives random features."""
    if any("load" in last(call) and "load" != last(call) for call in script.calls if "data" not in last(call).lower()):
        return
    for switch in switches(script, False):
        nets = networks(script, switch.model)
        if nets and all(net.pretrained is False for net in nets):
            evidence = f"{quoted(nets[0].call)} at {script.place(nets[0].call)} loads no weights"
            yield (wrong if switch.sure else suspicious)("frozen-random", evidence, script.place(switch.at))


def optimizer_follows_unfreezing(script: Script) -> Findings:
    """What is unfrozen after the optimizer was built from what trained then is in no optimizer."""
    made = script.made(*OPTIMIZERS)
    for switch in switches(script, True):
        model = ast.unparse(switch.model)
        before = [one for one in made if position(one.at) < position(switch.at)]
        before = [one for one in before if script.scopes[one.at] is script.scopes[switch.at]]
        if not before or len(before) < len(made) or script.named("add_param_group"):
            continue
        value = before[-1].value
        filtered = any(last(node) == "requires_grad" for node in ast.walk(value) if isinstance(node, ast.Attribute))
        held = _held(script, value)
        apart = all(HEADS.fullmatch(name) for name in held) and not any(f"{name}.".startswith(f"{model}.") or
                    f"{model}.".startswith(f"{name}.") and HEADS.fullmatch(model) for name in held)
        root = model.partition(".")[0]
        if held and all(name.partition(".")[0] == root for name in held) and (filtered or apart):
            evidence = f"`{before[-1].name}` is built at {script.place(before[-1].at)} from what trained then"
            yield wrong("not-in-optimizer/unfrozen-later", evidence, script.place(switch.at))


def optimizer_lives_on(script: Script) -> Findings:
    """A new optimizer forgets the moments of what was already training."""
    made = script.made(*OPTIMIZERS)
    for one in made:
        loop = script.loop(one.at, "epochs")
        held = [name.partition(".")[0] for name in _held(script, one.value)]
        fresh = any(loop in script.above(b.at) for name in held for b in script.bindings.get(name, ()) if loop)
        plain = last(one.value) == "SGD" and "momentum" not in ast.unparse(one.value)
        if loop is not None and not fresh and not plain and not script.chosen(one.at, loop):
            yield suspicious("moments-forgotten/each-epoch", quoted(one.at), script.place(one.at))
    if not switches(script, True):
        return
    held = [(one, {name for name in _held(script, one.value) if "." in name}) for one in made if last(one.value) != "SGD"]
    for (first, before), (second, later) in pairwise(held):
        if before & later and script.scopes[first.at] is script.scopes[second.at]:
            shared = listed(sorted(before & later))
            evidence = f"`{second.name}` holds {shared}, as does the optimizer of {script.place(first.at)}"
            yield note("moments-forgotten", evidence, script.place(second.at))


def _held(script: Script, value: ast.expr) -> list[str]:
    """Return the models or parts whose `.parameters()` an optimizer is given."""
    return [owner(call) for call in script.named("parameters", "named_parameters", within=value)]


def _origins(script: Script, call: ast.Call) -> list[ast.expr]:
    return script.origins(call.func) if not isinstance(call.func, ast.Call) else [call.func]


def _ends(script: Script, value: ast.expr) -> list[tuple[str, ast.expr]]:
    """Return what a value ends in ("softmax"), with the place, for each way that it may have been made."""
    found = []
    for one in script.origins(value):
        if not isinstance(one, ast.Call):
            continue
        kind = script.kind(one).replace("_", "").lower()
        if kind in ("softmax", "logsoftmax", "relu", "sigmoid"):
            found.append((kind, one))
        for module in _origins(script, one):
            own = script.classes.get(last(module)) if isinstance(module, ast.Call) else None
            forwards = [f for f in script.functions.get("forward", []) if own is not None and script.parents[f] is own]
            found += [end for f in forwards for end in _ends_of_forward(script, f)]
            found += _ends_of_module(script, module)
        text = ast.unparse(one.func)
        parts = [b for own in script.bindings.values() for b in own if b.exact and b.name.startswith(f"{text}.")]
        found += [end for b in parts if HEADS.fullmatch(b.name) for end in _ends_of_module(script, b.value)]
    return found


def _ends_of_forward(script: Script, forward: ast.FunctionDef) -> list[tuple[str, ast.expr]]:
    values = script.returned(forward)
    return _ends(script, values[0]) if len(values) == 1 and "self.training" not in ast.unparse(forward) else []


def _ends_of_module(script: Script, module: ast.expr) -> list[tuple[str, ast.expr]]:
    if last(module) == "Sequential" and isinstance(module, ast.Call) and module.args:
        return _ends_of_module(script, module.args[-1])
    kind = script.kind(module).lower() if isinstance(module, ast.Call) else ""
    return [(kind, module)] if kind in ("softmax", "logsoftmax", "relu", "sigmoid") else []
