"""What single pieces of a syntax tree say: names, arguments, values, and what a loop runs over."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

OPTIMIZERS = {"SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Lion", "Muon"}
SCHEDULERS = {"CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LambdaLR", "LinearLR"}
SCHEDULERS |= {"MultiStepLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "SequentialLR", "StepLR"}
# Random transforms whose names do not say so.
RANDOM = {"AugMix", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianNoise", "JPEG", "MixUp"}
RANDOM |= {"RandAugment", "ScaleJitter", "TrivialAugmentWide"}
LOADER = re.compile(r"loader|\bdl\b|_dl\b|batches|\.(train|val|test)\b", re.IGNORECASE)
IN_TURN, UNKNOWN = -1, -2  # indices: of a loop's variable, which stands for every item, and where nobody can tell
position = attrgetter("lineno", "col_offset")  # where a node begins
MODELS = re.compile(r"^(self\.)?(model|net|network|backbone|classifier|cnn|resnet|student|teacher)\w*$", re.IGNORECASE)


class Binding(NamedTuple):
    """A name that gets a value: that itself, or the item of it at `index`."""

    name: str
    value: ast.expr
    at: ast.AST
    index: int | None = None


def dotted(node: ast.AST | None) -> str:
    """Write a name with its dots, `nn.Linear`; a call has the name of what is called, anything else has none."""
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def last(node: ast.AST | None) -> str:
    """Return the last part of a name: `Linear` of `nn.Linear`."""
    return dotted(node).rpartition(".")[2]


def owner(call: ast.Call) -> str:
    """Return what a method is called on: `model` of `model.train()`."""
    function = getattr(call, "func", None)
    return ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""


def argument(call: ast.expr, name: str, position: int | None = None) -> ast.expr | None:
    """Return a call's argument by its name, or by its position; None for what is no call."""
    if not isinstance(call, ast.Call):
        return None
    by_position = call.args[position] if position is not None and len(call.args) > position else None
    return next((word.value for word in call.keywords if word.arg == name), by_position)


def constant(node: ast.AST | None) -> object:
    """Return a literal's value; None for anything else."""
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, SyntaxError, TypeError):
        return None


def quoted(node: ast.AST) -> str:
    """Return a piece of code between backticks, at most 90 characters of it."""
    return f"`{ast.unparse(node)[:90]}`"


def is_random(transform: str) -> bool:
    """Whether a transform with this class name draws random numbers."""
    return transform.startswith("Random") or transform in RANDOM


def runs_over(loop: ast.For) -> str:
    """Tell "epochs" from "batches": those run over a loader, or have images and labels as variables."""
    target, iterated = ast.unparse(loop.target).lower(), ast.unparse(loop.iter)
    if re.search("epoch(?!s)", target) or re.search(r"\brange\(.*epoch", iterated, re.IGNORECASE):
        return "epochs"
    labelled = isinstance(loop.target, ast.Tuple) and re.search(r"label|target|\by\b|\byb\b", target)
    return "batches" if not iterated.startswith("range(") and (labelled or LOADER.search(iterated)) else ""


def grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """Return the values of each key, in a dictionary that has an empty list for any other."""
    found = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def bound(node: ast.AST) -> Iterator[Binding]:
    """Yield the bindings of an assignment, of a loop, or of a comprehension's loop."""
    if isinstance(node, ast.For | ast.comprehension):
        yield from _unpacked(node.target, node.iter, node if isinstance(node, ast.For) else node.target, IN_TURN)
    for target in getattr(node, "targets", None) or [node.target]:
        if getattr(node, "value", None) is not None:
            yield from _unpacked(target, node.value, node, UNKNOWN if isinstance(node, ast.AugAssign) else None)


def _unpacked(target: ast.expr, value: ast.expr, at: ast.AST, index: int | None) -> Iterator[Binding]:
    """Yield each name of a target with its value, or with the value that it is an item of."""
    if not isinstance(target, ast.Tuple | ast.List):
        yield Binding(ast.unparse(target), value, at, index)
    parts, values = getattr(target, "elts", []), getattr(value, "elts", []) if index is None else []
    for i, one in enumerate(parts):
        own = (values[i], at, None) if len(values) == len(parts) else (value, at, i if index is None else UNKNOWN)
        yield from _unpacked(one, *own)
