"""Data of any kind as named parts that can be looked at without disturbing a loader's order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils import data as torch_data

from tlcourse.data import PART_NAMES, ImageSet
from tlcourse.doctor.scripts.nodes import is_random

SAMPLED = 32  # images of a part, spread evenly over it: channel means are then good to about 0.05
MOST_COMPARED, MOST_COMPARED_OTHERS = 2000, 1000  # training and other images read to look for copies: a few seconds


@dataclass(eq=False)
class Part:
    """One part: its data set, its loader where there is one, and what can be known without training on it."""

    name: str
    dataset: Any
    loader: torch_data.DataLoader | None = None
    faults: list[str] = field(default_factory=list)
    read: list[int] = field(default_factory=list)  # the positions of the items in `sample`

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def evaluated(self) -> bool:
        """Whether the part is there to measure with, and not to learn from."""
        return self.name != "train"

    @cached_property
    def labels(self) -> torch.Tensor | None:
        """All labels `(N,)`, where they can be had without reading an image."""
        return _labels(self.dataset)

    @cached_property
    def classes(self) -> list[str] | None:
        """Names of the classes, where the data set has them."""
        named = [getattr(layer, "classes", None) for layer in layers(self.dataset)]
        return next((list(classes) for classes in named if isinstance(classes, list | tuple)), None)

    @cached_property
    def transforms(self) -> list[Any]:
        """Every single transform on the way from an image to what the model gets, outermost data set first."""
        ways = [getattr(layer, name, None) for layer in layers(self.dataset) for name in ("transform", "transforms")]
        return list({id(step): step for step in _single_transforms(ways)}.values())

    @property
    def random_transforms(self) -> list[str]:
        """Names of the transforms that draw random numbers."""
        return sorted({name for step in self.transforms if is_random(name := type(step).__name__)})

    @property
    def shuffled(self) -> bool | None:
        """Whether the loader draws a new order; None where there is no loader, or a sampler that does not say."""
        sampler = type(getattr(self.loader, "sampler", None))
        return {torch_data.RandomSampler: True, torch_data.SequentialSampler: False}.get(sampler)

    def spread(self, count: int) -> list[int]:
        """Return at most `count` positions, evenly over the part, so that sorted classes all come up."""
        count = min(count, len(self))
        return [i * len(self) // count for i in range(count)]

    @property
    def compared(self) -> list[int]:
        """The positions of the images that are read to look for copies."""
        return self.spread(MOST_COMPARED_OTHERS if self.evaluated else MOST_COMPARED)

    def origin(self, index: int) -> tuple[Any, int]:
        """Return the innermost data set, and the position there of item `index`."""
        for layer in layers(self.dataset):
            if (indices := getattr(layer, "indices", None)) is not None:
                index = int(indices[index])
            innermost = layer
        return innermost, index

    def source(self, index: int) -> Any:
        """Return the untransformed image of item `index`: a path, a zip's member or an array; None where unknown."""
        inner, index = self.origin(index)
        if isinstance(inner, ImageSet):
            return inner.sources[index]
        if isinstance(inner, torch_data.TensorDataset):
            return inner.tensors[0][index]
        files = getattr(inner, "samples", getattr(inner, "imgs", None))
        if isinstance(files, list) and files and isinstance(files[0][0], str):
            return files[index][0]
        pixels = getattr(inner, "data", None)  # torchvision's MNIST and CIFAR
        if getattr(pixels, "ndim", 0) in (3, 4) and len(pixels) == len(inner):
            image = pixels[index]
            return image.numpy() if isinstance(image, torch.Tensor) and image.ndim == 2 else image
        return None

    def identity(self, index: int) -> tuple[object, str]:
        """Return a key that is the same for the same item of two parts, and a name for the item."""
        image = self.source(index)
        if isinstance(image, str | tuple | Path):
            return str(image), str(image[-1] if isinstance(image, tuple) else image)
        inner, position = self.origin(index)
        return (id(inner), position), f"item {position} of {type(inner).__name__}"

    @cached_property
    def sample(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A batch as the loader would make it: images `(B, C, H, W)` and labels; None where it cannot be had.

        The loader itself is not touched: its sampler and its random numbers stay where they are.
        """
        items, batch = [], None
        for index in self.spread(SAMPLED):
            try:
                items.append(self.dataset[index])
                self.read.append(index)
            except Exception as error:  # whatever it is, the training would meet it too
                self.faults.append(f"item {index}: {type(error).__name__}: {str(error)[:160]}")
        collate = getattr(self.loader, "collate_fn", None) or torch_data.default_collate
        try:
            batch = collate(items) if items else None
        except Exception as error:
            self.faults.append(f"a batch of {len(items)}: {type(error).__name__}: {str(error)[:160]}")
        pair = batch[:2] if isinstance(batch, tuple | list) else ()  # not dictionaries, say
        return tuple(pair) if len(pair) == 2 and all(isinstance(own, torch.Tensor) for own in pair) else None


def parts_of(data: Any) -> list[Part]:
    """Read splits, loaders, data sets, or a mapping or tuple of them, as parts.

    Raises:
        ValueError: it is none of these.
    """
    if data is None:
        return []
    attributes = {name: getattr(data, name) for name in PART_NAMES if _is_data(getattr(data, name, None))}
    given = data if isinstance(data, Mapping) else attributes
    if _is_data(data):
        named = {"train": data}
    elif isinstance(data, Mapping) or attributes:
        named = {PART_NAMES.get(str(name).lower(), str(name)): own for name, own in given.items()}
    elif isinstance(data, Sequence) and not isinstance(data, str) and 1 <= len(data) <= 3:
        named = dict(zip(("train", "val", "test"), data, strict=False))
    else:
        kinds = "splits, loaders, a mapping of names to loaders or data sets, (train, val), or one loader or data set"
        raise ValueError(f"data is {type(data).__name__}: give {kinds}.")
    return [_part(name, own) for name, own in named.items() if own is not None]


def layers(dataset: Any) -> Iterator[Any]:
    """Yield a data set, and those that it wraps, as `Subset` does and most home-made wrappers do."""
    while dataset is not None:
        yield dataset
        inner = [getattr(dataset, name, None) for name in ("dataset", "subset")]
        dataset = next((one for one in inner if hasattr(one, "__getitem__")), None)


def _is_data(value: Any) -> bool:
    return isinstance(value, torch_data.DataLoader | torch_data.Dataset) or _is_batches(value)


def _is_batches(value: Any) -> bool:
    """Whether this is a list of batches, each a pair of tensors: a loader of the simplest kind."""
    pairs = isinstance(value, list) and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in value)
    return pairs and value != [] and all(isinstance(own, torch.Tensor) and own.ndim for pair in value for own in pair)


def _part(name: str, own: Any) -> Part:
    if _is_batches(own):
        return Part(name, torch_data.TensorDataset(*(torch.cat(tensors) for tensors in zip(*own, strict=True))))
    loader = own if isinstance(own, torch_data.DataLoader) else None
    dataset = own.dataset if loader is not None else own
    readable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, torch_data.IterableDataset) or not readable:
        why = f"{type(dataset).__name__}, can only be read from its start, which would use up what the training wants"
        raise ValueError(f"The {name} part, {why}. Give a data set with positions, or leave data out.")
    return Part(name, dataset, loader)


def _single_transforms(transform: Any) -> Iterator[Any]:
    """Yield the single transforms of a pipeline, whatever they are nested in."""
    inner = transform
    if not isinstance(transform, list | tuple | torch.nn.Sequential | torch.nn.ModuleList):
        inner = [getattr(transform, name, None) for name in ("transforms", "transform", "target_transform")]
        yield transform
    for step in inner:
        if step is not None:
            yield from _single_transforms(step)


def _labels(dataset: Any) -> torch.Tensor | None:
    if getattr(dataset, "target_transform", None) is not None:
        return None  # what the loader gives is not what is listed
    if isinstance(dataset, torch_data.TensorDataset):
        return _as_labels(dataset.tensors[-1]) if len(dataset.tensors) > 1 else None
    if isinstance(dataset, torch_data.ConcatDataset):
        own = [_labels(inner) for inner in dataset.datasets]
        return torch.cat(own) if own and all(labels is not None for labels in own) else None
    for name in ("labels", "targets", "_labels"):
        if (labels := _as_labels(getattr(dataset, name, None))) is not None and len(labels) == len(dataset):
            return labels
    inner = [*layers(dataset)][1:]
    labels = _labels(inner[0]) if inner else None
    if labels is not None and getattr(dataset, "indices", None) is not None:
        return labels[torch.as_tensor(list(dataset.indices), dtype=torch.long)]
    return labels if labels is not None and len(labels) == len(dataset) else None


def _as_labels(values: Any) -> torch.Tensor | None:
    """Return labels as whole numbers `(N,)`; None for anything else."""
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
    return labels.long().cpu() if whole else None
