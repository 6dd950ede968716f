"""The steps of exercise 3, "Choose a model": they run an answer on small networks and tables that it hasn't seen."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises.answers import Timed, a, need_function, pair

Rows = list[dict[str, Any]]


@step("ex3/size")
def size(function: Any) -> str:
    """A function of a network: its parameters, and the bytes of all tensors of its state dict."""
    need_function(function, "a network")
    masked = nn.Linear(5, 3)
    masked.register_buffer("mask", torch.ones(7), persistent=False)
    for what, model in (
        ("a linear layer", nn.Linear(5, 3)),
        ("a convolution and batch norm", nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))),
        ("a frozen network", nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).requires_grad_(False)),
        ("a network in half precision", nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4)).half()),
        ("a layer with a buffer that isn't stored", masked),
    ):
        parameters = _numbers(model.parameters())
        wanted = _bytes(model.state_dict().values())
        found, stored = pair(function(model), "the number of parameters and the bytes")
        if found != parameters:
            seen = f"for {what} the first number is {found!r}, and it has {parameters} parameters"
            raise NotRightError(f"{seen}. {_why_count(found, model)}.")
        if stored != wanted:
            why = _why_bytes(stored, wanted, model)
            raise NotRightError(f"for {what} the second number is {stored!r}; its tensors take {wanted} bytes. {why}.")
    return "the file is larger than its parameters where there is batch norm, and half as large in half precision."


def _why_count(found: Any, model: nn.Module) -> str:
    parameters, tensors = list(model.parameters()), list(model.state_dict().values())
    floats = [t for t in tensors if t.is_floating_point()]
    if not isinstance(found, int | float) and getattr(found, "shape", None) != ():
        return f"It is {a(found)}; give a number"
    for value, why in (
        (_numbers(p for p in parameters if p.requires_grad), "A frozen parameter is a parameter, too"),
        (_numbers(tensors), "The running mean and variance are buffers: nothing trains them"),
        (_numbers(floats), "The running mean and variance are buffers: nothing trains them"),
        (len(parameters), "That is how many tensors there are, not how many numbers they hold"),
        (_bytes(tensors), "Those are the bytes; the number of parameters comes first"),
        (_numbers(p for p in parameters if p.ndim > 1), "Biases, and what batch norm trains, are parameters, too"),
    ):
        if found == value:
            return why
    for unit, one in (("thousands", 1e3), ("millions", 1e6)):
        if math.isclose(found * one, _numbers(parameters), rel_tol=0.06):
            return f"Those are {unit}; single parameters are asked for"
    return "Each parameter is a tensor; add up how many numbers each holds"


def _numbers(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def _why_bytes(stored: Any, wanted: int, model: nn.Module) -> str:
    parameters, tensors = list(model.parameters()), list(model.state_dict().values())
    floats, every = [t for t in tensors if t.is_floating_point()], [*parameters, *model.buffers()]
    file_too = "buffers, such as the running mean and variance, are in the file too"
    for value, why in (
        (4 * _numbers(parameters), f"That is parameters times four: {file_too}"),
        (_bytes(parameters), f"Those are the bytes of the parameters: {file_too}"),
        (_bytes(floats), "Batch norm also counts its batches, in an integer: that tensor is missing"),
        (4 * _numbers(tensors), "Not every number has four bytes: see `element_size()`"),
        (len(tensors), "That is how many tensors there are"),
        (_numbers(tensors), "That is how many numbers there are, and each has several bytes: see `element_size()`"),
        (_bytes(every), "A buffer that is registered with `persistent=False` is in no state dict"),
    ):
        if stored == value:
            return why
    for unit, one in (("bits", 1 / 8), ("kilobytes", 1e3), ("megabytes", 1e6)):
        if isinstance(stored, int | float) and stored and math.isclose(wanted / stored, one, rel_tol=0.06):
            return f"Those are {unit}; bytes are asked for"
    return "Add up `numel() * element_size()` over the tensors of the state dict"


@step("ex3/latency")
def latency(function: Any) -> str:
    """A function of network, image and repeats: the median milliseconds of a call, after one that isn't measured."""
    need_function(function, "a network, an image and a number of repeats")
    few, more = Timed(0), Timed(0)
    for model, repeats in ((few, 1), (more, 5)):
        function(model, torch.zeros(1, 3, 4, 4), repeats)
    if len(few.took) == len(more.took):
        raise NotRightError(f"whatever `repeats` is, the network is called {len(few.took)} times.")
    for times, repeats, training in (
        ((60, 10), 1, True),
        ((20, 20, 20, 90, 20, 20), 5, False),
        ((90, 80, 5, 30, 120, 14, 70, 9), 7, True),
    ):
        for attempt in range(3):  # another program may disturb one
            try:
                _latency_once(function, times, repeats, training)
                break
            except NotRightError:
                if attempt == 2:
                    raise
    return "the first call allocates memory, and a mean follows one slow moment: a median of calls after it does not."


