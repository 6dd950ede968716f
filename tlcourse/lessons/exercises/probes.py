"""What a transform does to an image, found out with images whose every value says where it comes from."""

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from tlcourse.lessons.checks import NotRightError
from tlcourse.lessons.exercises.answers import a as an
from tlcourse.lessons.exercises.answers import need_function

SIDE, LOW, HIGH = 128, 70, 185  # pixels; grey values of the probes
SIZE = 64  # of the results


@dataclass(frozen=True)
class View:
    """How a result lies in the image: turned by degrees, mirrored, `share` of its area, centre moved by x and y.

    `squeezed` is the shortest side of what a square of the image becomes, as a share of the longest.
    """

    degrees: float
    mirrored: bool
    share: float
    x: float
    y: float
    squeezed: float


def transform_of(function: Any) -> Any:
    """Return the transform that an answer returns."""
    need_function(function, "nothing that returns a transform")
    made = function()
    if not callable(made):
        more = "Put the steps into one `v2.Compose`" if isinstance(made, list | tuple) else "Return a transform"
        raise NotRightError(f"the function returns {an(made)}. {more}.")
    return made


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
        raise NotRightError(f"the transform gives {an(found)}. The last steps make it a float tensor.")
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
    sides = np.linalg.svd([[a, b], [d, e]], compute_uv=False)
    return View(degrees, sign < 0, abs(a * e - b * d), c, f, float(sides[1] / sides[0]))


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


def plain(transform: Any, colour: Any, draws: int = 60) -> torch.Tensor:
    """Return what draws `(draws, 3, 64, 64)` make of an image of one colour."""
    image = Image.new("RGB", (SIDE, SIDE), colour)
    return torch.stack([draw(transform, image, seed) for seed in range(draws)])


def middle(drawn: torch.Tensor) -> torch.Tensor:
    """Return the mean colours `(draws, 3)` of the middle of draws: a turn leaves corners empty."""
    return drawn[:, :, SIZE // 2 - 8 : SIZE // 2 + 8, SIZE // 2 - 8 : SIZE // 2 + 8].mean((2, 3))


def spread(values: torch.Tensor) -> torch.Tensor:
    """Return the most `(draws, 3)` that all of a square of 5 x 5 pixels have: interpolation leaves thin lines."""
    return -torch.nn.functional.max_pool2d(-values, 5, 1).amin((2, 3))


def two_colours(transform: Any, dark: Any, light: Any, draws: int = 30) -> torch.Tensor:
    """Return, for an image with squares of two colours, the dark and the light values of draws `(draws, 2, 3)`."""
    squares = (np.indices((SIDE, SIDE)) // (SIDE // 4)).sum(0) % 2
    image = Image.fromarray(np.where(squares[:, :, None], light, dark).astype(np.uint8))
    drawn = torch.stack([draw(transform, image, seed) for seed in range(draws)]).flatten(2)
    return torch.stack([drawn.quantile(share, 2) for share in (0.2, 0.8)], 1)
