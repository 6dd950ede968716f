"""Images that look like chest radiographs: X-rays through a body of ellipsoids. No medical data.

By Beer and Lambert's law, exp(-sum of attenuation times length) passes along a path. A detector shows its logarithm, so
the lengths add up. An opacity is a little more tissue where a lung has air. Everything else is drawn from random
numbers of its own, so that it does not depend on the class.
"""

import numpy as np

from tlcourse.synthetic.noise import Random, blur, dome, grid, noise, step, streaks, stream, to_bytes, turn

CLASSES = ("clear", "opacity")

# Attenuations in units of what a chest's thickness of tissue would absorb.
BONE = (0.09, 0.19)
AIR = 0.74  # by which a lung at its thickest reduces the tissue
DENSITY = (0.28, 0.6)  # of an opacity at its thickest; at less than half of it, a linear probe finds nothing


def draw(label: str, seed: int, size: int) -> np.ndarray:
    """Draw one image in grey: `(size, size)` uint8."""
    rng = stream("radiographs", seed)
    x, y = turn(*grid(size), rng.uniform(-0.07, 0.07))
    zoom = rng.uniform(0.93, 1.12)
    x, y = zoom * x + rng.uniform(-0.07, 0.07), zoom * y + rng.uniform(-0.06, 0.08)
    lungs = _lungs(rng, x, y)
    heart = _heart(rng, x, y)
    air = np.clip(lungs - heart, 0, None)
    tissue = _body(rng, x, y) + _middle(rng, x, y) + rng.uniform(*BONE) * _bones(rng, x, y)
    tissue += _vessels(rng, x, y) * np.sqrt(air) - AIR * air
    tissue += 0.02 * noise(rng, size, 6, 3)
    if label == "opacity":
        # It fills lung that holds air: little where the heart is in front of it.
        filled = _opacity(stream("radiographs/opacity", seed), x, y, lungs)
        tissue = tissue + np.minimum(filled, 0.06 + 0.9 * AIR * air)
    return _expose(rng, tissue)


