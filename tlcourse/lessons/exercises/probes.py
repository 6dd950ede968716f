"""What a transform does to an image, found out with images whose every value says where it comes from."""

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from tlcourse.lessons.checks import NotRightError

SIDE, LOW, HIGH = 128, 70, 185  # pixels; grey values of the probes
SIZE = 64  # of the results


@dataclass(frozen=True)
class View:
    """How a result lies in the image: turned by degrees, mirrored, `share` of its area, centre moved by x and y."""

    degrees: float
    mirrored: bool
    share: float
    x: float
    y: float


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(LOW + (HIGH - LOW) * values).astype(np.uint8)).convert("RGB")


def _probes() -> list[Image.Image]:
    """Return four grey images: the same everywhere, squares, brighter to the right, brighter to the bottom."""
    right = np.tile(np.linspace(0, 1, SIDE), (SIDE, 1))
    squares = (np.indices((SIDE, SIDE)) // (SIDE // 8)).sum(0) % 2
    return [_grey(values) for values in (np.full((SIDE, SIDE), 0.5), squares, right, right.T)]


def draw(transform: Any, image: Image.Image, seed: int) -> torch.Tensor:
    """Apply a transform after seeding every random number, and refuse what is no float tensor `(3, 64, 64)`."""
    for fix in (torch.manual_seed, np.random.seed, random.seed):
        fix(seed)
    found = transform(image.copy())
    if not isinstance(found, torch.Tensor):
        raise NotRightError(f"the transform gives a {type(found).__name__}. The last steps make it a float tensor.")
    if not found.is_floating_point():
        raise NotRightError(f"the transform gives a tensor of {found.dtype}: its values are whole numbers, not floats.")
    if tuple(found.shape) != (3, SIZE, SIZE):
        raise NotRightError(f"an image becomes {tuple(found.shape)}, and (3, {SIZE}, {SIZE}) is asked for.")
    if not found.isfinite().all():
        raise NotRightError("the result has values that are not finite.")
    return found


def view(transform: Any, seed: int) -> View:
    """Return how the result of one draw lies in its image: the best affine map from places to places."""
    even, squares, *slopes = (draw(transform, image, seed).mean(0) for image in _probes())
    apart = torch.stack([(one - even).abs() for one in (squares, *slopes)]).amax(0)
    inside = apart > 0.05 * apart.max()  # what a turn leaves empty is the same in all of them
    if not inside.any():
        raise NotRightError("all images become the same: nothing of them is left.")
    middle = even[inside].median()
    inside &= (even - middle).abs() < 0.02 * even.abs().max().clamp(min=0.1)  # nor are their edges mixed with it
    levels = squares[inside]
    contrast = (levels.quantile(0.8) - levels.quantile(0.2)).clamp(min=1e-6)
    steps = torch.linspace(-1, 1, SIZE)
    places = torch.stack([*torch.meshgrid(steps, steps, indexing="xy"), torch.ones(SIZE, SIZE)], -1)[inside]
    x, y = (torch.linalg.lstsq(places, 2 * (one[inside] - middle)[:, None] / contrast).solution for one in slopes)
    (a, b, c), (d, e, f) = x.flatten().tolist(), y.flatten().tolist()
    sign = math.copysign(1, a * e - b * d)
    degrees = math.degrees(math.atan2(d - sign * b, e + sign * a))
    return View(degrees, sign < 0, abs(a * e - b * d), c, f)


def views(transform: Any, draws: int = 48) -> list[View]:
    """Return the views of many draws."""
    if any(not draw(transform, _probes()[1], seed).equal(draw(transform, _probes()[1], seed)) for seed in range(6)):
        raise NotRightError(
            "with the same seed it draws differently: it has a generator of its own. Use the random numbers of torch, "
            "NumPy or `random` without one, so that a draw can be repeated."
        )
    return [view(transform, seed) for seed in range(draws)]


def slopes(transform: Any, draws: int = 600) -> torch.Tensor:
    """Return how much brighter draws get to the right and down `(draws, 2)`, of an image with slopes 2 and 1."""
    right = np.tile(np.linspace(0, 1, SIDE), (SIDE, 1))
    image, half = _grey((2 * right + right.T) / 3), SIZE // 2
    found = torch.stack([draw(transform, image, seed).mean(0) for seed in range(draws)])
    found = found[:, half - 16 : half + 16, half - 16 : half + 16]  # a turn leaves corners empty
    return torch.stack([found[:, :, 16:] - found[:, :, :16], (found[:, 16:] - found[:, :16]).mT], -1).mean((1, 2))


def colours(transform: Any, colour: tuple[int, int, int], draws: int = 60) -> torch.Tensor:
    """Return the mean colours `(draws, 3)` that draws make of an image of one colour."""
    image = Image.new("RGB", (SIDE, SIDE), colour)
    middle = slice(SIZE // 2 - 8, SIZE // 2 + 8)  # a turn leaves corners empty
    return torch.stack([draw(transform, image, seed)[:, middle, middle].mean((1, 2)) for seed in range(draws)])
