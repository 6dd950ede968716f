"""Augmentation as a function of a table of random numbers: row `i` says all that happens to image `i` in an epoch."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

# The columns of the table. As torchvision does, a crop that does not fit into the image is drawn again, ten times.
TRIES = 10
TOP, LEFT, FLIP, ANGLE = range(2 * TRIES, 2 * TRIES + 4)
COLOUR = slice(ANGLE + 1, ANGLE + 4)
ORDER = COLOUR.stop
COLUMNS = ORDER + 1

ORDERS = torch.tensor(list(itertools.permutations(range(3))))
GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue

# The operators behind `interpolate(antialias=True)`. Called like this they write a uint8 image in place, in half the
# time. Those of `torch.ops` would keep Python's lock.
RESIZE = {
    v2.InterpolationMode.BILINEAR: torch._C._nn._upsample_bilinear2d_aa,
    v2.InterpolationMode.BICUBIC: torch._C._nn._upsample_bicubic2d_aa,
}
Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """What a training transform draws: ranges of the crop's area share, its aspect ratio, and the rest."""

    scale: Range
    ratio: Range
    mode: v2.InterpolationMode
    flip: float = 0.0
    degrees: Range | None = None
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)
    colour: tuple[Range | None, Range | None, Range | None] | None = None


@dataclass(frozen=True)
class Shrink:
    """Make an image as small as its crops allow: the short side at most `short`, never enlarged.

    Lanczos keeps all detail that the smaller image can hold, so that a crop is as sharp as one of the original. With
    the crop's own bilinear filter used twice, photos lost a third of their finest detail.
    """

    short: int

    def __call__(self, image: Image.Image) -> Image.Image:
        if min(image.size) <= self.short:
            return image
        return v2.functional.resize(image, [self.short], v2.InterpolationMode.LANCZOS)


class Recipe(NamedTuple):
    """A transform in two steps: `keep` once an image, its result is stored; the rest for whole batches."""

    keep: Callable[[Image.Image], Image.Image]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation | None

    @property
    def plain(self) -> bool:
        """Whether nothing is left to do after cutting but to normalise."""
        how = self.augmentation
        return how is None or (how.degrees is None and how.colour is None)


def recipe(transform: Any) -> Recipe | None:
    """Read a pipeline of `Preprocessing.evaluation` or `.training`; None for anything that is made otherwise."""
    steps = list(transform.transforms) if type(transform) is v2.Compose else []
    if [type(step) for step in steps[-3:]] != [v2.ToImage, v2.ToDtype, v2.Normalize]:
        return None
    *steps, _, dtype, normalize = steps
    if dtype.dtype is not torch.float32 or not dtype.scale:
        return None
    colours = tuple(normalize.mean), tuple(normalize.std)
    if [type(step) for step in steps] == [v2.Resize, v2.CenterCrop]:
        high, wide = steps[1].size
        # A smaller image would get a border, which is fine, but no square one may come out oblong.
        return Recipe(v2.Compose(steps), high, *colours, None) if high == wide else None
    augmentation = _augmentation(steps)
    if augmentation is None:
        return None
    size = steps[0].size[0]
    return Recipe(Shrink(_short(size, augmentation)), size, *colours, augmentation)


def _short(size: int, how: Augmentation) -> int:
    """Return the short side at which the narrowest crop of a square image is still `size` pixels wide."""
    if how.scale[0] <= 0 or how.mode is v2.InterpolationMode.NEAREST:  # nearest shows single pixels of the original
        return np.iinfo(np.int32).max
    return math.ceil(size * math.sqrt(max(how.ratio) / how.scale[0]))


def _augmentation(steps: Sequence[Any]) -> Augmentation | None:
    known = (v2.RandomResizedCrop, v2.RandomHorizontalFlip, v2.RandomRotation, v2.ColorJitter)
    named = {type(step): step for step in steps}
    # In this order, each at most once, the crop first.
    if [type(step) for step in steps] != [kind for kind in known if kind in named] or known[0] not in named:
        return None
    crop, flip, turn, jitter = (named.get(kind) for kind in known)
    if crop.size[0] != crop.size[1] or not crop.antialias:
        return None
    options: dict[str, Any] = {"scale": tuple(crop.scale), "ratio": tuple(crop.ratio), "mode": crop.interpolation}
    if flip is not None:
        options["flip"] = flip.p
    if turn is not None:
        plain = turn.interpolation is v2.InterpolationMode.BILINEAR and not turn.expand and turn.center is None
        if not plain or not isinstance(turn.fill, list | tuple) or len(turn.fill) != 3:
            return None
        options |= {"degrees": tuple(turn.degrees), "fill": tuple(value / 255 for value in turn.fill)}
    if jitter is not None:
        if jitter.hue is not None:
            return None
        options["colour"] = (jitter.brightness, jitter.contrast, jitter.saturation)
    return Augmentation(**options)