def _latency_once(function: Any, times: tuple[float, ...], repeats: int, training: bool) -> None:
    model, image = Timed(*times).train(training), torch.zeros(1, 3, 4, 4)
    variance = model.bn.running_var.clone()
    found = function(model, image, repeats)
    if not isinstance(found, int | float) and getattr(found, "shape", None) != ():
        raise NotRightError(f"it returns {a(found)}. Return one number.")
    if any(model.trained) or not variance.equal(model.bn.running_var):
        raise NotRightError("the network was called in training mode. Its batch norms moved; call `eval()` before.")
    if any(model.recorded):
        raise NotRightError("gradients were recorded. `torch.no_grad()` or `inference_mode()` saves their work.")
    if model.training != training or model.bn.training != training:
        was, now = ("training" if mode else "evaluation" for mode in (training, not training))
        part = "" if model.training != training else "its batch norm "
        raise NotRightError(f"the network came in {was} mode, and {part}is in {now} mode afterwards.")
    if len(model.took) <= repeats:
        seen = f"with `repeats={repeats}` the network was called {len(model.took)} times"
        raise NotRightError(f"{seen}: one call comes before, and then `repeats` are measured.")
    # Between the measured calls there may be others, such as those with which PyTorch's benchmark warms up.
    every = (len(model.took) - 1) // repeats
    medians = [statistics.median(model.took[::-1][::gap][:repeats]) for gap in (1, every)]
    if not any(0.8 * median <= found <= 1.3 * median + 2 for median in medians):
        why = _why_time(float(found), model.took[-repeats:], model.took[0])
        seen = f"with `repeats={repeats}` it gives {float(found):.4g} ms"
        raise NotRightError(f"{seen}, and the median of the measured calls is {medians[0]:.4g}. {why}.")


def _why_time(found: float, measured: list[float], first: float) -> str:
    median, ordered = statistics.median(measured), sorted(measured)
    half = len(ordered) // 2
    for unit, one in (("seconds", 1e3), ("microseconds", 1e-3), ("nanoseconds", 1e-6)):
        if 0.9 < one * found / median < 1.5:
            return f"Those are {unit}; milliseconds are asked for"
    for value, why in (
        (statistics.median([first, *measured]), "The first call, which is slow, is in it"),
        (statistics.mean(measured), "That is the mean, which one slow call moves"),
        (sum([first, *measured]) / len(measured), "The first call, which is slow, is in it"),
        (ordered[0], "That is the quickest call"),
        (ordered[-1], "That is the slowest call: the middle of the times is their median once they are sorted"),
        (measured[0], "That is the first of the measured calls"),
        (measured[-1], "That is the last call"),
        (ordered[half - 1], "That is the time before the middle one"),
        (ordered[min(half + 1, len(ordered) - 1)], "That is the time after the middle one"),
        (sum(measured), "That is the sum of all calls"),
        (1000 / median, "That is calls in a second; milliseconds of a call are asked for"),
    ):
        if 0.95 * value <= found <= 1.2 * value + 1:
            return why
    return "Read `time.perf_counter()` right before and after each call, and take the median of the differences"


def rows_of(text: str) -> Rows:
    """Read rows such as "a 5 20 1 70": model, parameters, latency, spread, accuracy."""
    rows = [row.split() for row in text.split(", ")]
    keys = ("parameters", "latency", "spread", "accuracy")
    return [{"model": row[0]} | dict(zip(keys, map(float, row[1:]), strict=True)) for row in rows]


FRONTS = {  # table -> its front
    "a 5 20 1 70, b 9 30 1 75, c 4 40 1 70, d 9 31 1 74": "abc",  # c is slower than a and no more accurate, but smaller
    "e 5 20 1 70, f 5 20 1 70, g 5 20 1 69": "ef",  # e and f are equal in all three
    "h 5 20 1 70, i 5 20 9 71, j 6 20 1 71, k 7 10 1 60": "ik",
    "l 50 900 1 50": "l",
    "m 1 3 1 60, n 2 2 1 60, o 3 1 1 60, p 3 3 1 60": "mno",
}


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = ((row["parameters"], row["latency"], -row["accuracy"]) for row in (one, other))
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


@step("ex3/front")
def front(function: Any) -> str:
    """A function of a table: the names of the networks that none dominates in parameters, latency and accuracy."""
    need_function(function, "a table")
    for text, wanted in FRONTS.items():
        for given in (rows_of(text), rows_of(text)[::-1]):
            table = given.copy()
            found = _names(function(table))
            if len(table) != len(given):
                raise NotRightError("the function takes rows out of the table that it is given: build a list of names.")
            if len(found) != len(set(found)):
                raise NotRightError(f"{max(found, key=found.count)} is in the answer more than once.")
            if missing := sorted(set(wanted) - set(found)):
                none = "none is at least as good in parameters, latency and accuracy, and better in one"
                raise NotRightError(f"{missing[0]} is missing from {shown(given)}: {none}.")
            for row in given:
                if row["model"] in found and (by := [one["model"] for one in given if _beats(one, row)]):
                    raise NotRightError(f"{row['model']} is dominated by {by[0]} in {shown(given)}.")
    return (
        "whatever limits a user has for these numbers, a best choice is on this front; more costs, more networks on it."
    )


def _names(found: Any) -> list[str]:
    if isinstance(found, str) or not hasattr(found, "__len__"):
        raise NotRightError(f"it returns {a(found)}. Return a list of names.")
    names = list(found)
    if others := [name for name in names if not isinstance(name, str)]:
        raise NotRightError(f"it returns a list with {a(others[0])}. Return names.")
    return names


def shown(rows: Rows) -> str:
    return "; ".join(
        f"{r['model']}: {r['parameters']:g} M, {r['latency']:g} + {r['spread']:g} ms, {r['accuracy']:g} %" for r in rows
    )
