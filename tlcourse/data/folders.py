"""Any folder of images as splits: checked file by file before training, split the same way on every machine."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlcourse import runtime
from tlcourse.data import folder_layout
from tlcourse.data.images import ImageSet, ZipMember, find_unreadable, read_image
from tlcourse.data.sampling import stratify
from tlcourse.data.splits import Loaders, Splits, export_folder
from tlcourse.preprocessing import Preprocessing, get_preprocessing

__all__ = ["ImageSet", "Loaders", "Splits", "ZipMember", "export_folder", "from_folder", "read_image"]

LISTED = 10  # unreadable files that a message names
REMEMBERED = 2000  # from so many files on, the result of checking them is kept: it takes a second and more

# (class index, file) for each image of a part
Files = list[tuple[int, Path]]


def from_folder(
    folder: str | Path,
    *,
    model: Any = None,
    seed: int = 0,
    val: float = 0.2,
    test: float = 0.2,
    augment: bool | Mapping[str, Any] = True,
    skip_unreadable: bool = False,
) -> Splits:
    """Load a folder of images whose subfolders are the classes.

    The class folders lie in `folder` itself, or in its `train`, `val` and `test` subfolders. Parts that are missing are
    split off, class by class: without `val`, a share of train becomes val; without `test`, the given val becomes the
    test part, because nothing was chosen on it yet, and a new val is split off. The split depends on file names
    and `seed` alone. Every file is decoded once before anything is trained.

    `model` decides the preprocessing (see `preprocessing`); without it the profile does. `augment` may hold keywords
    for `Preprocessing.training`, such as `{"flip": False}`. `val` and `test` are shares between 0 and 1.

    Raises:
        ValueError: the folder has no usable classes, or files that cannot be read; the message says what to do.
    """
    for name, share in (("val", val), ("test", test)):
        if not 0 < share < 1:
            raise ValueError(f"{name}={share}: give a share between 0 and 1, such as 0.2.")
    if val + test >= 1:
        raise ValueError(f"val={val} and test={test} leave nothing to train on; together they must stay below 1.")
    root = Path(folder).expanduser().absolute()
    layout = folder_layout.scan(root)
    parts = _complete(_readable(layout, skip_unreadable), layout, (val, test), seed)
    sets = {
        part: ImageSet([path for _, path in files], [label for label, _ in files], layout.classes, root=root)
        for part, files in parts.items()
    }
    augmentation = (dict(augment) if isinstance(augment, Mapping) else {}) if augment else None
    prepared = default_preprocessing() if model is None else get_preprocessing(model)
    return Splits(
        root.name, **sets, classes=layout.classes, preprocessing=prepared, notes=layout.notes, augmentation=augmentation
    )


def default_preprocessing() -> Preprocessing:
    """Return what the profile's usual backbones want: 64 pixels in `mini`, 224 in `full`."""
    return Preprocessing(64, 64) if runtime.get_runtime().profile == "mini" else Preprocessing(224, 232)


def _readable(layout: folder_layout.Layout, skip: bool) -> dict[str, Files]:
    files = [path for part in layout.parts.values() for _, path in part]
    faults = _faults(layout.root, files)
    if not faults:
        return layout.parts
    names = [f"  {name}: {fault}" for name, fault in list(faults.items())[:LISTED]]
    if len(faults) > LISTED:
        names.append(f"  … and {len(faults) - LISTED} more")
    if not skip:
        listed = "\n".join(names)
        raise ValueError(
            f"{len(faults)} of {len(files)} files in {layout.root} cannot be read:\n{listed}\n"
            "Delete or replace them, or leave them out: skip_unreadable=True, on the command line --skip-unreadable."
        )
    layout.notes.append(f"{len(faults)} of {len(files)} files cannot be read and were left out:\n" + "\n".join(names))
    broken = {layout.root / name for name in faults}
    kept = {part: [item for item in own if item[1] not in broken] for part, own in layout.parts.items()}
    for part, own in kept.items():
        missing = set(range(len(layout.classes))) - {label for label, _ in own}
        if missing:
            classes = ", ".join(layout.classes[label] for label in sorted(missing))
            raise ValueError(
                f"{layout.root}: no readable image of {classes} is left in {part}. Replace the broken files."
            )
    return kept


def _faults(root: Path, files: list[Path]) -> dict[str, str]:
    """Return the unreadable files (their names below `root`) with the reason."""
    names = [path.relative_to(root).as_posix() for path in files]
    if len(files) < REMEMBERED:
        faults = find_unreadable(files)
        return {name: faults[path] for name, path in zip(names, files, strict=True) if path in faults}
    stats = [path.stat() for path in files]
    state = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)]
    memory = runtime.get_runtime().cache / "checked" / f"{hashlib.sha256(repr(state).encode()).hexdigest()[:32]}.json"
    if memory.is_file():
        return json.loads(memory.read_text(encoding="utf-8"))
    faults = find_unreadable(files)
    named = {name: faults[path] for name, path in zip(names, files, strict=True) if path in faults}
    memory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = memory.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(named), encoding="utf-8")
    unfinished.replace(memory)
    return named


def _complete(
    parts: dict[str, Files], layout: folder_layout.Layout, shares: tuple[float, float], seed: int
) -> dict[str, Files]:
    """Split off the parts that the folder lacks, and note what was done."""
    val, test = shares
    if "val" in parts and "test" in parts:
        return parts
    if len(parts) == 1:
        train, new_val, new_test = _split(parts["train"], layout, [val, test], seed)
        layout.notes.append(
            f"The images{'' if layout.flat else ' of train'} were split into {len(train)} for training, {len(new_val)} "
            f"for validation and {len(new_test)} for the test, in the same shares of each class (seed {seed})."
        )
        return {"train": train, "val": new_val, "test": new_test}
    train, new_val = _split(parts["train"], layout, [val], seed)
    taken = f"{len(new_val)} images of train became"
    if "test" in parts:
        layout.notes.append(f"There is no val folder: {taken} val ({val:.0%} of each class, seed {seed}).")
        return {"train": train, "val": new_val, "test": parts["test"]}
    layout.notes.append(
        f"There is no test folder: the given val ({len(parts['val'])} images) is kept as test, because nothing was "
        f"chosen on it yet, and {taken} the new val ({val:.0%} of each class, seed {seed})."
    )
    return {"train": train, "val": new_val, "test": parts["val"]}


def _split(files: Files, layout: folder_layout.Layout, shares: list[float], seed: int) -> list[Files]:
    labels = [label for label, _ in files]
    counts = Counter(labels)
    needed = len(shares) + 1
    small = [name for label, name in enumerate(layout.classes) if counts[label] < needed]
    if small:
        raise ValueError(
            f"{layout.root}: too few images in {', '.join(small)}. Each class needs at least {needed}, one for each "
            "part that is split off and one to train on. Add images, or take the class out."
        )
    keys = [path.relative_to(layout.root).as_posix() for _, path in files]
    return [[files[position] for position in part] for part in stratify(keys, labels, shares, seed)]
