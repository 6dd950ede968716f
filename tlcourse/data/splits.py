"""`Splits`: the training, validation and test set of one task, with the transforms that a model wants."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from tlcourse.data.images import ImageSet
from tlcourse.data.loading import make_loader
from tlcourse.data.sampling import mislabel, rebalance, take
from tlcourse.preprocessing import Preprocessing, get_preprocessing
from tlcourse.table import Table

PARTS = ("train", "val", "test")
MANY_CLASSES = 8  # from here on, the table shows a range instead of a column for each class


class Loaders(NamedTuple):
    """One `DataLoader` for each part."""

    train: DataLoader
    val: DataLoader
    test: DataLoader


def leaves_single(images: int, batch_size: int) -> bool:
    """Say whether a last training batch of one image is left, which is dropped: batch norm cannot use it."""
    return images > batch_size and images % batch_size == 1


@dataclass(frozen=True, repr=False)
class Splits:
    """The three parts of an image set: train to learn from, val to choose by, test to report once.

    A part without a transform gets that of `preprocessing`: the training part with `augmentation`, which holds the
    keywords of `Preprocessing.training` (None for no augmentation), validation and test always without. A part that
    comes with a transform of its own keeps it. `notes` are sentences about what was done while loading.
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
        transforms = dict.fromkeys(PARTS, self.preprocessing.evaluation())
        if self.augmentation is not None:
            transforms["train"] = self.preprocessing.training(**self.augmentation)
        for part in PARTS:
            images: ImageSet = getattr(self, part)
            if images.transform is None:
                object.__setattr__(self, part, images.with_transform(transforms[part]))

    def plain(self) -> "Splits":
        """Return the same splits without augmentation, as features need them."""
        return replace(self, train=self.train.with_transform(None), augmentation=None)

    def for_model(self, model: Any) -> "Splits":
        """Return the same splits with the preprocessing that belongs to `model`, in place of all transforms."""
        untransformed = {part: getattr(self, part).with_transform(None) for part in PARTS}
        return replace(self, **untransformed, preprocessing=get_preprocessing(model))

    def take(
        self, train: int | None = None, val: int | None = None, test: int | None = None, *, seed: int = 0
    ) -> "Splits":
        """Return splits with this many images in each part, as balanced over the classes as their sizes allow.

        For one seed the choices are nested: the 20 images of `take(20)` are among the 200 of `take(200)`.

        Raises:
            ValueError: more images than the part has, or fewer than there are classes.
        """
        counts = {"train": train, "val": val, "test": test}
        taken = {
            part: take(getattr(self, part), count, part, seed) for part, count in counts.items() if count is not None
        }
        return replace(self, **taken)

    def with_label_noise(self, fraction: float, *, seed: int = 0) -> "Splits":
        """Return splits in which a fraction of the training labels is wrong, the same fraction of every class.

        Validation and test keep their labels. `train.wrong` holds the positions of the images with a wrong label,
        `train.true_labels` all right labels. For one seed, what is wrong at 0.1 is wrong in the same way at 0.3.

        Raises:
            ValueError: the fraction is no number from 0 to 1, there is one class only, or there is label noise already.
        """
        train = mislabel(self.train, fraction, seed)
        note = f"Label noise: {len(train.wrong):,} of {len(train):,} training labels are wrong."
        return replace(self, train=train, notes=[*self.notes, note])

    def with_class_balance(self, shares: Mapping[str, float], *, total: int | None = None, seed: int = 0) -> "Splits":
        """Return splits whose training part has the classes in these shares, such as `{"cats": 0.9, "dogs": 0.1}`.

        Validation and test stay as they are. Without `total`, the training part is as large as the shares allow; give
        one to compare shares at the same size. For one seed, a class's images at a small share are among those at a
        larger one. A later `take` balances the classes again: take first.

        Raises:
            ValueError: the shares do not name each class once, are not positive, or do not add up to 1; or a class has
                too few images, or would get none.
        """
        return replace(self, train=rebalance(self.train, shares, total, seed))

    def loaders(self, batch_size: int = 32, *, workers: int | None = None, seed: int = 0) -> Loaders:
        """Return a loader for each part; batches are `(images (B, 3, H, W), labels (B,))`.

        Images are float32, in channels-last format and on the runtime's device; labels stay on the CPU. `seed` fixes
        the order and the augmentation of the training images; validation and test images come in their own order, in
        batches twice as large. A last training batch of one image is dropped, because batch norm cannot use it.

        Images are decoded once, when a loader is first read, and kept as uint8 in memory or in the cache folder;
        `workers` threads crop and augment them anew in every epoch (None chooses for the machine). An epoch's order and
        augmentation depend only on the state of the loader's `generator` at its start: restore it to repeat the epoch.

        A part whose transform `Preprocessing` did not make is read as PyTorch does it: each image decoded each time, in
        `workers` processes, images on the CPU, and without workers augmentation from the global random numbers.
        """

        def loader(images: ImageSet, size: int, **options: bool) -> DataLoader:
            # Each has its own generator: otherwise an evaluation would change the random numbers of the training.
            return make_loader(images, size, workers=workers, generator=torch.Generator().manual_seed(seed), **options)

        return Loaders(
            loader(self.train, batch_size, shuffle=True, drop_last=leaves_single(len(self.train), batch_size)),
            loader(self.val, 2 * batch_size),
            loader(self.test, 2 * batch_size),
        )

    def __repr__(self) -> str:
        return "\n".join([f"{self.name}: {self._summary()}", str(self._table()), *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return f"<b>{escape(self.name)}</b>: {self._summary()}{self._table()._repr_html_()}{notes}"

    def _summary(self) -> str:
        return f"{len(self.classes)} classes, {self.preprocessing.size} x {self.preprocessing.size} pixels"

    def _table(self) -> Table:
        table = Table()
        for part in PARTS:
            images: ImageSet = getattr(self, part)
            counts = images.counts()
            row = {"part": part, "images": len(images)}
            if len(self.classes) >= MANY_CLASSES or not row.keys().isdisjoint(self.classes):
                row["per class"] = f"{min(counts)} to {max(counts)}"
            else:
                row |= dict(zip(self.classes, counts, strict=True))
            table.append(row)
        return table


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
        for label, name in enumerate(splits.classes):
            (unfinished / part / name).mkdir(parents=True)
            for number, index in enumerate((images.labels == label).nonzero().flatten().tolist()):
                images.raw(index).save(unfinished / part / name / f"{number:04d}.png")
    if folder.exists():
        folder.rmdir()  # empty; some systems do not rename onto a folder
    unfinished.rename(folder)
    return folder
