"""Reading images, whatever they come as, and the dataset of images with labels."""

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
CHECK_SIZE = (64, 64)  # JPEG decodes at an eighth of the size for this, and still reads every byte


class ZipMember(NamedTuple):
    """An image inside a zip."""

    archive: str
    member: str


class Generated(NamedTuple):
    """An image that `make(label, seed)` draws, uint8 `(H, W)` or `(H, W, 3)`, when it is looked at."""

    make: Callable[[str, int], np.ndarray]
    label: str
    seed: int


Source = str | Path | ZipMember | Generated | np.ndarray | torch.Tensor


def read_image(source: Source) -> Image.Image:
    """Read one image as RGB: turned upright, the first frame of several, transparency laid over white.

    Arrays are uint8 `(H, W)` or `(H, W, 3)`, tensors uint8 `(1 or 3, H, W)`.

    Raises:
        ValueError: the image cannot be read; it names the file.
    """
    try:
        if isinstance(source, ZipMember):
            with _archive(source.archive).open(source.member) as file, Image.open(file) as image:
                return to_rgb(image)
        if isinstance(source, str | Path):
            with Image.open(source) as image:
                return to_rgb(image)
        if isinstance(source, Generated):
            source = source.make(source.label, source.seed)
        array = source.permute(1, 2, 0).squeeze(-1).numpy() if isinstance(source, torch.Tensor) else source
        if array.dtype != np.uint8:
            raise TypeError(f"the array holds {array.dtype}; give uint8, 0 to 255")
        return to_rgb(Image.fromarray(array))
    except Exception as error:  # decoders raise all sorts of errors
        raise ValueError(
            f"Cannot read {describe(source)} ({reason(error)}). Delete or replace the file, "
            "or load the folder with skip_unreadable=True."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image of any mode upright and into RGB."""
    png = image.format == "PNG"
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken note about the orientation does not spoil the picture
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


def describe(source: Source) -> str:
    """Name a source in a message."""
    if isinstance(source, ZipMember):
        return f"{source.member} in {source.archive}"
    if isinstance(source, Generated):
        return f"the generated image {source.label}, seed {source.seed}"
    return str(source) if isinstance(source, str | Path) else f"an array of shape {tuple(source.shape)}"


def reason(error: Exception) -> str:
    """Say in a few words why an image could not be read."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split())[:80] or type(error).__name__


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every file, several at a time, and return those that cannot be read, with the reason."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("ignore")  # about odd EXIF data in files that decode well
        faults = pool.map(_fault, paths)
        return {path: fault for path, fault in zip(paths, faults, strict=True) if fault}


def _fault(path: Path) -> str | None:
    try:
        if path.stat().st_size == 0:
            return "empty file"
        with Image.open(path) as image:
            image.draft("RGB", CHECK_SIZE)
            image.load()
    except Exception as error:
        return reason(error)
    return None


_open = threading.local()


def _archive(path: str) -> zipfile.ZipFile:
    """Open a zip once per process and thread: forked processes would move one shared file position about."""
    if getattr(_open, "process", None) != os.getpid():
        _open.process, _open.archives = os.getpid(), {}
    if path not in _open.archives:
        _open.archives[path] = zipfile.ZipFile(path)
    return _open.archives[path]


class ImageSet(Dataset):
    """Images with labels; item `i` is `(transform(image), label)`, the image a PIL one in RGB.

    A source is a file's path, a `ZipMember`, a `Generated`, a uint8 array `(H, W)` or `(H, W, 3)`, or a uint8 tensor
    `(3, H, W)`. `root` is the folder that the fingerprint takes file names from, so that a moved folder keeps it.
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
        if len(self.sources) != len(self.labels):
            raise ValueError(f"There are {len(self.sources)} images and {len(self.labels)} labels; each needs one.")
        if len(self.true_labels) != len(self.labels):
            raise ValueError(
                f"There are {len(self.labels)} labels and {len(self.true_labels)} true ones; give as many."
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            low, high = int(self.labels.min()), int(self.labels.max())
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
        """Return image `index` as it is: RGB, untransformed."""
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
    def fingerprint(self) -> str:
        """A digest of what a model would see: images, labels, transform. Caches of features are keyed by it."""
        return self._digest(repr((self.labels.tolist(), self.classes, self.transform)).encode())

    @property
    def content(self) -> str:
        """A digest of the images alone, in their order. Caches of decoded images are keyed by it."""
        return self._digest(b"")

    def _digest(self, more: bytes) -> str:
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(self.identity(source))
        digest.update(more)
        return digest.hexdigest()

    def identity(self, source: Source) -> bytes:
        """Return what tells a source from another, and from itself after a change."""
        if isinstance(source, ZipMember):
            return f"{source.member} {_archive(source.archive).getinfo(source.member).CRC}\n".encode()
        if isinstance(source, str | Path):
            name = Path(source) if self.root is None else Path(source).relative_to(self.root)
            status = os.stat(source)  # reading every byte of 25,000 photos would take longer than the features
            return f"{name.as_posix()} {status.st_size} {status.st_mtime_ns}\n".encode()
        if isinstance(source, Generated):
            source = source.make(source.label, source.seed)  # its pixels: another version may draw it differently
        array = np.ascontiguousarray(source)
        return f"{array.shape} {array.dtype}\n".encode() + array.tobytes()
