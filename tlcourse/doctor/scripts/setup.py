"""What goes wrong before the loop: heads, freezing, optimizers and losses, as a script shows it."""

import ast
import re

from tlcourse.doctor.report import Findings, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import HEADS, WALKS, networks, new_heads, switches
from tlcourse.doctor.scripts.nodes import OPTIMIZERS, argument, last, owner, position, quoted
from tlcourse.doctor.scripts.reader import Script

LOSSES = {"CrossEntropyLoss": "cross-entropy", "cross_entropy": "cross-entropy", "NLLLoss": "NLL", "nll_loss": "NLL"}
LOSSES |= dict.fromkeys(("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"), "BCE with logits")
# What a network must not end in, by loss, and how sure it is that this is a mistake.
ENDS = {
    ("cross-entropy", "softmax"): ("softmax-before-cross-entropy", wrong),
    ("cross-entropy", "logsoftmax"): ("softmax-before-cross-entropy/log", note),
    ("cross-entropy", "relu"): ("softmax-before-cross-entropy/relu", suspicious),
    ("BCE with logits", "sigmoid"): ("softmax-before-cross-entropy/sigmoid", wrong),
    ("NLL", "softmax"): ("loss-wants-log-probabilities", wrong),
}


def outputs_fit_the_loss(script: Script) -> Findings:
    """A loss wants logits or log-probabilities; what a network ends in must not take them away."""
    traced, used, seen = [], set(), False
    for call in script.calls:
        names = [script.kind(call), *(script.kind(one) for one in script.origins(call.func))]
        if loss := next((LOSSES[name] for name in names if name in LOSSES and name not in script.classes), None):
            used.add(loss)
            values = call.args[:1] if script.kind(call) == names[-1] or not names[0].endswith("Loss") else []
            seen = seen or bool(values)
            traced += [(loss, *end) for value in values for end in _ends(script, value)]
    modules = [one.value for one in script.made("Sequential") if HEADS.match(one.name) or not script.classes]
    own = [one for one in script.classes.values() if _forward(one)]
    modules += [ast.Call(ast.Name(one.name), [], []) for one in own if len(own) == 1]
    # Where nothing shows what goes into the loss, the one network of the file goes into the one loss.
    guesses = modules if len(used) == 1 and not seen else []
    guessed = [(*used, *end) for module in guesses for end in _ends_of_module(script, module)]
    for loss, end, node in dict.fromkeys(traced + guessed):
        name, found = ENDS.get((loss, end), ("", note))
        if name:
            found = suspicious if guessed and found is wrong else found
            yield found(name, f"{quoted(node)}, for {loss}", script.place(node))


def heads_are_trained(script: Script) -> Findings:
    """The optimizer holds the new head, which is not frozen with the rest; and what is frozen is pre-trained."""
    heads = new_heads(script)
    for model, _, at in heads:
        new = ast.unparse(getattr(at, "value", at))
        made = [one for one in script.made(*OPTIMIZERS) if script.scopes[one.at] is script.scopes[at]]
        own = [one for one in made if any(f"{n}.".startswith(f"{model}.") for n in _held(script, one.value))]
        own = [] if any(new in _held(script, one.value) for one in own) else own
        again = [b.at for b in script.bindings.get(model, ()) if own and position(b.at) > position(own[-1].at)]
        again = [b for b in again if position(b) < position(at) and b not in script.above(at)]
        again += [c for c in script.named(*OPTIMIZERS) if position(c) > position(at) and f"{model}.p" in ast.unparse(c)]
        later = own and re.search(rf"{re.escape(own[-1].name)}\.(add_param_group|param_groups)", script.text)
        if own and position(own[-1].at) < position(at) and not again and not later:
            evidence = f"`{own[-1].name}` is built at {script.place(own[-1].at)}; then {quoted(at)}"
            yield (suspicious if script.chosen(at) else wrong)("foreign-parameters/head", evidence, script.place(at))
    for switch in switches(script, False):
        own = [(name, at) for model, name, at in heads if model == ast.unparse(switch.model)]
        own = [(name, at) for name, at in own if script.scopes[at] is script.scopes[switch.at]]
        after = [one.at for one in switches(script, True)] + [at for _, at in own]
        after = "unfreeze" in script.text or any(position(at) > position(switch.at) for at in after)
        loaded = [c for c in script.named("load_state_dict") if owner(c) == ast.unparse(switch.model)]
        loaded = [c for c in loaded if own and position(own[-1][1]) < position(c) < position(switch.at)]
        if switch.whole and own and not after and not loaded:
            found, where = (wrong if switch.sure else suspicious), script.place(switch.at)
            evidence = f"`{own[-1][0]}` is set at {script.place(own[-1][1])}, and frozen here with the rest"
            yield found("head-frozen/with-the-rest", evidence, where, head=own[-1][0])
        nets = networks(script, switch.model)
        if nets and all(net.pretrained is False for net in nets) and "load_" not in script.text:
            evidence = f"{quoted(nets[0].call)} at {script.place(nets[0].call)} loads no weights"
            yield (wrong if switch.sure else suspicious)("frozen-random", evidence, script.place(switch.at))


