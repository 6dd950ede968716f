"""The catalog: image sets by name, where they come from, and how they are split."""

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
from tlcourse.data.folders import from_folder, preprocessing_for
from tlcourse.data.images import ImageSet
from tlcourse.data.reading import Generated, ZipMember
from tlcourse.data.sampling import stratify
from tlcourse.data.splits import PARTS, Splits
from tlcourse.synthetic import DOMAINS, generate

TOYPETS = Path(__file__).with_name("toypets.zip")
# In the order of the labels. They are in the names inside the zip: STYLE/PART/SPECIES/BREED/NUMBER.webp.
SPECIES = ("cats", "dogs")
BREEDS = ("maine-coon", "persian", "shorthair", "siamese", "dachshund", "labrador", "pug", "spaniel")
STYLES = ("photo", "cartoon", "line", "silhouette")
# Training, validation and test part of each generated domain; no part has seeds from 3,000,000 on.
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

    `images` counts all parts; `augmentation` holds the keywords of `Preprocessing.training`; `download` is the size of
    what has to be downloaded once ("" for nothing).
    """

    name: str
    images: int
    classes: tuple[str, ...]
    build: Callable[["Entry"], Parts] = field(repr=False)
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    source: str = "made by tlcourse"
    licence: str = "CC BY 4.0"
    download: str = ""


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

    The catalog's splits are fixed; `seed` decides which images are taken when `train`, `val` and `test` give a number
    (see `Splits.take`), and how a folder is split. `model` decides the preprocessing; without it the profile does.

    Raises:
        ValueError: no such name or folder.
        OfflineError: the set has to be downloaded, and cannot be.
    """
    entry = ENTRIES.get(name) if isinstance(name, str) else None
    if entry is None:
        _must_be_folder(name)
        splits = from_folder(name, model=model, seed=seed, augment=augment)
    else:
        sets, notes = entry.build(entry)
        augmentation = entry.augmentation if augment else None
        splits = Splits(
            name,
            **sets,
            classes=list(entry.classes),
            preprocessing=preprocessing_for(model),
            notes=notes,
            augmentation=augmentation,
        )
    return splits.take(train, val, test, seed=seed)


def catalog() -> list[Entry]:
    """Return the image sets that `load` knows by name."""
    return list(ENTRIES.values())


def synthetic_images(domain: str, count: int, *, first_seed: int = 3_000_000) -> ImageSet:
    """Return `count` images of a domain, with the classes in turn and seeds that count up from `first_seed`.

    An image is drawn when it is read, and then kept. No image from the default seed on is in the catalog's sets.

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
    image = generate(domain, label, seed)
    image.setflags(write=False)  # all callers get the same array
    return image


def _must_be_folder(name: str | Path) -> None:
    if isinstance(name, Path) or os.sep in name or "/" in name or Path(name).expanduser().is_dir():
        return  # from_folder says what is wrong with a path
    near = difflib.get_close_matches(name.lower(), ENTRIES, n=2, cutoff=0.5)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"There is no image set {name!r}.{meant} The catalog has {', '.join(ENTRIES)}; "
        f"a path to a folder of images works too, and there is no folder {name!r} in {Path.cwd()}."
    )


def _toypets(entry: Entry) -> Parts:
    """Read toy pets by the entry's name, `toypets-STYLE` or `toypets`; labels are species or breeds."""
    if not TOYPETS.is_file():
        raise ValueError(f"{TOYPETS} is missing. Reinstall the package, or run tools/render_toypets.py.")
    kind = entry.name.partition("-")[2]
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
    parts = zip(PARTS, stratify(range(len(images)), digits.target.tolist(), [0.15, 0.25], seed=0), strict=True)
    return {part: ImageSet(images[own], digits.target[own].tolist(), entry.classes) for part, own in parts}, []


def _domain(entry: Entry) -> Parts:
    parts = zip(PARTS, DOMAIN_COUNTS, FIRST_SEEDS, strict=True)
    return {part: synthetic_images(entry.name, count, first_seed=seed) for part, count, seed in parts}, []


def _dogs_vs_cats(entry: Entry) -> Parts:
    given = runtime.data_folder()
    folder = given / entry.name if given is not None else None
    if folder is None or not folder.is_dir():
        folder = fetch_archive(CATS_URL, CATS_HASH) / "PetImages"
    return _parts(from_folder(folder, skip_unreadable=True), entry)  # the public archive has a few damaged files


def _hymenoptera(entry: Entry) -> Parts:
    return _parts(from_folder(fetch_archive(HYMENOPTERA_URL, HYMENOPTERA_HASH)), entry)


def _parts(splits: Splits, entry: Entry) -> Parts:
    """Return a folder's parts under the entry's class names (the archives write Cat or cats)."""
    parts = {}
    for part in PARTS:
        images: ImageSet = getattr(splits, part)
        # Among the ants, one archive carries by mistake an image that says "image not found".
        kept = images.subset(i for i, path in enumerate(images.sources) if path.name != "imageNotFound.gif")
        parts[part] = ImageSet(kept.sources, kept.labels, entry.classes, root=images.root)
    return parts, splits.notes


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("toypets", 2000, SPECIES, _toypets),
        Entry("toypets-breeds", 2000, BREEDS, _toypets),
        *(Entry(f"toypets-{style}", 320, SPECIES, _toypets) for style in STYLES[1:]),
        Entry(
            "digits",
            1797,
            tuple("0123456789"),
            _digits,
            {"flip": False},  # a mirrored digit is none
            source="UCI Optical Recognition of Handwritten Digits, from scikit-learn",
        ),
        # A mirrored chest has the heart on the wrong side, which is rare and no reason to give it another class.
        *(Entry(name, sum(DOMAIN_COUNTS), DOMAINS[name].CLASSES, _domain) for name in ("radiographs", "surfaces")),
        Entry("landuse", sum(DOMAIN_COUNTS), DOMAINS["landuse"].CLASSES, _domain, {"rotation": 180}),
        Entry(
            "dogs-vs-cats",
            25000,
            ("cats", "dogs"),
            _dogs_vs_cats,
            source="Microsoft Research and Petfinder.com (Asirra), used in Kaggle's Dogs vs Cats",
            licence="CDLA-Permissive-2.0",
            download="825 MB",
        ),
        Entry(
            "hymenoptera",
            397,
            ("ants", "bees"),
            _hymenoptera,
            source="PyTorch's transfer learning tutorial",
            licence="not stated; images found on the web, for study only",
            download="47 MB",
        ),
    )
}
