"""Random numbers, noise and shapes for images that follow from a seed alone, the same on every system."""

import hashlib
from functools import cache

import numpy as np
from scipy import ndimage, sparse

Random = np.random.RandomState


def stream(name: str, seed: int) -> Random:
    """Return random numbers that depend only on `name` and `seed`.

    `RandomState` and not `Generator`: NumPy keeps its streams the same in all versions (NEP 19).
    """
    words = np.frombuffer(hashlib.sha256(f"{name}/{seed}".encode()).digest(), dtype="<u4")
    return Random(np.random.PCG64(np.random.SeedSequence(words.tolist())))


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels' centres x (to the right) and y (down), from -1 to 1, each `(size, size)` float32."""
    centres = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    return x, y


def turn(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates in axes turned by `angle` radians."""
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def noise(rng: Random, size: int, cells: int, octaves: int = 1) -> np.ndarray:
    """Return smooth noise `(size, size)` of mean 0 and deviation 1, with bumps as wide as `1 / cells` of the side.

    The bumps of each further octave are half as wide and half as strong.
    """
    total, power = np.zeros((size, size), np.float32), 0.0
    for octave in range(octaves):
        weights = _weights(size, cells << octave)
        lattice = rng.standard_normal((weights.shape[1],) * 2).astype(np.float32)
        total += (weights @ (weights @ lattice).T).T * 0.5**octave
        power += 0.25**octave
    return total / np.float32(power**0.5)


@cache
def _weights(size: int, cells: int) -> sparse.csr_array:
    """Cubic B-splines at every pixel, scaled to keep the variance of white noise: `(size, cells + 3)`, four per row.

    Sparse: its products take one thread. Two threads for so little work wait for each other, wherever another
    program runs, for far longer than they work.
    """
    distance = np.abs((np.arange(size)[:, None] + 0.5) / size * cells - (np.arange(cells + 3) - 1))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return sparse.csr_array((weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32))


def streaks(rng: Random, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return noise of mean 0 whose bumps are one unit of the coordinates wide: stretch those to get streaks."""
    lattice = rng.standard_normal((64, 64)).astype(np.float32)
    return ndimage.map_coordinates(lattice, [across + 32, along + 32], order=1, mode="grid-wrap", prefilter=False)


def step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 below `low`, 1 above `high`, smooth between; with `low` above `high` it falls."""
    part = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return part * part * (3 - 2 * part)


def dome(x: np.ndarray, y: np.ndarray, radii: tuple[float, float]) -> np.ndarray:
    """Return the height of half an ellipsoid around 0: 1 in the middle, 0 outside of `radii`."""
    return np.sqrt(np.clip(1 - (x / np.float32(radii[0])) ** 2 - (y / np.float32(radii[1])) ** 2, 0, None))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur an image `(H, W)` or `(3, H, W)` by a Gaussian of `sigma` pixels."""
    return ndimage.gaussian_filter(image, (0, sigma, sigma)[-image.ndim :], mode="nearest", truncate=3)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Turn values from 0 to 1, `(H, W)` or `(3, H, W)`, into uint8 `(H, W)` or `(H, W, 3)`."""
    levels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return levels if image.ndim == 2 else np.ascontiguousarray(levels.transpose(1, 2, 0))
