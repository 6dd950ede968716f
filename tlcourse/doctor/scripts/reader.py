"""A script or notebook as a tree that can be asked questions; nothing of it is run."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

OPTIMIZERS = {"SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Lion", "Muon"}
SCHEDULERS = {
    *("ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR"),
    *("ExponentialLR", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR"),
    *("ReduceLROnPlateau", "SequentialLR", "StepLR"),
}
LOADER = re.compile(r"loader|\bdl\b|_dl\b|batches|dataloader|\.(train|val|test)\b", re.IGNORECASE)
MOST_BROKEN = 5  # lines that are left out before a source is given up
MODELS = re.compile(r"^(self\.)?(model|net|network|backbone|classifier|cnn|resnet|student|teacher)\w*$", re.IGNORECASE)
# Transforms of torchvision that are random, beside those whose name starts with Random.
RANDOM = {"AugMix", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianNoise", "JPEG", "MixUp"}
RANDOM |= {"RandAugment", "ScaleJitter", "TrivialAugmentWide"}


@dataclass(eq=False)
class Script:
    """The parsed source.

    `places` gives for each line what a reader knows it as, a line or a cell and its line; `broken` the lines that are
    no Python.
    """

    tree: ast.Module
    source: str
    places: list[str]
    broken: list[str] = field(default_factory=list)

    def place(self, node: ast.AST) -> str:
        """Say where a node stands."""
        return self.places[node.lineno - 1]

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """Every node's parent."""
        return {child: parent for parent in ast.walk(self.tree) for child in ast.iter_child_nodes(parent)}

    @cached_property
    def calls(self) -> list[ast.Call]:
        """Every call, in the order of the lines."""
        return in_order(node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, from the inside out, up to and with its function or the module."""
        while not isinstance(node, ast.Module):
            node = self.parents[node]
            yield node
            if isinstance(node, Scope):
                return

    def scope(self, node: ast.AST) -> ast.AST:
        """Return the function, or the module, that a node is in."""
        if node not in self._scopes:
            self._scopes[node] = [node, *self.above(node)][-1]
        return self._scopes[node]

    @cached_property
    def _scopes(self) -> dict[ast.AST, ast.AST]:
        return {}

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the whole statement that a node is part of."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """Return the list of statements that a statement is one of."""
        parent = self.parents[statement]
        lists = [value for _, value in ast.iter_fields(parent) if isinstance(value, list) and statement in value]
        return lists[0]

    def inside(self, scope: ast.AST) -> list[ast.Call]:
        """Return the calls in one function or in the module, those of functions inside it left out."""
        return [call for call in self.calls if self.scope(call) is scope]

    def assigned(self, name: str, before: ast.AST) -> ast.expr | None:
        """Return what a name was given last before a node, in the node's scope or else in the module."""
        for scope in dict.fromkeys((self.scope(before), self.tree)):
            values = [
                value
                for target, value, at in self.assignments
                if target == name
                and self.scope(at) is scope
                and (at.lineno < before.lineno or scope is not self.scope(before))
            ]
            if values:
                return values[-1]
        return None

    @cached_property
    def assignments(self) -> list[tuple[str, ast.expr, ast.stmt]]:
        """Every `target = value` with the target as text, in the order of the lines."""
        found = []
        for node in in_order(n for n in ast.walk(self.tree) if isinstance(n, ast.Assign | ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if node.value is not None:
                    found.append((ast.unparse(target), node.value, node))
        return found

    def batch_loop(self, node: ast.AST) -> ast.For | None:
        """Return the loop over batches around a node, if there is one."""
        return next((one for one in self.above(node) if isinstance(one, ast.For) and over_batches(one)), None)

    def epoch_loop(self, node: ast.AST) -> ast.For | None:
        """Return the loop over epochs around a node, if there is one."""
        return next((one for one in self.above(node) if isinstance(one, ast.For) and over_epochs(one)), None)


def read_script(file: Path) -> Script:
    """Read a `.py` or `.ipynb` file; a notebook's cells become one script, its magics empty lines.

    Raises:
        ValueError: it cannot be read as text or as a notebook.
    """
    try:
        text = file.read_text(encoding="utf-8")
        cells = _cells(json.loads(text)) if file.suffix == ".ipynb" else None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} cannot be read as a {'notebook' if file.suffix == '.ipynb' else 'script'}: {error}."
        ) from error
    if cells is None:
        places = [f"line {number}" for number in range(1, len(text.splitlines()) + 2)]
        return parse(text, places)
    lines, places = [], []
    for number, cell in cells:
        for position, line in enumerate(cell.splitlines(), start=1):
            lines.append("pass" if re.match(r"[%!?]", line) else re.sub(r"^(\s+)[%!].*", r"\1pass", line))
            places.append(f"cell {number}, line {position}")
    return parse("\n".join(lines), [*places, "the end"])


def parse(source: str, places: list[str]) -> Script:
    """Parse a source; lines that are no Python are noted in `broken` and left out, so that the rest can be read."""
    lines, broken = source.splitlines(), {}
    while True:
        try:
            return Script(ast.parse("\n".join(lines)), source, places, list(broken.values()))
        except SyntaxError as error:
            number = min(error.lineno or 1, len(lines))
            line = lines[number - 1]
            if number in broken or len(broken) == MOST_BROKEN:
                return Script(ast.parse(""), source, places, list(broken.values()))
            broken[number] = f"{places[number - 1]}: {error.msg}: `{line.strip()}`"
            lines[number - 1] = line[: len(line) - len(line.lstrip())] + "pass"


def dotted(node: ast.AST) -> str:
    """Write a name with its dots, `nn.Linear`; empty for anything else."""
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else node.attr
    return ""


def last(node: ast.AST) -> str:
    """Return the last part of a name: `Linear` of `nn.Linear`."""
    return dotted(node).rpartition(".")[2]


def receiver(call: ast.Call) -> str:
    """Return what a method is called on: `model` of `model.train()`."""
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """Return a call's argument by its name, or by its position."""
    named = next((word.value for word in call.keywords if word.arg == name), None)
    if named is None and position is not None and len(call.args) > position:
        return call.args[position]
    return named


def constant(node: ast.AST | None) -> object:
    """Return a literal's value; None for anything else."""
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, SyntaxError, TypeError):
        return None


def over_epochs(loop: ast.For) -> bool:
    """Whether a loop runs over epochs."""
    return "epoch" in ast.unparse(loop.target).lower() or bool(re.search(r"\brange\(.*epoch", ast.unparse(loop.iter)))


def over_batches(loop: ast.For) -> bool:
    """Whether a loop runs over batches: over a loader, or with images and labels as its variables."""
    if over_epochs(loop) or re.match(r"range\(", ast.unparse(loop.iter)):
        return False
    names = ast.unparse(loop.target).lower()
    pair = isinstance(loop.target, ast.Tuple) and bool(re.search(r"label|target|\by\b|\byb\b", names))
    return pair or bool(LOADER.search(ast.unparse(loop.iter)))


def in_order(nodes: Iterator[ast.AST]) -> list:
    """Sort nodes by where they stand."""
    return sorted(nodes, key=lambda node: (node.lineno, node.col_offset))


def _cells(notebook: dict) -> list[tuple[int, str]]:
    """Return the code cells with their numbers, counted from 1 over all cells."""
    cells = [(number, cell) for number, cell in enumerate(notebook["cells"], start=1) if cell["cell_type"] == "code"]
    texts = [(number, cell["source"]) for number, cell in cells]
    whole = [(number, source if isinstance(source, str) else "".join(source)) for number, source in texts]
    return [(number, "" if source.startswith("%%") else source) for number, source in whole]
