"""Toy pets: cats and dogs from the package's own 3-D renderer.

Shape alone depends on the class (`_anatomy`). Fur, light, view and background are drawn first, from a generator
that does not know the class: `sample(0, seed)` and `sample(1, seed)` differ in shape only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse.data._anatomy import HEAD, Shape, build
from tlcourse.data._appearance import Draw, Look, Scene, draw_look, draw_scene, rotation
from tlcourse.data._tracer import BLEND, Field, Parts, mix, noise, smoothstep

CLASSES = ("cats", "dogs")
FOCAL = 2.1  # focal length over half the image's width: a field of view of 51 degrees


@dataclass(frozen=True)
class Pet:
    """All that a picture shows."""

    label: int
    shape: Shape
    look: Look
    scene: Scene


def sample(label: int, seed: int) -> Pet:
    """Draw a cat (0) or a dog (1); the same seed gives the same animal.

    Raises:
        ValueError: The label is neither 0 nor 1.
    """
    if label not in (0, 1):
        raise ValueError(f"label must be 0 (cat) or 1 (dog), not {label!r}")

    def drawer(number: int) -> Draw:
        generator = torch.Generator().manual_seed(number)
        return lambda low, high: low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    draw = drawer(2 * seed)
    azimuth = draw(-60, 60)
    turn = rotation(0.4 * azimuth + draw(-35, 35), draw(-14, 16), draw(-14, 14))
    look, scene = draw_look(draw), draw_scene(draw, azimuth)
    return Pet(label, build(label, drawer(2 * seed + 1), turn=turn), look, scene)


def _stage(pet: Pet) -> Parts:
    """The animal's parts, and after them the ball if there is one."""
    parts = pet.shape.parts
    if pet.scene.ball is None:
        return parts
    x, z, radius = pet.scene.ball
    return Parts(
        start=torch.cat([parts.start, torch.tensor([[x, radius, z]])]),
        axes=torch.cat([parts.axes, rotation(90 * x, 0, 200 * z)[None]]),
        radii=torch.cat([parts.radii, torch.full((1, 3), radius)]),
        length=torch.cat([parts.length, torch.zeros(1)]),
        taper=torch.cat([parts.taper, torch.ones(1)]),
        fur=parts.fur,
    )


def _fur(pet: Pet, points: Tensor, zones: Tensor, front: Tensor) -> Tensor:
    """Albedo of the fur: `(3, N)`."""
    # A chain of coats, each over the one before: base, stripes, patches, points, pale markings, inner ears, whiskers.
    look = pet.look
    head, light, dark, ear, whisker = zones
    middle = torch.tensor(HEAD)[:, None]
    rest = points + head * (pet.shape.turn.T @ (points - middle) + middle - points)  # as if the head faced forward
    warp = noise(3 * rest + look.offset)
    bands = rest[1] - 0.35 * rest[2] + head * (0.9 * rest[0].abs() - rest[1] * 0.6)
    stripe = smoothstep(0.1, 0.6, torch.sin(look.frequency * bands + 5 * warp))
    colour = mix(look.base, look.second, look.stripes * stripe)
    patch = noise(1.9 * rest + look.offset + 9)
    colour = mix(colour, look.second, look.patches * smoothstep(0.5, 0.56, patch + 0.15 * (warp - 0.5)))
    colour = mix(colour, 0.25 * look.base, look.points * smoothstep(0.25, 0.75, dark))
    colour = mix(colour, look.pale, look.markings * smoothstep(0.3, 0.6, light + 0.4 * (warp - 0.5)))
    inner = 0.45 * colour + torch.tensor([0.22, 0.1, 0.08])[:, None]
    colour = mix(colour, inner, ear * smoothstep(0.2, 0.6, front))
    colour = mix(colour, look.pale, 0.8 * smoothstep(0.55, 0.9, whisker))
    strands = noise(rest * torch.tensor([34.0, 12.0, 34.0])[:, None]) + noise(70 * rest)
    return colour * (0.6 + 0.4 * strands)


