"""A script or notebook as a syntax tree that the rules can ask questions; nothing in it is run."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any

Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

OPTIMIZERS = {"SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Lion", "Muon"}
SCHEDULERS = {
    *("ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR"),
    *("ExponentialLR", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR"),
    *("ReduceLROnPlateau", "SequentialLR", "StepLR"),
}
# Random transforms whose names do not say so.
RANDOM = {"AugMix", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianNoise", "JPEG", "MixUp"}
RANDOM |= {"RandAugment", "ScaleJitter", "TrivialAugmentWide"}
LOADER = re.compile(r"loader|\bdl\b|_dl\b|batches|dataloader|\.(train|val|test)\b", re.IGNORECASE)
MODELS = re.compile(r"^(self\.)?(model|net|network|backbone|classifier|cnn|resnet|student|teacher)\w*$", re.IGNORECASE)
MAX_SYNTAX_ERRORS = 5  # lines that are left out before a source is given up


@dataclass(eq=False)
class Script:
    """The parsed source.

    `places` says for each line where a reader finds it ("line 3", or "cell 2, line 1"); `errors` has the place and
    the message of each line that is not Python.
    """

    tree: ast.Module
    source: str
    places: list[str]
    errors: dict[str, str]

    def place(self, node: ast.AST) -> str:
        """Say where a node is."""
        return self.places[node.lineno - 1]

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """Every node's parent."""
        return {child: parent for parent in ast.walk(self.tree) for child in ast.iter_child_nodes(parent)}

    @cached_property
    def scopes(self) -> dict[ast.AST, ast.AST]:
        """The function, or the module, that each node is in."""
        return {node: [node, *self.above(node)][-1] for node in ast.walk(self.tree)}

    @cached_property
    def calls(self) -> list[ast.Call]:
        """Every call, in the order of the lines."""
        return sorted(self.nodes(ast.Call), key=lambda node: (node.lineno, node.col_offset))

    @cached_property
    def assignments(self) -> list[tuple[str, ast.expr, ast.stmt]]:
        """Every `target = value` as target (text), value and statement, in the order of the lines."""
        found = []
        for node in sorted(self.nodes(ast.Assign | ast.AnnAssign), key=lambda node: (node.lineno, node.col_offset)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [(ast.unparse(target), node.value, node) for target in targets if node.value is not None]
        return found

    def nodes(self, kind: type | UnionType, within: ast.AST | None = None) -> list[Any]:
        """Return the nodes of one kind, in the whole script or within one node."""
        return [node for node in ast.walk(within or self.tree) if isinstance(node, kind)]

    def named(self, *names: str) -> list[ast.Call]:
        """Return the calls of functions, classes or methods with one of these names."""
        return [call for call in self.calls if last(call) in names]

    def made(self, *names: str) -> list[tuple[str, ast.expr, ast.stmt]]:
        """Return the assignments whose value is what one of these functions or classes makes."""
        return [one for one in self.assignments if last(one[1]) in names]

    def inside(self, scope: ast.AST) -> list[ast.Call]:
        """Return the calls in one function or in the module, without those in functions inside it."""
        return [call for call in self.calls if self.scopes[call] is scope]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, from the inside out, up to and with its function or the module."""
        while not isinstance(node, ast.Module):
            node = self.parents[node]
            yield node
            if isinstance(node, Scope):
                return

    def statement(self, node: ast.AST) -> tuple[ast.stmt, list[ast.stmt]]:
        """Return the whole statement that a node is part of, and the block of statements that this is in."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        blocks = [value for _, value in ast.iter_fields(self.parents[node]) if isinstance(value, list)]
        return node, next(block for block in blocks if node in block)

    def loop(self, node: ast.AST, over: str) -> ast.For | None:
        """Return the loop over "batches" or "epochs" around a node, if there is one."""
        return next((n for n in self.above(node) if isinstance(n, ast.For) and _runs_over(n) == over), None)


def read_script(file: Path) -> Script:
    """Read a `.py` or `.ipynb` file; a notebook's cells become one script, its magics empty lines.

    Raises:
        ValueError: it cannot be read as text or as a notebook.
    """
    notebook = file.suffix == ".ipynb"
    try:
        text = file.read_text(encoding="utf-8")
        lines = _notebook_lines(json.loads(text)) if notebook else list(enumerate(text.splitlines(), start=1))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as a {'notebook' if notebook else 'script'}: {error}.") from error
    return parse([line for _, line in lines], [place if notebook else f"line {place}" for place, _ in lines])


def parse(lines: list[str], places: list[str]) -> Script:
    """Parse a source; lines that are not Python go into `errors` and are left out, so that the rest can be read."""
    lines, source, errors = list(lines), "\n".join(lines), {}
    while True:
        try:
            return Script(ast.parse("\n".join(lines)), source, places, errors)
        except SyntaxError as error:
            number = min(error.lineno or 1, len(lines)) - 1
            line = lines[number]
            if places[number] in errors or len(errors) == MAX_SYNTAX_ERRORS:
                return Script(ast.parse(""), source, places, errors)
            errors[places[number]] = f"{error.msg}: `{line.strip()}`"
            lines[number] = line[: len(line) - len(line.lstrip())] + "pass"


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
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


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


def _runs_over(loop: ast.For) -> str:
    """Tell "epochs" from "batches": those run over a loader, or have images and labels as variables."""
    target, iterated = ast.unparse(loop.target).lower(), ast.unparse(loop.iter)
    if "epoch" in target or re.search(r"\brange\(.*epoch", iterated):
        return "epochs"
    labelled = isinstance(loop.target, ast.Tuple) and re.search(r"label|target|\by\b|\byb\b", target)
    return "batches" if not iterated.startswith("range(") and (labelled or LOADER.search(iterated)) else ""


def _notebook_lines(notebook: dict) -> list[tuple[str, str]]:
    """Return every line of the code cells with its place; cells are counted from 1, those of text included."""
    found = []
    for number, cell in enumerate(notebook["cells"], start=1):
        code = "".join(cell["source"])
        if cell["cell_type"] == "code" and not code.startswith("%%"):
            for position, line in enumerate(code.splitlines(), start=1):
                line = "pass" if line.startswith("?") else re.sub(r"^(\s*)[%!].*", r"\1pass", line)
                found.append((f"cell {number}, line {position}", line))
    return found
