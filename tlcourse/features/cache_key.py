"""A key for everything that decides what a network computes from images, so that the cache never gives a stale result.

The key is a digest of the network's tensors and code, the images, their transform and the versions of the libraries.
Learners edit a `forward`, a transform or a lambda and keep its name, so code counts too, and whatever it refers to:
functions are followed through their default values, enclosing variables and globals. Their bytecode is used rather than
their source: it is what runs even after a file was edited, and there is no source for what was typed into an
interpreter. Objects of any other class are taken apart as `pickle` would take them. Libraries are known by name and
version. Where something cannot be taken apart, such as an open file, there is no key.
"""

import copyreg
import dis
import platform
import sys
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import PIL
import timm
import torch
import torchvision
from torch import Tensor, fx, nn

from tlcourse.data import ImageSet
from tlcourse.models import unwrap_model
from tlcourse.runtime import get_runtime

VERSIONS = [platform.python_version(), *(library.__version__ for library in (torch, torchvision, timm, PIL, np))]
# This package changes between releases too, so all its files count.
VERSIONS += [sha256(file.read_bytes()).hexdigest() for file in sorted(Path(__file__).parents[1].rglob("*.py"))]
COVERED = {"torch", "torchvision", "timm", "PIL", "numpy", "tlcourse"}  # by VERSIONS, wherever they are installed
INSTALLED = {"site-packages", "dist-packages"}  # folders with libraries

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
WRAPPERS = {  # what holds one function -> its attribute
    **{staticmethod: "__wrapped__", classmethod: "__wrapped__", type(cache(len)): "__wrapped__"},
    **{property: "fget", cached_property: "func"},
}
BOOKKEEPING = set(vars(nn.Module()))  # training mode, hooks and containers, which are read one by one
READS_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}


class NoKeyError(ValueError):
    """Something decides the result and cannot be put into a key."""


def cache_file(
    cache: bool | Path, suffix: str, module: nn.Module, dataset: Any, *settings: Any, without: Iterable[nn.Module] = ()
) -> Path | None:
    """Return the file for what a module computes from a data set (see `cache_key`); None where it is not to be kept.

    `cache` is a folder, True for the runtime's, or False.
    """
    if cache is False or (key := cache_key(module, dataset, *settings, without=without)) is None:
        return None
    return (get_runtime().cache / "features" if cache is True else Path(cache)) / f"{key}{suffix}"


def cache_key(module: nn.Module, dataset: Any, *settings: Any, without: Iterable[nn.Module] = ()) -> str | None:
    """Return a key for what a module computes from an `ImageSet`, the same in all processes; labels are no part of it.

    `settings` are further values that decide the result. The submodules in `without` are left out: heads, which come
    after what is computed. Where there can be no key, a line says why, and the key is None.
    """
    try:
        if type(dataset) is not ImageSet:
            raise NoKeyError(f"{type(dataset).__name__} does not say which images it holds, as ImageSet does")
        known = [VERSIONS, unwrap_model(module), dataset.content, dataset.transform, settings]
        return _Digester(without).digest(known).hex()[:32]
    except (NoKeyError, RecursionError) as error:
        _print_once(f"Computed each time and not kept on disk: {error}.")
        return None


_print_once = cache(print)


