"""The learning-rate range test: a short run with a rising rate shows which rates a set-up can take."""

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tlcourse.evaluation import check_outputs, read_batch, run
from tlcourse.models import check_optimizer, train_mode, unwrap_model
from tlcourse.side_effects import preserve_loader_state, preserve_rng_state
from tlcourse.train.device import Batch, without_singles

MIN_STEPS = 10  # with fewer, a slope is noise
DIVERGED = 4.0  # times the lowest running mean of the loss, and above the first loss
RUNNING_DECAY = 0.8  # of that mean: it covers about five steps, so that one bad batch does not end the test
MIN_WIDTH, WIDTH = 3.0, 1 / 25  # steps, and fraction of the steps: how far the smoothing looks to each side
MIN_FALL = 1.5  # standard deviations of a batch's loss: smoothed noise falls by less from its start to its minimum


@dataclass(frozen=True)
class RangeTest:
    """The loss at each rate of a range test, up to where it diverged.

    `rates` are those of the group with the highest one, `losses` are in nats and measured before the step at each rate,
    `smoothed` are the losses without most of the noise. `suggestion` is the rate at which the smoothed loss falls
    fastest, or None where it never fell by more than its noise. It is a place to start: with other batches of a few
    hundred images it may be four times higher or lower, and a run with a warm-up can take more.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    diverged: bool


def lr_range_test(
    model: nn.Module,
    loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    steps: int = 100,
) -> RangeTest:
    """Train a copy for some steps while the rate rises from the lowest to the highest, and record the loss.

    The rate grows by the same factor each step, and groups keep the ratio of their rates. The test ends early when the
    loss diverges. Random state and the loader's order are restored: training after a test is bit for bit the training
    without it, even if the test was interrupted.
    Sources: Smith 2017, Cyclical learning rates for training neural networks; the loss over the logarithm of the rate,
    and its steepest fall, are Howard and Gugger's (fastai).

    Args:
        model: on the device that it will train on, with room for a copy.
        loader: batches `(images, labels)`, read again from the start when it is shorter than the test.
        optimizer: the one to train with, its state included.
        min_lr, max_lr: rates of the first and of the last step.
        steps: at least 10.

    Raises:
        ValueError: rates or steps are out of range, the loader is empty or can be read only once, the optimizer
            holds nothing of this model that trains, or as `evaluation.check_outputs`.
        FloatingPointError: the first loss is infinite or not a number.
    """
    if not 0 < min_lr < max_lr:
        raise ValueError(f"min_lr={min_lr} and max_lr={max_lr}: give two positive rates, the higher one second.")
    if steps < MIN_STEPS:
        raise ValueError(f"steps={steps}: give at least {MIN_STEPS}.")
    if isinstance(loader, Iterator):
        raise ValueError("The loader can be read only once: give a DataLoader, or a list of batches.")
    check_optimizer(model, optimizer)
    rates = [min_lr * (max_lr / min_lr) ** (step / (steps - 1)) for step in range(steps)]
    with preserve_rng_state(), preserve_loader_state(loader) as batches:
        losses, diverged = _train_at(rates, *_copy(unwrap_model(model), optimizer), batches)
    smoothed = _smooth(losses, max(MIN_WIDTH, WIDTH * steps))
    suggestion = _steepest(rates, losses, smoothed)
    return RangeTest(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), suggestion, diverged)


def _copy(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Copy a model, and its optimizer for the copy's parameters."""
    memo: dict[int, object] = {}
    model = copy.deepcopy(model, memo)
    # `deepcopy` of an optimizer would leave out what a subclass adds. Left out here: hooks, which may change anything,
    # and the `step` that a scheduler has put there, which would be the original's.
    own = {k: v for k, v in vars(optimizer).items() if k != "step" and not k.endswith("_hooks")}
    twin = object.__new__(type(optimizer))
    twin.__setstate__(copy.deepcopy(own, memo))
    return model, twin


def _train_at(
    rates: list[float], model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch]
) -> tuple[list[float], bool]:
    """Train with one step at each rate; return the losses, and whether the last one diverged."""
    device = next(model.parameters()).device
    base = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    if not max(base) > 0:
        raise ValueError("Every group's rate is 0: give them the ratio that the test shall keep.")
    losses, running, lowest = [], None, torch.inf
    train_mode(model)
    batches = without_singles(map(read_batch, _endless(batches)), model)
    for rate, (images, labels) in zip(rates, batches, strict=False):
        for group, own in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * own / max(base)
        logits = run(model, images.to(device))
        check_outputs(logits, labels)
        loss = F.cross_entropy(logits, labels.to(device))
        value = loss.item()
        if not math.isfinite(value):
            break
        losses.append(value)
        running = value if running is None else RUNNING_DECAY * running + (1 - RUNNING_DECAY) * value
        lowest = min(lowest, running)
        if running > DIVERGED * lowest and running > losses[0]:
            return losses, True
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not losses:
        raise FloatingPointError(f"The loss of the first batch is {value}: look at the data and the weights.")
    return losses, len(losses) < len(rates)


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise ValueError("There is no image to train on: the loader is empty.")


def _smooth(losses: list[float], width: float) -> list[float]:
    """Average with neighbours on both sides, so that the curve does not lag behind the rates."""
    values, position = torch.tensor(losses, dtype=torch.float64), torch.arange(len(losses), dtype=torch.float64)
    weights = torch.exp(-0.5 * ((position[:, None] - position) / width) ** 2)
    return (weights @ values / weights.sum(1)).tolist()


def _steepest(rates: list[float], losses: list[float], smoothed: list[float]) -> float | None:
    """Return the rate before the minimum at which the smoothed loss falls fastest; None where it is only noise."""
    bottom = smoothed.index(min(smoothed))
    if bottom < 2:
        return None
    falling, noisy = torch.tensor(smoothed[: bottom + 1]), torch.tensor(losses[: bottom + 1])
    # Half of all differences of two batches are larger than 0.95 standard deviations. The median ignores the large
    # differences at high rates.
    noise = noisy.diff().abs().median() / 0.95
    if falling[0] - falling[-1] <= MIN_FALL * noise:
        return None
    return rates[int(torch.gradient(falling)[0].argmin())]
