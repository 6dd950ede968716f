"""Augmentation as a function of a table of random numbers: row `i` decides everything that happens to image `i`.

`split_transform` reads a transform that `Preprocessing` made. Its first part is applied once per image and the result
is cached; `random_crop` is applied to each image in every epoch, and `transform_batch` to whole batches.
"""

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

# The columns of the table. As in torchvision, a crop that does not fit into the image is drawn again, up to ten times.
TRIES = 10
TOP, LEFT, FLIP, ANGLE = range(2 * TRIES, 2 * TRIES + 4)
COLOUR = slice(ANGLE + 1, ANGLE + 4)
ORDER = COLOUR.stop
COLUMNS = ORDER + 1

ORDERS = torch.tensor(list(itertools.permutations(range(3))))  # of brightness, contrast and saturation
GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue
NEAREST, BILINEAR, BICUBIC = (v2.InterpolationMode(name) for name in ("nearest", "bilinear", "bicubic"))
Range = tuple[float, float]


@dataclass(frozen=True)
class ShrinkShortSide:
    """Resize an image so that its short side is `size`; smaller images stay as they are.

    Lanczos keeps all detail that the smaller image can hold, so that a crop is as sharp as one of the original. With
    the crop's own bilinear filter used twice, images lost a third of their finest detail.
    """

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        if min(image.size) <= self.size:
            return image
        return v2.functional.resize(image, [self.size], v2.InterpolationMode.LANCZOS)


class SplitTransform(NamedTuple):
    """A transform in two parts: `once`, whose result is cached for each image, and the steps that follow it."""

    once: Callable[[Image.Image], Image.Image]
    size: int
    normalize: v2.Normalize
    crop: v2.RandomResizedCrop | None = None
    flip: v2.RandomHorizontalFlip | None = None
    rotation: v2.RandomRotation | None = None
    jitter: v2.ColorJitter | None = None


def split_transform(transform: Any) -> SplitTransform | None:
    """Read a pipeline of `Preprocessing.evaluation` or `.training`; return None for any other transform."""
    steps = list(transform.transforms) if type(transform) is v2.Compose else []
    if [type(step) for step in steps[-3:]] != [v2.ToImage, v2.ToDtype, v2.Normalize]:
        return None
    *steps, _, dtype, normalize = steps
    if dtype.dtype is not torch.float32 or not dtype.scale:
        return None
    kinds = [type(step) for step in steps]
    if kinds == [v2.Resize, v2.CenterCrop]:
        height, width = steps[1].size
        # `CenterCrop` pads a smaller image, so that all have one shape; batches here are square.
        return SplitTransform(v2.Compose(steps), height, normalize) if height == width else None
    known = (v2.RandomResizedCrop, v2.RandomHorizontalFlip, v2.RandomRotation, v2.ColorJitter)
    # In this order, each at most once, the crop first.
    if kinds != [kind for kind in known if kind in kinds] or v2.RandomResizedCrop not in kinds:
        return None
    crop, flip, rotation, jitter = (next((step for step in steps if type(step) is kind), None) for kind in known)
    if crop.size[0] != crop.size[1] or not crop.antialias or (jitter is not None and jitter.hue is not None):
        return None
    if rotation is not None:
        usual = rotation.interpolation is BILINEAR and not rotation.expand and rotation.center is None
        if not usual or not isinstance(rotation.fill, list | tuple) or len(rotation.fill) != 3:
            return None
    return SplitTransform(_shrink(crop), crop.size[0], normalize, crop, flip, rotation, jitter)


def _shrink(crop: v2.RandomResizedCrop) -> ShrinkShortSide:
    """Return the resizing after which the narrowest crop of a square image is still as wide as its result."""
    if crop.scale[0] <= 0 or crop.interpolation is NEAREST:  # nearest shows the original's pixels
        return ShrinkShortSide(np.iinfo(np.int32).max)
    return ShrinkShortSide(math.ceil(crop.size[0] * math.sqrt(max(crop.ratio) / crop.scale[0])))


