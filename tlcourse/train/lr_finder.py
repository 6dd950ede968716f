"""The learning-rate range test: a short run with a rising rate shows which rates a set-up bears."""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tlcourse.models import train_mode, unwrap_model
from tlcourse.side_effects import preserve_loader_state, preserve_rng_state
from tlcourse.train.loop import check_optimizer

FEWEST = 10  # steps: with fewer, a slope is noise
WORSE = 4.0  # times the lowest loss, and above the first one: the run has diverged
MEMORY = 0.8  # of the running mean that says so: about five steps, so that one bad batch does not end the test
NARROWEST, WIDTH = 3.0, 1 / 25  # steps, and share of the steps: how far the smoothed curve looks to each side
NOISE = 1.5  # standard deviations of a batch's loss: smoothed noise falls by less from its start to its lowest point


@dataclass(frozen=True)
class RangeTest:
    """What each rate of a range test did, up to where the loss diverged.

    `rates` are those of the group with the highest one, `losses` the loss in nats before the step at each rate,
    `smoothed` the same without most of the noise. `suggestion` is the rate at which the smoothed loss falls fastest,
    or None where it never fell by more than its noise.

    The suggestion is a place to start. Other batches move it, on a few hundred photos by a factor of four either way;
    the loss at one rate still carries what lower rates did before; and a run with a warm-up bears more.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    diverged: bool


def lr_range_test(
    model: nn.Module,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
) -> RangeTest:
    """Train a copy for some steps, at a rate that rises from the lowest to the highest, and watch the loss.

    The rate grows by the same factor each step. Groups keep the ratio of their rates; the one with the highest has the
    rate that is reported. The test ends early when the loss diverges. What is frozen stays frozen.

    A copy of model and optimizer trains, and random numbers and the loader's order are put back: training after a
    test is bit for bit the training without it, also where the test was interrupted.
    Sources: Smith 2017, Cyclical learning rates for training neural networks; the loss against the rate on a
    logarithmic axis, and the fall of it, are Howard and Gugger's (fastai).

    Args:
        model: on the device that it will train on, with room for a copy.
        loader: batches `(images, labels)`, read again from the start when it is shorter than the test.
        optimizer: the one to train with, its state included.
        lowest: rate of the first step.
        highest: rate of the last step.
        steps: at least 10.

    Raises:
        ValueError: rates or steps are out of range, the loader is empty or can be read only once, or the optimizer
            holds nothing of this model that trains.
        FloatingPointError: the loss is no number from the start.
    """
    if not 0 < lowest < highest:
        raise ValueError(f"lowest={lowest} and highest={highest}: give two positive rates, the higher one second.")
    if steps < FEWEST:
        raise ValueError(f"steps={steps}: give at least {FEWEST}.")
    if isinstance(loader, Iterator):
        raise ValueError("The loader can be read only once: give a DataLoader, or a list of batches.")
    _check(model, optimizer)
    rates = [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]
    with preserve_rng_state(), preserve_loader_state(loader) as batches:
        losses, diverged = _rising(*_copies(unwrap_model(model), optimizer), batches, rates)
    smoothed = _smooth(losses, max(NARROWEST, WIDTH * steps))
    suggestion = _steepest(rates, losses, smoothed)
    return RangeTest(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), suggestion, diverged)


def _copies(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Copy a model and its optimizer, which holds the copy's parameters then."""
    memo: dict[int, object] = {}
    model = copy.deepcopy(model, memo)
    # `deepcopy` of an optimizer would leave out what a subclass adds. Left out here: hooks, which may change anything,
    # and the `step` that a scheduler has put there, which would be the original's.
    own = {k: v for k, v in vars(optimizer).items() if k != "step" and not k.endswith("_hooks")}
    twin = object.__new__(type(optimizer))
    twin.__setstate__(copy.deepcopy(own, memo))
    return model, twin


def _rising(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    rates: list[float],
) -> tuple[list[float], bool]:
    """Train at these rates, a step each; return the losses, and whether the last one is where it diverged."""
    device = next(model.parameters()).device
    base = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    losses, running, lowest = [], None, torch.inf
    train_mode(model)
    for rate, (images, labels) in zip(rates, _endless(batches), strict=False):
        for group, own in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * own / max(base)
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        value = loss.item()
        if not math.isfinite(value):
            break
        losses.append(value)
        running = value if running is None else MEMORY * running + (1 - MEMORY) * value
        lowest = min(lowest, running)
        if running > WORSE * lowest and running > losses[0]:
            return losses, True
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not losses:
        raise FloatingPointError(f"The loss of the first batch is {value}: look at the data and the weights.")
    return losses, len(losses) < len(rates)


def _endless(batches: Iterable) -> Iterator:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("There is no image to train on: the loader is empty.")


def _smooth(losses: list[float], width: float) -> list[float]:
    """Average with neighbours on both sides, so that the curve does not lag behind the rates."""
    values, place = torch.tensor(losses, dtype=torch.float64), torch.arange(len(losses), dtype=torch.float64)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return (weights @ values / weights.sum(1)).tolist()


def _steepest(rates: list[float], losses: list[float], smoothed: list[float]) -> float | None:
    bottom = smoothed.index(min(smoothed))
    if bottom < 2:
        return None
    way, noisy = torch.tensor(smoothed[: bottom + 1]), torch.tensor(losses[: bottom + 1])
    # Of one batch: half of all differences of two are larger than 0.95 of it. High rates swing wide, and do not count.
    noise = noisy.diff().abs().median() / 0.95
    if way[0] - way[-1] <= NOISE * noise:
        return None
    return rates[int(torch.gradient(way)[0].argmin())]


def _check(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    check_optimizer(model, optimizer)
    if not max(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups) > 0:
        raise ValueError("Every group's rate is 0: give them the ratio that the test shall keep.")
