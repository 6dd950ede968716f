"""Reading images of any kind as RGB."""

import os
import threading
import warnings
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

# Pillow knows these by their first bytes, but needs another program to read them, or cannot.
NOT_READ = {"EPS", "MPEG", "BUFR", "GRIB", "HDF5", "WMF"}
_kinds = Image.registered_extensions()
EXTENSIONS = {suffix for suffix in _kinds if _kinds[suffix] in {*Image.OPEN, "MPO"} - NOT_READ}
CHECK_SIDE = 64  # pixels: a JPEG decodes at an eighth of its size for this, and every byte is still read


class ZipMember(NamedTuple):
    """An image inside a zip."""

    archive: str
    member: str


class Generated(NamedTuple):
    """An image that `make(label, seed)` draws when it is read: uint8 `(H, W)` or `(H, W, 3)`."""

    make: Callable[[str, int], np.ndarray]
    label: str
    seed: int


Source = str | Path | ZipMember | Generated | np.ndarray | torch.Tensor


def read_image(source: Source, *, min_side: int | None = None) -> Image.Image:
    """Read one image as RGB: turned upright, the first frame of several, transparency laid over white.

    Arrays are uint8 `(H, W)` or `(H, W, 1 or 3)`, tensors `(1 or 3, H, W)`. With `min_side`, a JPEG is decoded at the
    smallest fraction of its size (1/2, 1/4 or 1/8) that leaves so many pixels to each side: several times faster.

    Raises:
        ValueError: the image cannot be read; the message names the file.
    """
    try:
        return _read(source, min_side)
    except Exception as error:  # decoders raise errors of many kinds
        advice = " Delete or replace the file, or load the folder with skip_unreadable=True."
        of_file = isinstance(source, str | Path)
        raise ValueError(f"Cannot read {_describe(source)} ({_reason(error)}).{advice * of_file}") from error


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every file, several at a time, and return those that cannot be read, with the reason."""

    def fault(path: Path) -> str | None:
        try:
            _read(path, CHECK_SIDE)
        except Exception as error:
            return _reason(error)
        return None

    pool = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF data in files that decode well
            return {path: why for path, why in zip(paths, pool.map(fault, paths), strict=True) if why}
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for thousands of files


def dark_notes(paths: Sequence[Path]) -> list[str]:
    """Return a note where images of 16 or 32 bits come out dark: a file does not say which of its values is white."""
    brightest = []
    for path in paths[:: len(paths) // 20 + 1]:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                brightest.append(np.asarray(to_rgb(image)).max())
    highest = int(max(brightest, default=255))  # below 128 where values of 8, 10 or 14 bits lie in 16
    note = f"Images of 16 or 32 bits are dark, {highest} of 255 at most. If they should not be, save them with 8 bits."
    return [note] * (highest < 128)


def _read(source: Source, min_side: int | None) -> Image.Image:
    if isinstance(source, ZipMember):
        with open_archive(source.archive).open(source.member) as file, Image.open(file) as image:
            return to_rgb(image, min_side)
    if isinstance(source, str | Path):
        if os.path.getsize(source) == 0:
            raise ValueError("empty file")
        with Image.open(source) as image:
            return to_rgb(image, min_side)
    if isinstance(source, Generated):
        source = source.make(source.label, source.seed)
    return to_rgb(Image.fromarray(_pixels(source)))


def _pixels(source: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return an image in memory as uint8 `(H, W)` or `(H, W, C)`."""
    array, of_tensor = np.asarray(source), isinstance(source, torch.Tensor)
    if array.dtype != np.uint8:
        raise TypeError(f"the array holds {array.dtype}; give uint8, 0 to 255: (255 * x).round().astype('uint8')")
    array = array.transpose(1, 2, 0) if of_tensor and array.ndim == 3 else array
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise TypeError("the channels go last in arrays, (H, W, 1 or 3), first in tensors, (1 or 3, H, W)")
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def to_rgb(image: Image.Image, min_side: int | None = None) -> Image.Image:
    """Turn an image of any mode upright and into RGB; for `min_side` see `read_image`."""
    png = image.format == "PNG"
    if min_side is not None:
        image.draft("RGB", (min_side, min_side))
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken note about the orientation does not spoil the image
        image.load()
    if image.mode.startswith(("I", "F")):
        # TIFF does not say which value is white.
        return Image.fromarray(_to_8_bit(image, 65535 if png or image.mode.startswith("I;16") else None)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image, white: float | None) -> np.ndarray:
    """Scale grey values of 16 or 32 bits to 0..255; Pillow's own conversion would clip them at 255.

    Where `white` is not known, it is the next usual value: 1 for floats, 255, 4095, 65535, else the brightest one. Of
    16 bits, cameras and scanners often fill only 12; an image below 255 of 65535 is black. What is no number is black.
    """
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    darkest, brightest = finite.min(initial=0), finite.max(initial=0)
    if not finite.size or darkest < -0.1 * brightest:
        raise ValueError(f"its values go from {darkest:g} to {brightest:g}: save it with values from 0 to 255")
    usual, over = (255.0, 4095.0, 65535.0), 1.0
    if image.mode == "F":
        usual, over = (1.0, *usual), 1.1  # resizing overshoots
    if white is None or 255 < brightest <= 4095:
        white = next((value for value in usual if brightest <= over * value), brightest)
    return np.round(np.clip(np.nan_to_num(values, nan=0) / white, 0, 1) * 255).astype(np.uint8)


def _describe(source: Source) -> str:
    if isinstance(source, ZipMember):
        return f"{source.member} in {source.archive}"
    if isinstance(source, Generated):
        return f"the generated image {source.label}, seed {source.seed}"
    return str(source) if isinstance(source, str | Path) else f"an array of shape {tuple(source.shape)}"


def _reason(error: Exception) -> str:
    """Say in a few words why an image could not be read."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split())[:100] or type(error).__name__


_local = threading.local()


def open_archive(path: str) -> zipfile.ZipFile:
    """Open a zip once per process and thread, because forked processes share the position in an open file."""
    if getattr(_local, "process", None) != os.getpid():
        _local.process, _local.archives = os.getpid(), {}
    if path not in _local.archives:
        _local.archives[path] = zipfile.ZipFile(path)
    return _local.archives[path]
