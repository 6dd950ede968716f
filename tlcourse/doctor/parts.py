"""Data of any kind as named parts that can be looked at without disturbing a loader's order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from tlcourse.data import PART_NAMES, ImageSet
from tlcourse.doctor.scripts.reader import RANDOM

LOOKED_AT = 32  # images of a part, spread evenly over it: channel means of images are then good to about 0.05
KINDS = "splits, loaders, a mapping of names to loaders or data sets, (train, val), or one loader or data set"

# Random transforms whose names do not say so.


@dataclass(eq=False)
class Part:
    """One part: its data set, its loader where there is one, and what can be known without training on it."""

    name: str
    dataset: Any
    loader: DataLoader | None = None
    faults: list[str] = field(default_factory=list)

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
        for layer in layers(self.dataset):
            if isinstance(classes := getattr(layer, "classes", None), list | tuple):
                return list(classes)
        return None

    @cached_property
    def transforms(self) -> list[Any]:
        """Every single transform on the way from an image to what the model gets, outermost data set first."""
        found = []
        for layer in layers(self.dataset):
            for name in ("transform", "transforms"):
                found += _flat(getattr(layer, name, None))
        return list({id(step): step for step in found}.values())

    @property
    def random_transforms(self) -> list[str]:
        """Names of the transforms that draw random numbers."""
        names = (type(step).__name__ for step in self.transforms)
        return sorted({name for name in names if name.startswith("Random") or name in RANDOM})

    @property
    def shuffled(self) -> bool | None:
        """Whether the loader draws a new order; None where there is no loader, or a sampler that does not say."""
        sampler = getattr(self.loader, "sampler", None)
        if isinstance(sampler, RandomSampler):
            return True
        return False if isinstance(sampler, SequentialSampler) else None

    def item(self, index: int) -> Any:
        """Return one item, image and label, as the data set gives it."""
        return self.dataset[index]

    def spread(self, count: int) -> list[int]:
        """Return at most `count` positions, evenly over the part, so that sorted classes all come up."""
        n = len(self)
        return sorted({i * n // min(count, n) for i in range(min(count, n))})

    @cached_property
    def sample(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A batch as the loader would make it: images `(B, C, H, W)` and labels; None where it cannot be had.

        The loader itself is not touched: its sampler and its random numbers stay where they are.
        """
        if not len(self):
            return None
        items = []
        for index in self.spread(LOOKED_AT):
            try:
                items.append(self.item(index))
            except Exception as error:  # whatever it is, the training would meet it too
                self.faults.append(f"item {index}: {type(error).__name__}: {str(error)[:160]}")
        collate = getattr(self.loader, "collate_fn", None) or default_collate
        try:
            batch = collate(items)
            if not isinstance(batch, tuple | list) or len(batch) < 2:
                return None  # dictionaries, say
            images, labels = batch[:2]
        except Exception as error:
            if items:
                self.faults.append(f"a batch of {len(items)}: {type(error).__name__}: {str(error)[:160]}")
            return None
        usable = isinstance(images, torch.Tensor) and isinstance(labels, torch.Tensor)
        return (images, labels) if usable else None


def parts_of(data: Any) -> list[Part]:
    """Read splits, loaders, data sets, or a mapping or tuple of them, as parts.

    Raises:
        ValueError: it is none of these.
    """
    if data is None:
        return []
    if isinstance(data, DataLoader | Dataset) or _batches(data):
        named = {"train": data}
    elif isinstance(data, Mapping):
        named = {PART_NAMES.get(str(name).lower(), str(name)): own for name, own in data.items()}
    elif any(_is_data(getattr(data, name, None)) for name in PART_NAMES):
        named = {PART_NAMES[name]: getattr(data, name) for name in PART_NAMES if _is_data(getattr(data, name, None))}
    elif isinstance(data, Sequence) and not isinstance(data, str) and 1 <= len(data) <= 3:
        named = dict(zip(("train", "val", "test"), data, strict=False))
    else:
        raise ValueError(f"data is {type(data).__name__}: give {KINDS}.")
    return [_part(name, own) for name, own in named.items() if own is not None]


