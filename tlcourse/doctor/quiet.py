"""Look without leaving a trace: random numbers, modes and buffers as they were."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from tlcourse.evaluate import evaluation_mode


@contextmanager
def same_random_numbers() -> Iterator[None]:
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
def only_looking(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode without gradients, and leave modes, buffers and random numbers as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with ExitStack() as stack:
        stack.enter_context(same_random_numbers())
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                # Nothing of torch's own writes buffers in evaluation mode; a learner's module may.
                if name in buffers and not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])
