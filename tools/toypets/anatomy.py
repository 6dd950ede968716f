"""The shape of a toy pet: body by pose, tail, and head by species. Only this depends on the class."""

from dataclasses import dataclass

from torch import Tensor

from toypets import heads
from toypets.breeds import Traits, vary
from toypets.random_draws import Draw
from toypets.sculptor import UP, Point, Sculptor
from toypets.tracer import Parts

POSES = ("sitting", "standing", "lying")
HEIGHTS = {"sitting": 1.15, "standing": 1.2, "lying": 0.82}  # about where heads are


@dataclass(frozen=True)
class Shape:
    """A posed animal; the last parts are its two eyes and its nose.

    zones: `(5, K)` weights in the order of `ZONES`; turn: `(3, 3)` rotation of the head about `head`; slit: width of
    the pupil over its height; pupil: its height over the eye's radius.
    """

    parts: Parts
    zones: Tensor
    turn: Tensor
    head: Point
    slit: float
    pupil: float


def _sitting(s: Sculptor, t: Traits) -> tuple[Point, Point]:
    """Upright on straight forelegs; return where head and tail go."""
    w, h, bone = t.width, 0.82 + 0.18 * t.legs, t.bone
    s.add((0.0, 0.58 * h, 0.07), None, (0.27 * w, 0.37, 0.27), light=0.3)
    s.add((0.0, 0.54 * h, 0.16), None, (0.17 * w + t.hair, 0.3, 0.2 + t.hair), light=1.0)
    s.add((0.0, 0.33, -0.1 - 0.06 * t.trunk), None, (0.36 * w, 0.35, 0.28 + 0.08 * t.trunk))
    s.add((0.0, 0.6 * h, 0.05), (0.0, 1.0 * h, 0.12), (0.21 * w + t.hair, 0.23, 0.21))
    s.pair((0.28 * w, 0.25, 0.0), None, (0.15, 0.25, 0.27))
    s.pair((0.32 * w, 0.08, 0.12), (0.35 * w, 0.07, 0.33), (bone, bone * 0.85, bone * 0.85), light=0.6, points=0.8)
    s.pair((0.15 * w, 0.52 * h, 0.2), (0.16 * w, 0.1, 0.3), (bone * 1.25,) * 3, taper=0.75, points=0.5)
    s.pair((0.16 * w, 0.07, 0.35), None, (bone * 1.1, bone * 0.85, bone * 1.35), light=1.0, points=1.0)
    return (0.0, 1.18 * h, 0.17), (0.0, 0.16, -0.36 - 0.1 * t.trunk)


def _standing(s: Sculptor, t: Traits) -> tuple[Point, Point]:
    """On four legs; return where head and tail go."""
    w, bone, half = t.width, t.bone, 0.4 * t.trunk
    y, front, back = 0.42 * t.legs + 0.2, half - 0.2, -half - 0.2
    s.add((0.0, y, back), (0.0, y + 0.02, front), (0.24 * w, 0.24, 0.22), face=UP)
    s.add((0.0, y, front), None, (0.25 * w + t.hair, 0.29 + t.hair, 0.25), light=0.6)
    s.add((0.0, y + 0.02, back), None, (0.25 * w, 0.25, 0.25))
    s.add((0.0, y + 0.1, front), (0.0, y + 0.46, front + 0.18), (0.19 * w + t.hair,) * 3, light=0.3)
    s.pair((0.16 * w, y - 0.05, front + 0.02), (0.16 * w, 0.1, front + 0.04), (bone * 1.3,) * 3, taper=0.7, points=0.5)
    s.pair((0.16 * w, y - 0.04, back), None, (0.12 * w, 0.21, 0.19))
    s.pair((0.17 * w, y - 0.15, back - 0.06), (0.17 * w, 0.1, back - 0.1), (bone * 1.2,) * 3, taper=0.7, points=0.5)
    for z in (front + 0.1, back - 0.04):
        s.pair((0.165 * w, 0.06, z), None, (bone * 1.1, bone * 0.8, bone * 1.4), light=1.0, points=1.0)
    return (0.0, y + 0.6, front + 0.26), (0.0, y + 0.12, back - 0.2)


