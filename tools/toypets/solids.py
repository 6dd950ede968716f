"""Boxes, balls and cylinders: where rays hit them has a closed form, so that a cluttered room costs little.

Points and directions are `(3, N)`, as in `tracer`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BALL, CYLINDER, BOX = (1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 0.0, 0.0)  # which axes are round


@dataclass(frozen=True)
class Solids:
    """M solids; each is where its round axes are within the unit ball and its other axes within -1 and 1.

    centre: `(M, 3)`; axes: `(M, 3, 3)`, rows are the local x, y, z; half: `(M, 3)`, half extents; round: `(M, 3)`;
    colours: `(M, 2, 3)` in linear RGB; bands: `(M,)`, stripes along local y, 0 for none.
    """

    centre: Tensor
    axes: Tensor
    half: Tensor
    round: Tensor
    colours: Tensor
    bands: Tensor

    @classmethod
    def collect(cls, rows: Sequence[tuple]) -> "Solids":
        """Stack rows of one solid each, their values in the order of the fields."""
        if rows:
            return cls(*(torch.stack(column) for column in zip(*rows, strict=True)))
        points = torch.empty(0, 3)
        return cls(points, torch.empty(0, 3, 3), points, points, torch.empty(0, 2, 3), torch.empty(0))

    def __len__(self) -> int:
        return len(self.bands)

    def meet(self, origins: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the first solid on each ray, infinite where there is none, and its number: `(N,)`, `(N,)`.

        origins: `(3, 1)` or `(3, N)`.
        """
        best = torch.full(rays.shape[1:], torch.inf)
        which = torch.zeros(rays.shape[1], dtype=torch.long)
        for number in range(len(self)):
            axes = self.axes[number] / self.half[number][:, None]
            start, step = axes @ (origins - self.centre[number][:, None]), axes @ rays
            enter, leave = torch.full_like(best, -torch.inf), torch.full_like(best, torch.inf)
            curved = self.round[number].bool()
            if curved.any():
                p, d = start[curved], step[curved]
                a, b, c = (d * d).sum(0), (p * d).sum(0), (p * p).sum(0) - 1
                root = b * b - a * c
                spread = root.clamp(min=0).sqrt()
                enter = torch.where(root > 0, (-b - spread) / a, torch.inf)
                leave = (spread - b) / a
            for p, d in zip(start[~curved], step[~curved], strict=True):
                d = torch.where(d.abs() < 1e-9, 1e-9, d)
                one, other = (-1 - p) / d, (1 - p) / d
                enter = torch.maximum(enter, torch.minimum(one, other))
                leave = torch.minimum(leave, torch.maximum(one, other))
            nearer = (enter < leave) & (enter > 1e-3) & (enter < best)
            best = torch.where(nearer, enter, best)
            which[nearer] = number
        return best, which

    def surface(self, points: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Normals and colours at points on the solids: `(3, N)`, `(3, N)`."""
        axes, half, round_ = self.axes[which], self.half[which], self.round[which]
        local = torch.einsum("nij,nj->ni", axes, points.T - self.centre[which]) / half
        flat = (local.abs() * (1 - round_)).amax(1, keepdim=True)
        curved = (local * round_).norm(dim=1, keepdim=True)
        side = F.one_hot((local.abs() * (1 - round_)).argmax(1), 3) * local.sign()
        normal = torch.where(flat > curved, side / half, local * round_ / half)
        normal = F.normalize(torch.einsum("nji,nj->ni", axes, normal), dim=1)
        stripe = (torch.sin(self.bands[which] * local[:, 1]) > 0.3).float()[:, None]
        colours = self.colours[which]
        return normal.T, (colours[:, 0] + (colours[:, 1] - colours[:, 0]) * stripe).T
