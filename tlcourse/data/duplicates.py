"""Find duplicates: copies and near copies of an image, in two parts of a data set or within one.

A test image that was trained on tests nothing. Copies hide under other names, sizes and JPEG qualities, or mirrored. So
images are compared by what they show: a small grey thumbnail, standardised to mean 0 and deviation 1.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from tlcourse.data.reading import Source, read_image
from tlcourse.data.splits import PARTS

SIDE = 48  # pixels of a thumbnail: two views of one scene differ here, two encodings of one image do not
COARSE = 12  # pixels of the smaller thumbnail with which every pair is compared first
# Correlations of thumbnails. The most similar different images have 0.93 (36 million pairs of 8,500 images of 64
# pixels), or 0.90 (3,000 larger ones; 2,000 toy pets). Of 100 images at least 99 stay above 0.96 when re-encoded
# (quality 30), halved, brightened by 1.3 or greyed; cropped by 1 % at each side 84 do, by 2 % only 22: crops are
# not found.
ALIKE = 0.96
COARSE_ALIKE = 0.95
FLAT = 6.0  # grey levels of 255: what deviates less is an empty page, and all empty pages look the same
SMALL = 24  # pixels: smaller images (handwritten digits, say) look alike, so only their exact copies count
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Pillow's weights of red, green and blue, too
CHUNK = 2048  # rows compared at once: 2,048 x 25,000 correlations are 200 MB


@dataclass(frozen=True)
class Pair:
    """Two positions, each a part's name and an index, that hold the same image.

    `exact` says that every pixel, or every byte of the files, is the same; `correlation` is the correlation of the
    thumbnails, 1 for exact copies.
    """

    first: tuple[str, int]
    second: tuple[str, int]
    exact: bool
    correlation: float


@dataclass(frozen=True)
class Signatures:
    """What is compared: a digest of each image, and thumbnails `(N, SIDE, SIDE)`, NaN where only exact copies count."""

    digests: list[bytes]
    thumbnails: torch.Tensor

    def __len__(self) -> int:
        return len(self.digests)


def find_duplicates(parts: Any, *, within: bool = False) -> list[Pair]:
    """Find images that are in two parts, exact copies first, then near copies by falling correlation.

    Each image of a part is reported once, with the most similar image of the other part. With `within`, copies inside
    one part are reported too. About 500 images a second on one core.

    Args:
        parts: `Splits`, or a mapping of names to image sets or lists of sources: paths, arrays or tensors `(C, H, W)`.
            Sources that have been read before may be given as `Signatures`.

    Raises:
        ValueError: an image cannot be read.
    """
    named = parts if isinstance(parts, Mapping) else {part: getattr(parts, part) for part in PARTS}
    read = [
        (name, own if isinstance(own, Signatures) else signatures(getattr(own, "sources", own)))
        for name, own in named.items()
    ]
    pairs = []
    for i, (first, a) in enumerate(read):
        for second, b in read[i if within else i + 1 :]:
            pairs += _pairs(first, a, second, b)
    return sorted(pairs, key=lambda pair: (not pair.exact, -pair.correlation))


def signatures(sources: Sequence[Source]) -> Signatures:
    """Read images and return what is needed to compare them."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(_signature, sources))
    thumbnails = torch.from_numpy(np.stack([own for _, own in found])) if found else torch.empty(0, SIDE, SIDE)
    return Signatures([digest for digest, _ in found], thumbnails)


def _signature(source: Source) -> tuple[bytes, np.ndarray]:
    if isinstance(source, torch.Tensor | np.ndarray):
        return _of_array(source)
    is_file = isinstance(source, str | Path)
    image = read_image(source, min_side=2 * SIDE if is_file else None)
    content = Path(source).read_bytes() if is_file else image.tobytes()
    return hashlib.sha256(content).digest(), _thumbnail(image.convert("L"), FLAT)


def _of_array(source: torch.Tensor | np.ndarray) -> tuple[bytes, np.ndarray]:
    """Take an array `(H, W)` or `(H, W, C)`, or a tensor `(C, H, W)`, of any range of values."""
    array = source.detach().cpu().float().numpy() if isinstance(source, torch.Tensor) else source
    digest = hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()
    values = np.asarray(array, dtype=np.float32)
    if isinstance(source, np.ndarray) and values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:  # not an image
        return digest, np.full((SIDE, SIDE), np.nan, dtype=np.float32)
    values = np.moveaxis(values, 0, 2) if isinstance(source, torch.Tensor) else values
    grey = values @ LUMA if values.shape[2] == 3 else values.mean(axis=2)
    return digest, _thumbnail(Image.fromarray(grey), FLAT / 255 * float(np.ptp(values)))


def _thumbnail(grey: Image.Image, flat: float) -> np.ndarray:
    """Return the standardised thumbnail; NaN for a small image, or one whose grey levels deviate by `flat` at most."""
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    if min(grey.size) < SMALL or not small.std(ddof=1) > max(flat, 1e-6):
        return np.full_like(small, np.nan)
    return (small - small.mean()) / small.std(ddof=1)


def _pairs(first: str, a: Signatures, second: str, b: Signatures) -> Iterator[Pair]:
    """Yield the pairs of two parts, or of one (`first == second`), in which the earlier image comes first."""
    same, position_of = first == second, {}
    for j, digest in enumerate(b.digests):
        position_of.setdefault(digest, j)
    exact = set()
    for i, digest in enumerate(a.digests):
        j = position_of.get(digest)
        if j is not None and (not same or j < i):
            exact.add(i)
            yield Pair((first, j if same else i), (second, i if same else j), True, 1.0)
    rows = [i for i in _comparable(a) if i not in exact]
    columns = rows if same else _comparable(b)
    for i, j, correlation in _near(a.thumbnails[rows], b.thumbnails[columns], same):
        yield Pair((first, rows[i]), (second, columns[j]), False, correlation)


def _comparable(own: Signatures) -> list[int]:
    return (~own.thumbnails[:, 0, 0].isnan()).nonzero().flatten().tolist()


def _near(a: torch.Tensor, b: torch.Tensor, same: bool) -> Iterator[tuple[int, int, float]]:
    """Yield each row of `a` that has a near copy in `b`, mirrored or not, with its most similar row of `b`.

    With `same`, `a` is `b`, and only pairs with the lower row first count.
    """
    coarse_b, fine_b = _coarse(b), b.flatten(1)
    for start in range(0, len(a), CHUNK):
        rows = a[start : start + CHUNK]
        best: dict[int, tuple[float, int]] = {}
        for view in (rows, rows.flip(-1)):
            for i, j in (_coarse(view) @ coarse_b.T > COARSE_ALIKE).nonzero().tolist():
                if same and start + i >= j:
                    continue
                correlation = (view[i].flatten() @ fine_b[j]).item() / (SIDE * SIDE - 1)
                if correlation > best.get(i, (ALIKE, 0))[0]:
                    best[i] = correlation, j
        for i, (correlation, j) in sorted(best.items()):
            yield start + i, j, min(correlation, 1.0)


def _coarse(thumbnails: torch.Tensor) -> torch.Tensor:
    """Return one row of unit length per thumbnail, so that the product of two rows is their correlation."""
    small = F.avg_pool2d(thumbnails[:, None], SIDE // COARSE).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)
