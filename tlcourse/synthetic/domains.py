"""Three generated domains, each with as many images as you like: chest radiographs, inspected surfaces, land use."""

import numpy as np

from tlcourse.synthetic import landuse, radiographs, surfaces

DOMAINS = {"radiographs": radiographs, "surfaces": surfaces, "landuse": landuse}
SIZES = range(32, 513)  # below, a nodule is one pixel; above, the noise that is drawn per pixel is too fine


def generate(domain: str, label: str, seed: int, size: int = 96) -> np.ndarray:
    """Draw one image of a domain: uint8 `(size, size)` for radiographs, `(size, size, 3)` for the others.

    The same arguments give the same image on every machine, up to one grey level where processors round differently.

    Raises:
        ValueError: no such domain or class, a seed below 0, a size outside 32 to 512.
    """
    if domain not in DOMAINS:
        raise ValueError(f"There is no domain {domain!r}. Choose one of {', '.join(DOMAINS)}.")
    module = DOMAINS[domain]
    if label not in module.CLASSES:
        raise ValueError(f"{domain} have no class {label!r}. Choose one of {', '.join(module.CLASSES)}.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed={seed!r}: give a whole number from 0 on.")
    if size not in SIZES:
        raise ValueError(f"size={size!r}: give a whole number of pixels from {SIZES[0]} to {SIZES[-1]}.")
    return module.draw(label, int(seed), int(size))
