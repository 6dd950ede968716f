"""Pictures of the ground from above: fields, forest, town, water. The class is what covers more than half.

Covers have colours and heights; one sun from a random side lights the slopes and casts the shadows, and the air adds haze.
Nothing is up: every picture turned or mirrored is as likely as the picture.
"""

import numpy as np

from tlcourse.data import _covers
from tlcourse.data._covers import Cover
from tlcourse.data._patterns import blur, grid, noise, step, stream, to_bytes, turn

CLASSES = ("fields", "forest", "town", "water")
FINE = 2  # rays a pixel and axis, so that roofs and tracks have no steps


def picture(label: str, seed: int, size: int) -> np.ndarray:
    """Return one picture in colours: `(size, size, 3)` uint8."""
    rng = stream(f"landuse/{label}", seed)
    x, y = grid(FINE * size)
    # Share of the picture that another cover takes; water is seldom alone.
    other = rng.uniform(0, 0.42) if rng.uniform() < (0.85 if label == "water" else 0.6) else 0.0
    scale = rng.uniform(0.75, 1.35)
    level = _shape(rng, x, y, 1 - other)
    cover = _cover(rng, label, scale * x, scale * y, level)
    if other:
        second = rng.choice([name for name in CLASSES if name != label])
        cover = _join(rng, cover, _cover(rng, second, scale * x, scale * y, -level), level, "water" in (label, second))
    return _photograph(rng, cover)


def _shape(rng, x, y, share: float) -> np.ndarray:
    """Return a smooth level that is positive on `share` of the picture: a half plane, a band or an island, ragged."""
    u, v = turn(x, y, rng.uniform(0, 2 * np.pi))
    ragged = rng.uniform(0.05, 0.3) * noise(rng, len(x), 3, 4)
    shape = rng.randint(3)
    if shape == 0:
        level = v + ragged
    elif shape == 1:
        level = -np.abs(v - rng.uniform(-0.3, 0.3) - rng.uniform(0, 0.25) * np.sin(rng.uniform(1, 3) * u)) + 0.5 * ragged
    else:
        u, v = u - rng.uniform(-0.7, 0.7), v - rng.uniform(-0.7, 0.7)
        level = np.sqrt(u * u + v * v) + ragged
        level = level if rng.uniform() < 0.5 else -level
    return level - np.float32(np.quantile(level[::4, ::4], 1 - share))


def _cover(rng, name: str, x, y, level) -> Cover:
    x, y = turn(x, y, rng.uniform(0, 2 * np.pi))
    return _covers.water(rng, x, y, level) if name == "water" else getattr(_covers, name)(rng, x, y)


def _join(rng, inside: Cover, outside: Cover, level, shore: bool) -> Cover:
    share = step(level, -0.01, 0.01)
    colour = outside.colour + (inside.colour - outside.colour) * share[..., None]
    height = outside.height + (inside.height - outside.height) * share
    if shore:
        sand = rng.uniform(0.2, 1) * np.exp(-((level / rng.uniform(0.01, 0.035)) ** 2)) * (rng.uniform() < 0.7)
        colour = colour + (np.array([0.55, 0.5, 0.4], np.float32) - colour) * sand[..., None]
        height = height * (1 - sand)
    return Cover(colour, height)


def _photograph(rng, cover: Cover) -> np.ndarray:
    """Sun, shadows, season, haze, focus and grain, none of which knows the class."""
    size = len(cover.height) // FINE
    around, slope = rng.uniform(0, 2 * np.pi), np.tan(rng.uniform(0.55, 1.1))
    sun = np.array([np.cos(around), np.sin(around)])
    down, right = np.gradient(cover.height, 1 / size)
    light = 1 - (sun[0] * right + sun[1] * down) * 0.55 / slope
    lit = np.ones_like(light)
    for distance in range(1, 7):
        shift = np.round(1.5 * distance * sun).astype(int)
        towards = _shifted(cover.height, shift)
        over = towards - cover.height - 1.5 * distance * slope / size
        lit = np.minimum(lit, step(over, 0.012, -0.002))
    sky = np.array([0.34, 0.38, 0.46], np.float32)
    warm = np.array([1.0, 0.97, 0.9], np.float32)
    image = cover.colour * (sky + (warm * (np.clip(light, 0.2, 1.7) * lit)[..., None] * 0.8))
    image = image.reshape(size, FINE, size, FINE, 3).mean((1, 3))
    season = 1 + rng.uniform(-0.12, 0.12, 3) + rng.uniform(-0.12, 0.12) * np.array([1, 0, -1])
    haze = rng.uniform(0, 0.22)
    image = image * (rng.uniform(0.8, 1.5) * season).astype(np.float32) * (1 - haze) + haze * np.array([0.5, 0.55, 0.6])
    image = blur(image, rng.uniform(0.25, 0.6) * size / 96)
    grain = rng.uniform(0.004, 0.014) * rng.standard_normal((size, size, 3))
    return to_bytes(np.clip(image, 0, None) ** rng.uniform(0.7, 0.95) + grain)


def _shifted(height: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Return the height `by` pixels further right and down, the edge repeated."""
    rows, columns = (np.clip(np.arange(len(height)) + step, 0, len(height) - 1) for step in (by[1], by[0]))
    return height[rows][:, columns]
