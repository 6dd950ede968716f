"""Images of the ground from above: fields, forest, town, water. The class is what covers more than half.

Each cover has a colour and a height at every point. The sun, from a random side, lights the slopes and casts shadows;
the air adds haze. No side is up: an image is as likely as the same image rotated or mirrored.
"""

import numpy as np

from tlcourse.synthetic import land_covers
from tlcourse.synthetic.land_covers import Cover
from tlcourse.synthetic.noise import Random, blur, grid, noise, step, stream, to_bytes, turn

CLASSES = ("fields", "forest", "town", "water")
FINE = 2  # points per pixel and axis, so that roofs and tracks have smooth edges
SAND, SKY, SUN, HAZE = (
    np.array(colour, np.float32)[:, None, None]
    for colour in ((0.55, 0.5, 0.4), (0.34, 0.38, 0.46), (0.8, 0.78, 0.72), (0.5, 0.55, 0.6))
)


def draw(label: str, seed: int, size: int) -> np.ndarray:
    """Draw one image in colour: `(size, size, 3)` uint8."""
    rng = stream(f"landuse/{label}", seed)
    x, y = grid(FINE * size)
    # Share of the image with another cover; water is seldom alone.
    other = rng.uniform(0, 0.42) if rng.uniform() < (0.85 if label == "water" else 0.6) else 0.0
    scale = rng.uniform(0.75, 1.35)
    level = _shape(rng, x, y, 1 - other)
    cover = _cover(rng, label, scale * x, scale * y, level)
    if other:
        second = rng.choice([name for name in CLASSES if name != label])
        cover = _join(rng, cover, _cover(rng, second, scale * x, scale * y, -level), level, "water" in (label, second))
    return _record(rng, cover)


def _shape(rng: Random, x: np.ndarray, y: np.ndarray, share: float) -> np.ndarray:
    """Return a level that is positive on `share` of the image: a half plane, a band or an island, with ragged edges."""
    u, v = turn(x, y, rng.uniform(0, 2 * np.pi))
    ragged = rng.uniform(0.05, 0.3) * noise(rng, len(x), 3, 4)
    shape = rng.randint(3)
    if shape == 0:
        level = v + ragged
    elif shape == 1:
        middle = rng.uniform(-0.3, 0.3)
        level = 0.5 * ragged - np.abs(v - middle - rng.uniform(0, 0.25) * np.sin(rng.uniform(1, 3) * u))
    else:
        u, v = u - rng.uniform(-0.7, 0.7), v - rng.uniform(-0.7, 0.7)
        level = np.sqrt(u * u + v * v) + ragged
        level = level if rng.uniform() < 0.5 else -level
    return level - np.float32(np.quantile(level[::4, ::4], 1 - share))


def _cover(rng: Random, name: str, x: np.ndarray, y: np.ndarray, level: np.ndarray) -> Cover:
    x, y = turn(x, y, rng.uniform(0, 2 * np.pi))
    return land_covers.water(rng, x, y, level) if name == "water" else getattr(land_covers, name)(rng, x, y)


def _join(rng: Random, inside: Cover, outside: Cover, level: np.ndarray, shore: bool) -> Cover:
    share = step(level, -0.01, 0.01)
    colour = outside.colour + (inside.colour - outside.colour) * share
    height = outside.height + (inside.height - outside.height) * share
    if shore:
        sand = rng.uniform(0.2, 1) * np.exp(-((level / rng.uniform(0.01, 0.035)) ** 2)) * (rng.uniform() < 0.7)
        colour = colour + (SAND - colour) * sand
        height = height * (1 - sand)
    return Cover(colour, height)


def _record(rng: Random, cover: Cover) -> np.ndarray:
    """Add sun, shadows, season, haze, focus and noise, none of which depends on the class."""
    size = len(cover.height) // FINE
    around, slope = rng.uniform(0, 2 * np.pi), float(np.tan(rng.uniform(0.55, 1.1)))
    sun = float(np.cos(around)), float(np.sin(around))
    down, right = np.gradient(cover.height, 1 / size)
    light = 1 - (sun[0] * right + sun[1] * down) * 0.55 / slope
    lit = np.ones_like(light)
    for distance in range(1, 7):
        towards = _shifted(cover.height, *(round(1.5 * distance * part) for part in sun))
        over = towards - cover.height - 1.5 * distance * slope / size
        lit = np.minimum(lit, step(over, 0.012, -0.002))
    image = cover.colour * (SKY + SUN * (np.clip(light, 0.2, 1.7) * lit))
    image = image.reshape(3, size, FINE, size, FINE)
    image = (image[:, :, 0, :, 0] + image[:, :, 0, :, 1] + image[:, :, 1, :, 0] + image[:, :, 1, :, 1]) / FINE**2
    warmth = rng.uniform(-0.12, 0.12)
    season = 1 + rng.uniform(-0.07, 0.07, (3, 1, 1)) + np.array([warmth, 0, -warmth])[:, None, None]
    haze = rng.uniform(0, 0.22)
    image = image * season.astype(np.float32) * (1 - haze) + haze * HAZE
    image = _develop(rng, image)
    image = blur(image, rng.uniform(0.25, 0.6) * size / 96)
    grain = rng.uniform(0.004, 0.014) * rng.standard_normal((3, size, size))
    return to_bytes(np.clip(image, 0, None) ** rng.uniform(0.75, 0.9) + grain)


def _develop(rng: Random, image: np.ndarray) -> np.ndarray:
    """Adapt brightness and contrast to the scene, as surveys do, so that brightness alone does not tell the cover.

    Colours are more or less strong; one image in four has none, like those of a panchromatic camera.
    """
    grey = image.mean(0)
    mean, spread = float(grey.mean()), float(grey.std())
    stretch = min(max((0.13 / spread) ** 0.6, 0.7), 2.2) * rng.uniform(0.8, 1.25)
    gain = rng.uniform(0.26, 0.42) / mean
    colours = 0.0 if rng.uniform() < 0.25 else rng.uniform(0.4, 1.0)
    image = grey + colours * (image - grey)
    return gain * (mean + stretch * (image - mean))


def _shifted(height: np.ndarray, right: int, down: int) -> np.ndarray:
    """Return the height at so many pixels to the right and down; the edge is repeated."""
    rows, columns = (np.clip(np.arange(len(height)) + shift, 0, len(height) - 1) for shift in (down, right))
    return height[rows].take(columns, axis=1)
