"""A model of a script that the rules ask: names, scopes, bindings, calls and their callers, loops. Nothing is run."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile
from types import UnionType
from typing import Any

from tlcourse.doctor.scripts.nodes import (
    IN_TURN,
    Binding,
    argument,
    bound,
    dotted,
    grouped,
    last,
    owner,
    position,
    runs_over,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.Module | Function | ast.Lambda

# Methods that give back their object, and functions that give back what they are given, or a wrapper of it.
SAME = {"to", "cuda", "cpu", "train", "eval", "half", "float", "requires_grad_", "apply", "squeeze", "view", "flatten"}
WRAPPERS = {"DataParallel", "DistributedDataParallel", "compile"}


@dataclass(eq=False)
class Script:
    """The parsed source: `places` of its lines ("cell 2, line 1"), `errors` by place, and what was `skipped`."""

    tree: ast.Module
    places: list[str]
    errors: dict[str, str]
    skipped: list[str]

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):  # what a docstring says is no code
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value = ast.copy_location(ast.Constant(...), node.value)
        self.text = ast.unparse(self.tree)
        self.all_nodes = list(ast.walk(self.tree))
        self.parents = {child: parent for parent in self.all_nodes for child in ast.iter_child_nodes(parent)}
        # The function, or the module, that each node is in, and its class.
        self.scopes = {node: [node, *self.above(node)][-1] for node in self.all_nodes}
        self.class_of = {inner: node for node in self.nodes(ast.ClassDef) for inner in ast.walk(node)}
        self.classes = {node.name: node for node in self.nodes(ast.ClassDef)}
        self.functions: dict[str, list[Function]] = grouped((node.name, node) for node in self.nodes(Function))
        # What each imported name stands for: `torch.optim` for `optim`.
        self.imports: dict[str, str] = {}
        for node in self.nodes(ast.Import | ast.ImportFrom):
            module = f"{node.module}." if getattr(node, "module", None) else ""
            for alias in node.names:
                short = alias.name if alias.asname or module else alias.name.partition(".")[0]
                self.imports[alias.asname or short] = module + short
        # The bindings in the order of the lines: of each name, `self.model` for example, and those of whole values.
        nodes = sorted(self.nodes(ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For), key=position)
        self.bindings: dict[str, list[Binding]] = grouped((one.name, one) for node in nodes for one in bound(node))
        self.every = [one for node in nodes for one in bound(node) if one.index is None]
        # The calls: all, those in a function or the module without those in functions inside it, those of a function.
        self.calls: list[ast.Call] = sorted(self.nodes(ast.Call), key=position)
        self.inside: dict[ast.AST, list[ast.Call]] = grouped((self.scopes[call], call) for call in self.calls)
        self.callers: dict[ast.AST, list[ast.Call]] = grouped((self.function(call), call) for call in self.calls)

    def place(self, node: ast.AST) -> str:
        """Say where a node is."""
        return self.places[node.lineno - 1]

    def nodes(self, kind: type | UnionType, within: ast.AST | None = None) -> list[Any]:
        """Return the nodes of one kind, in the whole script or within one node."""
        return [node for node in (self.all_nodes if within is None else ast.walk(within)) if isinstance(node, kind)]

    def name(self, node: ast.AST | None) -> str:
        """Return the full name of what is named or called: `torch.optim.Adam` for `optim.Adam(...)`."""
        first, dot, rest = dotted(node).partition(".")
        return self.imports.get(first, first) + dot + rest

    def kind(self, node: ast.AST | None) -> str:
        """Return the last part of the full name: `Adam` for `optim.Adam(...)`."""
        return self.name(node).rpartition(".")[2]

    def named(self, *names: str, within: ast.AST | None = None) -> list[ast.Call]:
        """Return the calls of functions, classes or methods with one of these names."""
        found = self.calls if within is None else self.nodes(ast.Call, within)
        return [call for call in found if self.kind(call) in names]

    def made(self, *names: str) -> list[Binding]:
        """Return the bindings, in order, whose value is what one of these functions or classes makes."""
        return [one for one in self.every if isinstance(one.value, ast.Call) and self.kind(one.value) in names]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, from the inside out, up to and with its function or the module."""
        while not isinstance(node, ast.Module):
            node = self.parents[node]
            yield node
            if isinstance(node, Scope):
                return

    def follows(self, node: ast.AST, other: ast.AST) -> bool:
        """Whether a node stands after another one in the same function."""
        return self.scopes[node] is self.scopes[other] and position(node) > position(other)

    def between(self, first: ast.AST, second: ast.AST, *names: str) -> list[ast.AST]:
        """Return the calls of a function between two of its nodes; given names, where these get a value there."""
        found = [one.at for name in names for one in self.bindings.get(name, ())] if names else self.calls
        return [node for node in found if self.follows(node, first) and self.follows(second, node)]

    def renewed(self, loop: ast.AST, *names: str) -> bool:
        """Whether a loop gives one of these names a value."""
        return any(loop in (b.at, *self.above(b.at)) for name in names for b in self.bindings.get(name, ()))

    def loop(self, node: ast.AST, over: str) -> ast.For | None:
        """Return the loop over "batches" or "epochs" around a node, if there is one."""
        return next((n for n in self.above(node) if isinstance(n, ast.For) and runs_over(n) == over), None)

    def branches(self, node: ast.AST) -> set[tuple[ast.AST, bool]]:
        """Return the conditions and loops that a node is in, with the side of each."""
        pairs = pairwise([node, *self.above(node)])
        pairs = [(child, up) for child, up in pairs if isinstance(up, ast.If | ast.For | ast.IfExp)]
        return {(up, child in (up.orelse if isinstance(up.orelse, list) else [up.orelse])) for child, up in pairs}

    def beside(self, node: ast.AST, other: ast.AST) -> bool:
        """Whether the same loops and conditions of one function decide if two nodes are reached."""
        return self.scopes[node] is self.scopes[other] and self.branches(node) == self.branches(other)

    def chosen(self, node: ast.AST, within: ast.AST | None = None) -> bool:
        """Whether a condition decides if a node is reached, within its function or the node given."""
        kinds = ast.If | ast.IfExp | ast.Match | ast.Try | ast.While
        inner = [up for up in takewhile(lambda up: up is not within, self.above(node)) if isinstance(up, kinds)]
        return any("__name__" not in ast.unparse(getattr(up, "test", up)) for up in inner)

    def function(self, call: ast.Call) -> Function | None:
        """Return the function or method of this file that a call means."""
        own = [(one, self.parents[one]) for one in self.functions.get(last(call), ())]
        if isinstance(call.func, ast.Name):
            return next((one for one, parent in own[::-1] if not isinstance(parent, ast.ClassDef)), None)
        if not isinstance(call.func, ast.Attribute) or (last(call) in SAME and owner(call) != "self"):
            return None
        mine = [one for one, parent in own if owner(call) != "self" or parent is self.class_of.get(call)]
        return mine[0] if len(mine) == 1 and isinstance(self.parents[mine[0]], ast.ClassDef) else None

    def reached(self, scope: ast.AST | None, depth: int = 3) -> list[ast.Call]:
        """Return the calls in a function, and those in the functions of this file that it calls."""
        own = self.inside[scope]
        inner = dict.fromkeys(f for call in own if (f := self.function(call)) is not None and f is not scope)
        return own + [call for f in inner if depth for call in self.reached(f, depth - 1)]

    def trains(self, call: ast.Call) -> bool:
        """Whether a call is a backward pass, or makes some; `train(model, ...)` of another file does."""
        function, known = self.function(call), r"(train|fit)(_?(model|one|epoch|step|loop))*"
        other = function is None and isinstance(call.func, ast.Name) and re.fullmatch(known, call.func.id)
        return bool(other) or "backward" in map(last, [call, *self.reached(function)])

    def given(self, node: ast.expr) -> list[Binding]:
        """Return the bindings that may have given a name its value at this place; an argument is one, too."""
        text, scope = ast.unparse(node), self.scopes[node]
        own = self.bindings.get(text, [])
        if text.startswith("self."):
            return [one for one in own if self.class_of.get(one.at) is self.class_of.get(node)]
        loops = [loop for up in self.above(node) for loop in getattr(up, "generators", ())]
        found = [one for loop in loops for one in bound(loop) if one.name == text]
        for one in [] if found else own[::-1]:
            end = getattr(one.at, "iter", one.at)
            if self.scopes[one.at] is scope and (end.end_lineno, end.end_col_offset) <= position(node):
                found.append(one)
                if self.branches(one.at) <= self.branches(node):
                    break
        while not found and not isinstance(scope, ast.Module):
            names = [arg.arg for arg in self.nodes(ast.arg, scope.args)]
            if text in names and text != "self":
                at = names.index(text) - (names[0] == "self")
                late = dict(zip([arg.arg for arg in scope.args.args][::-1], scope.args.defaults[::-1], strict=False))
                values = [(argument(call, text, at) or late.get(text), call) for call in self.callers[scope]]
                return [Binding(text, value, call) for value, call in values if value is not None]
            scope = self.scopes[self.parents[scope]]
            found = [one for one in own if self.scopes[one.at] is scope]
        return found

    def origins(self, node: ast.expr | None, depth: int = 8) -> list[ast.expr]:
        """Return the expressions that a node may stand for: itself where the file does not say."""
        further: list[ast.expr] = []
        if node is None or depth == 0:
            return [] if node is None else [node]
        if isinstance(node, ast.IfExp):
            further = [node.body, node.orelse]
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in SAME:
                further = [node.func.value]
            elif last(node) in WRAPPERS:
                further = node.args[:1]
            elif (function := self.function(node)) is not None:
                further = self.returned(function)
        elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            for one in self.given(node):
                rows = [] if one.index is None else self.origins(one.value, depth - 1)
                items = [item for row in rows for item in enumerate(getattr(row, "elts", ()))]
                further += [one.value] if one.index is None else [x for i, x in items if one.index in (i, IN_TURN)]
            if isinstance(node, ast.Subscript) and not further:
                further = [one.value for one in self.origins(node.value, depth - 1) if isinstance(one, ast.DictComp)]
        return [one for own in further for one in self.origins(own, depth - 1)] or [node]

    def returned(self, function: Function) -> list[ast.expr]:
        """Return what a function's `return` statements give back."""
        own = [node.value for node in self.nodes(ast.Return, function) if self.scopes[node] is function]
        return [value for value in own if value is not None]
