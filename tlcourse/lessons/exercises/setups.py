"""Run the set-ups that answers make: train them, or look at what reaches the network.

A set-up is what a function of splits and a seed returns: network, loaders, optimizer, and options for `tl.train.fit`.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from numbers import Integral
from types import SimpleNamespace
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
    loaders = SimpleNamespace(**loaders) if isinstance(loaders, Mapping) else loaders
    if not isinstance(model, nn.Module):
        raise NotRightError(f"a {type(model).__name__} stands where the network is asked for.")
    if not hasattr(loaders, "train") or not hasattr(loaders, "val"):
        raise NotRightError(
            f"a {type(loaders).__name__} has no `train` and `val`. Give `splits.loaders(16)` or the like."
        )
    rates_by_name(model, optimizer)
    if not isinstance(options, Mapping) or not isinstance(options.get("epochs"), Integral):
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
def painted(levels: tuple[Any, ...] = (range(9, 256, 40),) * 3) -> data.Splits:
    """Return splits of images that have one colour each: whatever crops and mirrors them, the colour stays."""
    colours = [*product(*levels)]
    colours = [colours[i] for i in torch.randperm(len(colours), generator=torch.manual_seed(0)).tolist()]
    pages = [np.full((64, 64, 3), colour, dtype=np.uint8) for colour in colours * math.ceil(343 / len(colours))]
    pets, _ = pets_for_checks()
    parts = {}
    for part, span in {"train": slice(0, 160), "val": slice(160, 300), "test": slice(300, 343)}.items():
        parts[part] = data.ImageSet(pages[span], [i % 2 for i in range(len(pages[span]))], pets.classes)
    return replace(pets, **parts, name="painted")


def shown(model: nn.Module, loader: Any) -> tuple[Tensor, list[int]]:
    """Return the pixels (N, 3, P) of all images as the network's first convolution gets them, and their labels."""
    pixels, labels, device = [], [], next(model.parameters()).device
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))

    def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pixels.append(inputs[0].flatten(2).cpu())
        raise InterruptedError  # the rest is not needed, and is slow

    hook = first.register_forward_pre_hook(stop)
    for images, own in loader:
        if images.ndim != 4 or images.shape[1] != 3:
            raise NotRightError(f"a batch of images has the shape {tuple(images.shape)}, not (B, 3, H, W).")
        with torch.no_grad(), suppress(InterruptedError):
            model.eval()(images.float().to(device))
        labels += torch.as_tensor(own).tolist()
    hook.remove()
    return torch.cat(pixels), labels


def originals(model: nn.Module, loader: Any, splits: data.Splits) -> tuple[list[int], list[int]]:
    """Return which training, validation or test image each image shows, counted through, or -1; and its label."""
    pixels, labels = shown(model, loader)
    mean, std = (torch.tensor(v) for v in (splits.preprocessing.mean, splits.preprocessing.std))
    given = [source[0, 0] for part in (splits.train, splits.val, splits.test) for source in part.sources]
    distance, found = apart(pixels.median(2).values * std + mean, torch.from_numpy(np.stack(given)).float() / 255)
    return found.where(distance <= 0.006, -1).tolist(), labels


def need_given(function: Any) -> tuple[Any, dict[str, tuple[list[int], list[int]]]]:
    """Return what an answer makes, and its training and validation images as `originals` does; refuse test images."""
    made, shows = set_up(function, splits := painted(), SEEDS[0]), {}
    for part, loader in (("training", made[1].train), ("validation", made[1].val)):
        shows[part] = originals(made[0], loader, splits)
        found = shows[part][0]
        if tests := sum(i >= len(splits.train) + len(splits.val) for i in found):
            raise NotRightError(f"{tests} {part} images are test images. Leave those for the end.")
        if part == "validation" and -1 in found:
            raise NotRightError(f"{found.count(-1)} validation images are none of those given. Use those in `splits`.")
    return made, shows


def need_images(function: Any, images: int | None = None) -> tuple[nn.Module, Any, Any, dict[str, Any]]:
    """Refuse another number of originals than a case has, or shared ones; return what the answer makes."""
    made, shows = need_given(function)
    train = {*shows["training"][0]}  # an epoch may leave out some
    train |= {i for _ in range(3) for i in originals(made[0], made[1].train, painted())[0]}
    val = {*shows["validation"][0]}
    if len(shared := train & val) > len(val) / 4:  # a colour that was changed may be that of another image
        raise NotRightError(f"{len(shared)} images train and validate. Validate on others.")
    if images is None:
        return made
    count = len(train - {-1})
    if count > 1.2 * images or (-1 not in train and count < 0.8 * images):  # -1: colours that augmentation changed
        raise NotRightError(f"there are {count} different training images, and the case has {images}. Keep them.")
    return made


def need_parts(made: tuple[nn.Module, Any, Any, dict[str, Any]], plan: tuple[str, ...] = ()) -> None:
    """Refuse tensors below the head that are not pre-trained, or that train and the plan does not have their layer."""
    model, loaders, optimizer, options = made
    held = {id(p) for group in optimizer.param_groups for p in group["params"] if group["lr"]}
    known = models.create("tl_resnet", 2)
    inner = next((module for module in model.modules() if isinstance(module, type(known))), model)
    tensors = zip(known.state_dict().items(), inner.state_dict(keep_vars=True).values(), strict=False)
    body = [(name, old, new) for (name, old), new in tensors if name[:2] != "fc" and old.shape == new.shape]
    for name, old, new in body:
        if not name.startswith(plan) and new.requires_grad and id(new) in held:
            raise NotRightError(f"{name} trains, and the docstring wants other parts to train.")
        if not new.detach().cpu().equal(old):
            raise NotRightError(f"{name} is not that of the pre-trained network.")
    with suppress(FloatingPointError):
        fit(model, data.Loaders(loaders.train, loaders.train, loaders.train), optimizer, **options | {"epochs": 1})
    for name, old, new in body:
        if not name.startswith(plan) and not new.detach().cpu().equal(old):
            why = "Batch norms follow the images where a layer takes gradients, or where they are told to."
            raise NotRightError(f"{name} moved in one epoch, and the docstring wants other parts to train. {why}")


def apart(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's distance to the nearest wanted colour, and that colour's position."""
    found = (rows[:, None] - wanted).abs().amax(2).min(1)
    return found.values, found.indices