def crop_box(row: Sequence[float], height: int, width: int, scale: Range, ratio: Range) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the crop that a row of the table stands for.

    The area's share of the image is uniform, the logarithm of the aspect ratio too; a crop that does not fit is drawn
    again. Where none fits, it is the largest central one of an allowed ratio.
    Source: Szegedy et al. 2015, Going deeper with convolutions; torchvision's `RandomResizedCrop`.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for share, shape in zip(row[:TRIES], row[TRIES : 2 * TRIES], strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(row[TOP] * (height - h + 1)), int(row[LEFT] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def cut(image: np.ndarray, row: Sequence[float], how: Augmentation, out: np.ndarray) -> np.ndarray:
    """Return the crop of a uint8 image `(H, W, 3)` that a row stands for, flipped or not; `out` is room for it.

    `out` has the crop's final size, `(size, size, 3)`. It works on one core and leaves Python's lock alone, so that
    several threads can cut at once.
    """
    top, left, height, width = crop_box(row, image.shape[0], image.shape[1], how.scale, how.ratio)
    crop = image[top : top + height, left : left + width].copy()
    size = len(out)
    if (resize := RESIZE.get(how.mode)) is not None:
        source, result = (torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0) for array in (crop, out))
        resize(source, (size, size), False, None, None, out=result)
    else:
        mode = Image.Resampling[how.mode.name]
        out[:] = np.asarray(Image.fromarray(crop).resize((size, size), mode))
    if row[FLIP] >= how.flip:
        return out
    flipped = np.empty_like(out)
    for channel in range(3):  # four times as fast as whole pixels
        flipped[..., channel] = out[:, ::-1, channel]
    return flipped


def normalise(image: np.ndarray, mean: np.ndarray, std: np.ndarray, out: np.ndarray) -> None:
    """Write a uint8 image `(size, size, 3)` as normalised float32 into `out`, to the bit as the transform does.

    `mean` and `std` `(3 * size,)` are those of a whole line of pixels: values of three channels one by one would take
    six times as long. It stays within one core's cache and works on that core alone.
    """
    lines, values = (array.reshape(len(image), -1) for array in (image, out))
    np.multiply(lines, np.float32(1 / 255), out=values, dtype=np.float32)
    np.subtract(values, mean, out=values)
    np.divide(values, std, out=values)


def finish(batch: torch.Tensor, rows: torch.Tensor | None, how: Recipe) -> torch.Tensor:
    """Turn, colour and normalise a uint8 batch `(B, size, size, 3)` where it is; rows `(B, COLUMNS)` say how.

    Returns float32 images `(B, 3, size, size)` in channels-last format; without rows, to the bit what the transform
    gives for one image.
    """
    images = batch.to(torch.float32).mul_(1.0 / 255)
    augmentation = how.augmentation
    if rows is not None and augmentation is not None:
        pictures = images.permute(0, 3, 1, 2)
        if augmentation.degrees is not None:
            pictures = _rotate(pictures, rows[:, ANGLE], augmentation)
        if augmentation.colour is not None:
            pictures = _jitter(pictures, rows, augmentation.colour)
        images = pictures.permute(0, 2, 3, 1).contiguous()
    mean, std = (torch.tensor(values).to(images.device, non_blocking=True) for values in (how.mean, how.std))
    return images.sub_(mean).div_(std).permute(0, 3, 1, 2)


def _rotate(images: torch.Tensor, turns: torch.Tensor, how: Augmentation) -> torch.Tensor:
    """Turn images `(B, 3, S, S)` about their centres, counter-clockwise; the corners get the fill colour."""
    low, high = how.degrees
    angles = torch.deg2rad(low + (high - low) * turns)
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros_like(angles)
    theta = torch.stack([cos, -sin, none, sin, cos, none], dim=1).view(-1, 2, 3).to(images.device, non_blocking=True)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    fill = torch.tensor(how.fill).view(3, 1, 1).to(images.device, non_blocking=True)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def _jitter(images: torch.Tensor, rows: torch.Tensor, ranges: Sequence[Range | None]) -> torch.Tensor:
    """Change brightness, contrast and saturation of images `(B, 3, S, S)` from 0 to 1, in an order of their own.

    All three mix the image with another: black, its mean grey, its greys.
    """
    low, high = (torch.tensor([1.0 if span is None else span[end] for span in ranges]) for end in (0, 1))
    order = ORDERS[(rows[:, ORDER] * len(ORDERS)).long()]
    factors = (low + (high - low) * rows[:, COLOUR]).gather(1, order)
    factors, order = (table.to(images.device, non_blocking=True)[..., None, None, None] for table in (factors, order))
    weights = torch.tensor(GREY).view(3, 1, 1).to(images.device, non_blocking=True)
    for step in range(3):
        kind, factor = order[:, step], factors[:, step]
        grey = (images * weights).sum(1, keepdim=True)
        other = torch.where(kind == 1, grey.mean((1, 2, 3), keepdim=True), grey) * (kind != 0)
        images = (images * factor + other * (1 - factor)).clamp_(0, 1)
    return images
