"""Images like those of a surface inspection: height, colour and gloss at every point, lit by one lamp from the side.

Lambert's law and Blinn and Phong's highlight turn them into light. A scratch is a groove, a dent a hollow, a stain a
change of colour and gloss. Material, lamp and camera have random numbers of their own and do not depend on the class.
"""

from dataclasses import dataclass

import numpy as np

from tlcourse.synthetic.noise import Random, blur, grid, noise, step, streaks, stream, to_bytes, turn

CLASSES = ("clean", "scratch", "dent", "stain")
SEVERITY = (0.8, 2.4)  # of a defect, where 1 is easy to see; it decides how hard the task is


@dataclass
class Surface:
    """Height in units of half the side, colour `(3, H, W)`, gloss 0 to 1 and the highlight's exponent."""

    height: np.ndarray
    colour: np.ndarray
    gloss: np.ndarray
    hardness: float


def draw(label: str, seed: int, size: int) -> np.ndarray:
    """Draw one image in colour: `(size, size, 3)` uint8."""
    rng = stream("surfaces", seed)
    material = MATERIALS[rng.randint(len(MATERIALS))]
    surface = material(rng, *turn(*grid(size), rng.uniform(0, np.pi)))
    _wear(rng, surface)
    if label != "clean":
        DEFECTS[label](stream(f"surfaces/{label}", seed), surface, _roughness(surface))
    return _record(rng, surface)


def _plain(rng: Random, x: np.ndarray, grey: tuple[float, float], tint: float) -> np.ndarray:
    colour = rng.uniform(*grey) * (1 + tint * rng.uniform(-1, 1, 3))
    return np.ones_like(x) * colour.astype(np.float32)[:, None, None]


def _brushed(rng: Random, x: np.ndarray, y: np.ndarray) -> Surface:
    """Metal brushed in one direction: long streaks."""
    fine = rng.uniform(24, 40)
    marks = streaks(rng, 1.5 * x, fine * y) + 0.7 * streaks(rng, 3.5 * x, 0.6 * fine * y)
    marks = marks + 0.3 * streaks(rng, 0.6 * x, 9 * y)
    colour = _plain(rng, x, (0.4, 0.7), 0.06) * (1 + rng.uniform(0.02, 0.06) * marks)
    return Surface(rng.uniform(0.0008, 0.0022) * marks, colour, np.full_like(x, rng.uniform(0.35, 0.7)), 14)


def _cast(rng: Random, x: np.ndarray, y: np.ndarray) -> Surface:
    """Sand-cast or blasted metal: grains without a direction."""
    size = len(x)
    grains = noise(rng, size, 40) + 0.8 * noise(rng, size, 22) + 0.5 * noise(rng, size, 10)
    colour = _plain(rng, x, (0.25, 0.6), 0.08) * (1 + rng.uniform(0.02, 0.07) * grains)
    return Surface(rng.uniform(0.002, 0.005) * grains, colour, np.full_like(x, rng.uniform(0.05, 0.3)), 8)


def _milled(rng: Random, x: np.ndarray, y: np.ndarray) -> Surface:
    """The arcs that a milling cutter leaves at every step of its feed."""
    radius, feed = rng.uniform(0.9, 2.5), rng.uniform(0.05, 0.11)
    arc = y + np.sqrt(np.clip(radius**2 - x**2, 0.05, None))
    phase = arc / feed + 0.15 * noise(rng, len(x), 4)
    depth = np.cos(2 * np.pi * phase) + 0.5 * streaks(rng, 0.8 * x, 9 * phase)
    colour = _plain(rng, x, (0.4, 0.7), 0.05) * (1 + 0.03 * noise(rng, len(x), 30))
    height = rng.uniform(0.0015, 0.0035) * depth + 0.001 * noise(rng, len(x), 40)
    return Surface(height, colour, np.full_like(x, rng.uniform(0.3, 0.6)), 12)


