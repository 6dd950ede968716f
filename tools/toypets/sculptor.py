"""Collects the parts of an animal: tapered, flattened capsules, most of them in mirrored pairs.

Coordinates: x to the animal's left, y up, z forward; the floor is y = 0, a head is about one unit wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from toypets.tracer import Parts

ZONES = ("head", "light", "points", "ear", "whisker")  # moves with the head; pale, dark markings; pink; white
FRONT = (0.0, 0.0, 1.0)
UP = (0.0, 1.0, 0.0)
Point = tuple[float, float, float]


@dataclass
class Sculptor:
    """Parts one after the other; while `head` is 1, they move with the head."""

    rows: list = field(default_factory=list)
    zones: list = field(default_factory=list)
    head: float = 0.0

    def add(
        self, start: Point, end: Point | None, radii: Point, *, taper: float = 1.0, face: Point = FRONT, **zones: float
    ) -> None:
        """Add a capsule from `start` to `end` whose third radius points to `face`; without an end, an ellipsoid."""
        origin, towards = torch.tensor(start), torch.tensor(face)
        line = torch.tensor(end) - origin if end is not None else torch.zeros(3)
        y = F.normalize(line, dim=0) if end is not None else torch.tensor(UP)
        z = F.normalize(towards - (towards @ y) * y, dim=0)
        axes = torch.stack([torch.linalg.cross(y, z), y, z])
        self.rows.append((origin, axes, torch.tensor(radii), line.norm(), torch.tensor(taper)))
        zones = {"head": self.head, **zones}
        self.zones.append(torch.tensor([zones.get(zone, 0.0) for zone in ZONES]))

    def pair(self, start: Point, end: Point | None, radii: Point, *, face: Point = FRONT, **rest: float) -> None:
        """Add a part and its mirror image; the rest goes to `add`."""
        for side in (1.0, -1.0):
            flip = [None if v is None else (side * v[0], *v[1:]) for v in (start, end, face)]
            self.add(flip[0], flip[1], radii, face=flip[2], **rest)

    def chain(self, path: Sequence[Point], radii: Sequence[float], **zones: float) -> None:
        """Add round capsules along a path; one radius for each of its points."""
        for (a, b), (r, s) in zip(pairwise(path), pairwise(radii), strict=True):
            self.add(a, b, (r, r, r), taper=s / r, face=(0.3, 0.5, 1.0), **zones)

    def finish(self, *, turn: Tensor, head: Point, size: float, hair: float) -> tuple[Parts, Tensor]:
        """Turn the head about its middle, put it in its place, scale; the last three parts are hard."""
        start, axes, radii, length, taper = (torch.stack(column) for column in zip(*self.rows, strict=True))
        zones = torch.stack(self.zones, 1)
        moves = zones[0].bool()
        start[moves] = start[moves] @ turn.T + torch.tensor(head)
        axes[moves] = axes[moves] @ turn.T
        hard = len(start) - 3
        return Parts(size * start, axes, size * radii, size * length, taper, fur=hard, hair=size * hair), zones
