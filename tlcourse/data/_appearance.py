"""How a toy pet and its surroundings look: nothing here knows the class.

Colours are `(3, 1)` in linear RGB; lengths are in units of the shape; amounts run from 0 to 1.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Draw = Callable[[float, float], float]  # a uniform random number between two limits

# Natural fur in linear RGB, from black to white.
FURS = (
    (0.025, 0.023, 0.025), (0.09, 0.085, 0.09), (0.25, 0.25, 0.26), (0.45, 0.44, 0.43), (0.75, 0.72, 0.68),
    (0.68, 0.5, 0.31), (0.52, 0.22, 0.06), (0.58, 0.33, 0.12), (0.2, 0.1, 0.045), (0.09, 0.042, 0.022),
)  # fmt: skip
NOSES = ((0.07, 0.058, 0.058), (0.45, 0.2, 0.17))
IRISES = ((0.55, 0.3, 0.03), (0.2, 0.08, 0.02), (0.25, 0.4, 0.08), (0.12, 0.35, 0.5), (0.6, 0.5, 0.08))


@dataclass(frozen=True)
class Look:
    """Fur and eyes; `stripes`, `patches`, `markings` and `points` say how strong each pattern is."""

    base: Tensor
    second: Tensor
    pale: Tensor
    iris: Tensor
    nose: Tensor
    stripes: float
    patches: float
    markings: float
    points: float
    frequency: float  # of the stripes, in radians per unit
    offset: Tensor  # (3, 1), where in the noise this animal lies


@dataclass(frozen=True)
class Scene:
    """Camera, light, background and perhaps a ball. Directions are unit vectors."""

    origin: Tensor  # (3,), the camera
    frame: Tensor  # (3, 3), columns are the camera's right, up and forward
    centre: Tensor  # (2,), where the target appears, in half image widths
    light: Tensor  # (3,), towards the key light
    key: Tensor
    sky: Tensor
    wall: tuple[Tensor, Tensor]
    floor: tuple[Tensor, Tensor]
    depth: float  # from the animal to the wall
    corner: float  # how softly the floor turns into the wall
    ball: tuple[float, float, float] | None  # x, z and radius
    ball_colour: Tensor


def rotation(yaw: float, pitch: float, roll: float) -> Tensor:
    """Roll about z, then pitch about x, then yaw about y, in degrees: `(3, 3)`."""
    (cy, cp, cr), (sy, sp, sr) = ([f(math.radians(a)) for a in (yaw, pitch, roll)] for f in (math.cos, math.sin))
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = torch.tensor([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = torch.tensor([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def _colour(hue: float, saturation: float, value: float) -> Tensor:
    """A colour in linear RGB: `(3, 1)`."""
    return torch.tensor(colorsys.hsv_to_rgb(hue % 1, saturation, value))[:, None] ** 2.2


def draw_look(draw: Draw) -> Look:
    """Draw fur, eyes and nose."""

    def pick(colours: tuple) -> Tensor:
        colour = torch.tensor(colours[int(draw(0, len(colours)))])[:, None]
        return colour * draw(0.75, 1.3) * torch.tensor([draw(0.9, 1.1), 1.0, draw(0.9, 1.1)])[:, None]

    base, second = pick(FURS), pick(FURS)
    pattern, marked = draw(0, 1), draw(0, 1)
    return Look(
        base=base,
        second=second if pattern > 0.4 else base * draw(0.2, 0.45),
        pale=torch.tensor([0.75, 0.7, 0.63])[:, None] * draw(0.8, 1.1),
        iris=pick(IRISES),
        nose=torch.tensor(NOSES[draw(0, 1) > 0.7])[:, None],
        stripes=draw(0.5, 1.0) if pattern < 0.35 else 0.0,
        patches=1.0 if 0.4 < pattern < 0.65 else 0.0,
        markings=draw(0.7, 1.0) if marked < 0.5 else 0.0,
        points=draw(0.6, 0.9) if marked > 0.8 else 0.0,
        frequency=draw(14, 24),
        offset=torch.tensor([draw(0, 32), draw(0, 32), draw(0, 32)])[:, None],
    )


def draw_scene(draw: Draw, azimuth: float) -> Scene:
    """Draw a camera that sees the animal from `azimuth` (degrees), and all that surrounds the animal."""
    camera = rotation(azimuth, -draw(-3, 34), draw(-14, 14))
    target = torch.tensor([0.0, draw(0.75, 1.15), 0.1])
    warm, power = draw(-0.12, 0.2), draw(1.3, 2.1)
    hue, ground = draw(0, 1), draw(0.03, 0.42)
    ball = ((1 if draw(0, 1) < 0.5 else -1) * draw(0.75, 1.05), draw(-0.1, 0.5), draw(0.13, 0.21))
    return Scene(
        origin=target + draw(2.4, 3.9) * camera[:, 2],
        frame=camera * torch.tensor([1.0, 1.0, -1.0]),
        centre=torch.tensor([draw(-0.3, 0.3), draw(-0.2, 0.2)]),
        light=rotation(azimuth + draw(-75, 75), -draw(25, 70), 0)[:, 2],
        key=power * torch.tensor([1 + warm, 1.0, 1 - warm])[:, None],
        sky=draw(0.35, 0.75) * (0.6 + 0.4 * _colour(draw(0, 1), draw(0, 0.3), 1.0)),
        wall=(
            _colour(hue, draw(0.05, 0.45), draw(0.35, 0.95)),
            _colour(hue + draw(-0.12, 0.12), draw(0.05, 0.45), draw(0.35, 0.95)),
        ),
        floor=(
            _colour(ground, draw(0.0, 0.45), draw(0.35, 0.9)),
            _colour(ground + draw(-0.05, 0.05), draw(0.0, 0.45), draw(0.3, 0.9)),
        ),
        depth=draw(1.0, 4.0),
        corner=draw(0.02, 0.5),
        ball=ball if draw(0, 1) < 0.3 else None,
        ball_colour=_colour(draw(0, 1), draw(0.3, 0.8), draw(0.5, 0.9)),
    )
