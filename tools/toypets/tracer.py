"""A sphere tracer in plain torch: soft bodies with shadows and fur.

Points and directions are `(3, N)`: coordinates first, so that every step is one long vector operation.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLEND = 0.028  # width of the smooth union; the head's radius is about 0.5
CHUNK = 4096  # points at a time: all temporaries then stay in a core's cache
HIT = 0.004  # a ray this close has hit; a pixel is about 0.02 wide
STEPS = 40
BEAM = 8  # rays to a side of a beam; 4 and 16 take about as long
STRIDE = 0.85  # distances to flattened and tapered parts are estimates, so rays step a little less


@dataclass(frozen=True)
class Parts:
    """K tapered, flattened capsules; the first `fur` of them melt into one body, the others stay hard.

    start: `(K, 3)`; axes: `(K, 3, 3)`, rows are the local x, y, z; radii: `(K, 3)`; length: `(K,)` along local y;
    taper: `(K,)`, radius at the end over radius at the start; hair: length of the hairs that soften the outline.
    """

    start: Tensor
    axes: Tensor
    radii: Tensor
    length: Tensor
    taper: Tensor
    fur: int
    hair: float


class Field:
    """Signed distance to a set of parts, and the sphere that bounds them."""

    def __init__(self, parts: Parts):
        scaled = parts.axes / parts.radii[:, :, None]  # world -> local, in units of the radii
        self.to_local = scaled.transpose(0, 1).reshape(-1, 3).contiguous()
        self.shift = -(scaled @ parts.start[:, :, None]).squeeze(2).T.reshape(-1, 1)
        self.length = (parts.length / parts.radii[:, 1])[:, None]
        self.shrink = ((parts.taper - 1) / self.length.squeeze(1).clamp(min=1e-6))[:, None]
        self.sharp = (1 / parts.radii**2).T[:, :, None]
        self.fur = parts.fur
        self.hair = parts.hair
        self.curl = 1 / max(parts.hair, 0.014)  # long hair comes in broader locks; a pixel shows none finer
        end = parts.start + parts.axes[:, 1] * parts.length[:, None]
        self.centre = (parts.start + end).mean(0) / 2
        reach = torch.maximum((parts.start - self.centre).norm(dim=1), (end - self.centre).norm(dim=1))
        self.radius = float((reach + parts.radii.amax(1)).max())

    def local(self, points: Tensor) -> Tensor:
        """Coordinates in every part's frame, in units of its radii: `(3, K, N)`."""
        return torch.addmm(self.shift, self.to_local, points).view(3, len(self.length), points.shape[1])

    def each(self, points: Tensor) -> Tensor:
        """Distance to every part: `(K, N)`."""
        x, y, z = self.local(points)
        along = torch.clamp(y, torch.zeros_like(self.length), self.length)
        y -= along
        x.square_(), y.square_(), z.square_()
        size = along.mul_(self.shrink).add_(1)  # of the cross-section, relative to the start's
        slope = (x * self.sharp[0]).addcmul_(y, self.sharp[1]).addcmul_(z, self.sharp[2]).sqrt_()
        norm = x.add_(y).add_(z).sqrt_()
        return size.neg_().add_(norm).mul_(norm).div_(slope.clamp_(min=1e-6))

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the union: `(N,)`; fur parts by log-sum-exp, hard ones by the minimum."""
        out = []
        for chunk in points.split(CHUNK, dim=1):
            each = self.each(chunk)
            soft = each[: self.fur].div(-BLEND).clamp_(min=-80).exp_().sum(0).log_().mul_(-BLEND)
            out.append(torch.minimum(soft, each[self.fur :].amin(0)))
        return torch.cat(out)

    def normals(self, points: Tensor) -> Tensor:
        """Unit normals by differences at the corners of a small tetrahedron: `(3, N)`."""
        corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
        return F.normalize(sum(c[:, None] * self.distance(points + 0.006 * c[:, None]) for c in corners), dim=0)

    def openness(self, points: Tensor, towards: Tensor, *, first: float, growth: float, steps: int) -> Tensor:
        """How freely a cone from each point sees in a direction, 0 (blocked) to 1: `(N,)`."""
        free, step = torch.ones(points.shape[1]), first
        for _ in range(steps):
            free = torch.minimum(free, 0.5 + 0.5 * self.distance(points + step * towards) / (0.3 * step))
            step *= growth
        free = free.clamp(0, 1)
        return free * free * (3 - 2 * free)

    def march(self, origin: Tensor, rays: Tensor, side: int, *, hairs: bool) -> Tensor:
        """Distance along each ray to the surface, infinite where it misses: `(N,)`.

        The rays are those of a square image, `side` per row. Without `hairs`, the outline runs smoothly through the
        middle of the hairs.
        """
        middle = (self.centre - origin) @ rays
        reach = self.radius**2 - ((self.centre - origin).square().sum() - middle.square())
        found = torch.full_like(middle, torch.inf)
        start = self._approach(origin, rays, side)
        active = ((reach > 0) & start.isfinite()).nonzero().squeeze(1)
        half = reach[active].sqrt()
        ray, stop = rays[:, active], middle[active] + half
        t = torch.maximum(middle[active] - half, start[active]).clamp(min=0)
        for _ in range(STEPS):
            gap = self.distance(origin[:, None] + ray * t)
            if hairs:
                hit = gap < HIT
                near = (gap < HIT + self.hair).nonzero().squeeze(1)
                tips = origin[:, None] + ray[:, near] * t[near]
                hit[near] = gap[near] < HIT + self.hair * noise(self.curl * tips)
            else:
                skin = HIT + 0.5 * self.hair
                hit = gap < skin
                t = torch.where(hit, t + gap - skin, t)  # onto it: edges are found by small steps in depth
            found[active[hit]] = t[hit]
            t = t + STRIDE * gap
            going = ~hit & (t < stop)
            active, ray, t, stop = active[going], ray[:, going], t[going], stop[going]
            if not len(active):
                break
        return found

    def _approach(self, origin: Tensor, rays: Tensor, side: int) -> Tensor:
        """How far each ray is surely free of the surface, infinite if all the way: `(N,)`.

        A beam takes one step where its `BEAM x BEAM` rays would take one each.
        """
        padded = F.pad(rays.view(1, 3, side, side), (0, -side % BEAM, 0, -side % BEAM), mode="replicate")
        blocks = F.unfold(padded, BEAM, stride=BEAM).view(3, BEAM * BEAM, -1)
        axis = F.normalize(blocks.mean(1), dim=0)
        spread = (blocks - axis[:, None]).norm(dim=0).amax(0)
        far = (self.centre - origin).norm()
        t = (far - self.radius).clamp(min=0).expand(len(spread))
        for _ in range(STEPS):
            free = STRIDE * self.distance(origin[:, None] + axis * t) - HIT - self.hair
            step = ((t + free) / (1 + spread) - t).clamp(min=0)
            t = t + step
            if not ((step > HIT) & (t < far + self.radius)).any():
                break
        t = torch.where(t < far + self.radius, t, torch.inf).view(1, 1, *[-(-side // BEAM)] * 2)
        return F.interpolate(t, scale_factor=BEAM)[0, 0, :side, :side].reshape(-1)


@cache
def _lattice() -> Tensor:
    """A periodic 32 x 32 x 32 lattice of random values, its first layer repeated as its last."""
    values = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(7))
    return F.pad(values, (0, 1, 0, 1, 0, 1), mode="circular")


def noise(points: Tensor) -> Tensor:
    """Smooth random values in 0..1 that change over a distance of one: `(N,)`."""
    whole = points.floor()
    part = points - whole
    smooth = (whole + part * part * (3 - 2 * part)).remainder(32)
    return F.grid_sample(_lattice(), (smooth.T / 16 - 1).view(1, 1, 1, -1, 3), align_corners=True).view(-1)


def smoothstep(low: float, high: float, values: Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    part = ((values - low) / (high - low)).clamp(0, 1)
    return part * part * (3 - 2 * part)


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Colours `(3, N)` or `(3, 1)` blended by `share` `(N,)`: a where it is 0, b where it is 1."""
    return a + (b - a) * share
