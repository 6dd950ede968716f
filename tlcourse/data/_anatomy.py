"""The shape of a toy cat and of a toy dog: all that tells the two classes apart.

Coordinates: x to the animal's left, y up, z forward; the floor is y = 0, a head is about one unit wide.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse.data._appearance import Draw
from tlcourse.data._tracer import Parts

ZONES = ("head", "light", "points", "ear", "whisker")  # moves with the head; pale, dark markings; pink; white
HEAD = (0.0, 1.2, 0.17)  # where the head sits, and the point that it turns about
Point = tuple[float, float, float]
FRONT = (0.0, 0.0, 1.0)
SIZE = (1.014, 0.986)  # measured: both classes then cover the same share of the picture


@dataclass(frozen=True)
class Shape:
    """A posed animal; the last parts are its two eyes and its nose.

    zones: `(5, K)` weights in the order of `ZONES`; turn: `(3, 3)` rotation of the head; slit: width of the
    pupil over its height; pupil: its height over the eye's radius.
    """

    parts: Parts
    zones: Tensor
    turn: Tensor
    slit: float
    pupil: float


@dataclass
class _Sculptor:
    """Collects parts one after the other."""

    rows: list = field(default_factory=list)
    zones: list = field(default_factory=list)

    def add(
        self, start: Point, end: Point | None, radii: Point, *, taper: float = 1.0, face: Point = FRONT, **zones: float
    ) -> None:
        """Add a capsule from `start` to `end` whose third radius points to `face`; without an end, an ellipsoid."""
        origin, towards = torch.tensor(start), torch.tensor(face)
        line = torch.tensor(end) - origin if end is not None else torch.zeros(3)
        y = F.normalize(line, dim=0) if end is not None else torch.tensor([0.0, 1.0, 0.0])
        z = F.normalize(towards - (towards @ y) * y, dim=0)
        axes = torch.stack([torch.linalg.cross(y, z), y, z])
        self.rows.append((origin, axes, torch.tensor(radii), line.norm(), torch.tensor(taper)))
        self.zones.append(torch.tensor([zones.get(zone, 0.0) for zone in ZONES]))

    def pair(self, start: Point, end: Point | None, radii: Point, *, face: Point = FRONT, **rest: float) -> None:
        """Add a part and its mirror image; the rest goes to `add`."""
        for side in (1.0, -1.0):
            flip = [None if v is None else (side * v[0], *v[1:]) for v in (start, end, face)]
            self.add(flip[0], flip[1], radii, face=flip[2], **rest)


def _body(s: _Sculptor, draw: Draw, leg: float) -> None:
    """A sitting body; `leg` is the thickness of the legs."""
    w, h = draw(0.88, 1.12), draw(0.95, 1.05)
    s.add((0.0, 0.58 * h, 0.07), None, (0.28 * w, 0.37, 0.27), light=0.3)
    s.add((0.0, 0.52 * h, 0.17), None, (0.17 * w, 0.3, 0.21), light=1.0)
    s.add((0.0, 0.33, -0.14), None, (0.37 * w, 0.35, 0.36))
    s.add((0.0, 0.6 * h, 0.05), (0.0, 1.0, 0.12), (0.23, 0.23, 0.22))
    s.pair((0.29 * w, 0.25, 0.0), None, (0.16, 0.25, 0.28))
    s.pair((0.33 * w, 0.08, 0.12), (0.36 * w, 0.07, 0.33), (leg, leg * 0.85, leg * 0.85), light=0.6, points=0.8)
    s.pair((0.15 * w, 0.52 * h, 0.2), (0.16 * w, 0.1, 0.3), (leg * 1.25,) * 3, taper=0.75, points=0.5)
    s.pair((0.16 * w, 0.07, 0.35), None, (leg * 1.1, leg * 0.85, leg * 1.35), light=1.0, points=1.0)


def _cat(s: _Sculptor, draw: Draw) -> None:
    """Round head, pointed upright ears, short muzzle with whisker pads, large eyes."""
    _body(s, draw, leg=0.085)
    side, r = (1.0 if draw(0, 1) < 0.5 else -1.0), 0.07
    path = [(0.0, 0.1, -0.42), (side * 0.34, 0.08, -0.4), (side * 0.52, 0.08, -0.1), (side * 0.46, 0.1, 0.2)]
    for a, b in pairwise(path):
        s.add(a, b, (r, r, r), points=0.7)
    head = {"head": 1.0}
    s.add((0.0, 0.0, 0.0), None, (0.5 * draw(0.95, 1.05), 0.43, 0.43), **head)
    s.pair((0.25, -0.14, 0.12), None, (0.22, 0.19, 0.22), light=0.4, **head)
    s.pair((0.085, -0.17, 0.38), None, (0.115, 0.095, 0.11), light=1.0, points=1.0, **head)
    s.add((0.0, -0.27, 0.31), None, (0.1, 0.075, 0.1), light=1.0, points=0.6, **head)
    s.add((0.0, 0.0, 0.34), (0.0, -0.1, 0.43), (0.08, 0.08, 0.07), points=0.8, light=0.5, **head)
    tall, out = draw(0.25, 0.42), draw(0.06, 0.23)
    face = (draw(0.1, 0.5), 0.0, 1.0)
    root, tip = (0.29, 0.28, 0.0), (0.29 + out, 0.28 + tall, -0.02)
    s.pair(root, tip, (0.19, 0.19, 0.07), taper=0.12, face=face, points=1.0, **head)
    s.pair(
        (0.29, 0.3, 0.055),
        (tip[0] - 0.02, tip[1] - 0.12, 0.035),
        (0.12, 0.1, 0.035),
        taper=0.2,
        face=face,
        ear=1.0,
        **head,
    )
    for rise in (-0.02, 0.1) if draw(0, 1) < 0.9 else ():  # whiskers alone should not tell a cat
        s.pair((0.15, -0.17, 0.42), (0.62, -0.16 + rise, 0.36), (0.003,) * 3, taper=0.8, whisker=1.0, **head)
    eye = draw(0.115, 0.14)
    s.pair((0.195, 0.04, 0.345), None, (eye, eye * 0.95, eye * 0.8), face=(0.3, 0.05, 1.0), **head)
    s.add((0.0, -0.11, 0.485), None, (0.068, 0.045, 0.045), **head)


def _dog(s: _Sculptor, draw: Draw) -> None:
    """Longer head and snout with a big nose, hanging or folded ears, smaller eyes."""
    _body(s, draw, leg=0.1)
    r, lean = draw(0.07, 0.09), draw(-0.25, 0.25)
    s.add((0.0, 0.2, -0.42), (lean * 0.5, 0.42, -0.66), (r, r, r), points=0.3)
    s.add((lean * 0.5, 0.42, -0.66), (lean, 0.75, -0.64), (r, r, r), taper=0.6, light=0.7, points=0.7)
    head = {"head": 1.0}
    snout, drop = draw(0.18, 0.42), draw(0.03, 0.12)
    s.add((0.0, 0.04, -0.02), None, (0.43 * draw(0.95, 1.05), 0.42, 0.43), **head)
    s.pair((0.2, -0.13, 0.1), None, (0.2, 0.2, 0.22), **head)
    tip = (0.0, -0.12 - drop, 0.38 + snout)
    s.add((0.0, -0.09, 0.28), tip, (0.21, 0.2, 0.17), taper=0.72, face=(0.0, 1.0, 0.0), light=0.75, points=1.0, **head)
    s.add(
        (0.0, -0.24, 0.25),
        (0.0, -0.24 - drop, 0.27 + snout),
        (0.13, 0.13, 0.09),
        taper=0.8,
        face=(0.0, 1.0, 0.0),
        light=1.0,
        points=1.0,
        **head,
    )
    s.pair((0.15, 0.2, 0.26), None, (0.12, 0.1, 0.12), **head)
    if draw(0, 1) < 0.75:  # hanging
        long, wide = draw(0.4, 0.62), draw(0.15, 0.2)
        s.pair((0.34, 0.3, -0.06), (0.46, 0.2, -0.04), (0.1, 0.1, 0.12), points=1.0, **head)
        s.pair(
            (0.46, 0.18, -0.04),
            (0.5 + draw(0, 0.12), 0.2 - long, 0.03),
            (wide, wide, 0.065),
            taper=1.15,
            face=(1.0, 0.1, 0.2),
            points=1.0,
            **head,
        )
    else:  # half pricked: up, then folded forward
        s.pair((0.29, 0.28, -0.05), (0.4, 0.5, -0.06), (0.15, 0.15, 0.07), points=1.0, **head)
        s.pair(
            (0.41, 0.53, -0.04),
            (0.46, 0.36, 0.18),
            (0.14, 0.1, 0.05),
            taper=0.4,
            face=(0.3, 0.8, 0.5),
            points=1.0,
            **head,
        )
    eye = draw(0.1, 0.12)
    s.pair((0.175, 0.07, 0.375), None, (eye, eye, eye * 0.8), face=(0.3, 0.0, 1.0), **head)
    s.add((0.0, tip[1] + 0.09, tip[2] + 0.11), None, (0.105, 0.08, 0.075), **head)


def build(label: int, draw: Draw, *, turn: Tensor) -> Shape:
    """Draw the shape of a cat (0) or dog (1) whose head is turned by the rotation `turn`."""
    sculptor = _Sculptor()
    (_cat, _dog)[label](sculptor, draw)
    start, axes, radii, length, taper = (torch.stack(column) for column in zip(*sculptor.rows, strict=True))
    zones = torch.stack(sculptor.zones, 1)
    moves = zones[0].bool()
    start[moves] = start[moves] @ turn.T + torch.tensor(HEAD)
    axes[moves] = axes[moves] @ turn.T
    size = SIZE[label]
    start, radii, length = size * start, size * radii, size * length
    parts = Parts(start, axes, radii, length, taper, fur=len(start) - 3)
    return Shape(parts, zones, turn, slit=(draw(0.35, 0.6), 1.0)[label], pupil=(0.75, draw(0.6, 0.7))[label])
