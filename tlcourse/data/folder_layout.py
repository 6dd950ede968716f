"""How a folder of images is laid out: which subfolders are parts, which are classes, which files are images."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlcourse.data.images import EXTENSIONS

PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
IGNORED = {"__macosx", "thumbs.db", "desktop.ini"}  # what systems leave behind; names with a dot in front, too
KAGGLE = re.compile(r"[A-Za-z_]+\.\d+\.\w+")  # cat.0.jpg: the class is in the file's name

ADVICE = "Put each class's images into a folder of its own: {root}/cats/1.jpg, {root}/dogs/1.jpg."
KAGGLE_ADVICE = (
    "The names look like Kaggle's (cat.0.jpg): the class is the word before the first dot. Make one folder for each "
    "such word and move the files there: {root}/cat/cat.0.jpg, {root}/dog/dog.0.jpg."
)


@dataclass
class Layout:
    """What a folder holds: for each part (class index, file), sorted by path; `flat` without part folders."""

    root: Path
    classes: list[str]
    parts: dict[str, list[tuple[int, Path]]]
    flat: bool
    notes: list[str] = field(default_factory=list)


def scan(root: Path) -> Layout:
    """Find parts, classes and images below `root`.

    Raises:
        ValueError: there are none, or they do not fit together.
    """
    if not root.exists():
        raise ValueError(f"There is no folder {root}. Check the path; a relative path starts at {Path.cwd()}.")
    if not root.is_dir():
        raise ValueError(f"{root} is a file, not a folder. Unpack it if it is an archive, and give the folder.")
    folders, files = _entries(root)
    parts = _part_folders(root, folders)
    others: Counter[str] = Counter()
    notes = []
    if parts:
        beside = [folder.name for folder in folders if folder not in parts.values()]
        if beside:
            notes.append(f"Folders beside train were not read: {', '.join(beside)}.")
    else:
        parts = {"train": root}
    _note_images_beside(root, files, notes)
    found = {part: _classes(folder, others) for part, folder in parts.items()}
    classes = _same_classes(root, found)
    if others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        notes.append(f"{sum(others.values())} files that are not images were left out: {listed}.")
    index = {name: label for label, name in enumerate(classes)}
    images = {
        part: [(index[name], path) for name, paths in sorted(own.items()) for path in paths]
        for part, own in found.items()
    }
    return Layout(root, classes, images, flat=parts == {"train": root}, notes=notes)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the visible folders and files of a folder, sorted by name."""
    visible = sorted(path for path in folder.iterdir() if _visible(path.name))
    return [path for path in visible if path.is_dir()], [path for path in visible if path.is_file()]


def _visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in IGNORED


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _part_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    """Return the folders that are parts; none where `train` is the name of a class, of trains on rails."""
    parts: dict[str, Path] = {}
    for folder in folders:
        part = PART_NAMES.get(folder.name.lower())
        if part is None:
            continue
        if part in parts:
            raise ValueError(
                f"{root} has two {part} folders, {parts[part].name} and {folder.name}. Keep one of them, or merge them."
            )
        parts[part] = folder
    if not parts:
        return {}
    flat = {part: images for part, folder in parts.items() if (images := _flat_images(folder))}
    if flat:
        kaggle = any(_looks_like_kaggle(images) for images in flat.values())
        if not kaggle and len(folders) > len(parts):
            return {}
        part = next(iter(flat))
        raise ValueError(_flat_message(parts[part], flat[part]))
    if "train" not in parts:
        if len(folders) > len(parts):
            return {}
        names = ", ".join(folder.name for folder in parts.values())
        raise ValueError(
            f"{root} has {names} but no train folder. Add train, or give a folder whose subfolders are classes."
        )
    return parts


def _flat_images(folder: Path) -> list[Path]:
    """Return the images that lie directly in a folder without subfolders."""
    folders, files = _entries(folder)
    return [] if folders else [path for path in files if _is_image(path)]


def _looks_like_kaggle(images: list[Path]) -> bool:
    return sum(bool(KAGGLE.fullmatch(path.name)) for path in images) > len(images) / 2


def _flat_message(folder: Path, images: list[Path]) -> str:
    advice = KAGGLE_ADVICE if _looks_like_kaggle(images) else ADVICE
    return f"{folder} has {len(images)} images but no class folders. " + advice.format(root=folder)


def _note_images_beside(root: Path, files: list[Path], notes: list[str]) -> None:
    images = [path for path in files if _is_image(path)]
    if not images:
        return
    if not _entries(root)[0]:
        raise ValueError(_flat_message(root, images))
    notes.append(f"{len(images)} images lie beside the folders, have no class, and were left out.")


def _classes(folder: Path, others: Counter[str]) -> dict[str, list[Path]]:
    """Return each class folder's images, those in nested folders included, and count the other files."""
    folders, _ = _entries(folder)
    if not folders:
        raise ValueError(f"{folder} has no class folders. " + ADVICE.format(root=folder))
    classes = {}
    for class_folder in folders:
        images = []
        for path in _walk(class_folder):
            if _is_image(path):
                images.append(path)
            else:
                others[path.suffix.lower() or path.name] += 1
        if not images:
            raise ValueError(
                f"{class_folder} has no images. Add some ({' '.join(sorted(EXTENSIONS))}), or delete the folder."
            )
        classes[class_folder.name] = sorted(images, key=lambda path: path.relative_to(folder).as_posix())
    return classes


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()  # links may lead in a circle
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [name for name in folders if _visible(name)] if real not in seen else []
        if real not in seen:
            yield from (Path(place, name) for name in files if _visible(name))
        seen.add(real)


def _same_classes(root: Path, found: dict[str, dict[str, list[Path]]]) -> list[str]:
    classes = sorted(found["train"])
    for part, own in found.items():
        missing, extra = sorted(set(classes) - set(own)), sorted(set(own) - set(classes))
        if missing or extra:
            told = [f"{part} lacks {', '.join(missing)}"] * bool(missing) + [f"train lacks {', '.join(extra)}"] * bool(
                extra
            )
            raise ValueError(
                f"The class folders in {root} differ: {'; '.join(told)}. Give each part the same class folders."
            )
    if len(classes) == 1:
        inner = next(path for path in root.rglob(classes[0]) if path.is_dir())
        below, _ = _entries(inner)
        hint = (
            f" Did you mean {inner}, which has {', '.join(path.name for path in below[:5])}?" if len(below) > 1 else ""
        )
        raise ValueError(
            f"{root} has one class only, {classes[0]}; telling apart needs at least two class folders.{hint}"
        )
    return classes
