"""`ImageSet`, the data set of images with labels."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from tlcourse.data.labels import as_labels, class_list
from tlcourse.data.reading import Generated, Source, ZipMember, open_archive, read_image


class ImageSet(Dataset):
    """Images with labels; item `i` is `(transform(image), label)`, where the image is a PIL image in RGB.

    A source is a file's path, a `ZipMember`, a `Generated`, a uint8 array `(H, W)` or `(H, W, 3)`, or a uint8 tensor
    `(3, H, W)`. Labels are numbers from 0, rows with a single 1, or names of classes. File names count from `root`
    where images are told apart, so that a folder may be moved.
    `true_labels` are the labels before noise was added to them (see `Splits.with_label_noise`).

    Raises:
        ValueError: sources and labels differ in number, a label has no class, or classes have no order.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        labels: Iterable[int | str] | torch.Tensor,
        classes: Sequence[str],
        transform: Callable[[Image.Image], Any] | None = None,
        *,
        root: str | Path | None = None,
        true_labels: torch.Tensor | None = None,
    ):
        self.sources = list(sources)
        self.classes = class_list(classes)
        self.labels = as_labels(labels, self.classes)
        self.transform = transform
        self.root = root
        self.true_labels = self.labels if true_labels is None else true_labels
        count = len(self.labels)
        if len(self.sources) != count:
            raise ValueError(f"There are {len(self.sources)} images and {count} labels; each needs one.")
        if len(self.true_labels) != count:
            raise ValueError(f"There are {count} labels and {len(self.true_labels)} true ones; give as many.")
        low, high = (int(self.labels.min()), int(self.labels.max())) if count else (0, -1)
        if low < 0 or high >= len(self.classes):
            raise ValueError(f"Labels go from {low} to {high}; with {len(self.classes)} classes they start at 0.")

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.raw(index)
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in zip(self.classes, self.counts(), strict=True))
        return f"ImageSet({len(self)} images: {counts})"

    def raw(self, index: int) -> Image.Image:
        """Return image `index` in RGB, untransformed."""
        return read_image(self.sources[index])

    def counts(self) -> list[int]:
        """Return the number of images of each class."""
        return torch.bincount(self.labels, minlength=len(self.classes)).tolist()

    def with_transform(self, transform: Callable[[Image.Image], Any] | None) -> "ImageSet":
        """Return the same images with another transform."""
        return self._copy(self.sources, self.labels, self.true_labels, transform)

    def subset(self, indices: Iterable[int] | torch.Tensor) -> "ImageSet":
        """Return the images at `indices`, in that order."""
        indices = [int(index) for index in indices]
        sources = [self.sources[index] for index in indices]
        return self._copy(sources, self.labels[indices], self.true_labels[indices], self.transform)

    def relabelled(self, labels: torch.Tensor) -> "ImageSet":
        """Return the same images with other labels; `true_labels` stay."""
        return self._copy(self.sources, labels, self.true_labels, self.transform)

    def _copy(self, sources: Sequence[Source], labels: torch.Tensor, true: torch.Tensor, transform: Any) -> "ImageSet":
        return ImageSet(sources, labels, self.classes, transform, root=self.root, true_labels=true)

    @property
    def wrong(self) -> torch.Tensor:
        """The positions of the images whose label is wrong."""
        return (self.labels != self.true_labels).nonzero().flatten()

    @property
    def content(self) -> str:
        """A digest of the images alone, in their order."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(self.identity(source))
        return digest.hexdigest()

    def identity(self, source: Source) -> bytes:
        """Return bytes that differ between two sources, and after a source has changed."""
        if isinstance(source, ZipMember):
            return f"{source.member} {open_archive(source.archive).getinfo(source.member).CRC}\n".encode()
        if isinstance(source, str | Path):
            name = Path(source) if self.root is None else Path(source).relative_to(self.root)
            status = os.stat(source)  # reading every byte of 25,000 files would take longer than computing features
            facts = f"{name.as_posix()} {status.st_size} {status.st_mtime_ns}\n"
            return facts.encode(errors="surrogateescape")  # a name of an old archive may be no UTF-8
        if isinstance(source, Generated):
            source = source.make(source.label, source.seed)  # its pixels: another version may draw it differently
        array = np.ascontiguousarray(source)
        return f"{array.shape} {array.dtype}\n".encode() + array.tobytes()
