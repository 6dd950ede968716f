"""Which networks a script builds, what they are made of, and what it freezes."""

import ast
import re
from typing import NamedTuple

from tlcourse.doctor.scripts.nodes import MODELS, OPTIMIZERS, argument, constant, dotted, last, owner, position
from tlcourse.doctor.scripts.reader import Script

BATCH_NORM = re.compile(
    r"resne[xs]?t(?!v2)|efficientnet|densenet|mobilenet|regnet|inception|googlenet|shufflenet|mnasnet|_bn$"
)
FAMILIES = re.compile(BATCH_NORM.pattern + r"|^(alexnet|vgg\d|squeezenet|vit_|swin|convnext|maxvit)")
HEADS = re.compile(r"^((?:self\.)?\w+(?:\.\w+)*?)\.(_?fc|classifier|heads?|last_linear)\b")
# No head, or one of layers that were there and of such without parameters.
PLAIN = r"ReLU|Dropout|GELU|Flatten|Identity|Pool"
NOT_NEW = re.compile(rf"([\w.]*\.)?((Identity|Dropout)\(.*|Sequential\((?!.*\b(?!\w*({PLAIN}))[A-Z]\w*\()(.*, )?\*.*)")
WHOLE = re.compile(r"(features|backbone|base|body|trunk|encoder|module)$|" + MODELS.pattern, re.IGNORECASE)
SETS = re.compile(r".*\brequires_grad(?: = |_\((?:requires_grad=)?)(True|False|)\)?")
WALKS = ("parameters", "named_parameters", "children", "named_children", "modules", "named_modules")


class Network(NamedTuple):
    """A call that builds a network, its name, whether timm has it, and whether it loads weights (None: not known)."""

    call: ast.Call
    name: str
    timm: bool
    pretrained: bool | None


class Switch(NamedTuple):
    """A place where parameters of a model are frozen or unfrozen: all of them or some, surely or perhaps."""

    model: ast.expr
    at: ast.AST
    whole: bool
    sure: bool


def network(script: Script, call: ast.expr) -> Network | None:
    """Return the network that a call builds, where it is one of torchvision or timm."""
    full, name = script.name(call), script.kind(call)
    source = script.imports.get(dotted(call).partition(".")[0], "timm")
    if not isinstance(call, ast.Call) or not re.match(r"torch|timm|models\b", source) or script.functions.get(name):
        return None  # of another file, or of this one
    timm, hub = name == "create_model", full == "torch.hub.load"
    if timm or hub:
        name = str(constant(argument(call, "model_name", 0) if timm else argument(call, "model", 1)))
    words = [argument(call, "weights"), argument(call, "pretrained", 1 if timm else None if hub else 0)]
    known = timm or ((hub or "models." in full or any(words)) and FAMILIES.search(name))
    if not known or name != name.lower():
        return None
    given = [value for one in words for value in script.origins(one)]
    loaded = any(not isinstance(one, ast.Constant) or one.value for one in given)
    unsure = any(isinstance(one, ast.Name) for one in given)
    unsure = unsure or any(word.arg in (None, "checkpoint_path") for word in call.keywords)
    return Network(call, name, timm, None if unsure else loaded)


def networks(script: Script, node: ast.expr | None, depth: int = 4) -> list[Network]:
    """Return the networks that an expression may be, or be a part of, or a class of this file may hold."""
    found: list[Network] = []
    for one in script.origins(node) if depth else []:
        made, own, inner = network(script, one), script.classes.get(last(one)), []
        if isinstance(one, ast.Attribute | ast.Subscript):
            inner = [one.value]
        elif isinstance(one, ast.Call) and last(one) == "Sequential":
            inner = script.nodes(ast.Name, one)
        elif isinstance(one, ast.Call) and own:
            inner = [b.value for b in script.every if script.class_of.get(b.at) is own]
        found += [made] if made else [other for own in inner for other in networks(script, own, depth - 1)]
    return list({other.call: other for other in found}.values())


def all_networks(script: Script) -> list[Network]:
    """Return every network that the file builds."""
    return [made for call in script.calls if (made := network(script, call)) is not None]


def switches(script: Script, on: bool) -> list[Switch]:
    """Return the places where parameters are unfrozen (`on`) or frozen."""
    found: dict[ast.AST, Switch] = {}
    nodes = [*script.nodes(ast.Assign), *script.named("requires_grad_")]
    for node in [one for one in nodes if (m := SETS.fullmatch(ast.unparse(one))) and (m[1] != "False") is on]:
        loops = [up for up in script.above(node) if isinstance(up, ast.For)]
        walks = [(up, call) for up in loops for call in script.named(*WALKS, within=up.iter) if owner(call)]
        walks += [(node, node)] if isinstance(node, ast.Call) and not loops else []
        for at, call in walks[::-1]:
            # A condition that is a name that only ever stands for False.
            tests = [up.test for up, other in script.branches(at) if isinstance(up, ast.If) and not other]
            values = [script.origins(test) for test in tests if isinstance(test, ast.Name | ast.Attribute)]
            never = any(all(isinstance(one, ast.Constant) and not one.value for one in own) for own in values)
            plain = at is node or (call is at.iter and not script.chosen(node, at))
            # A network or its whole backbone, as far as its name says: no head, no single stage.
            model, name = call.func.value, owner(call)
            whole = name.count(".") <= name.startswith("self.") or bool(WHOLE.match(last(model)))
            whole = whole and plain and not HEADS.match(name) and (at not in found or found[at].whole)
            if not never:
                found[at] = Switch(model, at, whole, not script.chosen(at))
    return sorted(found.values(), key=lambda one: position(one.at))


def new_heads(script: Script) -> list[tuple[str, str, ast.AST]]:
    """Return the model, the head and the statement of each assignment that replaces a head by one that learns."""
    made = [(match, one, script.origins(one.value)[0]) for one in script.every if (match := HEADS.match(one.name))]
    made = [(match, one, new) for match, one, new in made if isinstance(new, ast.Call) and last(new)]
    found = [(match[1], b.name, b.at) for match, b, new in made if not NOT_NEW.fullmatch(ast.unparse(new))]
    new = [call for call in script.named("reset_classifier") if constant(argument(call, "num_classes", 0)) != 0]
    found += [(owner(call), f"{owner(call)}.get_classifier()", call) for call in new]
    return sorted(found, key=lambda head: position(head[2]))


def heads_alone(script: Script) -> list[Switch]:
    """Return the models of which every optimizer of this file has the head alone."""
    made = [call for one in script.made(*OPTIMIZERS) for call in script.named(*WALKS, within=one.value)]
    models = [call.func.value for call in made if owner(call)]
    alone = all(isinstance(model, ast.Attribute) and HEADS.fullmatch(ast.unparse(model)) for model in models)
    return [Switch(model.value, model, False, False) for model in models] if alone else []


def is_optimizer(script: Script, call: ast.Call) -> bool:
    """Whether a method is called on an optimizer, or on a scaler that steps one."""
    made = script.origins(call.func.value) if isinstance(call.func, ast.Attribute) else []
    named = re.search(r"opt|scaler|^sgd$|^adam", owner(call), re.IGNORECASE)
    return bool(named) or any(script.kind(one) in OPTIMIZERS for one in made)