def _animal(pet: Pet, field: Field, points: Tensor, rays: Tensor) -> Tensor:
    """Light that leaves the animal, or the ball, at `points` against `rays`: `(3, N)`."""
    scene, eyes = pet.scene, field.fur
    normals = field.normals(points)
    each = field.each(points)
    hard = each[eyes:].amin(0) < each[:eyes].amin(0) - 0.004
    which = each[eyes:].argmin(0)
    zones = pet.shape.zones[:, :eyes] @ torch.softmax(each[:eyes] / -BLEND, 0)  # markings melt as the parts do
    front = (pet.shape.turn.T @ normals)[2]
    albedo = _fur(pet, points, zones, front)
    fluff = torch.stack([noise(40 * points + 5 * axis) for axis in range(3)]) - 0.5
    normals = torch.where(hard, normals, F.normalize(normals + 0.35 * fluff, dim=0))

    # Eyes: an iris, darker outwards, in a dark ring; the pupil is a slit or round.
    eye = hard & (which < 2)
    nose = hard & (which == 2)
    at = field.local(points[:, eye])[:, eyes : eyes + 2]
    x, y, z = torch.where(which[eye] == 0, at[:, 0], at[:, 1])
    reach = (x * x + y * y).sqrt()
    iris = mix(pet.look.iris, 0.35 * pet.look.iris, smoothstep(0.55, 0.85, reach))
    pupil = ((x / pet.shape.slit) ** 2 + y * y).sqrt()
    dark = torch.maximum(smoothstep(0.72, 0.8, reach), 1 - smoothstep(pet.shape.pupil - 0.1, pet.shape.pupil, pupil))
    albedo[:, eye] = mix(iris, torch.full((3, 1), 0.012), torch.where(z > 0, dark, 1.0))
    albedo[:, nose] = pet.look.nose.expand(-1, int(nose.sum()))
    ball = hard & (which == 3)
    if ball.any():
        band = 1 - smoothstep(0.2, 0.3, field.local(points[:, ball])[1, eyes + 3].abs())
        albedo[:, ball] = mix(scene.ball_colour, pet.look.pale, band)

    # Key light with soft shadows, light from sky and floor where the surface is open, a rim, and a little gloss.
    facing = (normals * scene.light[:, None]).sum(0)
    shadow = field.openness(points + 0.03 * normals, scene.light[:, None], first=0.05, growth=1.5, steps=6)
    open_ = field.openness(points, normals, first=0.08, growth=2.2, steps=2) * 0.8 + 0.2
    sky = scene.sky * (0.65 + 0.35 * normals[1]) + 0.25 * scene.floor[0] * (0.5 - 0.5 * normals[1])
    light = scene.key * ((facing + 0.15) / 1.15).clamp(min=0) * shadow + sky * open_
    edge = 1 - (-(normals * rays).sum(0)).clamp(0, 1)
    colour = albedo * light + edge**3 * open_ * scene.sky * (0.12 + 0.5 * albedo)
    half = F.normalize(scene.light[:, None] - rays, dim=0)
    shine = (normals * half).sum(0).clamp(min=0)
    gloss = torch.where(hard, 1.2 * shine**60 + 0.12 * shine**8, 0.02 * shine**12)
    return colour + scene.key * gloss * (0.3 + 0.7 * shadow)


def _background(pet: Pet, field: Field, rays: Tensor) -> Tensor:
    """Floor and wall behind the animal, with its shadow: `(3, N)`."""
    scene = pet.scene
    forward = F.normalize(scene.frame[:, 2] * torch.tensor([1.0, 0.0, 1.0]), dim=0)
    to_wall = (scene.depth - forward @ scene.origin) / (forward @ rays).clamp(min=1e-3)
    to_floor = torch.where(rays[1] < -1e-4, -scene.origin[1] / rays[1].clamp(max=-1e-4), torch.inf)
    points = scene.origin[:, None] + rays * torch.minimum(to_wall, to_floor)
    oblique = rotation(35, 25, 50) @ points  # two lattices at an angle: neither shows
    blob = smoothstep(0.35, 0.65, 0.5 * noise(0.8 * points + pet.look.offset) + 0.5 * noise(1.1 * oblique))
    wall = mix(*scene.wall, (0.3 * points[1] + 0.5 * (blob - 0.5)).clamp(0, 1))
    wall = wall * (0.55 * scene.sky + 0.2 * scene.key)
    grain = 0.9 + 0.2 * noise(9 * points)
    ground = mix(*scene.floor, 0.5 * blob) * grain
    shadow, open_ = torch.ones_like(blob), torch.ones_like(blob)
    near = (to_floor < to_wall) & ((points - field.centre[:, None]).norm(dim=0) < field.radius + 1.2)
    up = torch.tensor([0.0, 1.0, 0.0])[:, None]
    shadow[near] = field.openness(points[:, near] + 0.02 * up, scene.light[:, None], first=0.1, growth=1.5, steps=7)
    open_[near] = field.openness(points[:, near], up, first=0.15, growth=2.0, steps=3)
    ground = ground * (0.8 * scene.key * scene.light[1] * shadow + 0.8 * scene.sky * (0.3 + 0.7 * open_))
    distance = torch.where(to_wall < to_floor, 0.0, (to_wall - to_floor) * (forward @ rays))
    return mix(wall, ground, smoothstep(0, scene.corner, distance))


def _picture(pet: Pet, size: int) -> Tensor:
    """One picture, supersampled 2 x 2: `(3, size, size)` in 0..1."""
    scene, field = pet.scene, Field(_stage(pet))
    grid = (torch.arange(2 * size) + 0.5) / size - 1
    up, right = torch.meshgrid(-grid, grid, indexing="ij")
    screen = torch.stack([right.flatten() - scene.centre[0], up.flatten() - scene.centre[1]])
    rays = F.normalize(scene.frame @ torch.cat([screen, torch.full_like(screen[:1], FOCAL)]), dim=0)
    depth = field.march(scene.origin, rays)
    hit = depth.isfinite()
    colour = torch.empty_like(rays)
    colour[:, ~hit] = _background(pet, field, rays[:, ~hit])
    colour[:, hit] = _animal(pet, field, scene.origin[:, None] + rays[:, hit] * depth[hit], rays[:, hit])
    colour = (1 - torch.exp(-1.4 * colour)).clamp(1e-4) ** (1 / 2.2)  # a soft shoulder, then the display's curve
    return F.avg_pool2d(colour.view(3, 2 * size, 2 * size), 2)


@torch.no_grad()
def render(pets: Sequence[Pet], size: int = 96) -> Tensor:
    """Render each pet by itself, so that no picture depends on its neighbours: uint8 `(N, 3, size, size)`.

    Rendered again, a picture is the same to the bit; with another number of threads, or on another processor, a
    value may differ by rounding.
    """
    pictures = [_picture(pet, size) for pet in pets]
    return (torch.stack(pictures) * 255).round().to(torch.uint8) if pets else torch.empty(0, 3, size, size).byte()
