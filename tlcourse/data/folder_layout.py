"""How a folder of images is laid out: which subfolders are parts, which are classes, which files are images."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tlcourse.data.images import EXTENSIONS

# What the parts are called, in folders and in code, and what we call them.
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
IGNORED = {"__macosx", "thumbs.db", "desktop.ini"}  # left behind by systems, as are names that start with a dot
KAGGLE = re.compile(r"[A-Za-z_]+\.\d+\.\w+")  # cat.0.jpg: the class is in the file's name

ADVICE = "Put each class's images into a folder of its own: {root}/cats/1.jpg, {root}/dogs/1.jpg."
KAGGLE_ADVICE = (
    "The names look like Kaggle's (cat.0.jpg): the class is the word before the first dot. Make one folder for each "
    "such word and move the files there: {root}/cat/cat.0.jpg, {root}/dog/dog.0.jpg."
)


@dataclass
class Layout:
    """What a folder holds: (class index, file) for each image of a part, by path; `flat` without part folders."""

    root: Path
    classes: list[str]
    parts: dict[str, list[tuple[int, Path]]]
    flat: bool
    notes: list[str]


def scan(root: Path) -> Layout:
    """Find parts, classes and images below `root`.

    Raises:
        ValueError: there are none, or they do not fit together.
    """
    if not root.exists():
        raise ValueError(f"There is no folder {root}. Check the path; a relative path starts at {Path.cwd()}.")
    if not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder. Unpack it if it is an archive, and give the folder.")
    folders, images = _entries(root)
    if images and not folders:
        raise ValueError(_no_class_folders(root, images))
    part_folders = _part_folders(root, folders)
    notes = []
    beside = [folder.name for folder in folders if folder not in part_folders.values()]
    if part_folders and beside:
        notes.append(f"Folders beside train were not read: {', '.join(beside)}.")
    if images:
        notes.append(f"{len(images)} images lie beside the folders, have no class, and were left out.")
    others: Counter[str] = Counter()
    found = {part: _images_by_class(folder, others) for part, folder in (part_folders or {"train": root}).items()}
    if others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        notes.append(f"{others.total()} files that are not images were left out: {listed}.")
    classes = _common_classes(root, found)
    parts = {
        part: [(label, path) for label, name in enumerate(classes) for path in own[name]] for part, own in found.items()
    }
    return Layout(root, classes, parts, flat=not part_folders, notes=notes)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in IGNORED


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the visible folders and the images that are directly in a folder, sorted by name."""
    visible = sorted(path for path in folder.iterdir() if _visible(path.name))
    return [path for path in visible if path.is_dir()], [path for path in visible if _is_image(path) and path.is_file()]


def _part_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    """Return the folders that are parts: none if a name such as `train` is that of a class, of trains on rails."""
    parts: dict[str, Path] = {}
    for folder in folders:
        part = PART_NAMES.get(folder.name.lower())
        if part in parts:
            raise ValueError(
                f"{root} has two {part} folders, {parts[part].name} and {folder.name}. Keep one, or merge them."
            )
        if part is not None:
            parts[part] = folder
    inside = {folder: _entries(folder) for folder in parts.values()}
    flat = {folder: images for folder, (below, images) in inside.items() if images and not below}
    if parts and (flat or "train" not in parts):
        if len(folders) > len(parts) and not any(map(_looks_like_kaggle, flat.values())):
            return {}
        if flat:
            raise ValueError(_no_class_folders(*next(iter(flat.items()))))
        names = ", ".join(folder.name for folder in parts.values())
        raise ValueError(
            f"{root} has {names} but no train folder. Add it, or give a folder whose subfolders are classes."
        )
    return parts


def _looks_like_kaggle(images: list[Path]) -> bool:
    return sum(bool(KAGGLE.fullmatch(path.name)) for path in images) > len(images) / 2


def _no_class_folders(folder: Path, images: list[Path]) -> str:
    advice = KAGGLE_ADVICE if _looks_like_kaggle(images) else ADVICE
    return f"{folder} has {len(images)} images but no class folders. {advice.format(root=folder)}"


def _images_by_class(folder: Path, others: Counter[str]) -> dict[str, list[Path]]:
    """Return each class folder's images, including those in nested folders, and count the other files."""
    folders, _ = _entries(folder)
    if not folders:
        raise ValueError(f"{folder} has no class folders. {ADVICE.format(root=folder)}")
    classes = {}
    for class_folder in folders:
        files = list(_walk(class_folder))
        images = sorted(filter(_is_image, files), key=lambda path: path.relative_to(folder).as_posix())
        others.update(path.suffix.lower() or path.name for path in files if not _is_image(path))
        if not images:
            raise ValueError(f"{class_folder} has no images. Add some ({' '.join(sorted(EXTENSIONS))}), or delete it.")
        classes[class_folder.name] = images
    return classes


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()  # links may lead in a circle
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = filter(_visible, folders)
        yield from (Path(place, name) for name in files if _visible(name))


def _common_classes(root: Path, found: dict[str, dict[str, list[Path]]]) -> list[str]:
    """Return the classes, which must be the same in all parts, and more than one."""
    classes = sorted(found["train"])
    for part, own in found.items():
        missing, extra = sorted(set(classes) - set(own)), sorted(set(own) - set(classes))
        lacks = [f"{place} lacks {', '.join(names)}" for place, names in ((part, missing), ("train", extra)) if names]
        if lacks:
            raise ValueError(f"The class folders in {root} differ: {'; '.join(lacks)}. Each part needs the same ones.")
    if len(classes) == 1:
        inner = next(path for path in root.rglob(classes[0]) if path.is_dir())
        below = [path.name for path in _entries(inner)[0]]
        hint = f" Did you mean {inner}, which has {', '.join(below[:5])}?" if len(below) > 1 else ""
        raise ValueError(f"{root} has one class only, {classes[0]}; there must be at least two class folders.{hint}")
    return classes
