"""Image sets by name: where they come from, and how they are split."""

import difflib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tlcourse import runtime
from tlcourse.data.downloads import fetch_archive
from tlcourse.data.folders import default_preprocessing, from_folder
from tlcourse.data.images import Generated, ImageSet, ZipMember
from tlcourse.data.sampling import stratify
from tlcourse.data.splits import PARTS, Splits
from tlcourse.preprocessing import get_preprocessing
from tlcourse.synthetic import DOMAINS, generate

TOYPETS = Path(__file__).with_name("toypets.zip")
# In the order of the labels; the names stand in the zip, STYLE/PART/SPECIES/BREED/NUMBER.webp.
SPECIES = ("cats", "dogs")
BREEDS = ("maine-coon", "persian", "shorthair", "siamese", "dachshund", "labrador", "pug", "spaniel")
STYLES = ("photo", "cartoon", "line", "silhouette")
# Training, validation and test part of each generated domain; seeds from 3,000,000 on are in none of them.
DOMAIN_COUNTS = (1000, 200, 800)
FIRST_SEEDS = (0, 1_000_000, 2_000_000)

HYMENOPTERA_URL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
HYMENOPTERA_HASH = "sha256:fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209"
CATS_URL = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
)
CATS_HASH = "sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

# What an entry's `build` returns: the parts, and sentences about what was done.
Parts = tuple[dict[str, ImageSet], list[str]]


@dataclass(frozen=True)
class Entry:
    """One image set of the catalog.

    `images` counts all parts; `download` is what has to come over the network once ("" for nothing);
    `mirror_keeps_label` says whether a mirror image shows the same class, so that training may flip images;
    `augmentation` holds further keywords of `Preprocessing.training`.
    """

    name: str
    images: int
    classes: tuple[str, ...]
    licence: str
    source: str
    download: str
    mirror_keeps_label: bool
    build: Callable[["Entry"], Parts] = field(repr=False)
    augmentation: Mapping[str, Any] = field(default_factory=dict)


def load(
    name: str | Path,
    *,
    model: Any = None,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int = 0,
    augment: bool = True,
) -> Splits:
    """Load an image set of the catalog, or any folder of images, as splits.

    The catalog's splits are fixed; `seed` decides which images `train`, `val` and `test` take when they give a number
    (see `Splits.take`), and how a folder is split. `model` decides the preprocessing; without it the profile does.

    Raises:
        ValueError: no such name or folder.
        OfflineError: the set has to be downloaded, and cannot be.
    """
    if isinstance(name, Path) or name not in ENTRIES:
        _must_be_folder(name)
        splits = from_folder(name, model=model, seed=seed, augment=augment)
    else:
        entry = ENTRIES[name]
        sets, notes = entry.build(entry)
        splits = Splits(
            name,
            **sets,
            classes=list(entry.classes),
            preprocessing=default_preprocessing() if model is None else get_preprocessing(model),
            notes=notes,
            augmentation={"flip": entry.mirror_keeps_label, **entry.augmentation} if augment else None,
        )
    return splits.take(train, val, test, seed=seed)


def catalog() -> list[Entry]:
    """Return the image sets that `load` knows by name."""
    return list(ENTRIES.values())


def synthetic_images(domain: str, count: int, *, first_seed: int = 3_000_000) -> ImageSet:
    """Return `count` images of a domain, the classes in turn, each with a seed of its own from `first_seed` on.

    An image is drawn when it is looked at, and then kept. From the default seed on no image is in the catalog's sets.

    Raises:
        ValueError: no such domain, or fewer images than classes.
    """
    if domain not in DOMAINS:
        raise ValueError(f"There is no domain {domain!r}. Choose one of {', '.join(DOMAINS)}.")
    classes = DOMAINS[domain].CLASSES
    if isinstance(count, bool) or not isinstance(count, int) or count < len(classes):
        raise ValueError(f"count={count!r}: {domain} have {len(classes)} classes. Ask for at least one image of each.")
    labels = [i % len(classes) for i in range(count)]
    make = partial(_drawn, domain)
    return ImageSet([Generated(make, classes[k], first_seed + i) for i, k in enumerate(labels)], labels, classes)


# Two catalog sets in colour: 110 MB at most.
@lru_cache(maxsize=4000)
def _drawn(domain: str, label: str, seed: int) -> np.ndarray:
    picture = generate(domain, label, seed)
    picture.setflags(write=False)  # all who ask get the same array
    return picture


def _must_be_folder(name: str | Path) -> None:
    path = Path(name).expanduser()
    if isinstance(name, Path) or path.is_dir() or os.sep in name or "/" in name:
        return  # from_folder says what is wrong with a path
    near = difflib.get_close_matches(name.lower(), ENTRIES, n=2, cutoff=0.5)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"There is no image set {name!r}.{meant} The catalog has {', '.join(ENTRIES)}; "
        f"a path to a folder of images works too, and there is no folder {name!r} in {Path.cwd()}."
    )


