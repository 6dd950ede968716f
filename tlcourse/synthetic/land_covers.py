"""What covers the ground, seen from above: each cover is a colour and a height at every point.

All take coordinates in which 1 is half the image's side, rotated by a random angle: no side is up.
"""

from dataclasses import dataclass

import numpy as np

from tlcourse.synthetic.noise import Random, noise, step, streaks

LOTS, TREES = 48, 128  # more columns and rows of lots and of trees than an image can show


@dataclass
class Cover:
    """Colour `(3, H, W)` in daylight, height `(H, W)` in units of half the side."""

    colour: np.ndarray
    height: np.ndarray


def _colours(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).T[:, :, None].copy()  # (3, rows, 1): one row is a colour for a whole image


CROPS = _colours(
    (0.24, 0.33, 0.13), (0.32, 0.4, 0.17), (0.17, 0.27, 0.12), (0.42, 0.42, 0.2), (0.55, 0.48, 0.28),
    (0.45, 0.36, 0.24), (0.36, 0.28, 0.2), (0.62, 0.55, 0.38), (0.28, 0.36, 0.2), (0.5, 0.44, 0.34),
)  # fmt: skip
ROOFS = _colours(
    (0.5, 0.27, 0.2), (0.44, 0.24, 0.19), (0.38, 0.3, 0.26), (0.3, 0.3, 0.32), (0.55, 0.54, 0.52),
    (0.7, 0.69, 0.66), (0.24, 0.24, 0.26), (0.46, 0.4, 0.34),
)  # fmt: skip
WATERS = _colours((0.05, 0.11, 0.16), (0.07, 0.16, 0.17), (0.08, 0.13, 0.09), (0.16, 0.17, 0.12), (0.06, 0.17, 0.24))


def fields(rng: Random, x: np.ndarray, y: np.ndarray) -> Cover:
    """Strips divided into parcels, each with rows of one crop; tracks and hedges between some of them."""
    size = len(x)
    x, y = x + 0.02 * noise(rng, size, 2), y + 0.02 * noise(rng, size, 2)
    widths = (0.16, 0.5) if rng.uniform() < 0.6 else (0.4, 0.9)
    edges = np.cumsum(rng.uniform(*widths, 24)).astype(np.float32) - np.float32(2.4)
    strip = np.searchsorted(edges, y).clip(1, 23)
    to_edge = np.minimum(y - edges[strip - 1], edges[strip] - y)
    length, offset = _draw(rng, (0.3, 1.6), strip), _draw(rng, (0, 1), strip)
    place = x / length + offset
    parcel = (strip * 16 + np.floor(place).astype(np.int64) + 8) % 384
    to_edge = np.minimum(to_edge, np.abs(place - np.round(place)) * length)
    crops = CROPS[:, rng.randint(0, CROPS.shape[1], 6), 0][:, rng.randint(0, 6, 384)] * rng.uniform(0.85, 1.15, 384)
    colour = crops.astype(np.float32).take(parcel, axis=1)
    lengthwise = (rng.uniform(size=384) < 0.75).take(parcel)
    pitch, strength = _draw(rng, (0.035, 0.09), parcel), _draw(rng, (0, 0.1), parcel)
    across = np.where(lengthwise, y, x) + 0.01 * noise(rng, size, 5)
    rows = np.sin(2 * np.pi * across / pitch) + 0.7 * streaks(rng, np.where(lengthwise, x, y), 26 * across)
    patches = noise(rng, size, 5, 4)
    colour = colour * (1 + strength * rows + rng.uniform(0.03, 0.12) * patches)
    height = 0.004 * noise(rng, size, 40)
    kind = rng.randint(0, 3, 24).take(strip)  # of the border: nothing, a track, a hedge
    border = step(to_edge, 0.028, 0.016)
    colour = _over(colour, (0.52, 0.46, 0.36), 0.8 * border * (kind == 1))
    bushes = step(to_edge + 0.006 * noise(rng, size, 24), 0.034, 0.022) * (kind == 2)
    colour = _over(colour, (0.12, 0.19, 0.08), bushes)
    return Cover(colour, np.maximum(height, 0.05 * bushes))


