"""How a folder of images is laid out: which subfolders are parts, which are classes, which files are images."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from tlcourse.data.reading import EXTENSIONS

# What the parts are called, in folders and in code, and what we call them.
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Words beside those, as in `training_set` and `test_images`.
FILLING = {"set", "data", "dataset", "image", "images", "img", "imgs", "folder", "split"}
# Left behind by systems, as are names that start with a dot.
IGNORED = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
KAGGLE = re.compile(r"[A-Za-z_]+\.\d+\.\w+")  # cat.0.jpg: the class is in the file's name
UNLABELLED = re.compile(r"(?i)unknown|unlabell?ed")  # a folder that Keras needs around images without labels
ADVICE = (
    "Put each class's images into a folder of its own: {root}/cats/1.jpg, {root}/dogs/1.jpg. If a CSV file has the "
    "labels, name it: labels=FILE, or tlcourse train --labels FILE."
)
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
    homes = {part: _inner(folder, part) for part, folder in part_folders.items()} or {"train": root}
    inside = {part: [path.name for path in _entries(home)[0]] for part, home in homes.items() if part != "train"}
    for part in [part for part, names in inside.items() if not names or UNLABELLED.fullmatch(" ".join(names))]:
        answer = f"`tlcourse predict MODEL {homes.pop(part)} --csv FILE` answers its images."
        notes.append(f"The {part} folder has no class folders, so no labels, and was left out. {answer}")
    others: Counter[str] = Counter()
    found = {part: _images_by_class(folder, others, flat=not part_folders) for part, folder in homes.items()}
    if others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        notes.append(f"{others.total()} files that are not images were left out: {listed}.")
    classes = _common_classes(root, homes["train"], found)
    upper = [path for path in _entries(homes["train"])[0] if not _entries(path)[1]]
    if len(upper) == len(classes) and (below := sorted({plain(p.name) for path in upper for p in _entries(path)[0]})):
        inner = f"those inside, {', '.join(below[:5])}, are not"
        notes.append(f"The classes are the upper folders, {', '.join(classes[:5])}; {inner}.")
    lower = Counter(map(str.lower, classes))
    if alike := [name for name in classes if lower[name.lower()] > 1]:
        notes.append(f"Are these classes the same? They differ in capital letters only: {', '.join(alike)}.")
    parts = {part: [(i, path) for i, name in enumerate(classes) for path in own[name]] for part, own in found.items()}
    return Layout(root, classes, parts, flat=not part_folders, notes=notes)


def plain(name: str) -> str:
    """Return a name in the form in which it is compared: one of Unicode's forms, no spaces around it."""
    return unicodedata.normalize("NFC", name).strip()


def part_of(name: str, common: Set[str] = frozenset()) -> str | None:
    """Return the part that a folder's name stands for, such as "train" for `Training_set`, or None.

    Words in `common` do not count, as in `seg_train` and `seg_test`.
    """
    words = _words(name)
    parts = {PART_NAMES[word] for word in words & PART_NAMES.keys()}
    return parts.pop() if len(parts) == 1 and words <= PART_NAMES.keys() | FILLING | common else None


def _words(name: str) -> set[str]:
    apart = re.sub(r"(?i)(?<=[a-z])(?=set$)", "_", plain(name))
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", apart)}


def images_below(folder: Path) -> list[Path]:
    """Return the images in and below a folder, by path: links are followed, what is hidden is left out."""
    return sorted(filter(_is_image, _walk(folder)), key=lambda path: plain(path.relative_to(folder).as_posix()))


def _visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in IGNORED


def _is_image(path: Path) -> bool:
    return path.suffix.strip().lower() in EXTENSIONS


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the visible folders and the images that are directly in a folder, sorted by name."""
    visible = sorted(path for path in folder.iterdir() if _visible(path.name))
    if dead := [path for path in visible if not _is_image(path) and not path.exists()]:
        raise ValueError(f"{dead[0]} is a link to something that is not there. Mend it, or take it out.")
    folders = [path for path in visible if path.is_dir() and not _leads_up(path)]
    return folders, [path for path in visible if _is_image(path) and path.is_file()]


def _leads_up(path: Path) -> bool:
    """Whether a folder is a link to one around it, where other classes lie."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _part_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    """Return the folders that are parts: none if a name such as `train` is that of a class, of trains on rails."""
    parts: dict[str, Path] = {}
    words = [own for folder in folders if (own := _words(folder.name)) & PART_NAMES.keys()]
    common = set.intersection(*words) if len(words) > 1 else set()
    for folder in folders:
        part = part_of(folder.name, common)
        if part in parts:
            raise ValueError(f"{root} has two {part} folders, {parts[part].name} and {folder.name}. Merge them.")
        if part is not None:
            parts[part] = folder
    inside = {folder: _entries(folder) for folder in parts.values()}
    flat = {folder: images for folder, (below, images) in inside.items() if images and not below}
    if "train" in parts and parts["train"] not in flat and any(inside[parts["train"]]):
        return parts
    if parts and (flat or "train" not in parts):
        if len(folders) > len(parts) and not any(map(_looks_like_kaggle, flat.values())):
            return {}
        if flat:
            home = parts.get("train") if parts.get("train") in flat else next(iter(flat))
            raise ValueError(_no_class_folders(home, flat[home]))
        names = ", ".join(folder.name for folder in parts.values())
        raise ValueError(f"{root} has {names} but no train folder. Add it, or give a folder of class folders.")
    return parts


def _looks_like_kaggle(images: list[Path]) -> bool:
    return sum(bool(KAGGLE.fullmatch(path.name)) for path in images) > len(images) / 2


def _no_class_folders(folder: Path, images: list[Path]) -> str:
    advice = KAGGLE_ADVICE if _looks_like_kaggle(images) else ADVICE
    return f"{folder} has {len(images)} images but no class folders. {advice.format(root=folder)}"


def _inner(folder: Path, part: str) -> Path:
    """Return the folder of a part's classes: archives often have it twice, `seg_train/seg_train`, or `train/images`."""
    folders, images = _entries(folder)
    names = [plain(inner.name) for inner in folders] if not images else []
    again = len(names) == 1 and (names[0] == plain(folder.name) or part_of(f"{names[0]}_{part}") == part)
    return _inner(folders[0], part) if again else folder