def crop_box(row: Sequence[float], height: int, width: int, scale: Range, ratio: Range) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the crop that a row of the table stands for.

    The crop's share of the area is uniform in `scale`, the logarithm of its aspect ratio uniform too. Where no crop
    fits, it is the largest central one of an allowed ratio.
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


def random_crop(image: np.ndarray, row: Sequence[float], transform: SplitTransform) -> np.ndarray:
    """Return the crop of a uint8 image `(H, W, 3)` that a row stands for, resized to `(size, size, 3)`, maybe flipped.

    It works on one core and releases Python's lock, so that several threads can crop at once.
    """
    size, mode = transform.size, transform.crop.interpolation
    top, left, height, width = crop_box(row, *image.shape[:2], transform.crop.scale, transform.crop.ratio)
    crop = image[top : top + height, left : left + width].copy()
    if mode in (BILINEAR, BICUBIC):
        # In this order the strides mark the image as channels last, which PyTorch resizes several times faster.
        source = torch.from_numpy(crop).unsqueeze(0).permute(0, 3, 1, 2)
        crop = F.interpolate(source, (size, size), mode=mode.value, antialias=True).permute(0, 2, 3, 1)[0].numpy()
    else:
        crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling[mode.name]))
    if transform.flip is None or row[FLIP] >= transform.flip.p:
        return crop
    flipped = np.empty_like(crop)
    for channel in range(3):  # four times as fast as whole pixels
        flipped[..., channel] = crop[:, ::-1, channel]
    return flipped


def normalize(image: np.ndarray, mean: np.ndarray, std: np.ndarray, out: np.ndarray) -> None:
    """Write a uint8 image `(size, size, 3)` into `out`, normalised to the float32 values that the transform gives.

    `mean` and `std` `(3 * size,)` are those of a whole line of pixels, which is six times as fast as single channels.
    It stays within one core's cache and works on that core alone.
    """
    lines, values = (array.reshape(len(image), -1) for array in (image, out))
    np.multiply(lines, np.float32(1 / 255), out=values, dtype=np.float32)
    np.subtract(values, mean, out=values)
    np.divide(values, std, out=values)


def transform_batch(crops: torch.Tensor, rows: torch.Tensor | None, transform: SplitTransform) -> torch.Tensor:
    """Rotate, colour and normalise uint8 crops `(B, size, size, 3)` on their device; rows `(B, COLUMNS)` say how.

    Returns float32 images `(B, 3, size, size)` in channels-last format; without rows, the same values that the
    transform gives for single images.
    """
    images = crops.to(torch.float32).mul_(1.0 / 255)
    if transform.rotation is not None or transform.jitter is not None:
        images = images.permute(0, 3, 1, 2)
        if transform.rotation is not None:
            images = _rotate(images, rows[:, ANGLE], transform.rotation)
        if transform.jitter is not None:
            images = _jitter(images, rows, transform.jitter)
        images = images.permute(0, 2, 3, 1).contiguous()
    colours = (transform.normalize.mean, transform.normalize.std)
    mean, std = (torch.tensor(values).to(images.device, non_blocking=True) for values in colours)
    return images.sub_(mean).div_(std).permute(0, 3, 1, 2)


def _rotate(images: torch.Tensor, turns: torch.Tensor, rotation: v2.RandomRotation) -> torch.Tensor:
    """Rotate images `(B, 3, S, S)` about their centres, counter-clockwise; the corners get the fill colour."""
    low, high = rotation.degrees
    angles = torch.deg2rad(low + (high - low) * turns)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).to(images.device, non_blocking=True)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    fill = torch.tensor([value / 255 for value in rotation.fill]).view(3, 1, 1).to(images.device, non_blocking=True)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def _jitter(images: torch.Tensor, rows: torch.Tensor, jitter: v2.ColorJitter) -> torch.Tensor:
    """Change brightness, contrast and saturation of images `(B, 3, S, S)` from 0 to 1, each image in its own order.

    All three mix the image with another one: black, its mean grey, its greys.
    """
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation)
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
