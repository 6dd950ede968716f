"""Three generated domains: chest radiographs, inspected surfaces, land use. As many images as you like."""

from functools import lru_cache, partial
from types import ModuleType

import numpy as np

from tlcourse.data import _landuse, _radiographs, _surfaces
from tlcourse.data._images import Generated, ImageSet

DOMAINS = {"radiographs": _radiographs, "surfaces": _surfaces, "landuse": _landuse}
SIZE = 96
SIZES = range(32, 513)  # below, a nodule is a pixel; above, the noise that is drawn per pixel is too fine
# Training, validation and test part of the catalog's sets; seeds from 3,000,000 on are in none of them.
COUNTS = (1000, 200, 800)
FIRST_SEEDS = (0, 1_000_000, 2_000_000)


def radiograph(label: str, seed: int, size: int = SIZE) -> np.ndarray:
    """Draw a picture like a chest radiograph, `clear` or with an `opacity`: `(size, size)` uint8.

    For one seed both show the same chest. This is no medical data.

    Raises:
        ValueError: no such class, a seed below 0, a size outside 32 to 512.
    """
    return generate("radiographs", label, seed, size)


def surface(label: str, seed: int, size: int = SIZE) -> np.ndarray:
    """Draw a piece of metal, paint or cloth, `clean` or with a `scratch`, `dent` or `stain`: `(size, size, 3)` uint8.

    For one seed all classes show the same piece.

    Raises:
        ValueError: no such class, a seed below 0, a size outside 32 to 512.
    """
    return generate("surfaces", label, seed, size)


def landuse(label: str, seed: int, size: int = SIZE) -> np.ndarray:
    """Draw the ground from above, mostly `fields`, `forest`, `town` or `water`: `(size, size, 3)` uint8.

    Raises:
        ValueError: no such class, a seed below 0, a size outside 32 to 512.
    """
    return generate("landuse", label, seed, size)


def generate(domain: str, label: str, seed: int, size: int = SIZE) -> np.ndarray:
    """Draw one picture of a domain: uint8 `(size, size)` for radiographs, `(size, size, 3)` for the others.

    The same arguments give the same picture on every machine, up to one grey level where processors round otherwise.

    Raises:
        ValueError: no such domain or class, a seed below 0, a size outside 32 to 512.
    """
    module = _module(domain)
    if label not in module.CLASSES:
        raise ValueError(f"{domain} have no class {label!r}. Choose one of {', '.join(module.CLASSES)}.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed={seed!r}: give a whole number from 0 on.")
    if size not in SIZES:
        raise ValueError(f"size={size!r}: give a whole number of pixels from {SIZES[0]} to {SIZES[-1]}.")
    return module.picture(label, int(seed), int(size))


def images(domain: str, count: int, *, first_seed: int = 3_000_000) -> ImageSet:
    """Return `count` images of a domain, the classes in turn, each with a seed of its own from `first_seed` on.

    An image is drawn when it is looked at, and then kept. From the default seed on no image is in the catalog's sets.

    Raises:
        ValueError: no such domain, or fewer images than classes.
    """
    classes = _module(domain).CLASSES
    if isinstance(count, bool) or not isinstance(count, int) or count < len(classes):
        raise ValueError(f"count={count!r}: {domain} have {len(classes)} classes. Ask for at least one image of each.")
    labels = [i % len(classes) for i in range(count)]
    make = partial(_kept, domain)
    return ImageSet([Generated(make, classes[k], first_seed + i) for i, k in enumerate(labels)], labels, classes)


# Two catalog sets in colour: 110 MB at most.
@lru_cache(maxsize=4000)
def _kept(domain: str, label: str, seed: int) -> np.ndarray:
    picture = generate(domain, label, seed)
    picture.setflags(write=False)  # all who ask get the same array
    return picture


def _module(domain: str) -> ModuleType:
    if domain not in DOMAINS:
        raise ValueError(f"There is no domain {domain!r}. Choose one of {', '.join(DOMAINS)}.")
    return DOMAINS[domain]
