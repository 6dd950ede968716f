"""What goes wrong before the loop: heads, freezing, optimizers and losses, as a script shows it."""

import ast
import re

from tlcourse.doctor.report import Findings, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import HEADS, WALKS, networks, new_heads, switches
from tlcourse.doctor.scripts.nodes import OPTIMIZERS, argument, last, owner, position, quoted, runs_over
from tlcourse.doctor.scripts.reader import Script

LOSSES = {"CrossEntropyLoss": "cross-entropy", "cross_entropy": "cross-entropy", "NLLLoss": "NLL", "nll_loss": "NLL"}
LOSSES |= dict.fromkeys(("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"), "BCE with logits")
# What a network must not end in, by loss, and how sure it is that this is a mistake.
ENDS = {
    ("cross-entropy", "softmax"): ("softmax-before-cross-entropy", wrong),
    ("cross-entropy", "logsoftmax"): ("softmax-before-cross-entropy/log", note),
    ("cross-entropy", "sigmoid"): ("softmax-before-cross-entropy/sigmoid-first", suspicious),
    ("cross-entropy", "relu"): ("softmax-before-cross-entropy/relu", suspicious),
    ("BCE with logits", "sigmoid"): ("softmax-before-cross-entropy/sigmoid", wrong),
    ("NLL", "softmax"): ("loss-wants-log-probabilities", wrong),
}


def outputs_fit_the_loss(script: Script) -> Findings:
    """A loss wants logits or log-probabilities; what a network ends in must not take them away."""
    # What a name stands for in each of several cases must be the same loss.
    known = [({LOSSES.get(script.kind(one)) for one in script.origins(call.func)}, call) for call in script.calls]
    losses = [(loss, call) for names, call in known for loss in names if loss and len(names) == 1]
    ends = [(loss, *end, wrong) for loss, call in losses for value in call.args[:1] for end in _ends(script, value)]
    if len({loss for loss, _ in losses}) == 1 and not any(call.args for _, call in losses):
        # Nothing shows what goes into the loss: the one network of the file does.
        own = [script.parents[forward] for forward in script.functions["forward"]]
        modules = [one.value for one in script.made("Sequential") if HEADS.match(one.name) or not script.classes]
        modules += [ast.Call(ast.Name(one.name), [], []) for one in own if len(own) == 1]
        ends = [(losses[0][0], *end, suspicious) for one in modules for end in _ends(script, one)]
    for loss, end, node, found in dict.fromkeys(ends):
        name, worst = ENDS.get((loss, end), ("", None))
        if name:
            yield (found if worst is wrong else worst)(name, f"{quoted(node)}, for {loss}", script.place(node))


def _ends(script: Script, value: ast.expr) -> list[tuple[str, ast.expr]]:
    """Return what a value, or a module's answers, end in ("softmax"), with the place, in each way it may be made."""
    found, origins = [], script.origins(value)
    for one in [one for one in origins if isinstance(one, ast.Call)]:
        kind, parts = script.kind(one).replace("_", "").lower(), []
        forward = [f for f in script.functions["forward"] if script.parents[f] is script.classes.get(last(one))]
        if any(kind == end for _, end in ENDS):
            found += [(kind, one)] if kind != "relu" or len(origins) == 1 else []  # one of a loop's is not the last
        elif forward:
            answers = script.returned(forward[0])
            parts = answers if len(answers) == 1 and "self.training" not in ast.unparse(forward[0]) else []
        elif kind == "sequential":
            parts = one.args[-1:]
            if parts and last(parts[0]) == "OrderedDict":
                parts = [pair.elts[-1] for pair in getattr(parts[0].args[0], "elts", ())[-1:]]
        else:  # what is called ends in its head
            prefix = f"{ast.unparse(one.func).removesuffix('.forward')}."
            own = [b for b in script.every if b.name.startswith(prefix)]
            heads = [b.value for b in own if HEADS.fullmatch(re.sub(r"\[\d\]", "", b.name))]
            called = script.origins(one.func)
            parts = [*heads, *(called if len(called) == 1 else [])]  # each of a list's modules in turn is no end
        found += [end for part in parts for end in _ends(script, part)]
    return found


