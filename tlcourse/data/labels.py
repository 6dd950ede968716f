"""Labels: what `ImageSet` takes as numbers of classes, and the labels of a folder's images in a CSV file."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tlcourse.data.folder_layout import Layout, images_below, part_of, plain

LABEL_NAMES = ("label", "labels", "class", "target", "category", "y")  # of the column, where a file has more than two
NAMED = re.compile(r"ids?$|ima?g|file|name|path")  # the column of images' names


def class_list(classes: Iterable[str]) -> list[str]:
    """Return the classes as a list; raise a ValueError where they have no order, or one is there twice."""
    listed = list(classes)
    if isinstance(classes, set | frozenset | str | Mapping) or len(set(listed)) < len(listed):
        raise ValueError(f"The classes are {classes!r}: give a list with each class once, whose order numbers them.")
    return listed


def as_labels(labels: Iterable[int | str] | torch.Tensor, classes: Sequence[str]) -> torch.Tensor:
    """Return labels `(N,)` as the numbers of their classes, or raise a ValueError that says what to do.

    They are whole numbers, rows with a single 1, or names.
    """
    values = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else list(labels))
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values  # as Keras has them
    if values.dtype.kind in "fO" and (missing := [i for i, v in enumerate(values.flat) if v is None or v != v]):
        raise ValueError(f"Label {missing[0]} is missing (it is None or nan): leave that image out.")
    if values.dtype.kind in "USO":
        number = {name: i for i, name in enumerate(classes)}
        if wrong := [str(value) for value in values.flat if value not in number]:
            raise ValueError(f"The label {wrong[0]!r} is neither a number nor a class ({', '.join(classes[:8])}).")
        values = np.vectorize(number.get, otypes=[np.int64])(values)
    one_hot = values.ndim == 2 and np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all()
    values = values.argmax(1) if one_hot and values.shape[1] == len(classes) else values
    if values.ndim != 1 or values.dtype.kind not in "biuf" or (values != np.round(values)).any():
        raise ValueError(
            f"Labels are whole numbers, one for each image; these are {values.dtype}, of shape {values.shape}, such as "
            f"{values.flat[0]}. Of probabilities take `.argmax(1)`, of scores `(scores > 0.5)`."
        )
    return torch.from_numpy(values.astype(np.int64))


def layout_from_csv(root: Path, file: Path) -> Layout:
    """Return the images below a folder with their labels from a CSV file: an image's name or id, and its label.

    The column of names is the one that fits most images, with or without folder and suffix. The other one holds the
    labels; of several others, the one that is called so, or all of them, with a single 1 in each row. A column that
    says train, val or test for each image gives the parts.
    """
    rows, named = _rows(file), defaultdict(list)
    for path in images_below(root):
        below = plain(path.relative_to(root).as_posix())
        for name in {below, below.rpartition(".")[0], plain(path.name), plain(path.stem)}:
            named[name].append(path)
    folders = plain(root.as_posix()).split("/")
    around = ["", *("/".join(folders[start:]) + "/" for start in range(len(folders)))]

    def known(cell: str) -> str:
        """Return the name below `root` of an image whose path starts further up, and other cells as they are."""
        path = cell.replace("\\", "/").removeprefix("./")
        return next((path.removeprefix(top) for top in around if path.removeprefix(top) in named), cell)

    rows = [[known(cell) for cell in row] for row in rows]
    if not named.keys() & {cell for row in rows for cell in row}:  # paths of another machine, perhaps
        last = {cell: cell.replace("\\", "/").rpartition("/")[2] for row in rows for cell in row}
        rows = [[last[cell] if len(named.get(last[cell], ())) == 1 else cell for cell in row] for row in rows]
    key = _column_of_names(root, file, rows, named)
    header = [""] * len(rows[0]) if rows[0][key] in named else rows.pop(0)
    others = [i for i in range(len(header)) if i != key]
    others = [i for i in others if not any(header) or header[i] not in ("", "Unnamed: 0")] or others  # pandas' index
    said = {i: {part_of(row[i]) for row in rows} for i in others if len(others) > 1}
    split = next((i for i in said if {"train"} < said[i] and None not in said[i]), None)
    others = [i for i in others if i != split]
    called = [i for i in others if len(others) == 1 or header[i].lower() in LABEL_NAMES]
    marked = [[header[i] for i in others if row[i] in ("1", "1.0")] for row in rows]
    single = any(header) and all(len(names) == 1 for names in marked)  # a column for each class
    if len(called) != 1 and single and {row[i] for row in rows for i in others} <= {"0", "1", "0.0", "1.0"}:
        called, rows = [len(header)], [[*row, *names] for row, names in zip(rows, marked, strict=True)]
    if len(called) != 1:
        raise ValueError(f"Which column of {file} is the label? Call it `label`, or take others out: {header}.")
    found: dict[Path, tuple[str, str]] = {}
    for row in rows:
        name, label, part = row[key], row[called[0]], "train" if split is None else part_of(row[split])
        # Kaggle counts the images of train and test from 0 each.
        paths = [path for path in named[name] if part_of(path.relative_to(root).parts[0]) == part] or named[name]
        if label.lower() in ("", "nan"):
            raise ValueError(f"{file} has no label for {name}. Take out the rows that have none.")
        if len(paths) > 1:
            raise ValueError(f"{name} is {paths[0]} or {paths[1]}: give the folder of one of them as data.")
        if paths and split is None:
            part = part_of(paths[0].relative_to(root).parts[0]) or "train"
        if paths and (before := found.setdefault(paths[0], (label, part))[0]) != label:
            raise ValueError(f"{file} has two labels for {name}: {before} and {label}.")
    if len(classes := sorted({label for label, _ in found.values()})) < 2:
        raise ValueError(f"{file} has one class only, {classes[0]}; there must be at least two.")
    unlabelled, absent = len(set().union(*named.values())) - len(found), sum(not named[row[key]] for row in rows)
    advice = "`tlcourse predict MODEL FOLDER --csv FILE` answers them."
    notes = [f"{unlabelled} images have no label in {file.name} and were left out. {advice}"] * bool(unlabelled)
    notes += [f"{absent} rows of {file.name} name no image in {root.name}, and were left out."] * bool(absent)
    notes += [f"The column {header[i]!r} of {file.name} says which part an image is in." for i in said if i == split]
    parts: dict[str, list[tuple[int, Path]]] = {"train": []}
    if all(part != "train" for _, part in found.values()):
        found = {path: (label, "train") for path, (label, _) in found.items()}
    for path, (label, part) in sorted(found.items()):
        parts.setdefault(part, []).append((classes.index(label), path))
    return Layout(root, classes, parts, flat=True, notes=notes)


def _column_of_names(root: Path, file: Path, rows: list[list[str]], named: Mapping[str, list[Path]]) -> int:
    """Return the column that names images: of two that fit, one of file names, else one that is called so."""
    ranks = []
    for column in zip(*rows, strict=True):
        cells = named.keys() & {*column}
        whole = sum(cell.endswith(named[cell][0].suffix) for cell in cells)
        title = column[0].lower().removeprefix("unnamed")
        called = (title in ("id", "file", "image", "filename"), "image" in title, bool(NAMED.search(title)))
        ranks.append((2 * whole > len(cells), called, len(cells), len({*column})))
    if not (most := max(fitting for _, _, fitting, _ in ranks)):
        example = f"An image is {next(iter(named.values()))[0].name}, a row {rows[-1]}." if named else "It has none."
        raise ValueError(f"No row of {file} names an image in {root}. {example} Check both paths, and the suffixes.")
    best = max(rank for rank in ranks if rank[2] >= 0.9 * most)  # an index may fit a few more by chance
    keys = [i for i, rank in enumerate(ranks) if rank == best]
    if any(row[i] != row[keys[0]] for row in rows[1:] for i in keys):
        names = " or ".join(f"column {i + 1} ({rows[0][i]!r})" for i in keys)
        raise ValueError(f"Which column of {file} names images, {names}? Call it `file`, or take others out.")
    return keys[0]


def _rows(file: Path) -> list[list[str]]:
    """Read a file whose cells are separated by commas, semicolons or tabs."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"The labels in {file} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} cannot be read as a CSV file with labels ({error}). Save it in UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = text.splitlines(keepends=True)
    rows = [[plain(cell) for cell in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    if not rows or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"{file} is no table: each row needs an image's name, a comma and its label.")
    return rows
