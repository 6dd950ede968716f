"""The steps of exercise 3, "Choose a model": they run an answer on small networks and tables that it hasn't seen."""

import math
from typing import Any

import torch
from torch import nn

from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises.answers import Timed, need_function, pair

Rows = list[dict[str, Any]]


@step("ex3/size")
def size(function: Any) -> str:
    """A function of a network: its parameters, and the bytes of all tensors of its state dict."""
    need_function(function, "a network")
    frozen = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).requires_grad_(False)
    for what, model in (
        ("a linear layer", nn.Linear(5, 3)),
        ("a convolution and batch norm", nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))),
        ("a frozen network", frozen),
        ("a network in half precision", nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4)).half()),
    ):
        parameters = sum(p.numel() for p in model.parameters())
        tensors = list(model.state_dict().values())
        wanted = sum(t.numel() * t.element_size() for t in tensors)
        found, stored = pair(function(model), "the number of parameters and the bytes")
        if found != parameters:
            seen = f"for {what} the first number is {found}, and it has {parameters} parameters"
            raise NotRightError(f"{seen}. {_why_count(found, model)}.")
        if stored != wanted:
            why = _why_bytes(stored, wanted, parameters, tensors)
            raise NotRightError(f"for {what} the second number is {stored}; its tensors take {wanted} bytes. {why}.")
    return "the file is larger than its parameters where there is batch norm, and half as large in half precision."


def _why_count(found: Any, model: nn.Module) -> str:
    if found == 0:
        return "A frozen parameter is a parameter, too"
    if found == sum(t.numel() for t in model.state_dict().values()):
        return "The running mean and variance are buffers: nothing trains them"
    if found == len(list(model.parameters())):
        return "That is how many tensors there are, not how many numbers they hold"
    return "Each parameter is a tensor; add up how many numbers each holds"


def _why_bytes(stored: Any, wanted: int, parameters: int, tensors: list[torch.Tensor]) -> str:
    if stored == 4 * parameters:
        return "That is parameters times four: buffers, such as the running mean and variance, are in the file too"
    if stored == sum(t.numel() * t.element_size() for t in tensors if t.is_floating_point()):
        return "Batch norm also counts its batches, in an integer: that tensor is missing"
    if stored == 4 * sum(t.numel() for t in tensors):
        return "Not every number has four bytes: see `element_size()`"
    if isinstance(stored, int | float) and stored and math.isclose(wanted / stored, 1e6, rel_tol=0.1):
        return "Those are megabytes; bytes are asked for"
    return "Add up `numel() * element_size()` over the tensors of the state dict"


@step("ex3/latency")
def latency(function: Any) -> str:
    """A function of network, image and repeats: the median milliseconds of a call, after one that isn't measured."""
    need_function(function, "a network, an image and a number of repeats")
    for times, repeats, training in (
        ((60, 10), 1, True),
        ((10, 10, 10, 90, 10, 10), 5, False),
        ((30, 5, 5, 5, 60, 60), 7, True),
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
        raise NotRightError(f"it returns a {type(found).__name__}. Return one number.")
    if any(model.trained) or not variance.equal(model.bn.running_var):
        raise NotRightError("the network was called in training mode. Its batch norms moved; call `eval()` before.")
    if any(model.recorded):
        raise NotRightError("gradients were recorded. `torch.no_grad()` or `inference_mode()` saves their work.")
    if model.training != training or model.bn.training != training:
        was, now = ("training" if mode else "evaluation" for mode in (training, model.training))
        raise NotRightError(f"the network came in {was} mode, and is in {now} mode afterwards.")
    if len(model.took) <= repeats:
        seen = f"with {repeats} repeats the network was called {len(model.took)} times"
        raise NotRightError(f"{seen}: no call came before, unmeasured.")
    measured = sorted(model.took[-repeats:])
    median = measured[repeats // 2]
    if not 0.95 * median <= found <= 1.2 * median + 2:
        why = _why_time(float(found), measured, model.took[0])
        raise NotRightError(
            f"with {repeats} repeats it gives {float(found):.4g}, and the median is {median:.4g}. {why}."
        )


def _why_time(found: float, measured: list[float], first: float) -> str:
    def near(value: float) -> bool:
        return 0.95 * value <= found <= 1.2 * value + 1

    median, mean = measured[len(measured) // 2], sum(measured) / len(measured)
    if 0.9 < 1000 * found / median < 1.5:
        return "Those are seconds; milliseconds are asked for"
    if len(measured) == 1 and median < found < 1.2 * first + 1:
        return "The first call, which is slow, is in it"
    if near(mean):
        return "That is the mean, which one slow call moves"
    if near(measured[0]):
        return "That is the quickest call"
    if near(sum(measured)):
        return "That is the sum of all calls"
    return "Read `time.perf_counter()` right before and after each call, and take the median of the differences"


def rows_of(text: str) -> Rows:
    """Read rows such as "a 5 20 1 70": model, parameters, latency, spread, accuracy."""
    rows = [row.split() for row in text.split(", ")]
    keys = ("parameters", "latency", "spread", "accuracy")
    return [{"model": row[0]} | dict(zip(keys, map(float, row[1:]), strict=True)) for row in rows]


FRONTS = {
    ("a 5 20 1 70, b 9 30 1 75, c 4 40 1 70, d 9 31 1 74", "abc"): (
        "c is slower than a and no more accurate, but it has fewer parameters"
    ),
    ("e 5 20 1 70, f 5 20 1 70, g 5 20 1 69", "ef"): "e and f are equal in all three, so neither dominates the other",
    ("h 5 20 1 70, i 5 20 9 71, j 6 20 1 71, k 7 10 1 60", "ik"): (
        "i is as small and as quick as h, and more accurate; j has more parameters than i and is better in nothing"
    ),
    ("l 50 900 1 50", "l"): "nothing dominates a network that is alone",
    ("m 1 3 1 60, n 2 2 1 60, o 3 1 1 60, p 3 3 1 60", "mno"): (
        "p takes as much as o and m where they are worst, and more elsewhere"
    ),
}


@step("ex3/front")
def front(function: Any) -> str:
    """A function of a table: the names of the networks that none dominates in parameters, latency and accuracy."""
    need_function(function, "a table")
    for (text, wanted), why in FRONTS.items():
        for given in (rows_of(text), rows_of(text)[::-1]):
            found = _names(function(given))
            if len(found) != len(set(found)):
                raise NotRightError(f"{max(found, key=found.count)} is in the answer more than once.")
            if missing := sorted(set(wanted) - set(found)):
                raise NotRightError(f"{missing[0]} is missing from {shown(given)}: {why}.")
            if extra := sorted(set(found) - set(wanted)):
                raise NotRightError(f"{extra[0]} is dominated in {shown(given)}: {why}.")
    return (
        "whatever limits a user has for these numbers, a best choice is on this front; more costs, more networks on it."
    )


def _names(found: Any) -> list[str]:
    if isinstance(found, str) or not hasattr(found, "__len__"):
        raise NotRightError(f"it returns a {type(found).__name__}. Return a list of names.")
    names = list(found)
    if any(not isinstance(name, str) for name in names):
        raise NotRightError(f"it returns a list with a {type(names[0]).__name__}. Return names.")
    return names


def shown(rows: Rows) -> str:
    return "; ".join(
        f"{r['model']}: {r['parameters']:g} M, {r['latency']:g} + {r['spread']:g} ms, {r['accuracy']:g} %" for r in rows
    )