def _toypets(entry: Entry) -> Parts:
    """Toy pets by the entry's name: `toypets-STYLE`, photos without one; labels are the species or the breeds."""
    if not TOYPETS.is_file():
        raise ValueError(
            f"{TOYPETS} is missing. Render it again with tools/render_toypets.py, or reinstall the package."
        )
    _, _, kind = entry.name.partition("-")
    style = kind if kind in STYLES else "photo"
    found: dict[str, list[tuple[ZipMember, int]]] = {part: [] for part in PARTS}
    with zipfile.ZipFile(TOYPETS) as archive:
        for member in sorted(archive.namelist()):
            match PurePosixPath(member).parts:
                case (own, part, species, breed, _) if own == style:
                    label = entry.classes.index(breed if kind == "breeds" else species)
                    found[part].append((ZipMember(str(TOYPETS), member), label))
    return {part: ImageSet(*zip(*images, strict=True), entry.classes) for part, images in found.items()}, []


def _digits(entry: Entry) -> Parts:
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn's greys go from 0 to 16
    positions = stratify(range(len(images)), digits.target.tolist(), [0.15, 0.25], seed=0)
    sets = {
        part: ImageSet(images[own], digits.target[own].tolist(), entry.classes)
        for part, own in zip(PARTS, positions, strict=True)
    }
    return sets, []


def _domain(entry: Entry) -> Parts:
    parts = zip(PARTS, DOMAIN_COUNTS, FIRST_SEEDS, strict=True)
    return {part: synthetic_images(entry.name, count, first_seed=seed) for part, count, seed in parts}, []


def _dogs_vs_cats(entry: Entry) -> Parts:
    folder = _given("dogs-vs-cats")
    if folder is None:
        folder = fetch_archive(CATS_URL, CATS_HASH) / "PetImages"
    # The public archive has a few damaged files.
    return _parts(from_folder(folder, skip_unreadable=True), entry)


def _hymenoptera(entry: Entry) -> Parts:
    folder = _given("hymenoptera_data") or fetch_archive(HYMENOPTERA_URL, HYMENOPTERA_HASH)
    sets, notes = _parts(from_folder(folder), entry)
    return {part: _without(images, "imageNotFound.gif") for part, images in sets.items()}, notes


def _parts(splits: Splits, entry: Entry) -> Parts:
    """Take the parts out of a folder's splits, under the entry's class names (the archives write Cat or cats)."""
    if len(splits.classes) != len(entry.classes):
        raise ValueError(
            f"{entry.name} has the classes {', '.join(entry.classes)}, but {splits.name} has "
            f"{', '.join(splits.classes)}. Delete that folder, or load it by its path."
        )
    sets = {part: getattr(splits, part) for part in PARTS}
    return {
        part: ImageSet(own.sources, own.labels, entry.classes, root=own.root) for part, own in sets.items()
    }, splits.notes


def _without(images: ImageSet, name: str) -> ImageSet:
    """Leave out a file that the archive carries by mistake: a picture that says "image not found", among the ants."""
    return images.subset(i for i, path in enumerate(images.sources) if Path(path).name != name)


def _given(name: str) -> Path | None:
    folder = runtime.data_folder()
    return folder / name if folder is not None and (folder / name).is_dir() else None


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("toypets", 2000, SPECIES, "CC BY 4.0", "rendered by tlcourse", "", True, _toypets),
        Entry("toypets-breeds", 2000, BREEDS, "CC BY 4.0", "rendered by tlcourse", "", True, _toypets),
        *(
            Entry(f"toypets-{style}", 320, SPECIES, "CC BY 4.0", "rendered by tlcourse", "", True, _toypets)
            for style in STYLES
            if style != "photo"
        ),
        Entry(
            "digits",
            1797,
            tuple("0123456789"),
            "CC BY 4.0",
            "UCI Optical Recognition of Handwritten Digits, from scikit-learn",
            "",
            False,
            _digits,
        ),
        *(
            # A chest's mirror image has the heart on the wrong side, which is rare and no reason to name it otherwise.
            Entry(
                name,
                sum(DOMAIN_COUNTS),
                DOMAINS[name].CLASSES,
                "CC BY 4.0",
                "drawn by tlcourse",
                "",
                True,
                _domain,
                {"rotation": 180} if name == "landuse" else {},
            )
            for name in DOMAINS
        ),
        Entry(
            "dogs-vs-cats",
            25000,
            ("cats", "dogs"),
            "CDLA-Permissive-2.0",
            "Microsoft Research and Petfinder.com (Asirra), used in Kaggle's Dogs vs Cats",
            "825 MB",
            True,
            _dogs_vs_cats,
        ),
        Entry(
            "hymenoptera",
            397,
            ("ants", "bees"),
            "not stated; photos found on the web, for study only",
            "PyTorch's transfer learning tutorial",
            "47 MB",
            True,
            _hymenoptera,
        ),
    )
}