def optimizer_has_the_head(script: Script) -> Findings:
    """A new head is there before the optimizer is built."""
    added = re.search(r"add_param_group|\['params'\]", script.text)
    for model, _, at in [] if added else new_heads(script):
        made = [(call, _held(script, call)) for call in script.named(*OPTIMIZERS)]
        made = [(call, held) for call, held in made if any(f"{name}.".startswith(f"{model}.") for name in held)]
        new = ast.unparse(getattr(at, "value", at))
        before = [call for call, held in made if script.follows(at, call) and new not in held]
        if before and len(before) == len(made) and not script.between(before[-1], at, model):
            evidence = f"{quoted(before[-1])} stands at {script.place(before[-1])}; then {quoted(at)}"
            yield (suspicious if script.chosen(at) else wrong)("foreign-parameters/head", evidence, script.place(at))


def frozen_parts_are_right(script: Script) -> Findings:
    """A new head is not frozen with the rest, and what is frozen is pre-trained."""
    for switch in switches(script, False):
        found, where, model = (wrong if switch.sure else suspicious), script.place(switch.at), ast.unparse(switch.model)
        heads = [(name, at) for own, name, at in new_heads(script) if own == model]
        before = [(name, at) for name, at in heads if script.follows(switch.at, at)]
        later = [*(one.at for one in switches(script, True)), *(at for _, at in heads)]
        if switch.whole and before and not any(position(at) > position(switch.at) for at in later):
            name, at = before[-1]
            loaded = [call for call in script.between(at, switch.at) if last(call) == "load_state_dict"]
            if not any(owner(call) == model for call in loaded):
                evidence = f"`{name}` is set at {script.place(at)}, and frozen here with the rest"
                yield found("head-frozen/with-the-rest", evidence, where, head=name)
        nets = networks(script, switch.model)
        part = switch.at in script.class_of and not script.named("backward", "fit")
        if nets and all(net.pretrained is False for net in nets) and "load_" not in script.text and not part:
            call = nets[0].call
            yield found("frozen-random", f"{quoted(call)} at {script.place(call)} loads no weights", where)


def optimizer_follows_the_model(script: Script) -> Findings:
    """What is unfrozen later must get into the optimizer."""
    made = script.made(*OPTIMIZERS)
    for switch in switches(script, True) if made and not script.named("add_param_group") else []:
        optimizer, model = made[-1], ast.unparse(switch.model)
        held, given = _held(script, optimizer.value), script.origins(argument(optimizer.value, "params", 0))
        filtered = any("requires_grad" in ast.unparse(one) for one in [optimizer.value, *given])
        head_alone = all(HEADS.fullmatch(name) and not f"{model}.".startswith(f"{name}.") for name in held)
        same = {name.partition(".")[0] for name in held} == {model.partition(".")[0]}
        again = any(script.scopes[call] is not script.scopes[switch.at] for call in script.named(*OPTIMIZERS))
        if script.follows(switch.at, optimizer.at) and same and (filtered or head_alone) and not again:
            evidence = f"`{optimizer.name}` is built at {script.place(optimizer.at)} from what trained then"
            yield wrong("not-in-optimizer/unfrozen-later", evidence, script.place(switch.at))


def optimizer_outlives_an_epoch(script: Script) -> Findings:
    """An optimizer that is built in each epoch forgets its moments."""
    for one in script.made(*OPTIMIZERS):
        loop = script.loop(one.at, "epochs")
        plain = last(one.value) == "SGD" and "momentum" not in ast.unparse(one.value)
        phases = [other for other in script.nodes(ast.For, loop) if runs_over(other) == "epochs" and other is not loop]
        names = [name.partition(".")[0] for name in _held(script, one.value)]
        meant = plain or phases or script.chosen(one.at, loop)
        if loop and names and not meant and not script.renewed(loop, *names):
            yield suspicious("moments-forgotten", quoted(one.at), script.place(one.at))


def _held(script: Script, value: ast.expr) -> list[str]:
    """Return the models or parts whose `.parameters()` an optimizer is given, also where a name stands for them."""
    given = [value, *script.origins(argument(value, "params", 0))]
    return [owner(call) for one in given for call in script.named(*WALKS, within=one)]
