"""A model of a script that the rules ask: names, scopes, bindings, calls and their callers, loops. Nothing is run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import UnionType
from typing import Any, NamedTuple

from tlcourse.doctor.scripts.nodes import MODELS, argument, dotted, last, owner, position, runs_over

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.Module | Function | ast.Lambda

# Methods that give back their object, and functions that give back what they are given, or a wrapper of it.
SAME = {"to", "cuda", "cpu", "train", "eval", "half", "float", "double", "requires_grad_", "apply"}
WRAPPERS = {"DataParallel", "DistributedDataParallel", "compile", "deepcopy", "unwrap_model"}


class Binding(NamedTuple):
    """A name that gets a value. `exact`: the value itself, not an item of it (then perhaps that at `index`)."""

    name: str
    value: ast.expr
    at: ast.AST
    exact: bool = True
    index: int | None = None


@dataclass(eq=False)
class Script:
    """The parsed source.

    `places` says for each line where a reader finds it ("line 3", or "cell 2, line 1"); `errors` has the place and
    the message of each line that is not Python, `skipped` what was not read.
    """

    tree: ast.Module
    places: list[str]
    errors: dict[str, str]
    skipped: list[str] = field(default_factory=list)

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
        return sorted(self.nodes(ast.Call), key=position)

    @cached_property
    def imports(self) -> dict[str, str]:
        """The full name of what each imported name stands for: `torch.optim` for `optim`."""
        found = {}
        for node in self.nodes(ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = module + (
                    alias.name if alias.asname or module else alias.name.partition(".")[0]
                )
        return found

    @cached_property
    def functions(self) -> dict[str, list[Function]]:
        """The functions and methods that the file defines, by name."""
        found: dict[str, list[Function]] = {}
        for node in self.nodes(Function):
            found.setdefault(node.name, []).append(node)
        return found

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes that the file defines, by name."""
        return {node.name: node for node in self.nodes(ast.ClassDef)}

    @cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """Every binding of each name, `self.model` for example, in the order of the lines."""
        found: list[Binding] = []
        for node in self.nodes(ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr | ast.For | ast.withitem):
            if isinstance(node, ast.Assign):
                found += [one for target in node.targets for one in _unpacked(target, node.value, node)]
            elif isinstance(node, ast.withitem):
                if node.optional_vars is not None:
                    found.append(Binding(ast.unparse(node.optional_vars), node.context_expr, node.context_expr, False))
            elif isinstance(node, ast.For):
                found += [one._replace(exact=False) for one in _unpacked(node.target, node.iter, node)]
            elif node.value is not None:
                found.append(Binding(ast.unparse(node.target), node.value, node, not isinstance(node, ast.AugAssign)))
        by_name: dict[str, list[Binding]] = {}
        for one in sorted(found, key=lambda one: position(one.at)):
            by_name.setdefault(one.name, []).append(one)
        return by_name

    @cached_property
    def callers(self) -> dict[ast.AST, list[ast.Call]]:
        """The calls of each function that the file defines."""
        found: dict[ast.AST, list[ast.Call]] = {}
        for call in self.calls:
            found.setdefault(self.function(call), []).append(call)
        return found

    def nodes(self, kind: type | UnionType, within: ast.AST | None = None) -> list[Any]:
        """Return the nodes of one kind, in the whole script or within one node."""
        return [node for node in ast.walk(within or self.tree) if isinstance(node, kind)]

    def name(self, node: ast.AST | None) -> str:
        """Return the full name of what is named or called: `torch.optim.Adam` for `optim.Adam(...)`."""
        first, dot, rest = dotted(node).partition(".")
        return self.imports.get(first, first) + dot + rest

    def kind(self, node: ast.AST | None) -> str:
        """Return the last part of the full name: `Adam` for `optim.Adam(...)`."""
        return self.name(node).rpartition(".")[2]

    def named(self, *names: str, within: ast.AST | None = None) -> list[ast.Call]:
        """Return the calls of functions, classes or methods with one of these names."""
        found = self.calls if within is None else sorted(self.nodes(ast.Call, within), key=position)
        return [call for call in found if self.kind(call) in names]

    def made(self, *names: str) -> list[Binding]:
        """Return the bindings, in order, whose value is what one of these functions or classes makes."""
        found = [one for own in self.bindings.values() for one in own if one.exact and self.kind(one.value) in names]
        return sorted((one for one in found if isinstance(one.value, ast.Call)), key=lambda one: position(one.at))

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

    def owner_class(self, node: ast.AST) -> ast.ClassDef | None:
        """Return the class that a node is in."""
        while node in self.parents and not isinstance(node, ast.ClassDef):
            node = self.parents[node]
        return node if isinstance(node, ast.ClassDef) else None

    def statement(self, node: ast.AST) -> tuple[ast.stmt, list[ast.stmt]]:
        """Return the whole statement that a node is part of, and the block of statements that this is in."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        blocks = [value for _, value in ast.iter_fields(self.parents[node]) if isinstance(value, list)]
        return node, next(block for block in blocks if node in block)

    def loop(self, node: ast.AST, over: str) -> ast.For | None:
        """Return the loop over "batches" or "epochs" around a node, if there is one."""
        return next((n for n in self.above(node) if isinstance(n, ast.For) and runs_over(n) == over), None)

    def chosen(self, node: ast.AST, within: ast.AST | None = None) -> bool:
        """Whether a condition decides if a node is reached, within its function or the node given."""
        around = list(self.above(node))
        around = around[: around.index(within)] if within in around else around
        return any(isinstance(one, ast.If | ast.IfExp | ast.Match | ast.Try | ast.While) for one in around)

    def function(self, call: ast.Call) -> Function | None:
        """Return the function or method of this file that a call means."""
        own = self.functions.get(last(call), [])
        if isinstance(call.func, ast.Name):
            own = [one for one in own if not isinstance(self.parents[one], ast.ClassDef)]
        elif owner(call) == "self":
            own = [one for one in own if self.parents[one] is self.owner_class(call)]
        elif not isinstance(call.func, ast.Attribute) or MODELS.match(owner(call)) or last(call) in SAME:
            return None
        else:
            own = [one for one in own if isinstance(self.parents[one], ast.ClassDef)]
        return own[-1] if own and (len(own) == 1 or isinstance(call.func, ast.Name)) else None

    def reached(self, scope: ast.AST, depth: int = 3) -> list[ast.Call]:
        """Return the calls in a function, and those in the functions of this file that it calls."""
        own = self.inside(scope)
        inner = {f: None for call in own if (f := self.function(call)) is not None and f is not scope}
        return own + [call for f in inner if depth for call in self.reached(f, depth - 1)]

    def given(self, node: ast.expr) -> list[Binding]:
        """Return the bindings that may have given a name its value at this place; an argument is one, too."""
        text, scope = ast.unparse(node), self.scopes[node]
        own = self.bindings.get(text, [])
        if text.startswith("self."):
            return [one for one in own if self.owner_class(one.at) is self.owner_class(node)]
        here = [one for one in own if self.scopes[one.at] is scope and _end(one.at) <= position(node)]
        found: list[Binding] = []
        for one in reversed(here):
            found.append(one)
            if self._path(one.at) <= self._path(node):
                return found
        while not found and not isinstance(scope, ast.Module):
            if isinstance(scope, Function) and text in (names := [arg.arg for arg in _parameters(scope)]):
                place = names.index(text) - (names[0] == "self")
                values = [(argument(call, text, place), call) for call in self.callers.get(scope, [])]
                return [Binding(text, value, call) for value, call in values if value is not None]
            scope = self.scopes[scope]
            found = [one for one in own if self.scopes[one.at] is scope]
        return found

    def origins(self, node: ast.expr | None, depth: int = 8) -> list[ast.expr]:
        """Return the expressions that a node may stand for: itself where the file does not say."""
        if node is None or depth == 0:
            return [] if node is None else [node]
        further: list[ast.expr] = []
        if isinstance(node, ast.IfExp):
            further = [node.body, node.orelse]
        elif isinstance(node, ast.Call):
            function = self.function(node)
            if isinstance(node.func, ast.Attribute) and node.func.attr in SAME:
                further = [node.func.value]
            elif last(node) in WRAPPERS and node.args:
                further = [node.args[0]]
            elif function is not None:
                further = self.returned(function)
        elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            for one in self.given(node):
                function = self.function(one.value) if isinstance(one.value, ast.Call) and not one.exact else None
                if one.exact:
                    further.append(one.value)
                elif function is not None and one.index is not None:
                    tuples = [value for value in self.returned(function) if isinstance(value, ast.Tuple)]
                    further += [value.elts[one.index] for value in tuples if one.index < len(value.elts)]
        return [one for own in further for one in self.origins(own, depth - 1)] or [node]

    def returned(self, function: Function) -> list[ast.expr]:
        """Return what a function's `return` statements give back."""
        own = [node for node in self.nodes(ast.Return, function) if self.scopes[node] is function]
        return [node.value for node in own if node.value is not None]

    def _path(self, node: ast.AST) -> set[tuple[ast.AST, bool]]:
        """Return the branches and loops that a node is in, with the side of each."""
        around = [node, *self.above(node)]
        pairs = zip(around, around[1:], strict=False)
        return {(up, child in getattr(up, "orelse", [])) for child, up in pairs if isinstance(up, ast.If | ast.For)}


def _unpacked(target: ast.expr, value: ast.expr, at: ast.AST) -> Iterator[Binding]:
    if not isinstance(target, ast.Tuple | ast.List):
        yield Binding(ast.unparse(target), value, at)
        return
    pairs = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
    for index, one in enumerate(target.elts):
        if pairs:
            yield from _unpacked(one, value.elts[index], at)
        else:
            yield Binding(ast.unparse(one), value, at, False, index)


def _parameters(function: Function) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _end(node: ast.AST) -> tuple[int, int]:
    """Return where a binding takes effect: after its value, and for a loop in its body."""
    return position(node.target) if isinstance(node, ast.For) else (node.end_lineno, node.end_col_offset)