def forest(rng: Random, x: np.ndarray, y: np.ndarray) -> Cover:
    """Dense trees of one to three kinds; the ground shows on paths and in clearings."""
    size, summer = len(x), rng.uniform() < 0.7
    grounds = _colours((0.2, 0.22, 0.1), (0.3, 0.27, 0.17), (0.16, 0.17, 0.09))
    colour = _one(grounds, rng.randint(3)) * (1 + 0.15 * noise(rng, size, 12, 3))
    thin = noise(rng, size, 3, 3)
    open_at = rng.uniform(0.9, 2.6)
    pitch = rng.uniform(0.06, 0.15)
    away_x, away_y = (pitch * 0.35 * noise(rng, size, 6) for _ in "xy")  # off the grid
    height, which = crowns(rng, x + away_x, y + away_y, pitch, thin < open_at)
    kinds = _colours((0.12, 0.2, 0.07), (0.17, 0.25, 0.09), (0.08, 0.15, 0.08), (0.25, 0.28, 0.1), (0.34, 0.26, 0.1))
    first, second, third = (_one(kinds, rng.randint(3 if summer else 5)) for _ in range(3))
    share = rng.uniform(0.2, 1)
    leaves = np.where(which > share, first, second)
    leaves = np.where(thin + 0.6 * which > rng.uniform(0.5, 2), third, leaves)
    leaves = leaves * (0.75 + 0.5 * ((7.3 * which) % 1) + 0.12 * noise(rng, size, 40))
    colour = np.where(height > 0, leaves, colour)
    height = height * pitch * 1.1
    if rng.uniform() < 0.35:
        path = step(np.abs(y - rng.uniform(-0.6, 0.6) - 0.2 * np.sin(2 * x + rng.uniform(0, 6))), 0.035, 0.02)
        colour, height = _over(colour, (0.42, 0.37, 0.27), path), height * (1 - path)
    return Cover(colour, height)


