"""Objects around a toy pet: boxes, balls, cushions, posts and plants, whatever the class."""

import math

import torch
from torch import Tensor

from toypets.random_draws import Difficulty, Draw, colour, drawer, rotation
from toypets.solids import BALL, BOX, CYLINDER, Solids

MOST = 8  # objects in a full room
Rows = list[tuple]


def _solid(place: tuple, half: tuple, kind: tuple, *, turn: Tensor, colours: tuple, bands: float = 0.0) -> tuple:
    hues = torch.stack([c.flatten() for c in colours])
    return torch.tensor(place), turn.T, torch.tensor(half), torch.tensor(kind), hues, torch.tensor(bands)


def _paint(draw: Draw) -> tuple[Tensor, Tensor]:
    hue = draw(0, 1)
    second = colour(hue + draw(0.05, 0.5), draw(0.1, 0.6), draw(0.4, 0.95))
    return colour(hue, draw(0.15, 0.7), draw(0.35, 0.9)), second


def _thing(draw: Draw, x: float, z: float, *, tall: bool) -> Rows:
    """An object that stands at x, z; a tall one may hide an animal behind it."""
    number, big, paint, yaw = int(draw(0, 5)), draw(0.8, 1.25), _paint(draw), draw(0, 180)
    bands, lean = draw(4, 9) if draw(0, 1) < 0.5 else 0.0, draw(-14, 14)
    if number == 0:  # a ball
        r = big * (0.26 if tall else 0.2)
        return [_solid((x, r, z), (r, r, r), BALL, turn=rotation(yaw, 20 + lean, 3 * lean), colours=paint, bands=bands)]
    if number == 1:  # a box
        half = (0.28 * big, big * (0.24 if tall else 0.2) * (1 + lean / 40), 0.2 * big)
        return [_solid((x, half[1], z), half, BOX, turn=rotation(yaw, 0, 0), colours=paint, bands=bands)]
    if number == 2:  # a cushion
        half = (0.42 * big, 0.2 * big, 0.26 * big)
        return [_solid((x, 0.9 * half[1], z), half, BALL, turn=rotation(yaw, 0, lean), colours=paint, bands=bands)]
    if number == 3:  # a post
        half = (0.075 * big, 1.4 if tall else 0.7 * big, 0.075 * big)
        kind, turn = (CYLINDER, BOX)[lean > 0], rotation(yaw, 0, lean / 3)
        return [_solid((x, half[1] - 0.02, z), half, kind, turn=turn, colours=paint, bands=3 * bands)]
    # A plant in a pot: flat leaves that lean outwards.
    pot, green = 0.13 * big, colour(draw(0.2, 0.42), draw(0.3, 0.7), draw(0.35, 0.8))
    rows = [_solid((x, pot, z), (pot, pot, pot), CYLINDER, turn=rotation(0, 0, 0), colours=paint, bands=bands)]
    for leaf in range(6):
        angle, tilt, long = yaw + 60 * leaf + draw(-15, 15), draw(8, 40), draw(0.3, 0.48) * big
        turn = rotation(angle, tilt, 0)
        middle = torch.tensor([x, 2 * pot - 0.03, z]) + turn @ torch.tensor([0.0, long, 0.0])
        shade = (green * draw(0.7, 1.1), green * 1.6)
        half = (0.095 * big, long, 0.015)
        rows.append(_solid(tuple(middle.tolist()), half, BALL, turn=turn, colours=shade))
    return rows


def furnish(draw: Draw, difficulty: Difficulty, *, azimuth: float, distance: float) -> Solids:
    """Draw the objects about an animal that a camera sees from `azimuth` (degrees), `distance` away."""

    def spot(angle: float, far: float) -> tuple[float, float]:
        turned = math.radians(azimuth + angle)
        return far * math.sin(turned), far * math.cos(turned)

    rows: Rows = []
    streams = [drawer(int(draw(0, 2**53))) for _ in range(MOST + 1)]  # of its own, so that no object moves another
    count = round(MOST * difficulty.clutter + draw(-0.49, 0.49) * (difficulty.clutter > 0))
    for own in streams[: min(count, MOST)]:
        angle = 180 + own(-115, 115)
        rows += _thing(own, *spot(angle, own(1.35, 2.5)), tall=False)
    own, hidden = streams[MOST], draw(0, 1) < difficulty.occlusion
    if hidden:
        side = (1 if own(0, 1) < 0.5 else -1) * own(3, 17)
        rows += _thing(own, *spot(side, 0.44 * distance), tall=True)
    return Solids.collect(rows)