def _woven(rng: Random, x: np.ndarray, y: np.ndarray) -> Surface:
    """A plain weave: threads go alternately over and under each other."""
    pitch = rng.uniform(0.075, 0.11)
    sway = 0.12 * noise(rng, len(x), 5)
    u, v = x / pitch + sway, y / pitch + 0.12 * noise(rng, len(x), 5)
    over = (np.floor(u) + np.floor(v)) % 2
    warp, weft = np.sin(np.pi * (u - np.floor(u))), np.sin(np.pi * (v - np.floor(v)))
    bend = np.where(over > 0, warp * (0.6 + 0.4 * weft), weft * (0.6 + 0.4 * warp))
    colour = _plain(rng, x, (0.25, 0.6), 0.25) * (0.72 + 0.28 * bend)
    threads = np.where(over > 0, streaks(rng, np.floor(u), 0.3 * v), streaks(rng, 0.3 * u, np.floor(v)))
    colour = colour * (1 + 0.06 * threads)
    height = rng.uniform(0.006, 0.011) * bend + 0.0015 * noise(rng, len(x), 44)
    return Surface(height, colour, np.full_like(x, rng.uniform(0.02, 0.12)), 6)


def _painted(rng: Random, x: np.ndarray, y: np.ndarray) -> Surface:
    """Sprayed paint: smooth, with shallow bumps like an orange's peel and a strong highlight."""
    bumps = noise(rng, len(x), rng.randint(9, 18), 2)
    colour = _plain(rng, x, (0.15, 0.65), 0.5) * (1 + 0.015 * noise(rng, len(x), 44))
    return Surface(rng.uniform(0.0008, 0.0035) * bumps, colour, np.full_like(x, rng.uniform(0.25, 0.6)), 22)


MATERIALS = (_brushed, _cast, _milled, _woven, _painted)


def _wear(rng: Random, surface: Surface) -> None:
    """Add what every used surface has, whatever its class: a slight warp, uneven gloss, dust."""
    size = len(surface.height)
    surface.height += rng.uniform(0.0, 0.02) * noise(rng, size, 2)
    uneven = noise(rng, size, 3, 2)
    surface.gloss *= 1 + 0.12 * uneven
    surface.colour *= 1 + rng.uniform(0.0, 0.06) * noise(rng, size, 4, 3)
    x, y = grid(size)
    for _ in range(rng.randint(0, 6)):
        u, v = x - rng.uniform(-1, 1), y - rng.uniform(-1, 1)
        speck = np.exp(-(u * u + v * v) / rng.uniform(0.012, 0.028) ** 2)
        surface.colour *= 1 - rng.uniform(-0.35, 0.5) * speck


def _scratch(rng: Random, surface: Surface, rough: float) -> None:
    """Add one to four narrow grooves with raised flanks, slightly bent, thin at both ends."""
    (x, y), angle = grid(len(surface.height)), rng.uniform(0, np.pi)
    for _ in range(rng.choice([1, 2, 3, 4])):
        u, v = turn(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5), angle + rng.uniform(-0.15, 0.15))
        half, bend = rng.uniform(0.4, 1.1), rng.uniform(-0.3, 0.3)
        wobble = rng.uniform(0.0, 0.02) * np.sin(rng.uniform(3, 9) * u + rng.uniform(0, 6.3))
        away = (v - bend * u * u - wobble) / np.sqrt(1 + (2 * bend * u) ** 2)
        width = rng.uniform(0.016, 0.032)
        ends = step(np.abs(u), half, 0.6 * half)
        depth = rng.uniform(*SEVERITY) * ends * (1 + 0.25 * streaks(rng, 6 * u, 0 * v))
        groove = np.exp(-((away / width) ** 2))
        flank = np.exp(-(((away - 2 * width) / width) ** 2))
        surface.height += (0.25 + rough) * width * depth * (0.4 * flank - groove)
        surface.colour *= 1 - 0.18 * depth * groove
        surface.gloss *= 1 - 0.3 * np.clip(depth * groove, 0, 1)


