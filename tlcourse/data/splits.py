"""Training, validation and test part of an image set, as one value."""

import html
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from tlcourse.data.images import ImageSet
from tlcourse.data.loading import make_loader
from tlcourse.data.sampling import mislabel, rebalance, take
from tlcourse.preprocessing import Preprocessing, get_preprocessing

PARTS = ("train", "val", "test")
MANY_CLASSES = 8  # from here on, tables show a range instead of a column for each class


class Loaders(NamedTuple):
    """One `DataLoader` for each part."""

    train: DataLoader
    val: DataLoader
    test: DataLoader


@dataclass(frozen=True, repr=False)
class Splits:
    """The three parts of an image set: train to learn from, val to choose by, test to report once.

    `augmentation` holds the keywords of `Preprocessing.training` for the training part; None means no augmentation.
    Validation and test are never augmented. A part that comes with a transform of its own keeps it. `notes` are
    sentences about what was done while loading.
    """

    name: str
    train: ImageSet
    val: ImageSet
    test: ImageSet
    classes: list[str]
    preprocessing: Preprocessing
    notes: list[str] = field(default_factory=list)
    augmentation: Mapping[str, Any] | None = None

    def __post_init__(self):
        evaluation = self.preprocessing.evaluation()
        augmented = None if self.augmentation is None else self.preprocessing.training(**self.augmentation)
        for part in PARTS:
            images: ImageSet = getattr(self, part)
            if images.transform is None:
                transform = augmented if part == "train" and augmented is not None else evaluation
                object.__setattr__(self, part, images.with_transform(transform))

    def plain(self) -> "Splits":
        """Return the same splits without augmentation, as features need them."""
        return replace(self, train=self.train.with_transform(None), augmentation=None)

    def for_model(self, model: Any) -> "Splits":
        """Return the same splits with the preprocessing that belongs to `model`, in place of all transforms."""
        bare = {part: getattr(self, part).with_transform(None) for part in PARTS}
        return replace(self, **bare, preprocessing=get_preprocessing(model))

    def take(
        self, train: int | None = None, val: int | None = None, test: int | None = None, *, seed: int = 0
    ) -> "Splits":
        """Return splits with so many images of each part, as balanced over the classes as their sizes allow.

        For one seed the choices are nested: the 20 images of `take(20)` are among the 200 of `take(200)`.

        Raises:
            ValueError: more images than the part has, or fewer than there are classes.
        """
        wanted = {"train": train, "val": val, "test": test}
        return replace(
            self,
            **{
                part: take(getattr(self, part), count, part, seed)
                for part, count in wanted.items()
                if count is not None
            },
        )

    def with_label_noise(self, share: float, *, seed: int = 0) -> "Splits":
        """Return splits in which a share of the training labels is wrong, the same share of every class.

        Validation and test keep their labels. `train.wrong` holds the positions of the images with a wrong label,
        `train.true_labels` every right one. For one seed, what is wrong at 0.1 is wrong in the same way at 0.3.

        Raises:
            ValueError: the share is no number from 0 to 1, or there is label noise already.
        """
        train = mislabel(self.train, share, seed)
        note = f"Label noise: {len(train.wrong):,} of {len(train):,} training labels are wrong."
        return replace(self, train=train, notes=[*self.notes, note])

    def with_class_balance(self, shares: Mapping[str, float], *, total: int | None = None, seed: int = 0) -> "Splits":
        """Return splits whose training part has the classes in these shares, such as `{"cats": 0.9, "dogs": 0.1}`.

        Validation and test stay as they are. Without `total`, the training part is as large as the shares allow; give
        one to compare shares at the same size. For one seed, a class's images at a small share are among those at a
        larger one. A later `take` evens the classes out again: take first.

        Raises:
            ValueError: the shares miss a class or do not add up to 1, or a class has too few images.
        """
        return replace(self, train=rebalance(self.train, shares, total, seed))

    def loaders(self, batch_size: int = 32, *, workers: int | None = None, seed: int = 0) -> Loaders:
        """Return a loader for each part; batches are `(images (B, 3, H, W), labels (B,))`.

        Images are float32, in channels-last format and on the runtime's device; labels stay on the CPU. Training images
        come in an order that `seed` fixes; val and test images come in their own order, two batches' worth at a time.
        A last training batch of one image is left out, because batch norm cannot use it.

        When a loader is first read, all cores decode its images once; they are kept as uint8, in memory or in the cache
        folder, and only cut and augmented anew in every epoch. An epoch's order and augmentation follow from the state
        of the loader's `generator` at its start and from nothing else: put that state back, and the same batches come.

        A part whose transform `Preprocessing` did not make is read as PyTorch does it: each image decoded each time, in
        `workers` processes, images on the CPU, and without workers augmentation from the global random numbers.

        Args:
            batch_size: training images a step.
            workers: threads that cut images; None chooses for the machine.
            seed: of order and augmentation.
        """
        lonely = len(self.train) > batch_size and len(self.train) % batch_size == 1
        training = {"shuffle": True, "drop_last": lonely}
        return Loaders(
            make_loader(self.train, batch_size, workers=workers, generator=_generator(seed), **training),
            # Generators of their own: else an evaluation draws from the global one and changes the training after it.
            make_loader(self.val, 2 * batch_size, workers=workers, generator=_generator(seed)),
            make_loader(self.test, 2 * batch_size, workers=workers, generator=_generator(seed)),
        )

    def __repr__(self) -> str:
        rows = self._table()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        title = (
            f"{self.name}: {len(self.classes)} classes, {self.preprocessing.size} x {self.preprocessing.size} pixels"
        )
        return "\n".join([title, *lines, *self.notes])

    def _repr_html_(self) -> str:
        head, *body = self._table()
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        size = self.preprocessing.size
        return (
            f"<b>{html.escape(self.name)}</b>: {len(self.classes)} classes, {size} &times; {size} pixels"
            f"<table><tr>{cells}</tr>{rows}</table>{notes}"
        )

    def _table(self) -> list[list[str]]:
        many = len(self.classes) >= MANY_CLASSES
        rows = [["part", "images", *(["per class"] if many else self.classes)]]
        for part in PARTS:
            images: ImageSet = getattr(self, part)
            counts = images.counts()
            shown = [f"{min(counts)} to {max(counts)}"] if many else [f"{count:,}" for count in counts]
            rows.append([part, f"{len(images):,}", *shown])
        return rows


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def export_folder(splits: Splits, folder: str | Path) -> Path:
    """Write splits as `folder/{train,val,test}/<class>/NNNN.png`, the images untransformed, and return the folder.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty. Give a new folder, or empty this one.")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in PARTS:
        images: ImageSet = getattr(splits, part)
        written = [0] * len(splits.classes)
        for name in splits.classes:
            (unfinished / part / name).mkdir(parents=True)
        for index, label in enumerate(images.labels.tolist()):
            images.raw(index).save(unfinished / part / splits.classes[label] / f"{written[label]:04d}.png")
            written[label] += 1
    if folder.exists():
        folder.rmdir()  # empty; some systems do not rename onto a folder
    unfinished.rename(folder)
    return folder
