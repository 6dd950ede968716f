"""Reading images of any kind as RGB, and `ImageSet`, the data set of images with labels."""

import hashlib
import os
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
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

    Arrays are uint8 `(H, W)` or `(H, W, 3)`, tensors uint8 `(1 or 3, H, W)`. With `min_side`, a JPEG is decoded at the
    smallest fraction of its size (1/2, 1/4 or 1/8) that leaves so many pixels to each side: several times faster.

    Raises:
        ValueError: the image cannot be read; the message names the file.
    """
    try:
        return _read(source, min_side)
    except Exception as error:  # decoders raise errors of many kinds
        raise ValueError(
            f"Cannot read {_describe(source)} ({_reason(error)}). Delete or replace the file, "
            "or load the folder with skip_unreadable=True."
        ) from error


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every file, several at a time, and return those that cannot be read, with the reason."""

    def fault(path: Path) -> str | None:
        try:
            _read(path, CHECK_SIDE)
        except Exception as error:
            return _reason(error)
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("ignore")  # about odd EXIF data in files that decode well
        return {path: why for path, why in zip(paths, pool.map(fault, paths), strict=True) if why}


def _read(source: Source, min_side: int | None) -> Image.Image:
    if isinstance(source, ZipMember):
        with _archive(source.archive).open(source.member) as file, Image.open(file) as image:
            return to_rgb(image, min_side)
    if isinstance(source, str | Path):
        if os.path.getsize(source) == 0:
            raise ValueError("empty file")
        with Image.open(source) as image:
            return to_rgb(image, min_side)
    if isinstance(source, Generated):
        source = source.make(source.label, source.seed)
    array = source.permute(1, 2, 0).squeeze(-1).numpy() if isinstance(source, torch.Tensor) else source
    if array.dtype != np.uint8:
        raise TypeError(f"the array holds {array.dtype}; give uint8, 0 to 255")
    return to_rgb(Image.fromarray(array))


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

    Where `white` is not known, it is the next usual value: 1 for floats, 255, 65535, else the brightest one.
    """
    values = np.asarray(image).astype(np.float64)
    brightest = values.max(initial=0)
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = white or next((value for value in usual if brightest <= value), brightest)
    return np.round(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


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
    return " ".join(str(error).split())[:80] or type(error).__name__


_local = threading.local()


def _archive(path: str) -> zipfile.ZipFile:
    """Open a zip once per process and thread, because forked processes share the position in an open file."""
    if getattr(_local, "process", None) != os.getpid():
        _local.process, _local.archives = os.getpid(), {}
    if path not in _local.archives:
        _local.archives[path] = zipfile.ZipFile(path)
    return _local.archives[path]


class ImageSet(Dataset):
    """Images with labels; item `i` is `(transform(image), label)`, where the image is a PIL image in RGB.

    A source is a file's path, a `ZipMember`, a `Generated`, a uint8 array `(H, W)` or `(H, W, 3)`, or a uint8 tensor
    `(3, H, W)`. File names count from `root` where images are told apart, so that a folder may be moved.
    `true_labels` are the labels before noise was added to them (see `Splits.with_label_noise`).

    Raises:
        ValueError: sources and labels differ in number, or a label has no class.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        labels: Iterable[int] | torch.Tensor,
        classes: Sequence[str],
        transform: Callable[[Image.Image], Any] | None = None,
        *,
        root: str | Path | None = None,
        true_labels: torch.Tensor | None = None,
    ):
        self.sources = list(sources)
        self.labels = torch.as_tensor(labels if isinstance(labels, torch.Tensor) else list(labels), dtype=torch.long)
        self.classes = list(classes)
        self.transform = transform
        self.root = root
        self.true_labels = self.labels if true_labels is None else true_labels
        count = len(self.labels)
        if len(self.sources) != count:
            raise ValueError(f"There are {len(self.sources)} images and {count} labels; each needs one.")
        if len(self.true_labels) != count:
            raise ValueError(f"There are {count} labels and {len(self.true_labels)} true ones; give as many.")
        low, high = (int(self.labels.min()), int(self.labels.max())) if count else (0, -1)
        if low < 0 or high >= len(self.classes):
            raise ValueError(f"Labels go from {low} to {high}; with {len(self.classes)} classes they start at 0.")

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.raw(index)
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in zip(self.classes, self.counts(), strict=True))
        return f"ImageSet({len(self)} images: {counts})"

    def raw(self, index: int) -> Image.Image:
        """Return image `index` in RGB, untransformed."""
        return read_image(self.sources[index])

    def counts(self) -> list[int]:
        """Return the number of images of each class."""
        return torch.bincount(self.labels, minlength=len(self.classes)).tolist()

    def with_transform(self, transform: Callable[[Image.Image], Any] | None) -> "ImageSet":
        """Return the same images with another transform."""
        return self._copy(self.sources, self.labels, self.true_labels, transform)

    def subset(self, indices: Iterable[int] | torch.Tensor) -> "ImageSet":
        """Return the images at `indices`, in that order."""
        indices = [int(index) for index in indices]
        sources = [self.sources[index] for index in indices]
        return self._copy(sources, self.labels[indices], self.true_labels[indices], self.transform)

    def relabelled(self, labels: torch.Tensor) -> "ImageSet":
        """Return the same images with other labels; `true_labels` stay."""
        return self._copy(self.sources, labels, self.true_labels, self.transform)

    def _copy(self, sources: Sequence[Source], labels: torch.Tensor, true: torch.Tensor, transform: Any) -> "ImageSet":
        return ImageSet(sources, labels, self.classes, transform, root=self.root, true_labels=true)

    @property
    def wrong(self) -> torch.Tensor:
        """The positions of the images whose label is wrong."""
        return (self.labels != self.true_labels).nonzero().flatten()

    @property
    def content(self) -> str:
        """A digest of the images alone, in their order."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(self.identity(source))
        return digest.hexdigest()

    def identity(self, source: Source) -> bytes:
        """Return bytes that differ between two sources, and after a source has changed."""
        if isinstance(source, ZipMember):
            return f"{source.member} {_archive(source.archive).getinfo(source.member).CRC}\n".encode()
        if isinstance(source, str | Path):
            name = Path(source) if self.root is None else Path(source).relative_to(self.root)
            status = os.stat(source)  # reading every byte of 25,000 files would take longer than computing features
            return f"{name.as_posix()} {status.st_size} {status.st_mtime_ns}\n".encode()
        if isinstance(source, Generated):
            source = source.make(source.label, source.seed)  # its pixels: another version may draw it differently
        array = np.ascontiguousarray(source)
        return f"{array.shape} {array.dtype}\n".encode() + array.tobytes()