def optimizer_follows_the_model(script: Script) -> Findings:
    """What is unfrozen later must get into the optimizer, which must live longer than an epoch."""
    made = script.made(*OPTIMIZERS)
    for switch in switches(script, True):
        model = ast.unparse(switch.model)
        held = _held(script, made[-1].value) if made else []
        late = made and position(made[-1].at) < position(switch.at)
        late = late and script.scopes[made[-1].at] is script.scopes[switch.at]
        chosen = any("requires_grad" in ast.unparse(one) for one in _given(script, made[-1].value)) if made else False
        apart = all(HEADS.fullmatch(name) and not f"{model}.".startswith(f"{name}.") for name in held)
        same = held and all(name.partition(".")[0] == model.partition(".")[0] for name in held)
        others = [call for call in script.named(*OPTIMIZERS) if made and call is not made[-1].value]
        others = [call for call in others if script.scopes[call] is not script.scopes[switch.at]]
        if late and same and (chosen or apart) and not others and not script.named("add_param_group"):
            evidence = f"`{made[-1].name}` is built at {script.place(made[-1].at)} from what trained then"
            yield wrong("not-in-optimizer/unfrozen-later", evidence, script.place(switch.at))
    for one in made:
        loop = script.loop(one.at, "epochs")
        names = [name.partition(".")[0] for name in _held(script, one.value)]
        fresh = any(loop in script.above(b.at) for name in names for b in script.bindings.get(name, ()))
        plain = last(one.value) == "SGD" and "momentum" not in ast.unparse(one.value)
        if loop is not None and names and not fresh and not plain and not script.chosen(one.at, loop):
            yield suspicious("moments-forgotten", quoted(one.at), script.place(one.at))


def _held(script: Script, value: ast.expr) -> list[str]:
    """Return the models or parts whose `.parameters()` an optimizer is given."""
    return [owner(call) for one in _given(script, value) for call in script.named(*WALKS, within=one)]


def _given(script: Script, value: ast.expr) -> list[ast.expr]:
    """Return what an optimizer is given, also where a name stands for it."""
    return [value, *script.origins(argument(value, "params", 0))]


def _ends(script: Script, value: ast.expr) -> list[tuple[str, ast.expr]]:
    """Return what a value ends in ("softmax"), with the place, for each way that it may have been made."""
    found = []
    for one in script.origins(value):
        if isinstance(one, ast.Call):
            kind, text = script.kind(one).replace("_", ""), ast.unparse(one.func)
            own = [(kind, one)] if any(kind == end for _, end in ENDS) else []
            ends = [b for b in script.every if b.name.startswith(f"{text.removesuffix('.forward')}.")]
            ends = [b.value for b in ends if HEADS.fullmatch(re.sub(r"\[\d\]", "", b.name))]
            modules = script.origins(one.func) + ends
            found += own or [end for module in modules for end in _ends_of_module(script, module)]
    return found


def _ends_of_module(script: Script, module: ast.expr) -> list[tuple[str, ast.expr]]:
    """Return what a module's answers end in: that of its class, its last part, or itself."""
    kind = script.kind(module).lower() if isinstance(module, ast.Call) else ""
    if forward := _forward(script.classes.get(last(module))):
        values = script.returned(forward) if "self.training" not in ast.unparse(forward) else []
        return _ends(script, values[0]) if len(values) == 1 else []
    if kind == "sequential" and module.args:
        pairs = getattr(module.args[-1].args[0], "elts", ()) if last(module.args[-1]) == "OrderedDict" else ()
        return _ends_of_module(script, pairs[-1].elts[-1] if pairs else module.args[-1])
    return [(kind, module)] if any(kind == own for _, own in ENDS) else []


def _forward(own: ast.ClassDef | None) -> ast.FunctionDef | None:
    return next((part for part in getattr(own, "body", []) if getattr(part, "name", "") == "forward"), None)
