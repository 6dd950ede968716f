"""Labels: what `ImageSet` takes as numbers of classes, and the labels of a folder's images in a CSV file."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from tlcourse.data.folder_layout import Layout, images_below, part_of, plain

LABEL_NAMES = ("label", "class", "target", "category", "y")  # of the column, where a file has more than two
MISSING = {"", "nan"}


def class_list(classes: Iterable[str]) -> list[str]:
    """Return the classes as a list.

    Raises:
        ValueError: they have no order, or are not each other's different.
    """
    if isinstance(classes, set | frozenset | str):
        raise ValueError(f"The classes are a {type(classes).__name__}: give a list, whose order numbers them.")
    listed = list(classes)
    if isinstance(classes, dict) and list(classes.values()) != list(range(len(listed))):
        raise ValueError("The classes are a dictionary whose numbers are not 0, 1, 2 in its order: give a list.")
    if twice := [name for name, count in Counter(listed).items() if count > 1]:
        raise ValueError(f"The class {twice[0]!r} is there twice: give each class once.")
    return listed


def as_labels(labels: Iterable[int | str] | torch.Tensor, classes: Sequence[str]) -> torch.Tensor:
    """Return labels `(N,)` as the numbers of their classes: whole numbers, rows with a single 1, or names.

    Raises:
        ValueError: a label is missing, between two numbers, or the name of no class.
    """
    values = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else list(labels))
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values  # as Keras has them
    if values.dtype.kind in "USO":
        number = {name: i for i, name in enumerate(classes)}
        wrong = [(i, v) for i, v in enumerate(values.flat) if not (isinstance(v, str | int) and v in number)]
        if values.ndim > 1 or wrong:
            seen = f"label {wrong[0][0]} is {wrong[0][1]!r}" if wrong else f"their shape is {values.shape}"
            raise ValueError(f"Labels are numbers from 0, or names of classes ({', '.join(classes[:8])}); {seen}.")
        values = np.array([number[v] for v in values], dtype=np.int64)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError(f"Label {np.isnan(values).nonzero()[0][0]} is missing (nan): leave that image out.")
    if values.ndim == 2 and values.shape[1] == len(classes) and np.isin(values, (0, 1)).all():
        if not (values.sum(1) == 1).all():
            raise ValueError("A row of the labels has no 1, or several: give each image one class.")
        values = values.argmax(1)
    if values.ndim != 1 or values.dtype.kind not in "biuf" or (values != np.round(values)).any():
        raise ValueError(
            f"Labels are whole numbers, one for each image; these are {values.dtype}, of shape {values.shape}, such as "
            f"{values.flat[0]}. Of probabilities take `.argmax(1)`, of scores `(scores > 0.5)`."
        )
    return torch.from_numpy(values.astype(np.int64))


def layout_from_csv(root: Path, file: Path) -> Layout:
    """Return the images below a folder with their labels from a CSV file: an image's name or id, and its label.

    The column of names is the one that fits most images, with or without folder and suffix. The other one holds the
    labels; of several others, the one that is called so.

    Raises:
        ValueError: no column fits, labels are missing, or a name stands for several images.
    """
    rows = _rows(file)
    named: dict[str, list[Path]] = defaultdict(list)
    for path in images_below(root):
        below = plain(path.relative_to(root).as_posix())
        for name in {below, below.rpartition(".")[0], plain(path.name), plain(path.stem)}:
            named[name].append(path)
    fits = [(sum(cell in named for cell in column), len(set(column))) for column in zip(*rows, strict=True)]
    key = max(range(len(fits)), key=fits.__getitem__)
    if not fits[key][0]:
        raise ValueError(f"No row of {file} names an image in {root}; it begins {rows[0]}. Check both paths.")
    header = None if rows[0][key] in named else rows.pop(0)
    label = _label_column(file, key, header or [""] * len(fits))
    if missing := [row[key] for row in rows if row[label].lower() in MISSING]:
        raise ValueError(f"{len(missing)} rows of {file} have no label, such as {missing[0]}. Take them out.")
    found: dict[Path, str] = {}
    for row in rows:
        paths = named.get(row[key], [])
        if len(paths) > 1:  # Kaggle counts the images of train and test from 0 each
            paths = [path for path in paths if part_of(path.relative_to(root).parts[0]) == "train"] or paths
        if len(paths) > 1:
            raise ValueError(
                f"{row[key]} stands for {paths[0]} and {paths[1]}: give the folder of one of them as data."
            )
        if paths and found.setdefault(paths[0], row[label]) != row[label]:
            raise ValueError(f"{file} has two labels for {row[key]}: {found[paths[0]]} and {row[label]}.")
    classes = sorted(set(found.values()))
    if len(classes) < 2:
        raise ValueError(f"{file} has one class only, {classes[0]}; there must be at least two.")
    others = len({path for paths in named.values() for path in paths}) - len(found)
    absent = sum(row[key] not in named for row in rows)
    notes = [f"{others} images have no label in {file.name} and were left out. {PREDICT}"] * bool(others)
    notes += [f"{absent} rows of {file.name} name no image in {root.name}, and were left out."] * bool(absent)
    files = sorted(((classes.index(name), path) for path, name in found.items()), key=lambda item: item[1].as_posix())
    return Layout(root, classes, {"train": files}, flat=True, notes=notes)


PREDICT = "`tlcourse predict MODEL FOLDER --csv FILE` answers them."


def _rows(file: Path) -> list[list[str]]:
    """Read a file whose cells are separated by commas, semicolons or tabs."""
    if not file.is_file():
        raise ValueError(f"There is no file {file} with labels.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: save it as a CSV file.") from error
    first = text.partition("\n")[0]
    rows = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count)))
    rows = [[plain(cell) for cell in row] for row in rows if any(row)]
    if not rows or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"{file} is no table: each row needs an image's name, a comma and its label.")
    return rows


def _label_column(file: Path, key: int, header: list[str]) -> int:
    others = [i for i in range(len(header)) if i != key]
    called = [i for i in others if header[i].lower() in LABEL_NAMES]
    if len(others) > 1 and len(called) != 1:
        names = ", ".join(header[i] or f"number {i + 1}" for i in others)
        raise ValueError(f"Which column of {file} is the label: {names}? Call it `label`, or take the others out.")
    return (called or others)[0]
