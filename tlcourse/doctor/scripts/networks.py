"""Which networks a script builds, what they are made of, and what it freezes."""

import ast
import re
from typing import NamedTuple

from tlcourse.doctor.scripts.nodes import OPTIMIZERS, argument, constant, last, position
from tlcourse.doctor.scripts.reader import Script

BATCH_NORM = re.compile(
    r"(?i)(resne[xs]?t(?!v2)|efficientnet|densenet|mobilenet|regnet|inception|googlenet|shufflenet|mnasnet|xception|_bn$)"
)
FAMILIES = re.compile(BATCH_NORM.pattern[:-5] + r"|alexnet|vgg\d|squeezenet|^vit_|^swin|convnext|maxvit).*$")
HEADS = re.compile(r"^((?:self\.)?\w+(?:\.\w+)*?)\.(fc|_fc|classifier|head|heads|last_linear)\b")
WALKS = ("parameters", "named_parameters", "children", "named_children", "modules", "named_modules")
NO_LEARNING = {"Identity", "Flatten", "Dropout"}


class Network(NamedTuple):
    """A call that builds a network: its name, whose it is, and whether weights are loaded, where the file says so."""

    call: ast.Call
    name: str
    library: str
    pretrained: bool | None

    @property
    def batch_norm(self) -> bool:
        """Whether it has batch norms."""
        return bool(BATCH_NORM.search(self.name))


class Switch(NamedTuple):
    """A place where parameters of a model are frozen or unfrozen: all of them or some, surely or perhaps."""

    model: ast.expr
    at: ast.AST
    whole: bool
    sure: bool


def network(script: Script, call: ast.expr) -> Network | None:
    """Return the network that a call builds, where it is one of torchvision or timm."""
    if not isinstance(call, ast.Call):
        return None
    full, name = script.name(call), script.kind(call)
    weights, flag = argument(call, "weights"), argument(call, "pretrained", 0)
    if name == "create_model" or full == "torch.hub.load":
        name = constant(argument(call, "model_name", 0) if name == "create_model" else argument(call, "model", 1))
        if not isinstance(name, str) or (full == "torch.hub.load" and not FAMILIES.match(name)):
            return None
        flag, library = argument(call, "pretrained", 1), "torchvision" if full == "torch.hub.load" else "timm"
    elif FAMILIES.match(name) and re.search(r"(^|torchvision\.)models\.\w+$|^torchvision\.models\.", full):
        library = "torchvision"
    elif FAMILIES.match(name) and name == full and (weights is not None or argument(call, "pretrained") is not None):
        library = "torchvision"  # imported with a star, or in a cell that is not here
    else:
        return None
    given = [value for one in (weights, flag) for value in script.origins(one)]
    unsure = any(word.arg is None for word in call.keywords) or any(isinstance(one, ast.Name) for one in given)
    loaded = any(not isinstance(one, ast.Constant) or one.value for one in given)
    return Network(call, str(name), library, None if unsure else loaded)


def networks(script: Script, node: ast.expr | None, depth: int = 4) -> list[Network]:
    """Return the networks that an expression may be, or be a part of, or a class of this file may hold."""
    found: list[Network] = []
    for one in script.origins(node) if depth else []:
        made = network(script, one)
        inner: list[ast.expr] = []
        if made is not None:
            found.append(made)
        elif isinstance(one, ast.Attribute | ast.Subscript):
            inner = [one.value]
        elif isinstance(one, ast.Call) and last(one) == "Sequential":
            inner = script.nodes(ast.Name, one)
        elif isinstance(one, ast.Call) and (own := script.classes.get(last(one))):
            inner = [b.value for all_ in script.bindings.values() for b in all_ if script.owner_class(b.at) is own]
        found += [other for own in inner for other in networks(script, own, depth - 1)]
    return list({other.call: other for other in found}.values())


def all_networks(script: Script) -> list[Network]:
    """Return every network that the file builds."""
    return [made for call in script.calls if (made := network(script, call)) is not None]


def switches(script: Script, on: bool) -> list[Switch]:
    """Return the places where parameters are unfrozen (`on`) or frozen."""
    found = []
    for loop in script.nodes(ast.For):
        walks = [call for call in script.nodes(ast.Call, loop.iter) if last(call) in WALKS]
        model = walks[0].func.value if walks and isinstance(walks[0].func, ast.Attribute) else None
        sets = [node for node in ast.walk(loop) if _sets(node) is on]
        if model is not None and sets:
            plain = walks[0] is loop.iter and not any(script.chosen(node, loop) for node in sets)
            found.append(Switch(model, loop, plain, not script.chosen(loop)))
    for call in script.named("requires_grad_"):
        inside = any(isinstance(up, ast.For) for up in script.above(call))
        if _sets(call) is on and isinstance(call.func, ast.Attribute) and not inside:
            found.append(Switch(call.func.value, call, True, not script.chosen(call)))
    return sorted(found, key=lambda one: position(one.at))


def new_heads(script: Script) -> list[tuple[str, str, ast.AST]]:
    """Return the model, the head and the statement of each assignment that replaces a head by a new one."""
    every = [one for own in script.bindings.values() for one in own if one.exact and isinstance(one.value, ast.Call)]
    heads = [(match, one) for one in every if (match := HEADS.match(one.name))]
    heads = [pair for pair in heads if last(script.origins(pair[1].value)[0]) not in NO_LEARNING | {""}]
    return [(match[1], one.name, one.at) for match, one in sorted(heads, key=lambda pair: position(pair[1].at))]


def heads_alone(script: Script) -> list[Switch]:
    """Return the models of which every optimizer of this file has the head alone, while nothing is frozen."""
    if switches(script, False):
        return []
    walks = [call for one in script.made(*OPTIMIZERS) for call in script.named("parameters", "named_parameters", within=one.value)]
    models = [call.func.value for call in walks if isinstance(call.func, ast.Attribute)]
    if not models or not all(HEADS.fullmatch(ast.unparse(model)) for model in models):
        return []
    return [Switch(model.value, model, False, False) for model in models if isinstance(model, ast.Attribute)]


def _sets(node: ast.AST) -> bool | None:
    """Return what `requires_grad` is set to here; None where it is not set, or not to a literal."""
    if isinstance(node, ast.Assign) and last(node.targets[0]) == "requires_grad":
        return node.value.value if isinstance(node.value, ast.Constant) else None
    if isinstance(node, ast.Call) and last(node) == "requires_grad_":
        value = argument(node, "requires_grad", 0)
        return True if value is None else value.value if isinstance(value, ast.Constant) else None
    return None
