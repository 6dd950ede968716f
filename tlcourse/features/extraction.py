"""Each image's features: what the backbone computes and the head is given. Computed once, then read from the cache."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from tlcourse.atomic_write import atomic_write
from tlcourse.data import ImageSet, Splits, make_loader
from tlcourse.evaluation import class_numbers, evaluation_mode, read_batch, run
from tlcourse.features.cache_key import cache_file
from tlcourse.models import head
from tlcourse.runtime import get_runtime
from tlcourse.side_effects import input_hooks


class Features(NamedTuple):
    """The features of a set of images, `x` `(N, D)` float32, and their labels, `y` `(N,)`."""

    x: Tensor
    y: Tensor


class FeatureSplits(NamedTuple):
    """The features of the training, validation and test set."""

    train: Features
    val: Features
    test: Features


def extract(model: nn.Module, dataset: Dataset, *, batch_size: int = 64, cache: bool | Path = True) -> Features:
    """Compute the features of every image, in the order of the data set.

    Features are the input of the model's head, the first of several; feature maps are averaged over their positions.
    Those of an `ImageSet` are kept in the cache folder, under a key made of everything that decides them (see
    `cache_key`). Those of other data sets are computed each time.

    Args:
        model: any model with a recognisable head; the head itself is not used.
        dataset: gives `(image, label)`, with a transform that is not random.
        batch_size: images per batch.
        cache: `False` stores nothing; a path is the folder to use.

    Raises:
        ValueError: the data set is empty, or its transform is random.
    """
    refuse_random(dataset, "Use the plain transform: `splits.plain()`.")
    file = cache_file(cache, ".safetensors", model, dataset, without=[head(model)])
    if file is not None:
        with suppress(SafetensorError, KeyError, OSError):  # missing or damaged: compute it
            return Features(load_file(file)["x"], dataset.labels)
    features = _compute(model, dataset, batch_size)
    if file is not None:
        try:
            with atomic_write(file) as part:
                save_file({"x": features.x}, part)
        except (OSError, SafetensorError) as error:  # a full disk costs the cache, not the features
            print(f"The features are not kept: {file} could not be written ({error}).")
    return features


def extract_splits(model: nn.Module, splits: Splits, *, cache: bool | Path = True) -> FeatureSplits:
    """Compute the features of all three sets, without augmentation."""
    plain = splits.plain()
    return FeatureSplits(*(extract(model, part, cache=cache) for part in (plain.train, plain.val, plain.test)))


def is_random(dataset: Dataset) -> bool:
    """Say whether reading an image twice gives two results.

    Raises:
        ValueError: the data set is empty.
    """
    if len(dataset) == 0:
        raise ValueError("The data set is empty: there is nothing to compute features of.")
    few = range(min(3, len(dataset)))  # a random transform may leave one image as it is, hardly three
    return not all(torch.equal(dataset[i][0], dataset[i][0]) for i in few)


def refuse_random(dataset: Dataset, advice: str) -> None:
    """Raise a ValueError, with advice at its end, where reading an image twice gives two results."""
    if is_random(dataset):
        raise ValueError(
            "Reading the same image twice gives two results, so its transform is random, and one draw would be "
            f"kept for good. {advice}"
        )


@torch.no_grad()
def forward_passes(model: nn.Module, dataset: Dataset, batch_size: int) -> Iterator[Tensor]:
    """Run a model over a data set in evaluation mode; yield the labels of each batch after its pass, for hooks."""
    device = next(model.parameters()).device
    workers = get_runtime().workers
    if workers and isinstance(dataset, ImageSet):  # threads: processes that are spawned need a guarded main script
        loader = make_loader(dataset, batch_size)
    else:
        loader = DataLoader(dataset, batch_size, num_workers=workers)
    with evaluation_mode(model):
        for images, labels in tqdm(map(read_batch, loader), desc="features", total=len(loader), leave=False):
            run(model, images.to(device))
            yield class_numbers(labels)


def _compute(model: nn.Module, dataset: Dataset, batch_size: int) -> Features:
    inputs: list[Tensor] = []
    rows, labels = [], []
    with input_hooks([head(model)], lambda _, args: inputs.append(args[0].detach())):
        for targets in forward_passes(model, dataset, batch_size):
            x = inputs[0]  # of the first call, where a head is called more than once
            rows.append((x.mean(dim=(2, 3)) if x.ndim == 4 else x).float().cpu())
            labels.append(targets)
            inputs.clear()
    features = Features(torch.cat(rows), torch.cat(labels).cpu())
    if len(features.x) != len(dataset):
        raise ValueError(f"The data set has {len(dataset)} images but gave {len(features.x)}.")
    return features
