"""Run the set-ups that answers make: train them, or look at what reaches the network.

A set-up is what a function of splits and a seed returns: network, loaders, optimizer, and options for `tl.train.fit`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlcourse import data, models
from tlcourse.evaluation import evaluate
from tlcourse.lessons.checks import NotRightError
from tlcourse.lessons.exercises.answers import need_function, rates_by_name
from tlcourse.train import fit

SEEDS = (11, 12, 13)
MOST_EPOCHS = 20


@dataclass(frozen=True)
class Seen:
    """A training run: the losses of each epoch, accuracy on images that the answer never had, rate, images an epoch."""

    train: list[float]
    val: list[float]
    accuracy: float
    rate: float
    images: int


def trained(function: Any, seed: int) -> Seen:
    """Make a set-up with the check's images, train it as it says, and measure it on the check's validation images."""
    pets, fresh = pets_for_checks()
    model, loaders, optimizer, options = set_up(function, pets, seed)
    val = pets.take(val=40, seed=seed).loaders(32).val
    try:
        history = fit(model, data.Loaders(loaders.train, val, val), optimizer, **options)
    except FloatingPointError as error:
        raise NotRightError(f"with seed {seed} training stops: {error}") from None
    rows, measured = history.epochs, evaluate(model, fresh)
    losses = ([row.train_loss for row in rows], [row.val_loss for row in rows])
    return Seen(*losses, measured.accuracy, max(row.lr for row in rows), rows[0].images)


@lru_cache
def pets_for_checks() -> tuple[data.Splits, Any]:
    """Return splits for answers, with half of the validation images, and a loader of the other half."""
    pets = data.load("toypets", model=models.create("tl_resnet", 2, weights=None))
    given, kept = (pets.val.subset(range(start, len(pets.val), 2)) for start in (0, 1))
    return replace(pets, val=given), replace(pets, val=kept).loaders(64).val


def set_up(function: Any, splits: data.Splits, seed: int) -> tuple[nn.Module, Any, Any, dict[str, Any]]:
    """Call an answer, and refuse what `fit` could not use."""
    need_function(function, "splits and a seed")
    torch.manual_seed(seed)
    made = function(splits, seed)
    if not isinstance(made, tuple | list) or len(made) != 4:
        raise NotRightError("the function does not return four things: network, loaders, optimizer, options.")
    model, loaders, optimizer, options = made
    if not isinstance(model, nn.Module):
        raise NotRightError(f"a {type(model).__name__} stands where the network is asked for.")
    if not hasattr(loaders, "train") or not hasattr(loaders, "val"):
        raise NotRightError(
            f"a {type(loaders).__name__} has no `train` and `val`. Give `splits.loaders(16)` or the like."
        )
    rates_by_name(model, optimizer)
    if not isinstance(options, Mapping) or not isinstance(options.get("epochs"), int):
        raise NotRightError("the options are no dictionary with a number of `epochs`.")
    if options["epochs"] > MOST_EPOCHS:
        raise NotRightError(f"{options['epochs']} epochs take too long here. {MOST_EPOCHS} are the most.")
    return model, loaders, optimizer, dict(options)


def train_with_seeds(function: Any, images: int) -> list[Seen]:
    """Train with each seed, on about as many images as the case has."""
    need_function(function, "splits and a seed")
    seen = []
    for seed in SEEDS:
        seen.append(run := trained(function, seed))
        if not images / 2 <= run.images <= 3 * images:
            raise NotRightError(f"an epoch has {run.images} training images, and the case has {images}. Keep them.")
    return seen


@lru_cache
def painted(levels: tuple[int, ...]) -> data.Splits:
    """Return splits of images that have one colour each: whatever crops and mirrors them, the colour stays."""
    colours = [*product(levels, repeat=3)]
    colours = [colours[i] for i in torch.randperm(len(colours), generator=torch.manual_seed(0)).tolist()]
    pages = [np.full((64, 64, 3), colour, dtype=np.uint8) for colour in colours * math.ceil(208 / len(colours))]
    pets, _ = pets_for_checks()
    parts = {}
    for part, span in {"train": slice(0, 100), "val": slice(100, 200), "test": slice(200, 208)}.items():
        sources = pages[span]
        parts[part] = data.ImageSet(sources, [i % 2 for i in range(len(sources))], pets.classes)
    return replace(pets, **parts, name="painted")


def shown(loader: Any, splits: data.Splits) -> tuple[Tensor, list[int], Tensor]:
    """Return each image's middle colour as the network gets it, and its label; and all colours that were given."""
    rows, labels = [], []
    for images, own in loader:
        if images.ndim != 4 or images.shape[1] != 3:
            raise NotRightError(f"a batch of images has the shape {tuple(images.shape)}, not (B, 3, H, W).")
        rows.append(images.float().flatten(2).median(2).values)
        labels += torch.as_tensor(own).tolist()
    given = [source[0, 0] for part in (splits.train, splits.val) for source in part.sources]
    return torch.cat(rows), labels, torch.from_numpy(np.stack(given)).float() / 255


def apart(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's distance to the nearest wanted colour, and that colour's position."""
    found = (rows[:, None] - wanted).abs().amax(2).min(1)
    return found.values, found.indices
