"""Compute the frozen layers' output once for each image, cache it, and train only the remaining layers on it."""

import math
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from tlcourse.data import ImageSet, Loaders, Splits, leaves_single, make_loader
from tlcourse.evaluation import USUAL_FORMAT, autocast, evaluation_mode
from tlcourse.features.activations import ActivationLoader, Activations, ViewSampler
from tlcourse.features.array_store import computed_once
from tlcourse.features.cache_key import cache_file
from tlcourse.features.cut import split_frozen
from tlcourse.features.extraction import is_random, refuse_random
from tlcourse.models import head_names, unwrap_model
from tlcourse.side_effects import preserve_rng_state

BATCH = 32  # images that the frozen part computes at a time


@dataclass(frozen=True)
class Precomputed:
    """The part of a network that is left to train, and its input, computed beforehand."""

    trainable_part: fx.GraphModule
    train: Activations
    val: Activations
    test: Activations

    def loaders(self, batch_size: int = 32, *, seed: int = 0) -> Loaders:
        """Return a loader for each set; batches are `(activations (B, ...) float32, labels (B,))`.

        They have the images of `splits.plain().loaders(batch_size, seed=seed)` in the same order: validation and test
        set with twice the batch size, and no last training batch of one image. Of several views, one is drawn for
        each image and epoch. The state of `train.generator` before an epoch decides order and views.
        """
        images, generator = len(self.train.labels), torch.Generator().manual_seed(seed)
        sampler = ViewSampler(images, self.train.views, generator)
        options = {"sampler": sampler, "drop_last": leaves_single(images, batch_size)}
        pinned = next(self.trainable_part.parameters()).device.type == "cuda"
        return Loaders(
            ActivationLoader(self.train, batch_size, generator=generator, pin_memory=pinned, **options),
            ActivationLoader(self.val, 2 * batch_size, pin_memory=pinned),
            ActivationLoader(self.test, 2 * batch_size, pin_memory=pinned),
        )


def precompute(
    model: nn.Module,
    splits: Splits,
    *,
    views: int = 1,
    seed: int = 0,
    precision: str = "float32",
    cache: bool | Path = True,
) -> Precomputed:
    """Run the frozen part of a model once over all images; train the rest on its output.

        cached = tl.features.precompute(model, splits, views=4)
        optimizer = torch.optim.AdamW(tl.models.param_groups(cached.trainable_part, lr=1e-3))
        history = tl.train.fit(cached.trainable_part, cached.loaders(32), optimizer, epochs=10)

    `trainable_part` shares its modules and parameters with the model, which is therefore trained too. The activations
    are kept as float16, each rounded by at most 0.05 %, in the cache folder, under a key made of everything that
    decides them (see `cache_key`). A damaged file is computed again.

    Args:
        model: frozen from the input up, as `tl.models.freeze` and `tl.models.unfreeze_from` leave it.
        splits: prepared for this model.
        views: 1 takes the training images without augmentation. With more, that many augmented versions of each image
            are computed, and each epoch draws one of them for each image.
        seed: of the augmentation.
        precision: of the frozen part's computation, `"float32"`, or `"bfloat16"` with an error of 0.3 to 2 % where it
            was measured (ResNet-18, SqueezeNet).
        cache: `False` keeps the activations in memory only; a path is the folder to use.

    Raises:
        ValueError: no part of the model can be computed beforehand (see `split_frozen`), `views` is not positive, or
            there is no augmentation that would make views differ.
        OSError: the disk has too little room; the message says how much is needed.
        FloatingPointError: an activation is infinite or not a number.
    """
    if views < 1:
        raise ValueError(f"views is {views}: give 1 (no augmentation) or more.")
    if views == 1 and splits.augmentation is not None:
        splits = splits.plain()
    sets = [_Views(splits.train, views, seed if views > 1 else 0), _Views(splits.val), _Views(splits.test)]
    heads = [unwrap_model(model).get_submodule(name) for name in head_names(model)]
    with preserve_rng_state():
        for images in sets:
            images.check()
        two = torch.stack([splits.val[i][0] for i in (0, -1)])
        frozen_part, trainable_part = split_frozen(model, two.to(next(model.parameters()).device))
        activations = []
        with evaluation_mode(frozen_part), torch.no_grad():
            for images in sets:
                settings = (precision, images.views, images.seed)
                file = cache_file(cache, ".npy", frozen_part, images.images, *settings, without=heads)
                activations.append(_activations(frozen_part, images, precision, file))
    return Precomputed(trainable_part, *activations)


@dataclass(frozen=True)
class _Views:
    """The images of one set, in one or more views, each with random numbers of its own."""

    images: ImageSet
    views: int = 1
    seed: int = 0

    def batches(self) -> Iterator[Tensor]:
        """Yield batches of all images in order, first in one view, then in the next one."""
        for seed in range(self.seed, self.seed + self.views):
            torch.manual_seed(seed)  # which a transform of the learner's own may use
            loader = make_loader(self.images, BATCH, generator=torch.Generator().manual_seed(seed))
            yield from (images for images, _ in loader)

    def check(self) -> None:
        """Raise a ValueError where the transform is random and must not be, or the other way round."""
        if self.views == 1:
            refuse_random(self.images, "Use a plain transform, or views=2 or more for the training set.")
        elif not is_random(self.images):
            raise ValueError(
                f"views={self.views}, and all views of an image are the same, because nothing augments it. "
                "Give the splits an augmentation, or take views=1."
            )


def _activations(frozen_part: nn.Module, images: _Views, precision: str, file: Path | None) -> Activations:
    """Read the frozen part's output for some images, or compute and store it."""
    device = next(frozen_part.parameters()).device
    layout = torch.channels_last

    def compute(batch: Tensor) -> Tensor:
        # Convolutions are faster on channels-last maps, and their output is channels-last too.
        with autocast(device, precision):
            x = frozen_part(batch.to(device, memory_format=layout)).float().cpu()
        return x.permute(0, 2, 3, 1) if x.ndim == 4 else x

    two = torch.stack([images.images[i][0] for i in range(min(2, len(images.images)))])
    try:
        with redirect_stderr(StringIO()):  # what torch.fx prints
            first = compute(two)
    except RuntimeError as error:
        if USUAL_FORMAT not in str(error):
            raise
        layout = torch.contiguous_format  # for a `.view` in the network
        first = compute(two)

    def rows() -> Iterator[Tensor]:
        steps = images.views * math.ceil(len(images.images) / BATCH)
        yield from map(compute, tqdm(images.batches(), desc="frozen part", total=steps, leave=False))

    shape = (images.views * len(images.images), *first.shape[1:])
    return Activations(computed_once(file, shape, rows), images.images.labels)
