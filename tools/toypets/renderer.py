"""Draw animals at random, and render them: `sample` and `render`.

Only the shape depends on species and breed (`anatomy`, `heads`, `breeds`). Pose, fur, light, view, background and
objects in front are drawn from random numbers of their own, so `sample(0, seed)` and `sample(1, seed)` differ in shape
only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from toypets.anatomy import HEIGHTS, POSES, Shape, build
from toypets.appearance import Look, Scene, draw_look, draw_scene
from toypets.breeds import BREEDS
from toypets.random_draws import Difficulty, drawer, rotation
from toypets.shading import Stage
from toypets.styles import STYLES

CLASSES = tuple(BREEDS)
TOLERANCE = (0.05, 0.002)  # see `render`; measured with and without vector instructions, and with room to spare


@dataclass(frozen=True)
class Pet:
    """All that an image shows."""

    label: int
    breed: str
    pose: str
    shape: Shape
    look: Look
    scene: Scene


def sample(
    label: int, seed: int, *, breed: str | None = None, pose: str | None = None, difficulty: Difficulty | None = None
) -> Pet:
    """Draw a cat (0) or a dog (1); the same arguments give the same animal.

    Without a breed or a pose, the seed decides: lying is half as likely as sitting and as standing.

    Raises:
        ValueError: The label is neither 0 nor 1, the breed is not one of the species, or there is no such pose.
    """
    if label not in (0, 1):
        raise ValueError(f"label must be 0 (cat) or 1 (dog), not {label!r}")
    breeds = BREEDS[CLASSES[label]]
    _must_be_one_of("breed", breed, breeds)
    _must_be_one_of("pose", pose, POSES)
    difficulty = Difficulty() if difficulty is None else difficulty
    draw = drawer(2 * seed)
    number, share = draw(0, len(breeds)), draw(0, 1)
    breed = list(breeds)[int(number)] if breed is None else breed
    pose = POSES[(share > 0.4) + (share > 0.8)] if pose is None else pose
    view = difficulty.view / 0.6  # the ranges here are those at 0.6
    azimuth = view * draw(-60, 60)
    turn = rotation(view * draw(-35, 35) + 0.4 * azimuth, view * draw(-14, 16), view * draw(-14, 14))
    look, scene = draw_look(draw), draw_scene(draw, difficulty, azimuth=azimuth, height=HEIGHTS[pose])
    shape = build(label, breeds[breed], drawer(2 * seed + 1), pose=pose, turn=turn)
    return Pet(label, breed, pose, shape, look, scene)


def _must_be_one_of(what: str, name: str | None, known: Sequence[str]) -> None:
    if name is not None and name not in known:
        raise ValueError(f"There is no {what} {name!r} here: choose one of {', '.join(known)}.")


def _render(pet: Pet, size: int, style: str) -> Tensor:
    """Render one image with 2 x 2 rays per pixel: `(3, size, size)`, 0 to 1."""
    stage = Stage(pet.shape, pet.look, pet.scene, 2 * size, hairs=style == "photo")
    image = STYLES[style](stage)
    image = F.avg_pool2d(image.reshape(3, 2 * size, 2 * size), 2)
    return 0.5 + pet.scene.contrast * (image - 0.5)  # fog as bright as half a display


@torch.no_grad()
def render(pets: Sequence[Pet], size: int = 96, *, style: str = "photo") -> Tensor:
    """Render each pet separately, so that no image depends on the others: uint8 `(N, 3, size, size)`.

    Rendered again, an image is the same to the bit. With another number of threads, or on another processor, rounding
    may move a hair: the mean difference is at most `TOLERANCE[0]` levels of 255, and at most the share `TOLERANCE[1]`
    of the values differs by more than two levels.

    Raises:
        ValueError: There is no such style.
    """
    _must_be_one_of("style", style, tuple(STYLES))
    images = [_render(pet, size, style) for pet in pets]
    return (torch.stack(images) * 255).round().to(torch.uint8) if pets else torch.empty(0, 3, size, size).byte()
