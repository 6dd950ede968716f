"""How a toy pet and its surroundings look, which does not depend on the class.

Colours are `(3, 1)` in linear RGB; lengths are in units of the shape; amounts run from 0 to 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from toypets.random_draws import Difficulty, Draw, colour, rotation
from toypets.scenery import furnish
from toypets.solids import Solids

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
class Pattern:
    """What wall or floor is covered with: "plain", "stripes", "checks" or "dots" of a width, in a second colour."""

    kind: str
    width: float
    turn: float  # in radians
    colour: Tensor


@dataclass(frozen=True)
class Scene:
    """Camera, light, background and what stands about. Directions are unit vectors."""

    origin: Tensor  # (3,), the camera
    frame: Tensor  # (3, 3), columns are the camera's right, up and forward
    centre: Tensor  # (2,), where the target appears, in half image widths
    light: Tensor  # (3,), towards the key light
    key: Tensor
    sky: Tensor
    wall: tuple[Tensor, Tensor]
    floor: tuple[Tensor, Tensor]
    patterns: tuple[Pattern, Pattern]  # of wall and floor
    depth: float  # from the animal to the wall
    corner: float  # how softly the floor turns into the wall
    solids: Solids
    contrast: float


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


def _pattern(draw: Draw, hue: float, likely: float) -> Pattern:
    kinds, bare = ("stripes", "checks", "dots", "stripes"), draw(0, 1) >= likely
    kind = kinds[int(draw(0, len(kinds)))]
    hues = colour(hue + draw(-0.15, 0.15), draw(0.05, 0.5), draw(0.3, 0.95))
    return Pattern("plain" if bare else kind, draw(0.22, 0.5), draw(-0.4, 1.9), hues)


def draw_scene(draw: Draw, difficulty: Difficulty, *, azimuth: float, height: float) -> Scene:
    """Draw a camera that sees an animal of that height from `azimuth` (degrees), and all that surrounds the animal."""
    view = difficulty.view / 0.6  # the ranges below are those at 0.6
    camera = rotation(azimuth, -(15.5 + view * draw(-18.5, 18.5)), view * draw(-14, 14))
    target = torch.tensor([0.0, height * (0.78 + view * draw(-0.14, 0.14)), 0.05])
    distance = max(3.15 + view * draw(-0.6, 0.6), 2.2)
    shift = torch.tensor([view * draw(-0.24, 0.24), view * draw(-0.16, 0.16)])
    warm, power = draw(-0.12, 0.2), draw(1.3, 2.1)
    hue, ground = draw(0, 1), draw(0.03, 0.42)
    return Scene(
        origin=target + distance * camera[:, 2],
        frame=camera * torch.tensor([1.0, 1.0, -1.0]),
        centre=shift,
        light=rotation(azimuth + draw(-75, 75), -draw(25, 70), 0)[:, 2],
        key=power * torch.tensor([1 + warm, 1.0, 1 - warm])[:, None],
        sky=draw(0.35, 0.75) * (0.6 + 0.4 * colour(draw(0, 1), draw(0, 0.3), 1.0)),
        wall=(
            colour(hue, draw(0.05, 0.45), draw(0.35, 0.95)),
            colour(hue + draw(-0.12, 0.12), draw(0.05, 0.45), draw(0.35, 0.95)),
        ),
        floor=(
            colour(ground, draw(0.0, 0.45), draw(0.35, 0.9)),
            colour(ground + draw(-0.05, 0.05), draw(0.0, 0.45), draw(0.3, 0.9)),
        ),
        patterns=(_pattern(draw, hue, difficulty.clutter), _pattern(draw, ground, difficulty.clutter)),
        depth=draw(1.7, 4.0),
        corner=draw(0.02, 0.3),
        solids=furnish(draw, difficulty, azimuth=azimuth, distance=distance),
        contrast=float(difficulty.contrast),
    )
