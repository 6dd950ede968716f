"""What every ray of an image hits: distance, normal, colour, light. The styles are drawn from these buffers."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from toypets.anatomy import Shape
from toypets.appearance import Look, Pattern, Scene
from toypets.random_draws import rotation
from toypets.tracer import BLEND, Field, mix, noise, smoothstep

FOCAL = 2.1  # focal length over half the image's width: a field of view of 51 degrees
WALL, FLOOR, FUR, EYE, PUPIL, NOSE, SOLID = range(7)  # what a ray hits; solids count on from the last


@dataclass(frozen=True)
class Buffers:
    """One value per ray, rows of the image one after the other; colours and light in linear RGB.

    kind: `(N,)`, what is hit; depth: `(N,)`, how far away; normals, albedo, light, gloss: `(3, N)`;
    strands: `(N,)`, how the hairs lighten or darken the albedo.
    """

    kind: Tensor
    depth: Tensor
    normals: Tensor
    albedo: Tensor
    strands: Tensor
    light: Tensor
    gloss: Tensor


class Stage:
    """An animal in its scene, and the rays of an image `side` rays wide."""

    def __init__(self, shape: Shape, look: Look, scene: Scene, side: int, *, hairs: bool):
        self.shape, self.look, self.scene = shape, look, scene
        self.field, self.side, self.hairs = Field(shape.parts), side, hairs
        grid = (torch.arange(side) + 0.5) * 2 / side - 1
        up, right = torch.meshgrid(-grid, grid, indexing="ij")
        screen = torch.stack([right.flatten() - scene.centre[0], up.flatten() - scene.centre[1]])
        self.rays = F.normalize(scene.frame @ torch.cat([screen, torch.full_like(screen[:1], FOCAL)]), dim=0)
        near = self.field.march(scene.origin, self.rays, side, hairs=hairs)
        far, self.which = scene.solids.meet(scene.origin[:, None], self.rays)
        self.pet, self.thing = near.isfinite() & (near <= far), far < near
        self.depth = torch.minimum(near, far)

    def buffers(self, *, lit: bool) -> Buffers:
        """Fill the buffers; without `lit`, light and gloss stay empty and cost nothing."""
        rays, scene, pet, thing = self.rays, self.scene, self.pet, self.thing
        kind, depth = torch.zeros(rays.shape[1], dtype=torch.long), self.depth.clone()
        normals, albedo, light, gloss = (torch.zeros_like(rays) for _ in range(4))
        strands = torch.ones_like(depth)
        none = ~(pet | thing)
        kind[none], depth[none], normals[:, none], albedo[:, none], strands[none] = self._room(rays[:, none])
        points = scene.origin[:, None] + rays * depth
        kind[thing] = SOLID + self.which[thing]
        normals[:, thing], albedo[:, thing] = scene.solids.surface(points[:, thing], self.which[thing])
        kind[pet], normals[:, pet], albedo[:, pet], strands[pet] = self._animal(points[:, pet])
        if lit:
            for met, shade in ((none, self._light_on_room), (thing | pet, self._light_on_bodies)):
                light[:, met], gloss[:, met] = shade(points[:, met], normals[:, met], rays[:, met], kind[met])
        return Buffers(kind, depth, normals, albedo, strands, light, gloss)

    def _room(self, rays: Tensor) -> tuple[Tensor, ...]:
        """Floor and wall: kind, depth, normals, albedo, grain."""
        scene, look = self.scene, self.look
        forward = F.normalize(scene.frame[:, 2] * torch.tensor([1.0, 0.0, 1.0]), dim=0)
        across = torch.stack([forward[2], torch.tensor(0.0), -forward[0]])
        to_wall = (scene.depth - forward @ scene.origin) / (forward @ rays).clamp(min=1e-3)
        to_floor = torch.where(rays[1] < -1e-4, -scene.origin[1] / rays[1].clamp(max=-1e-4), torch.inf)
        depth = torch.minimum(to_wall, to_floor).clamp(max=60)
        points = scene.origin[:, None] + rays * depth
        oblique = rotation(35, 25, 50) @ points  # two lattices at an angle: neither shows
        blob = smoothstep(0.35, 0.65, 0.5 * noise(0.8 * points + look.offset) + 0.5 * noise(1.1 * oblique))
        wall = mix(*scene.wall, (0.3 * points[1] + 0.5 * (blob - 0.5)).clamp(0, 1))
        wall = mix(wall, scene.patterns[0].colour, 0.7 * _print(scene.patterns[0], across @ points, points[1]))
        floor = mix(*scene.floor, 0.5 * blob)
        floor = mix(floor, scene.patterns[1].colour, 0.7 * _print(scene.patterns[1], points[0], points[2]))
        distance = torch.where(to_wall < to_floor, 0.0, (to_wall - to_floor) * (forward @ rays))
        share = smoothstep(0, scene.corner, distance)
        on_floor = to_floor < to_wall
        up = torch.tensor([0.0, 1.0, 0.0])
        grain = torch.where(on_floor, 0.9 + 0.2 * noise(9 * points), 1.0)
        normals = torch.where(on_floor, up[:, None], -forward[:, None])
        return torch.where(on_floor, FLOOR, WALL), depth, normals, mix(wall, floor, share), grain

    def _animal(self, points: Tensor) -> tuple[Tensor, ...]:
        """The animal: kind, normals, albedo, strands."""
        field, look, shape = self.field, self.look, self.shape
        normals, each, fur = field.normals(points), field.each(points), field.fur
        hard = each[fur:].amin(0) < each[:fur].amin(0) - 0.004
        which = each[fur:].argmin(0)
        zones = shape.zones[:, :fur] @ torch.softmax(each[:fur] / -BLEND, 0)  # markings melt as the parts do
        albedo, strands = self._coat(points, zones, (shape.turn.T @ normals)[2])
        length = min(1.0, field.hair / 0.03)
        if self.hairs:
            fluff = torch.stack([noise(0.75 * field.curl * points + 5 * axis) for axis in range(3)]) - 0.5
            normals = torch.where(hard, normals, F.normalize(normals + (0.1 + 0.4 * length) * fluff, dim=0))

        # Eyes: an iris, darker outwards, in a dark ring; the pupil is a slit or round.
        eye, nose = hard & (which < 2), hard & (which == 2)
        at = field.local(points[:, eye])[:, fur : fur + 2]
        x, y, z = torch.where(which[eye] == 0, at[:, 0], at[:, 1])
        reach = (x * x + y * y).sqrt()
        iris = mix(look.iris, 0.35 * look.iris, smoothstep(0.5, 0.85, reach + 0.25 * y))
        pupil = ((x / shape.slit) ** 2 + y * y).sqrt()
        dark = torch.maximum(smoothstep(0.76, 0.84, reach), 1 - smoothstep(shape.pupil - 0.1, shape.pupil, pupil))
        dark = torch.where(z > 0, dark, 1.0)
        albedo[:, eye] = mix(iris, torch.full((3, 1), 0.012), dark)
        albedo[:, nose] = look.nose.expand(-1, int(nose.sum()))
        strands[hard] = 1
        kind = torch.full_like(which, FUR)
        kind[nose] = NOSE
        kind[eye] = torch.where(dark > 0.5, PUPIL, EYE)
        return kind, normals, albedo, strands

    def _coat(self, points: Tensor, zones: Tensor, front: Tensor) -> tuple[Tensor, Tensor]:
        """Albedo of the fur and its strands: `(3, N)`, `(N,)`."""
        # A chain of coats, each over the one before: base, stripes, patches, dark and pale markings, ears, whiskers.
        look, shape = self.look, self.shape
        head, light, dark, ear, whisker = zones
        middle = torch.tensor(shape.head)[:, None]
        rest = points + head * (shape.turn.T @ (points - middle) + middle - points)  # as if the head faced forward
        warp = noise(3 * rest + look.offset)
        up = rest[1] - head * (shape.head[1] - 1.2)
        bands = up - 0.75 * rest[2] * (1 - head) - 0.35 * rest[2] * head + head * (0.9 * rest[0].abs() - up * 0.6)
        stripe = smoothstep(0.1, 0.6, torch.sin(look.frequency * bands + 5 * warp))
        colour = mix(look.base, look.second, look.stripes * stripe)
        patch = noise(1.9 * rest + look.offset + 9)
        colour = mix(colour, look.second, look.patches * smoothstep(0.5, 0.56, patch + 0.15 * (warp - 0.5)))
        colour = mix(colour, 0.25 * look.base, look.points * smoothstep(0.25, 0.75, dark))
        colour = mix(colour, look.pale, look.markings * smoothstep(0.3, 0.6, light + 0.4 * (warp - 0.5)))
        inner = 0.45 * colour + torch.tensor([0.22, 0.1, 0.08])[:, None]
        colour = mix(colour, inner, ear * smoothstep(0.2, 0.6, front))
        colour = mix(colour, look.pale, 0.8 * smoothstep(0.55, 0.9, whisker))
        fine = self.field.curl * torch.tensor([0.7, 0.25, 0.7])[:, None]
        strands = 0.5 * noise(rest * fine) + 0.5 * noise(1.3 * self.field.curl * rest)
        depth = 0.35 + 0.55 * min(1.0, self.field.hair / 0.03)
        return colour, 1 + depth * (strands - 0.5)

    def _blocked(self, points: Tensor) -> Tensor:
        """1 where the key light reaches past the solids, 0 where it does not: `(N,)`."""
        if not len(self.scene.solids):
            return torch.ones_like(points[0])
        rays = self.scene.light[:, None].expand(-1, points.shape[1])
        return self.scene.solids.meet(points, rays)[0].isinf().float()

    def _light_on_bodies(self, points: Tensor, normals: Tensor, rays: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        # Key light with soft shadows, light from sky and floor where the surface is open, a rim, and a little gloss.
        scene, field = self.scene, self.field
        pet = kind < SOLID
        facing = (normals * scene.light[:, None]).sum(0)
        towards, shadow, open_ = scene.light[:, None], torch.ones_like(facing), torch.ones_like(facing)
        seen = facing > -0.15
        near = seen & (pet | ((points - field.centre[:, None]).norm(dim=0) < field.radius + 0.8))
        above = points + 0.03 * normals
        shadow[near] = field.openness(above[:, near], towards, first=0.05, growth=1.6, steps=5)
        shadow[seen] *= self._blocked(above[:, seen])
        own = points[:, pet], normals[:, pet]
        open_[pet] = field.openness(*own, first=0.08, growth=2.2, steps=2) * 0.8 + 0.2
        open_ = open_ * (0.45 + 0.55 * smoothstep(-0.05, 0.35, points[1] + 0.2 * normals[1]))  # dark close to the floor
        sky = scene.sky * (0.65 + 0.35 * normals[1]) + 0.25 * scene.floor[0] * (0.5 - 0.5 * normals[1])
        light = scene.key * ((facing + 0.15) / 1.15).clamp(min=0) * shadow + sky * open_
        rim = (1 - (-(normals * rays).sum(0)).clamp(0, 1)) ** 3 * open_
        half = F.normalize(towards - rays, dim=0)
        shine = (normals * half).sum(0).clamp(min=0)
        wet = pet & (kind > FUR)
        gloss = torch.where(wet, 1.2 * shine**60 + 0.12 * shine**8, 0.02 * shine**12)
        light = light + torch.where(pet, 0.5, 0.0) * rim * scene.sky
        gloss = scene.key * gloss * (0.3 + 0.7 * shadow) + torch.where(pet, 0.12, 0.0) * rim * scene.sky
        return light, gloss

    def _light_on_room(self, points: Tensor, normals: Tensor, rays: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        scene, floor = self.scene, kind == FLOOR
        up = torch.tensor([0.0, 1.0, 0.0])[:, None]
        shadow, open_ = self._soft_shadows()[:, ~(self.pet | self.thing)]
        shadow = torch.where(floor, shadow, 1.0)
        shadow[floor] *= self._blocked(points[:, floor] + 0.002 * up)
        ground = 0.8 * scene.key * scene.light[1] * shadow + 0.8 * scene.sky * (0.3 + 0.7 * open_)
        light = torch.where(floor, ground, 0.55 * scene.sky + 0.2 * scene.key)
        return light, torch.zeros_like(light)

    def _soft_shadows(self) -> Tensor:
        """Key light and sky that the animal leaves to the floor: `(2, N)`; soft, so one ray in four is enough."""
        scene, field, half = self.scene, self.field, self.side // 2
        rays = self.rays.view(3, half, 2, half, 2)[:, :, 0, :, 0].reshape(3, -1)
        points = scene.origin[:, None] + rays * (-scene.origin[1] / rays[1].clamp(max=-1e-4))
        up = torch.tensor([0.0, 1.0, 0.0])[:, None]
        near = (points - field.centre[:, None]).norm(dim=0) < field.radius + 1.2
        light = torch.ones(2, len(near))
        above = points[:, near] + 0.02 * up
        light[0, near] = field.openness(above, scene.light[:, None], first=0.1, growth=1.6, steps=6)
        light[1, near] = field.openness(points[:, near], up, first=0.15, growth=2.0, steps=3)
        return F.interpolate(light.view(1, 2, half, half), scale_factor=2, mode="bilinear")[0].flatten(1)


def _print(pattern: Pattern, x: Tensor, y: Tensor) -> Tensor:
    """How much of a pattern's second colour there is at x, y on a plane: `(N,)`."""
    c, s = math.cos(pattern.turn), math.sin(pattern.turn)
    u, v = (c * x + s * y) / pattern.width, (c * y - s * x) / pattern.width
    if pattern.kind == "stripes":
        return (u.remainder(1) < 0.5).float()
    if pattern.kind == "checks":
        return ((u.floor() + v.floor()).remainder(2) < 1).float()
    if pattern.kind == "dots":
        return (((u.remainder(1) - 0.5) ** 2 + (v.remainder(1) - 0.5) ** 2).sqrt() < 0.27).float()
    return torch.zeros_like(u)
