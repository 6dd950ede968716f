"""Random numbers, rotations and colours for the toy pets, and the difficulty of the images."""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

Draw = Callable[[float, float], float]  # a uniform random number between two limits
FAINTEST = 0.1  # contrast below this leaves fewer than 26 of 256 levels: no image to speak of


@dataclass(frozen=True)
class Difficulty:
    """How hard the images are; the defaults are those of the packaged set. All amounts run from 0 to 1.

    view: how far camera and head turn, tilt and move away: at 1 the camera comes from up to 100 degrees aside.
    clutter: how many objects stand about, 8 at most, and how likely wall and floor have a pattern.
    contrast: 1 is clear, less is as through fog; at least 0.1.
    occlusion: how likely something stands in front of the animal.

    For one seed, more clutter adds to what was there, and the animal stays the same but for the turn of its head.

    Raises:
        ValueError: an amount is no number in its range.
    """

    view: float = 0.5
    clutter: float = 0.2
    contrast: float = 1.0
    occlusion: float = 0.2

    def __post_init__(self):
        for field in fields(self):
            value, low = getattr(self, field.name), FAINTEST if field.name == "contrast" else 0
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1:
                raise ValueError(f"{field.name}={value!r}: give a number from {low} to 1.")


def drawer(number: int) -> Draw:
    """Return a source of random numbers that depends only on `number`, the same on every machine."""
    generator = torch.Generator().manual_seed(number)
    return lambda low, high: low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def rotation(yaw: float, pitch: float, roll: float) -> Tensor:
    """Roll about z, then pitch about x, then yaw about y, in degrees: `(3, 3)`."""
    (cy, cp, cr), (sy, sp, sr) = ([f(math.radians(a)) for a in (yaw, pitch, roll)] for f in (math.cos, math.sin))
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = torch.tensor([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = torch.tensor([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def colour(hue: float, saturation: float, value: float) -> Tensor:
    """A colour in linear RGB: `(3, 1)`."""
    return torch.tensor(colorsys.hsv_to_rgb(hue % 1, saturation, value))[:, None] ** 2.2
