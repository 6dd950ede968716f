"""Run a model or read a loader without side effects: random state, modes, buffers and samplers are restored."""

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from tlcourse.evaluation import evaluation_mode

MAX_DEPTH, MAX_LENGTH = 6, 64  # how far into a loader, and into how long a list, generators are looked for


def get_rng_state(loaders: Sequence[Iterable] = ()) -> dict[str, Any]:
    """Return the state of all random numbers as plain values, which `torch.load(weights_only=True)` can read.

    That is the global state of Python, NumPy and PyTorch, and the state of every generator that the loaders hold.
    """
    return {
        "python": random.getstate(),
        "numpy": _plain(np.random.get_state()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "loaders": [_plain(state) for _, state in _generators(list(loaders))],
    }


def set_rng_state(state: dict[str, Any], loaders: Sequence[Iterable] = ()) -> None:
    """Set what `get_rng_state` returned; without loaders, the global state only."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    if loaders:
        for (restore, _), saved in zip(_generators(list(loaders)), state["loaders"], strict=True):
            restore(saved)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the global random state of Python, NumPy and PyTorch at the end."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


@contextmanager
def no_side_effects(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode without gradients; restore modes, buffers and random state at the end."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with preserve_rng_state(), evaluation_mode(model), torch.no_grad():
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                # Nothing of torch's own writes buffers in evaluation mode; a learner's module may.
                if name in buffers and not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])


@contextmanager
def input_hooks(modules: Iterable[nn.Module], function: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    """Call `function(module, inputs)` before each forward pass of these modules, for as long as the context lasts."""
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(function))
        yield


@contextmanager
def preserve_loader_state(loader: Iterable) -> Iterator[Iterable]:
    """Give a copy of a loader to read, and restore the generators and samplers that the two share at the end.

    The copy has counters and worker processes of its own, so persistent workers of the loader do not notice.
    """
    twin, is_torchs = copy.copy(loader), isinstance(loader, DataLoader)
    if is_torchs:
        twin._iterator = None  # where a `DataLoader` keeps persistent workers
    generators = list(_generators(loader))
    samplers = [part for part in _reachable(loader) if isinstance(part, Sampler)]
    samplers += [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]  # of any class
    attributes = [(sampler, dict(vars(sampler))) for sampler in samplers if hasattr(sampler, "__dict__")]
    try:
        yield twin
    finally:
        if is_torchs:
            twin._iterator = None  # ends the copy's workers, which may still draw from the sampler
        for restore, state in generators:
            restore(state)
        for sampler, saved in attributes:
            vars(sampler).clear()
            vars(sampler).update(saved)


def _generators(root: Any) -> Iterator[tuple[Callable[[Any], None], Any]]:
    """Give the setter and the state of each random generator that an object holds, always in the same order."""
    for part in _reachable(root):
        if isinstance(part, torch.Generator | np.random.RandomState):
            yield part.set_state, part.get_state()
        elif isinstance(part, random.Random):
            yield part.setstate, part.getstate()
        elif isinstance(part, np.random.Generator):
            yield partial(setattr, part.bit_generator, "state"), part.bit_generator.state


def _reachable(root: Any) -> Iterator[Any]:
    """Give an object and what it holds, down to `MAX_DEPTH`, each thing once."""
    seen, level = {id(root)}, [root]
    for _ in range(MAX_DEPTH):
        yield from level
        held = [child for part in level for child in _children(part)]
        level = [child for child in held if id(child) not in seen and not seen.add(id(child))]


def _children(part: Any) -> Iterable[Any]:
    if isinstance(part, torch.Tensor | np.ndarray | str | bytes | type | ModuleType):
        return ()
    own = list(getattr(part, "__dict__", {}).values())
    if isinstance(part, list | tuple | dict) and len(part) <= MAX_LENGTH:
        own += part.values() if isinstance(part, dict) else part
    return own


def _plain(state: Any) -> Any:
    """Replace NumPy's arrays with lists, which NumPy's generators take back as well."""
    if isinstance(state, np.ndarray):
        return state.tolist()
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return tuple(_plain(value) for value in state) if isinstance(state, tuple) else state