def _body(rng: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The trunk with its shoulders and neck, the arms, the breasts or chest muscles."""
    width = rng.uniform(0.88, 1.02)
    side = width + 0.35 * step(y, 0.0, -0.75)
    # Shoulders slope from the neck down to the sides.
    top = -0.98 + 0.5 * np.clip(np.abs(x) - 0.24, 0, None) ** 1.3 - 0.5 * step(np.abs(x), 0.26, 0.1)
    across = np.clip(1 - (x / side) ** 2, 0, None) ** 0.35
    trunk = across * step(y - top, -0.02, 0.22)
    belly = rng.uniform(0.15, 0.3) * step(y, 0.2, 0.9)
    out = trunk * (rng.uniform(0.86, 1.0) + belly)
    lean = rng.uniform(-0.05, 0.18)
    for sign in (-1, 1):
        u, v = turn(x - sign * 1.06, y + 0.1, sign * lean)
        out = np.maximum(out, 0.62 * dome(u, v, (0.17, 0.85)))
        shadow = rng.uniform(0.0, 0.16)
        u, v = x - sign * rng.uniform(0.4, 0.5), y - rng.uniform(0.2, 0.36)
        out = out + shadow * dome(u, v, (0.36, 0.3)) ** 0.8 * step(v, -0.3, 0.1)
    return out


def _lungs(rng: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the path is lung, 0 to 1; the right lung is on the left side of the image and higher up."""
    apex, breath = rng.uniform(-0.8, -0.7), rng.uniform(-0.07, 0.09)
    out = np.zeros_like(x)
    for sign, width, floor in ((-1, rng.uniform(0.37, 0.42), 0.44), (1, rng.uniform(0.36, 0.4), 0.5)):
        middle = sign * rng.uniform(0.43, 0.46)
        tall = (y - apex) / (1.45 + breath)
        wide = width * np.clip(1 - (1 - np.clip(tall, 0, 1)) ** 2.4, 0, None) ** 0.55
        offset = (x - middle + sign * 0.16 * (1 - np.clip(tall, 0, 1)) ** 2) / np.maximum(wide, 1e-3)
        depth = np.clip(1 - np.abs(offset) ** 2.6, 0, None) ** 0.45 * step(tall, 0.0, 0.3) ** 0.4
        # The diaphragm's dome: highest towards the middle, steep at the side.
        outward = sign * (x - middle) / width
        dip = floor + breath + 0.05 * outward + 0.19 * np.clip(outward + 0.25, 0, None) ** 2.2
        out = np.maximum(out, depth * step(y - dip, 0.035, -0.035) * (0.88 + 0.12 * step(y - dip, 0, -0.5)))
    return out


def _heart(rng: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Heart and great vessels, as the length of lung that they replace; the tip points to the right of the image."""
    large = rng.uniform(0.92, 1.14)
    u, v = turn(x - rng.uniform(0.1, 0.15), y - rng.uniform(0.22, 0.3), rng.uniform(0.45, 0.75))
    out = 1.25 * dome(u, v, (0.36 * large, 0.26 * large)) ** 0.8
    u, v = x + 0.06, y - 0.2  # the right border
    out = np.maximum(out, 0.9 * dome(u, v, (0.17 * large, 0.28 * large)) ** 0.8)
    knob = dome(x - rng.uniform(0.1, 0.15), y + rng.uniform(0.24, 0.32), (0.1, 0.11))
    stem = dome(x - rng.uniform(0.0, 0.03), y + 0.25, (rng.uniform(0.12, 0.18), 0.75))
    return np.maximum(out, 0.85 * np.maximum(knob, stem) ** 0.7)


def _middle(rng: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The spine with its discs, and the windpipe."""
    pitch, phase = rng.uniform(0.12, 0.15), rng.uniform(0, 6.3)
    bend = rng.uniform(-0.03, 0.03) * np.sin(2 * y + phase)
    spine = step(np.abs(x - bend), 0.105, 0.075) * (0.8 + 0.2 * np.sin(6.28 * y / pitch + phase))
    pipe = step(np.abs(x - rng.uniform(-0.01, 0.03)), 0.05, 0.015) * step(y, -0.2, -0.34)
    return 0.13 * spine - 0.16 * pipe


def _bones(rng: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ribs at the back and at the front, and collar bones; a bone's wall is denser than its marrow."""
    out = np.zeros_like(x)
    pitch = rng.uniform(0.15, 0.175)
    phase, drop, bow = rng.uniform(0, 1), rng.uniform(0.2, 0.34), rng.uniform(0.28, 0.4)
    side = np.abs(x)
    cage = step(side, 0.93, 0.82) * step(y, -0.88, -0.74)
    back = (y - drop * side**1.5 - bow * side**5 + 0.04 * np.sin(3 * side)) / pitch + phase
    out += 0.85 * _tube(back, 0.23) * step(side, 0.05, 0.1) * cage * step(y, 0.75, 0.4)
    front = (y + 0.42 * side - 0.5 * (side - 0.3) ** 2 + bow * side**6) / (1.12 * pitch) + rng.uniform(0, 1)
    out += 0.55 * _tube(front, 0.26) * step(side, 0.2, 0.42) * cage * step(y, 0.5, 0.2) * step(y, -0.6, -0.45)
    for sign in (-1, 1):
        slope, height = rng.uniform(0.1, 0.32), rng.uniform(-0.62, -0.52)
        along = sign * x
        bone = (y - height + slope * (along - 0.1) + 0.035 * np.sin(6 * along)) / 0.11
        out += 1.1 * _tube(np.clip(bone + 0.5, 0, 1), 0.25) * step(along, 0.06, 0.14) * step(along, 0.86, 0.78)
        u, v = turn(x - sign * 0.86, y + 0.42, sign * 0.25)  # the shoulder blade's edge
        out += rng.uniform(0.2, 0.7) * dome(u, v, (0.16, 0.4))
    return out


def _tube(phase: np.ndarray, half: float) -> np.ndarray:
    """One tube per whole step of `phase`, `half` a step wide to each side of its middle."""
    offset = np.abs(phase - np.floor(phase) - 0.5) / np.float32(half)
    return step(offset, 1.15, 0.75) * (0.62 + 0.38 * step(offset, 0.2, 0.8))


def _vessels(rng: Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Vessels that leave the roots of the lungs like rays and get thinner and paler."""
    out = np.zeros_like(x)
    strength = rng.uniform(0.07, 0.15)
    for sign, height in ((-1, 0.02), (1, -0.03)):
        u, v = x - sign * 0.15, y - height
        radius = np.sqrt(u * u + v * v) + 1e-3
        rays = streaks(rng, 2.2 * np.log(radius), 4.2 * np.arctan2(v, sign * u) / (0.6 + 0.4 * radius))
        out += strength * np.clip(rays + 0.1, 0, None) * step(radius, 0.75, 0.1) * step(sign * x, 0.0, 0.12)
        out += strength * 1.5 * np.exp(-((radius / 0.12) ** 2))
    return out


def _opacity(rng: Random, x: np.ndarray, y: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """A nodule or a patch of filled lung anywhere in the lungs, also behind the heart or a rib."""
    shares = np.cumsum((lungs > 0.55).ravel())
    place = np.searchsorted(shares, rng.uniform(0, shares[-1]))
    u, v = turn(x - x.flat[place], y - y.flat[place], rng.uniform(0, 3.14))
    density = rng.uniform(*DENSITY)
    if rng.uniform() < 0.5:
        radius = rng.uniform(0.1, 0.18)
        return 1.25 * density * dome(u, v, (radius, radius * rng.uniform(0.8, 1.2))) * step(lungs, 0.0, 0.3)
    radius = rng.uniform(0.2, 0.38)
    ragged = 1 + 0.45 * noise(rng, len(x), 9, 2)
    patch = np.exp(-((u / radius) ** 2) - (v / (radius * rng.uniform(0.6, 1.0))) ** 2)
    return density * np.clip(patch * ragged, 0, None) * step(lungs, 0.0, 0.3)


def _expose(rng: Random, tissue: np.ndarray) -> np.ndarray:
    """Turn tissue into an image: dose, scatter, noise, contrast, the edges of the beam."""
    size = len(tissue)
    dose, scatter, sharpness = rng.uniform(7.2, 9.5), rng.uniform(0.1, 0.35), rng.uniform(0.35, 0.8)
    low, high = rng.uniform(-0.12, 0.16), rng.uniform(1.22, 1.5)
    gamma, heel = rng.uniform(0.8, 1.25), rng.uniform(-0.08, 0.08)
    left, right, top, bottom = np.where(rng.uniform(size=4) < 0.25, rng.uniform(0.9, 0.99, 4), 2)
    passed = blur(np.exp(-2.4 * tissue), sharpness * size / 96)
    passed = passed + scatter * blur(passed, size / 8) * 0.5
    # The noise of counted quanta grows where few arrive. In the logarithm it is 1 / sqrt(quanta).
    noise_of_quanta = rng.standard_normal((size, size)).astype(np.float32) * np.exp(-dose / 2) / np.sqrt(passed)
    seen = -np.log(passed) / 2.4 + noise_of_quanta / 2.4
    x, y = grid(size)
    shown = np.clip((seen + heel * y - low) / (high - low), 0, 1) ** np.float32(gamma)
    beam = (x > -left) & (x < right) & (y > -top) & (y < bottom)
    return to_bytes(np.where(beam, 0.04 + 0.92 * shown, 0.03))
