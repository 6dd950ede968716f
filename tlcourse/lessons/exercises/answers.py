"""What the steps of exercises do with an answer: take it apart, and refuse what is of another kind."""

import numbers
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from tlcourse.lessons.checks import NotRightError


def a(thing: Any) -> str:
    """Name what a thing is, such as "an AdamW"."""
    name = type(thing).__name__
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a{'n' * (name[0] in 'AEIOUaeiou')} {name}"


def need_function(function: Any, of: str) -> None:
    """Refuse what is no function."""
    if not callable(function) or isinstance(function, nn.Module | type):
        raise NotRightError(f"the answer is {a(function)}. Give a function of {of}.")


def pair(answer: Any, what: str = "the optimizer and the scheduler") -> tuple[Any, Any]:
    """Return the two parts of an answer."""
    if not isinstance(answer, tuple | list | torch.Tensor | np.ndarray) or len(answer) != 2:
        length = f" of length {len(answer)}" if isinstance(answer, tuple | list | dict) else ""
        raise NotRightError(f"there is {a(answer)}{length} where two things are asked for, as a pair: {what}.")
    return tuple(answer)


def need_dictionary(answer: Any, of: str) -> dict[str, Any]:
    """Return a dictionary, or pairs, with keys in lower case and spaces for underscores."""
    pairs = list(answer) if isinstance(answer, Iterable) and not isinstance(answer, Mapping) else []
    if pairs and all(isinstance(two, tuple | list) and len(two) == 2 for two in pairs):
        answer = dict(pairs)
    if not isinstance(answer, Mapping):
        raise NotRightError(
            f"a {type(answer).__name__} stands where a dictionary is asked for. Give a dictionary {of}."
        )
    return {str(key).strip().lower().replace("_", " "): value for key, value in answer.items()}


def scheduler_of(optimizer: Any, scheduler: Any) -> Any:
    """Return the scheduler that an answer holds, if it moves this optimizer."""
    scheduler = getattr(scheduler, "scheduler", scheduler)  # a Schedule of the package, or PyTorch's own
    if not callable(getattr(scheduler, "step", None)) or isinstance(scheduler, torch.optim.Optimizer | type):
        raise NotRightError(f"{a(scheduler)} stands where the scheduler is asked for.")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise NotRightError("the scheduler moves another optimizer than the one that trains.")
    return scheduler


def rates_by_name(model: nn.Module, optimizer: Any) -> dict[str, float]:
    """Return the rate of each parameter that an optimizer holds, by name."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise NotRightError(f"{a(optimizer)} stands where the optimizer is asked for.")
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise NotRightError("the optimizer holds a parameter of another model than the one that it is given.")
            if not isinstance(group["lr"], numbers.Real | torch.Tensor):
                raise NotRightError(f"{names[id(parameter)]} has the rate {group['lr']!r}, which is no number.")
            rates[names[id(parameter)]] = float(group["lr"])
    return rates


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out PyTorch's warnings of steps without gradients, and of schedulers in a row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Shared(list):
    """A list that a copy of its owner shares: a network may be measured on a copy."""

    def __deepcopy__(self, memo: Any) -> "Shared":
        return self


class Timed(nn.Module):
    """A network whose calls take given milliseconds, the last ones from then on; it notes how each was made."""

    def __init__(self, *milliseconds: float) -> None:
        super().__init__()
        self.bn, self.times = nn.BatchNorm2d(3), list(milliseconds)
        self.took: list[float] = Shared()  # milliseconds: another program may have come between
        self.trained: list[bool] = Shared()
        self.recorded: list[bool] = Shared()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        self.trained.append(self.training)
        self.recorded.append(torch.is_grad_enabled())
        wanted = self.times[min(len(self.took), len(self.times) - 1)]
        result = self.bn(image)
        while 1000 * (time.perf_counter() - start) < wanted:
            pass
        self.took.append(1000 * (time.perf_counter() - start))
        return result