def crowns(rng: Random, x: np.ndarray, y: np.ndarray, pitch: float, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return trees about `pitch` apart: the height at each point, and a random number per tree, both from 0 to 1."""
    u, v = x / np.float32(pitch), y / np.float32(pitch)
    right, down = np.floor(u - 0.5), np.floor(v - 0.5)
    u, v = u - right, v - down
    first = ((down + TREES // 2) * TREES + right + TREES // 2).astype(np.int64)
    places = rng.uniform(0.15, 0.85, (2, TREES * TREES)).astype(np.float32)
    sharp = (1 / rng.uniform(0.42, 0.64, TREES * TREES) ** 2).astype(np.float32)
    names = rng.uniform(size=TREES * TREES).astype(np.float32)
    height, which = np.zeros_like(x), np.zeros_like(x)
    for i in (0, 1):
        for j in (0, 1):
            tree = first + j * TREES + i
            away = (u - i - places[0].take(tree)) ** 2 + (v - j - places[1].take(tree)) ** 2
            name = names.take(tree)
            top = (0.6 + 0.4 * name) * (1 - away * sharp.take(tree))
            higher = top > height
            height, which = np.where(higher, top, height), np.where(higher, name, which)
    return height * where, which


def town(rng: Random, x: np.ndarray, y: np.ndarray) -> Cover:
    """Streets in a slightly bent grid; lots with houses, gardens and trees."""
    size, bend = len(x), rng.uniform(0, 0.08)
    x, y = x + bend * noise(rng, size, 1), y + bend * noise(rng, size, 1)
    lot, street = rng.uniform(0.15, 0.3), rng.uniform(0.05, 0.08)
    column, u, wide, road_u = _lots(rng, x, lot, street, every=(2, 6))
    row, v, tall, road_v = _lots(rng, y, lot * rng.uniform(0.9, 1.4), street, every=(2, 3))
    road = road_u | road_v
    here = row * LOTS + column

    def pick(low: float, high: float) -> np.ndarray:
        return _draw(rng, (low, high), here, LOTS * LOTS)

    greens = _colours((0.2, 0.26, 0.12), (0.3, 0.31, 0.18), (0.4, 0.37, 0.3))
    colour = _one(greens, rng.randint(3)) * (0.85 + 0.3 * pick(0, 1) + 0.1 * noise(rng, size, 10, 3))
    paved = road | (pick(0, 1) < rng.uniform(0, 0.4))
    colour = np.where(paved, rng.uniform(0.28, 0.46) * (1 + 0.05 * noise(rng, size, 30)), colour)
    full = rng.uniform(0.6, 0.92)
    half_u, half_v = wide / 2 * pick(0.5, 1) * full, tall / 2 * pick(0.5, 1) * full  # of a house
    from_u = np.abs(u + (wide / 2 - half_u) * pick(-0.6, 0.6))  # from its middle
    from_v = np.abs(v + (tall / 2 - half_v) * pick(-0.6, 0.6))
    house = (from_u < half_u) & (from_v < half_v) & ~road & (pick(0, 1) < rng.uniform(0.75, 1))
    tint = pick(0, 1)
    roofs = ROOFS[:, rng.randint(0, ROOFS.shape[1], 5), 0].take((tint * 4.99).astype(np.int64), axis=1)
    colour = np.where(house, roofs * (0.8 + 0.4 * ((tint * 31) % 1) + 0.04 * noise(rng, size, 40)), colour)
    flat = pick(0, 1) < rng.uniform(0, 0.6)
    gable = np.where(half_u > half_v, 1 - from_v / half_v, 1 - from_u / half_u)
    eaves = rng.uniform(0.03, 0.07)
    height = house * (eaves * pick(0.7, 1.4) + np.where(flat, 0, 0.6 * np.minimum(half_u, half_v) * gable))
    trees, which = crowns(rng, x, y, rng.uniform(0.08, 0.12), ~house & ~road_u & ~road_v)
    trees = trees * (which > rng.uniform(0.3, 0.95))
    colour = np.where(trees > 0, _colours((0.13, 0.2, 0.08)) * (0.7 + 0.6 * which), colour)
    return Cover(colour, np.maximum(height, 0.06 * trees))


def _lots(rng: Random, along: np.ndarray, lot: float, street: float, every: tuple[int, int]) -> list[np.ndarray]:
    """Divide an axis into lots with a street after every few: index, place from the middle, width, is it a street."""
    widths, is_street = [], []
    while len(widths) < LOTS - 8:
        block = rng.randint(every[0], every[1] + 1)
        widths += [street, *(lot * rng.uniform(0.8, 1.2, block))]
        is_street += [True, *[False] * block]
    edges = np.cumsum(widths)
    edges = (edges - edges[len(edges) // 2] + rng.uniform(-0.3, 0.3)).astype(np.float32)
    index = np.searchsorted(edges, along).clip(0, len(edges) - 1)
    widths = np.array(widths, np.float32)
    middles = edges - widths / 2
    return [index, along - middles.take(index), widths.take(index), np.array(is_street).take(index)]


def water(rng: Random, x: np.ndarray, y: np.ndarray, level: np.ndarray) -> Cover:
    """Water, darker where `level` is higher (0 is the shore), with waves and, in places, glitter."""
    size = len(x)
    deep = _one(WATERS, rng.randint(WATERS.shape[1])) * np.float32(rng.uniform(0.8, 1.5))
    shallow = deep + rng.uniform(0.02, 0.16) * _colours((0.8, 1, 0.8))
    colour = deep + (shallow - deep) * np.exp(-np.clip(level, 0, None) / rng.uniform(0.04, 0.3))
    pitch = rng.uniform(14, 34)
    waves = streaks(rng, 0.35 * pitch * x, pitch * y) + 0.6 * noise(rng, size, 40)
    swell = noise(rng, size, 3, 3)
    rough = rng.uniform(0.01, 0.12)
    colour = colour * (1 + 0.5 * rough * waves + rng.uniform(0.02, 0.12) * swell)
    glitter = rng.uniform(0, 0.12) * step(swell, -0.5, 1.5) * (0.4 + np.clip(waves, 0, None) * rough * 8)
    return Cover(colour + glitter, np.zeros_like(x))


def _over(colour: np.ndarray, paint: tuple[float, float, float], share: np.ndarray) -> np.ndarray:
    return colour + (_colours(paint) - colour) * share


def _one(colours: np.ndarray, index: int) -> np.ndarray:
    return colours[:, index, :, None]


def _draw(rng: Random, bounds: tuple[float, float], where: np.ndarray, count: int = 384) -> np.ndarray:
    """Draw `count` values within the bounds, and return the one with the index `where` for every point."""
    return rng.uniform(*bounds, count).astype(np.float32).take(where)
