"""Load any folder of images as splits: every file is checked before training, and the split is the same everywhere."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tlcourse import runtime
from tlcourse.atomic_write import atomic_write, user_path
from tlcourse.data.folder_layout import Layout, plain, scan
from tlcourse.data.images import ImageSet
from tlcourse.data.labels import layout_from_csv
from tlcourse.data.reading import dark_notes, find_unreadable
from tlcourse.data.sampling import stratify
from tlcourse.data.splits import Splits
from tlcourse.preprocessing import Preprocessing, get_preprocessing

LISTED = 10  # unreadable files that a message names
REMEMBERED = 2000  # from this many files on, the result of checking them is cached: it takes a second and more

# (class index, file) for each image of a part
Files = list[tuple[int, Path]]


def from_folder(
    folder: str | Path,
    *,
    labels: str | Path | None = None,
    model: Any = None,
    seed: int = 0,
    val: float = 0.2,
    test: float = 0.2,
    augment: bool | Mapping[str, Any] = True,
    skip_unreadable: bool = False,
) -> Splits:
    """Load a folder of images whose subfolders are the classes, or whose labels are in a CSV file.

    The class folders are in `folder` itself, or in its `train`, `val` and `test` subfolders. Missing parts are split
    off, class by class: without `val`, a share of train becomes val; without `test`, the given val becomes the test
    part, because nothing was chosen on it yet, and a new val is split off. The split depends on file names and `seed`
    alone. Every file is decoded once before anything is trained.

    `labels` is a CSV file with the name or id of each image and its label, as Kaggle has them; folders are then no
    classes. `model` decides the preprocessing (see `preprocessing`); without it the profile does. `augment` may hold
    keywords for `Preprocessing.training`, such as `{"flip": False}`. `val` and `test` are shares between 0 and 1.

    Raises:
        ValueError: the folder has no usable classes, or files that cannot be read; the message says what to do.
    """
    if min(val, test) <= 0 or val + test >= 1:
        raise ValueError(
            f"val={val}, test={test}: give shares above 0, together below 1, or nothing to train on is left."
        )
    root = user_path(folder).absolute()
    layout = scan(root) if labels is None else layout_from_csv(root, user_path(labels))
    layout.parts = _readable(layout, skip_unreadable)
    layout.notes += dark_notes([path for part in layout.parts.values() for _, path in part])
    sets = {
        part: ImageSet([path for _, path in files], [label for label, _ in files], layout.classes, root=root)
        for part, files in _complete(layout, val, test, seed).items()
    }
    return Splits(
        root.name,
        **sets,
        classes=layout.classes,
        preprocessing=preprocessing_for(model),
        notes=layout.notes,
        augmentation=({} if augment is True else dict(augment)) if augment else None,
    )


def preprocessing_for(model: Any) -> Preprocessing:
    """Return the preprocessing of `model`; for None that of the profile: 64 pixels in `mini`, 224 in `full`."""
    if model is not None:
        return get_preprocessing(model)
    return Preprocessing(64, 64) if runtime.get_runtime().profile == "mini" else Preprocessing(224, 232)


def _readable(layout: Layout, skip: bool) -> dict[str, Files]:
    """Return the parts without unreadable files; with `skip` these are noted, without it they are an error."""
    files = [path for part in layout.parts.values() for _, path in part]
    faults = _faults(layout.root, files)
    if not faults:
        return layout.parts
    names = [f"  {name}: {fault}" for name, fault in list(faults.items())[:LISTED]]
    if len(faults) > LISTED:
        names.append(f"  … and {len(faults) - LISTED} more")
    listed = "\n".join(names)
    if not skip:
        raise ValueError(
            f"{len(faults)} of {len(files)} files in {layout.root} cannot be read:\n{listed}\n"
            "Delete or replace them, or leave them out: skip_unreadable=True, on the command line --skip-unreadable."
        )
    layout.notes.append(f"{len(faults)} of {len(files)} files cannot be read and were left out:\n{listed}")
    broken = {layout.root / name for name in faults}
    kept = {part: [item for item in own if item[1] not in broken] for part, own in layout.parts.items()}
    for part, own in kept.items():
        left = {label for label, _ in own}
        missing = ", ".join(name for label, name in enumerate(layout.classes) if label not in left)
        if missing:
            raise ValueError(
                f"{layout.root}: no readable image of {missing} is left in {part}. Replace the broken ones."
            )
    return kept


def _faults(root: Path, files: list[Path]) -> dict[str, str]:
    """Return the unreadable files (their names below `root`) with the reason; cached for large folders."""
    cached = None
    if len(files) >= REMEMBERED and all(path.exists() for path in files):  # a link may lead nowhere
        state = [(path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        key = hashlib.sha256(repr(state).encode()).hexdigest()[:32]
        cached = runtime.get_runtime().cache / "checked" / f"{key}.json"
        if cached.is_file():
            return json.loads(cached.read_text(encoding="utf-8"))
    faults = {path.relative_to(root).as_posix(): fault for path, fault in find_unreadable(files).items()}
    if cached is not None:
        with suppress(OSError), atomic_write(cached) as part:  # a full disk, a folder that cannot be written
            part.write_text(json.dumps(faults), encoding="utf-8")
    return faults


def _complete(layout: Layout, val: float, test: float, seed: int) -> dict[str, Files]:
    """Split off the parts that the folder lacks, and note what was done."""
    parts = layout.parts
    if "val" in parts and "test" in parts:
        return parts
    if len(parts) == 1:
        train, new_val, new_test = _split(layout, [val, test], seed)
        layout.notes.append(
            f"The images{'' if layout.flat else ' of train'} were split into {len(train)} for training, {len(new_val)} "
            f"for validation and {len(new_test)} for the test, in the same shares of each class (seed {seed})."
        )
        return {"train": train, "val": new_val, "test": new_test}
    train, new_val = _split(layout, [val], seed)
    taken, how = f"{len(new_val)} images of train became", f"({val:.0%} of each class, seed {seed})"
    if "test" in parts:
        layout.notes.append(f"There is no val folder: {taken} val {how}.")
    else:
        layout.notes.append(
            f"There is no test folder: the given val ({len(parts['val'])} images) is kept as test, because nothing was "
            f"chosen on it yet, and {taken} the new val {how}."
        )
    return {"train": train, "val": new_val, "test": parts.get("test") or parts["val"]}


def _split(layout: Layout, shares: list[float], seed: int) -> list[Files]:
    """Split the training part by class: what stays for training, then a list for each of `shares`."""
    files = layout.parts["train"]
    labels = [label for label, _ in files]
    counts = Counter(labels)
    needed = len(shares) + 1
    small = [name for label, name in enumerate(layout.classes) if counts[label] < needed]
    if small:
        small = [*small[:LISTED], *["…"] * (len(small) > LISTED)]
        raise ValueError(
            f"{layout.root}: too few images in {', '.join(small)}. Each class needs at least {needed}, one for each "
            "part that is split off and one to train on. Add images, or take the class out."
        )
    keys = [plain(path.relative_to(layout.root).as_posix()) for _, path in files]
    return [[files[position] for position in part] for part in stratify(keys, labels, shares, seed)]