def layers(dataset: Any) -> Iterator[Any]:
    """Yield a data set, and those that it wraps, as `Subset` does and most home-made wrappers do."""
    while dataset is not None:
        yield dataset
        inner = [getattr(dataset, name, None) for name in ("dataset", "subset")]
        dataset = next((one for one in inner if hasattr(one, "__getitem__")), None)


def origin(dataset: Any, index: int) -> tuple[Any, int]:
    """Return the innermost data set, and the position there of item `index`."""
    for layer in layers(dataset):
        if (indices := getattr(layer, "indices", None)) is not None:
            index = int(indices[index])
        innermost = layer
    return innermost, index


def source(dataset: Any, index: int) -> Any:
    """Return the untransformed image behind item `index`: a path, a zip's member or an array; None where unknown."""
    inner, index = origin(dataset, index)
    if isinstance(inner, ImageSet):
        return inner.sources[index]
    if isinstance(inner, TensorDataset):
        return inner.tensors[0][index]
    for name in ("samples", "imgs"):
        entries = getattr(inner, name, None)
        if isinstance(entries, list) and entries and isinstance(entries[0][0], str):
            return entries[index][0]
    pixels = getattr(inner, "data", None)  # torchvision's MNIST and CIFAR
    if getattr(pixels, "ndim", 0) in (3, 4) and len(pixels) == len(inner):
        image = pixels[index]
        return image.numpy() if isinstance(image, torch.Tensor) and image.ndim == 2 else image
    return None


def _is_data(value: Any) -> bool:
    return isinstance(value, DataLoader | Dataset) or _batches(value)


def _batches(value: Any) -> bool:
    """Whether this is a list of batches, each a pair of tensors: a loader of the simplest kind."""
    pairs = (
        isinstance(value, list) and value and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in value)
    )
    return bool(pairs) and all(isinstance(tensor, torch.Tensor) and tensor.ndim for pair in value for tensor in pair)


def _part(name: str, own: Any) -> Part:
    if _batches(own):
        joined = TensorDataset(*(torch.cat(tensors) for tensors in zip(*own, strict=True)))
        return Part(name, joined)
    loader = own if isinstance(own, DataLoader) else None
    dataset = own.dataset if loader is not None else own
    readable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not readable:
        raise ValueError(
            f"The {name} part, {type(dataset).__name__}, can only be read from its start, which would use up what "
            "the training wants. Give a data set with positions, or leave data out."
        )
    return Part(name, dataset, loader)


def _flat(transform: Any) -> Iterator[Any]:
    """Yield the single transforms of a pipeline, whatever they are nested in."""
    if transform is None:
        return
    inner = [getattr(transform, name, None) for name in ("transforms", "transform", "target_transform")]
    if isinstance(transform, list | tuple | torch.nn.Sequential | torch.nn.ModuleList):
        inner = list(transform)
    else:
        yield transform
    for step in inner:
        yield from _flat(step)


def _labels(dataset: Any) -> torch.Tensor | None:
    if getattr(dataset, "target_transform", None) is not None:
        return None  # what the loader gives is not what is listed
    if isinstance(dataset, TensorDataset):
        return _as_labels(dataset.tensors[-1]) if len(dataset.tensors) > 1 else None
    if isinstance(dataset, ConcatDataset):
        own = [_labels(inner) for inner in dataset.datasets]
        return torch.cat(own) if own and all(labels is not None for labels in own) else None
    for name in ("labels", "targets", "_labels"):
        if (labels := _as_labels(getattr(dataset, name, None))) is not None and len(labels) == len(dataset):
            return labels
    inner = next(iter([*layers(dataset)][1:]), None)
    if inner is None or (labels := _labels(inner)) is None:
        return None
    indices = getattr(dataset, "indices", None)
    if indices is not None:
        return labels[torch.as_tensor(list(indices), dtype=torch.long)]
    return labels if len(labels) == len(dataset) else None


def _as_labels(values: Any) -> torch.Tensor | None:
    """Return labels as whole numbers `(N,)`; None for anything else."""
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
    return labels.long().cpu() if whole else None
