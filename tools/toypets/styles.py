"""Four styles of a toy pet's image, each drawn from what the rays hit, not from another image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from toypets.shading import EYE, FUR, NOSE, PUPIL, SOLID, Buffers, Stage
from toypets.tracer import smoothstep

INK, PAPER = 0.07, 0.95  # as shown, 0 to 1
STEP = 0.02  # of inverse depth, relative: a leg before a body is an edge, the turn of a flank is not
CREASE = 0.55  # cosine between neighbouring normals below which surfaces meet in an edge


def photo(stage: Stage) -> Tensor:
    """Light, shadow, gloss and every hair."""
    b = stage.buffers(lit=True)
    return _shown(b.albedo * b.strands * b.light + b.gloss)


def cartoon(stage: Stage) -> Tensor:
    """Flat colours in three tones of light, dark outlines."""
    b = stage.buffers(lit=True)
    level = b.light.mean(0)
    top = level.quantile(0.95).clamp(min=1e-3)
    tone = 0.35 + 0.3 * (smoothstep(0.3, 0.34, level / top) + smoothstep(0.62, 0.66, level / top))
    vivid = b.albedo.mean(0) + 1.35 * (b.albedo - b.albedo.mean(0))
    flat = ((_shown(1.35 * vivid.clamp(min=0)) * 7).round() / 7) * tone.clamp(max=1) ** (1 / 2.2)
    shine = (b.gloss.mean(0) > 0.35) & (b.kind > FUR) & (b.kind < SOLID)
    flat = torch.where(shine, 1.0, flat)
    return flat * (1 - 0.9 * outlines(b, width=2))


def line(stage: Stage) -> Tensor:
    """Outlines and creases on paper; stripes where things have them, pupils and nose filled."""
    b = stage.buffers(lit=False)
    grey = _shown(b.albedo).mean(0)
    ink = torch.maximum(outlines(b, width=2), 0.6 * _edges(_steps(grey, b.kind >= EYE) > 0.2, grey, width=2))
    ink = torch.where((b.kind == PUPIL) | (b.kind == NOSE), 0.9, ink)
    return (PAPER + (INK - PAPER) * ink).expand(3, -1)


def silhouette(stage: Stage) -> Tensor:
    """Two tones: the animal is ink, and all else is paper."""
    return torch.where(stage.pet, INK, PAPER).expand(3, -1)


STYLES = {"photo": photo, "cartoon": cartoon, "line": line, "silhouette": silhouette}


def _shown(colour: Tensor) -> Tensor:
    """Linear light as a display shows it: a soft shoulder, then the display's curve."""
    return (1 - torch.exp(-1.4 * colour)).clamp(1e-4) ** (1 / 2.2)


def _square(values: Tensor) -> Tensor:
    side = round(values.shape[-1] ** 0.5)
    return values.view(*values.shape[:-1], side, side)


def outlines(b: Buffers, *, width: int) -> Tensor:
    """1 where things end, where an animal's depth jumps, and where the sides of a box meet; else 0: `(N,)`."""
    kind, normals, near = _square(b.kind), _square(b.normals), _square(1 / b.depth)
    edge = torch.zeros_like(near, dtype=torch.bool)
    for axis in (0, 1):
        n = near.shape[axis]
        here, there = kind.narrow(axis, 0, n - 1), kind.narrow(axis, 1, n - 1)
        cosine = (normals.narrow(axis + 1, 0, n - 1) * normals.narrow(axis + 1, 1, n - 1)).sum(0)
        solid = (here >= SOLID) & (there >= SOLID)
        other = here != there
        other &= ~((here >= EYE) & (here <= PUPIL) & (there >= EYE) & (there <= PUPIL))  # an eye needs its iris
        edge.narrow(axis, 0, n - 1).logical_or_(other | (solid & (cosine < CREASE)))
        a, c, d = (near.narrow(axis, i, n - 2) for i in range(3))
        bend = (a - 2 * c + d).abs() / c
        edge.narrow(axis, 1, n - 2).logical_or_((bend > STEP) & (kind.narrow(axis, 1, n - 2) >= FUR))
    return _edges(edge, b.depth, width=width)


def _steps(values: Tensor, where: Tensor) -> Tensor:
    """How much `values` change to the right or downwards, between points of `where`: `(side, side)`."""
    values, where = _square(values), _square(where)
    change = torch.zeros_like(values)
    for axis in (0, 1):
        n = values.shape[axis]
        both = where.narrow(axis, 0, n - 1) & where.narrow(axis, 1, n - 1)
        step = (values.narrow(axis, 1, n - 1) - values.narrow(axis, 0, n - 1)).abs() * both
        change.narrow(axis, 0, n - 1).copy_(torch.maximum(change.narrow(axis, 0, n - 1), step))
    return change


def _edges(edge: Tensor, like: Tensor, *, width: int) -> Tensor:
    """Draw a mask `(side, side)` with a pen `width` rays wide: `(N,)`."""
    grown = F.max_pool2d(edge[None].to(like.dtype), width, stride=1, padding=width // 2)[0]
    side = edge.shape[0]
    return grown[:side, :side].reshape(-1)