def _images_by_class(folder: Path, others: Counter[str], *, flat: bool) -> dict[str, list[Path]]:
    """Return each class folder's images, including those in nested folders, and count the other files."""
    folders, _ = _entries(folder)
    if not folders:
        raise ValueError(f"{folder} has no class folders. {ADVICE.format(root=folder)}")
    names = {plain(class_folder.name) for class_folder in folders}
    inside = [{plain(inner.name) for inner in _entries(class_folder)[0]} for class_folder in folders]
    part_beside = flat and any(_words(name) & PART_NAMES.keys() for name in names)
    for class_folder, below in zip(folders, inside, strict=True):
        if len(below) > 1 and (below <= names or part_beside):
            listed = f"the folders in {class_folder}: {', '.join(sorted(below)[:5])}"
            raise ValueError(f"Are the classes {listed}? Then give that folder. If not, take it out of {folder}.")
    same = sorted(set.intersection(*inside)) if len(folders) > 1 else []
    # Below a folder that is called train, the classes come first.
    unclear = len(same) > 1 and (flat or any(map(part_of, same)))
    if unclear and not any(_entries(class_folder)[1] for class_folder in folders):
        raise ValueError(
            f"Every folder in {folder} has the same ones below it: {', '.join(same)}. If these are the classes, call "
            f"the folders above them train and test. If they are parts, put them above the classes: {folder}/train/"
            f"cats. If the upper ones are the classes, put them into a folder train: train/{folders[0].name}/{same[0]}."
        )
    classes: dict[str, list[Path]] = {}
    for class_folder in folders:
        images, name = images_below(class_folder), plain(class_folder.name)
        others.update(path.suffix.lower() or path.name for path in _walk(class_folder) if not _is_image(path))
        if not images:
            full = [path for path in folders if images_below(path)]
            hint = f" Did you mean {full[0]}?" if len(full) == 1 and _entries(full[0])[0] else ""
            raise ValueError(
                f"{class_folder} has no images. Add some (.jpg, .png and so on), or take it out of {folder}.{hint}"
            )
        if name in classes:
            raise ValueError(f"{folder} has two folders {name!r}, which only look the same. Merge them.")
        classes[name] = images
    return classes


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}). Mend its rights, or take it out.")

    seen = set()  # links may lead in a circle
    for place, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if _visible(name) and not _leads_up(Path(place, name))]
        yield from (Path(place, name) for name in files if _visible(name))


def _common_classes(root: Path, home: Path, found: dict[str, dict[str, list[Path]]]) -> list[str]:
    """Return the classes, which must be the same in all parts, and more than one; those of train lie in `home`."""
    classes = sorted(found["train"])
    for part, own in found.items():
        missing, extra = sorted(set(classes) - set(own)), sorted(set(own) - set(classes))
        lacks = [f"{place} lacks {', '.join(names)}" for place, names in ((part, missing), ("train", extra)) if names]
        if lacks:
            raise ValueError(f"The class folders in {root} differ: {'; '.join(lacks)}. Each part needs the same ones.")
    tables = {"images", "imgs"} & {*classes} and {"labels", "annotations", "masks"} & {*classes}
    if tables or {"unlabeled", "unlabelled"} & {*map(str.lower, classes)}:
        raise ValueError(f"{root} has folders {', '.join(classes)}, which are no classes. {ADVICE.format(root=root)}")
    if len(classes) == 1:
        inner = next(path for path in _entries(home)[0] if plain(path.name) == classes[0])
        while len(below := _entries(inner)[0]) == 1:
            inner = below[0]
        names = ", ".join(path.name for path in below[:5])
        hint = f" Did you mean {inner}, which has {names}?" if below else ""
        tables = [path.name for path in sorted(root.iterdir()) if path.suffix.lower() == ".csv"]
        hint += f" Are the labels in {tables[0]}? Give it: labels=FILE, tlcourse train --labels FILE." if tables else ""
        raise ValueError(f"{root} has one class only, {classes[0]}; there must be at least two class folders.{hint}")
    return classes