def _lying(s: Sculptor, t: Traits) -> tuple[Point, Point]:
    """On its belly, forelegs stretched out; return where head and tail go."""
    w, bone, half, z = t.width, t.bone, 0.38 * t.trunk, 0.2 * t.legs
    front, back = half - 0.25, -half - 0.25
    s.add((0.0, 0.24, back), (0.0, 0.26, front), (0.29 * w, 0.29, 0.24), face=UP)
    s.add((0.0, 0.32, front + 0.02), None, (0.25 * w + t.hair, 0.3, 0.26 + t.hair), light=0.8)
    s.pair((0.26 * w, 0.2, back + 0.08), None, (0.14, 0.2, 0.24))
    s.pair((0.3 * w, 0.06, back + 0.1), (0.31 * w, 0.06, back + 0.3), (bone,) * 3, light=0.6, points=0.8)
    s.pair((0.2 * w, 0.12, front + 0.05), (0.19 * w, 0.08, front + 0.3 + z), (bone * 1.15,) * 3, taper=0.8, points=0.5)
    s.pair((0.19 * w, 0.07, front + 0.36 + z), None, (bone * 1.1, bone * 0.8, bone * 1.4), light=1.0, points=1.0)
    s.add((0.0, 0.36, front + 0.02), (0.0, 0.66, front + 0.14), (0.2 * w + t.hair,) * 3, light=0.3)
    return (0.0, 0.8, front + 0.24), (0.0, 0.16, back - 0.24)


def _tail(s: Sculptor, t: Traits, draw: Draw, *, root: Point, standing: bool) -> None:
    """A tail from `root`: a cat's lies around it or stands up, a dog's is raised, hangs or curls."""
    (_, y, z), side, lean = root, (1.0 if draw(0, 1) < 0.5 else -1.0), draw(-0.2, 0.2)
    thin, full = 0.75 * t.brush, t.brush
    if t.tail == "curled":
        path = [(0.0, y, z), (0.02, y + 0.2, z - 0.08), (0.05, y + 0.33, z + 0.08), (0.1, y + 0.22, z + 0.17)]
        s.chain(path, [full, full, full, 0.8 * full], light=0.3, points=0.5)
    elif t.tail == "wrapped" and not standing:
        x = 0.47 * t.width + 0.08 + t.brush / 2
        path = [(0.0, 0.1, z), (side * 0.65 * x, 0.1, z + 0.02), (side * x, 0.1, z + 0.34), (side * 0.9 * x, 0.1, 0.18)]
        s.chain(path, [thin, full, full, thin], points=0.7)
    elif t.tail == "low" and standing:
        path = [(0.0, y, z), (lean * 0.3, y - 0.16, z - 0.2), (lean, 0.3 * y, z - 0.3), (lean, 0.18, z - 0.42)]
        s.chain(path, [thin, full, full, 0.5 * thin], points=0.6)
    elif t.tail == "low":
        path = [(0.0, 0.12, z), (side * 0.2, 0.12, z - 0.25), (side * 0.5, 0.12, z - 0.4)]
        s.chain(path, [thin, full, 0.6 * thin], points=0.6)
    else:
        high = 0.75 if t.tail == "wrapped" else 0.5
        path = [(0.0, y, z), (lean * 0.5, y + 0.4 * high, z - 0.22), (lean, y + high, z - 0.18)]
        s.chain(path, [thin, full, 0.7 * full], points=0.6, light=0.3)


def build(label: int, breed: Traits, draw: Draw, *, pose: str, turn: Tensor) -> Shape:
    """Draw a cat (0) or dog (1) of a breed in a pose, its head turned by the rotation `turn`."""
    s, t = Sculptor(), vary(breed, draw)
    head, root = (_sitting, _standing, _lying)[POSES.index(pose)](s, t)
    _tail(s, t, draw, root=root, standing=pose == "standing")
    s.head = 1.0
    (heads.cat, heads.dog)[label](s, t, draw)
    parts, zones = s.finish(turn=turn, head=head, size=t.size, hair=t.hair)
    middle = tuple(t.size * value for value in head)
    slit, round_ = draw(0.35, 0.6), draw(0.6, 0.7)
    return Shape(parts, zones, turn, middle, slit=(slit, 1.0)[label], pupil=(0.75, round_)[label])