class _Digester:
    """Computes the digest of an object from those of its parts."""

    def __init__(self, without: Iterable[nn.Module]):
        self.visited = list(without)  # kept alive: another object could get the same id
        self.digests = {id(module): b"left out" for module in self.visited}

    def digest(self, value: Any) -> bytes:
        """Return the digest of an object, the same for an equal object in another process."""
        if type(value) in PLAIN:
            return sha256(f"{type(value).__name__} {value!r}".encode()).digest()
        if id(value) not in self.digests:
            self.visited.append(value)
            self.digests[id(value)] = b"cycle"  # for parts that lead back here
            try:
                self.digests[id(value)] = self._computed(value)
            except (NoKeyError, RecursionError):
                raise
            except Exception as error:  # classes refuse to be taken apart in their own ways
                name = f"{type(value).__module__}.{type(value).__qualname__}"
                raise NoKeyError(f"what is in an object of {name} cannot be compared") from error
        return self.digests[id(value)]

    def _computed(self, value: Any) -> bytes:
        if isinstance(value, Tensor | np.ndarray) and value.dtype != object:
            flat = value.detach().cpu().contiguous().view(-1) if isinstance(value, Tensor) else value
            digest = sha256(f"{type(value).__name__} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy() if isinstance(value, Tensor) else flat.tobytes())
            return digest.digest()
        label, parts = self._parts(value)
        digests = [self.digest(part) for part in parts]
        if isinstance(value, set | frozenset):
            digests.sort()
        return sha256(b"".join([label.encode(), *digests])).digest()

    def _parts(self, value: Any) -> tuple[str, Iterable[Any]]:
        """Return a label, and the parts that together with it say what an object is."""
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            return kind.__name__, value
        if kind is dict:
            return "dict", value.items()
        if isinstance(value, nn.Module):
            return "nn.Module", _parts_of_module(value)
        if isinstance(value, fx.Graph):
            return "graph", ()  # the code of its module's `forward` says the same
        if isinstance(value, type):
            return _parts_of_class(value)
        if isinstance(value, FunctionType):
            return _parts_of_function(value)
        if isinstance(value, MethodType):
            return "method", (value.__func__, value.__self__)
        if kind in WRAPPERS:
            return kind.__name__, (getattr(value, WRAPPERS[kind]),)
        if isinstance(value, CodeType):
            counts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags)
            handlers = getattr(value, "co_exceptiontable", b"")  # from Python 3.11 on
            return "code", (counts, handlers, value.co_code, value.co_names, value.co_consts)
        if isinstance(value, BuiltinFunctionType) or kind.__name__.endswith(("_descriptor", "method-wrapper")):
            owner = getattr(value, "__self__", None)
            return f"{kind.__name__} {value.__qualname__}", () if isinstance(owner, ModuleType) else (owner,)
        if isinstance(value, ModuleType) and (version := _version(value.__name__)) is not None:
            return f"module {value.__name__} {version}", ()
        reduced = copyreg.dispatch_table.get(kind, lambda value: value.__reduce_ex__(4))(value)
        if isinstance(reduced, str):
            return f"{kind.__module__} {reduced}", ()
        return "object", [list(part) if isinstance(part, Iterator) else part for part in reduced]


def _parts_of_module(module: nn.Module) -> Iterator[Any]:
    yield type(module)
    yield list(module.named_parameters(recurse=False))
    yield list(module.named_buffers(recurse=False))
    yield list(module.named_children())
    yield {name: value for name, value in vars(module).items() if name not in BOOKKEEPING}
    for hooks in ("_forward_pre_hooks", "_forward_hooks"):  # torch has no public way to read them
        yield list(getattr(module, hooks, {}).values())


def _parts_of_class(kind: type) -> tuple[str, Iterable[Any]]:
    found = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is kind and (version := _version(kind.__module__)) is not None:
        return f"class {kind.__module__}.{kind.__qualname__} {version}", ()
    members = [(name, member) for name, member in sorted(vars(kind).items()) if _has_effect(name, member)]
    return f"class {kind.__qualname__}", [type(kind), kind.__bases__, members]


def _has_effect(name: str, member: Any) -> bool:
    """Say whether a member of a class may change what its objects do; `__doc__`, `__annotations__` and such do not."""
    special = name.startswith("__") and name.endswith("__")
    return name != "_abc_impl" and (not special or isinstance(member, FunctionType | classmethod | staticmethod))


def _parts_of_function(function: FunctionType) -> tuple[str, Iterable[Any]]:
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    parts = [function.__defaults__, function.__kwdefaults__, vars(function), enclosed]
    module = function.__globals__.get("__name__", "")
    if (version := _version(module)) is not None:  # with what it encloses: a decorator holds the learner's function
        return f"function {module}.{function.__qualname__} {version}", parts
    return "function", [function.__code__, dict(_globals_read(function)), *parts]


def _globals_read(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function reads, or a function inside it."""
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for step in dis.get_instructions(code):
            if step.opname == "IMPORT_NAME" and _version(step.argval) is None:
                raise NoKeyError(f"{function.__qualname__} imports {step.argval} inside its body")
            if step.opname in READS_GLOBAL and step.argval in function.__globals__:
                yield step.argval, _members_named(function.__globals__[step.argval], {*code.co_names})


def _members_named(value: Any, names: set[str]) -> Any:
    """Return the members of a learner's module that code may mean by some names; anything else as it is."""
    if not isinstance(value, ModuleType) or _version(value.__name__) is not None:
        return value
    found = [name for name in sorted(names) if hasattr(value, name)]
    return {name: _members_named(getattr(value, name), names - {name}) for name in found}


@cache
def _version(module: str) -> str | None:
    """Return the version of the installed library that a module belongs to; None for a learner's own module."""
    top = module.partition(".")[0]
    if top in COVERED or top in sys.stdlib_module_names:
        return ""  # in VERSIONS
    try:
        file = None if top == "__main__" else find_spec(top).origin
    except (ImportError, ValueError, AttributeError):  # no such file, as for what was typed in
        return None
    return str(Path(file).stat().st_mtime_ns) if file and INSTALLED & {*Path(file).parts} else None