def _dent(rng: Random, surface: Surface, rough: float) -> None:
    """Add a smooth hollow with a slightly raised rim; only the height changes."""
    x, y = grid(len(surface.height))
    u, v = turn(x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.6, 0.6), rng.uniform(0, np.pi))
    radius = rng.uniform(0.22, 0.5)
    far = np.sqrt((u / radius) ** 2 + (v / (radius * rng.uniform(0.6, 1.0))) ** 2)
    rim = np.exp(-(((far - 1.15) / 0.22) ** 2))
    slope = min(rng.uniform(*SEVERITY) * (0.1 + 0.5 * rough), 0.5)  # a steeper one would be a hole
    surface.height += slope * radius * (0.12 * rim - np.exp(-1.4 * far**2))


def _stain(rng: Random, surface: Surface, rough: float) -> None:
    """Add a dried drop: an irregular outline, most colour at its edge, another gloss."""
    x, y = grid(len(surface.height))
    u, v = turn(x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.6, 0.6), rng.uniform(0, np.pi))
    radius = rng.uniform(0.28, 0.6)
    far = np.sqrt((u / radius) ** 2 + (v / (radius * rng.uniform(0.6, 1.0))) ** 2)
    far = far + rng.uniform(0.1, 0.3) * noise(rng, len(x), 6, 3)
    inside = step(far, 1.04, 0.9)
    ring = np.exp(-(((far - 0.93) / rng.uniform(0.06, 0.12)) ** 2))
    cover = inside * (0.55 + 0.2 * noise(rng, len(x), 9)) + rng.uniform(0.2, 0.9) * ring
    strength = 0.17 * rng.uniform(*SEVERITY) * (1 + rough)
    ink = strength * np.array([0.6, 1.0, 1.5], np.float32)[:, None, None] ** np.float32(rng.uniform(-0.4, 1.0))
    sign = -0.6 if rng.uniform() < 0.25 else 1  # chalk is lighter than the surface
    surface.colour *= 1 - sign * np.clip(cover, 0, None) * ink
    surface.gloss *= 1 + rng.uniform(-0.5, 0.3) * inside


DEFECTS = {"scratch": _scratch, "dent": _dent, "stain": _stain}


def _roughness(surface: Surface) -> float:
    """Return the texture's slope: defects get steeper or darker with it, so that they can be seen."""
    slopes = np.gradient(surface.height, 2 / len(surface.height))
    return float(np.sqrt(np.mean(slopes[0] ** 2 + slopes[1] ** 2)))


def _record(rng: Random, surface: Surface) -> np.ndarray:
    """Turn a surface into an image: lamp, exposure, colour cast, darker corners, focus and noise."""
    size = len(surface.height)
    around, up = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.95)
    light = rng.uniform(0.75, 1.25) * (1 + rng.uniform(-0.08, 0.08, (3, 1, 1))).astype(np.float32)
    slope, corner, focus = rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.25), rng.uniform(0.25, 0.6)
    down, right = np.gradient(surface.height, 2 / size)
    lamp = np.array([np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)], np.float32)
    half = lamp + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    length = np.sqrt(1 + right**2 + down**2)
    diffuse = np.clip((lamp[2] - lamp[0] * right - lamp[1] * down) / length, 0, None) / lamp[2]
    facing = np.clip((half[2] - half[0] * right - half[1] * down) / length, 0, None)
    shine = surface.gloss * (facing / half[2]) ** surface.hardness
    x, y = grid(size)
    falloff = 1 + slope * (np.cos(around) * x + np.sin(around) * y) - corner * (x * x + y * y) / 2
    image = (surface.colour * diffuse * 0.75 + 0.3 * shine) * falloff * light
    image = blur(np.clip(image, 0, 1.5), focus * size / 96)
    grain = rng.uniform(0.008, 0.022) * rng.standard_normal((3, size, size)).astype(np.float32)
    return to_bytes(np.clip(image, 0, None) ** 0.8 + grain)
