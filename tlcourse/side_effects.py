"""Look without leaving a trace: random numbers, modes, buffers and the order of loaders as they were."""

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from tlcourse.evaluation import evaluation_mode

DEEP, WIDE = 6, 64  # how far into a loader, and into how long a list, generators are looked for


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Give Python's, NumPy's and PyTorch's global random numbers back the state that they had."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for index, state in enumerate(gpus):
            torch.cuda.set_rng_state(state, index)
        if apple is not None:
            torch.mps.set_rng_state(apple)


@contextmanager
def no_side_effects(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode without gradients, and leave modes, buffers and random numbers as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with ExitStack() as stack:
        stack.enter_context(preserve_rng_state())
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
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
    handles = [module.register_forward_pre_hook(function) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def preserve_loader_state(loader: Iterable) -> Iterator[Iterable]:
    """Give a loader to read in the place of this one, which afterwards goes on as if nobody had read.

    The generators of loader, samplers and data set get their states back. Counters of the loader itself are the
    copy's, and so are worker processes: those that the loader keeps for long do not notice.
    """
    twin = copy.copy(loader)
    if isinstance(loader, DataLoader):
        twin.__dict__["_iterator"] = None
    parts = list(reachable(loader))
    states = [state for part in parts if (state := generator_state(part)) is not None]
    named = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]  # of any class
    samplers = [part for part in parts if isinstance(part, Sampler) or any(part is one for one in named)]
    samplers = [(part, dict(vars(part))) for part in samplers if hasattr(part, "__dict__")]
    try:
        yield twin
    finally:
        if isinstance(loader, DataLoader):
            twin.__dict__["_iterator"] = None  # ends its workers, which may still draw from the sampler
        for put_back, state in states:
            put_back(state)
        for sampler, attributes in samplers:
            vars(sampler).clear()
            vars(sampler).update(attributes)


def generator_state(part: Any) -> tuple[Callable[[Any], None], Any] | None:
    """Return how to put a random generator's state back, and the state; None for anything else."""
    if isinstance(part, torch.Generator):
        return part.set_state, part.get_state()
    if isinstance(part, random.Random):
        return part.setstate, part.getstate()
    if isinstance(part, np.random.RandomState):
        return part.set_state, part.get_state()
    if isinstance(part, np.random.Generator):
        bits = part.bit_generator
        return lambda state: setattr(bits, "state", state), bits.state
    return None


def reachable(root: Any) -> Iterator[Any]:
    """Give an object and what it holds, to some depth, each thing once."""
    seen, level = {id(root)}, [root]
    for _ in range(DEEP):
        held = []
        for part in level:
            yield part
            held += [child for child in _children(part) if id(child) not in seen and not seen.add(id(child))]
        level = held


def _children(part: Any) -> Iterable[Any]:
    if isinstance(part, torch.Tensor | np.ndarray | str | bytes | type | ModuleType):
        return ()
    own = list(getattr(part, "__dict__", {}).values())
    if isinstance(part, list | tuple | dict) and len(part) <= WIDE:
        own += part.values() if isinstance(part, dict) else part
    return own
