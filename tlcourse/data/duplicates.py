"""The same picture twice: copies, and near copies, in two parts of an image set or within one.

A picture of the test part that was trained on is no test. Copies hide under other names, sizes and JPEG qualities, or
mirrored; so pictures are compared by what they show: a thumbnail in grey, its mean taken off, its deviation set to one.
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

from tlcourse.data.images import Source, ZipMember, read_image

SIDE = 48  # pixels of a thumbnail: two photos of one scene differ here, two encodings of one photo do not
COARSE = 12  # the first comparison, of everything with everything, looks at this many
# Correlations of thumbnails. The likest different pictures have 0.93 (36 million pairs of 8,500 photos of 64 pixels),
# or 0.90 (3,000 larger photos; 2,000 toy pets). Of 100 photos at least 99 stay above 0.96 when re-encoded (quality 30),
# halved, brightened by 1.3 or greyed; cropped by 1 % at each side 84 do, by 2 % only 22: crops are not found.
ALIKE = 0.96
COARSE_ALIKE = 0.95
FLAT = 6.0  # grey levels: what deviates less is an empty page, and every empty page looks like every other
SMALL = 24  # pixels: below, different pictures (handwritten digits, say) look alike, and only exact copies count
LUMA = torch.tensor([0.299, 0.587, 0.114])  # how Pillow, too, makes grey of red, green and blue
CHUNK = 2048  # rows compared at once: 2,048 x 25,000 correlations are 200 MB


@dataclass(frozen=True)
class Pair:
    """Two positions, each a part's name and an index, that hold the same picture.

    `exact` says that every pixel, or every byte of the files, is the same; `correlation` is the correlation of the
    thumbnails, 1 for exact copies.
    """

    first: tuple[str, int]
    second: tuple[str, int]
    exact: bool
    correlation: float


@dataclass(frozen=True)
class Signatures:
    """What is compared: a digest of each image, and thumbnails `(N, SIDE, SIDE)`, NaN where only copies count."""

    digests: list[bytes]
    thumbnails: torch.Tensor

    def __len__(self) -> int:
        return len(self.digests)


def find_duplicates(parts: Any, *, within: bool = False) -> list[Pair]:
    """Find pictures that are in two parts, exact copies first, then near ones by falling correlation.

    Each picture of a part is reported once, with the likest of the other part. With `within`, copies inside one part
    are reported too. About 500 photos a second on one core.

    Args:
        parts: `Splits`, or a mapping of names to lists of sources: paths, arrays or tensors `(C, H, W)`. Sources that
            have been read before may be given as `Signatures`.

    Raises:
        ValueError: an image that cannot be read.
    """
    named = parts if isinstance(parts, Mapping) else {part: getattr(parts, part) for part in ("train", "val", "test")}
    read = {name: own if isinstance(own, Signatures) else signatures(_sources(own)) for name, own in named.items()}
    pairs = []
    for i, (first, a) in enumerate(read.items()):
        for second, b in list(read.items())[i if within else i + 1 :]:
            pairs += _pairs(first, a, second, b)
    return sorted(pairs, key=lambda pair: (not pair.exact, -pair.correlation))


def signatures(sources: Sequence[Source]) -> Signatures:
    """Read images and keep what their comparison needs."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(_signature, sources))
    thumbnails = torch.stack([thumbnail for _, thumbnail in found]) if found else torch.empty(0, SIDE, SIDE)
    return Signatures([digest for digest, _ in found], thumbnails)


def _sources(own: Any) -> Sequence[Source]:
    return getattr(own, "sources", own)


def _signature(source: Source) -> tuple[bytes, torch.Tensor]:
    if isinstance(source, torch.Tensor | np.ndarray):
        return _of_array(source)
    if isinstance(source, ZipMember):
        image = read_image(source)
        return hashlib.sha256(image.tobytes()).digest(), _of_image(image)
    try:
        digest = hashlib.sha256(Path(source).read_bytes()).digest()
        with Image.open(source) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG decodes at a fraction of the size, several times faster
            return digest, _of_image(image if image.mode in ("L", "RGB") else read_image(source))
    except OSError:
        return digest, _of_image(read_image(source))  # names the file and says what to do


def _of_image(image: Image.Image) -> torch.Tensor:
    if min(image.size) < SMALL:
        return torch.full((SIDE, SIDE), torch.nan)
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return _standard(torch.from_numpy(np.asarray(grey, dtype=np.float32).copy()), FLAT)


def _of_array(source: torch.Tensor | np.ndarray) -> tuple[bytes, torch.Tensor]:
    """Take an array `(H, W)` or `(H, W, 3)`, or a tensor `(C, H, W)`, of any range of values."""
    array = source.detach().cpu().float().numpy() if isinstance(source, torch.Tensor) else source
    digest = hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if isinstance(source, np.ndarray):
        tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    if tensor.ndim != 3 or min(tensor.shape[1:]) < SMALL:
        return digest, torch.full((SIDE, SIDE), torch.nan)
    weights = LUMA if len(tensor) == 3 else torch.full((len(tensor),), 1 / len(tensor))
    grey = F.interpolate((weights @ tensor.flatten(1)).view(1, 1, *tensor.shape[1:]), (SIDE, SIDE), mode="area")[0, 0]
    spread = (tensor.max() - tensor.min()).item()
    return digest, _standard(grey, FLAT / 255 * spread)


def _standard(grey: torch.Tensor, flat: float) -> torch.Tensor:
    deviation = grey.std()
    if not deviation > max(flat, 1e-6):
        return torch.full((SIDE, SIDE), torch.nan)
    return (grey - grey.mean()) / deviation


def _pairs(first: str, a: Signatures, second: str, b: Signatures) -> Iterator[Pair]:
    same, known = first == second, {}
    for j, digest in enumerate(b.digests):
        known.setdefault(digest, j)
    exact = set()
    for i, digest in enumerate(a.digests):
        j = known.get(digest)
        if j is not None and (not same or j < i):
            exact.add(i)
            yield Pair((first, j if same else i), (second, i if same else j), True, 1.0)
    rows = torch.tensor([i for i in range(len(a)) if i not in exact and not a.thumbnails[i, 0, 0].isnan()])
    told = exact if same else set()
    columns = torch.tensor([j for j in range(len(b)) if j not in told and not b.thumbnails[j, 0, 0].isnan()])
    if not len(rows) or not len(columns):
        return
    for i, j, correlation in _near(a.thumbnails[rows], b.thumbnails[columns], rows, columns, same):
        yield Pair((first, i), (second, j), False, correlation)


def _near(
    a: torch.Tensor, b: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, same: bool
) -> Iterator[tuple[int, int, float]]:
    """Yield for each row its likest column, mirrored or not, where both comparisons find them alike."""
    small_b, fine_b = _coarse(b), b.flatten(1)
    for start in range(0, len(a), CHUNK):
        part = a[start : start + CHUNK]
        best: dict[int, tuple[float, int]] = {}
        for view in (part, part.flip(-1)):
            alike = _coarse(view) @ small_b.T
            for i, j in (alike > COARSE_ALIKE).nonzero().tolist():
                if same and rows[start + i] >= columns[j]:
                    continue  # itself, or a pair that was seen from the other side
                correlation = (view[i].flatten() @ fine_b[j]).item() / (SIDE * SIDE - 1)
                if correlation > ALIKE and correlation > best.get(i, (0.0, 0))[0]:
                    best[i] = correlation, j
        for i, (correlation, j) in sorted(best.items()):
            yield int(rows[start + i]), int(columns[j]), min(correlation, 1.0)


def _coarse(thumbnails: torch.Tensor) -> torch.Tensor:
    """Return rows of unit length, so that their products are correlations."""
    small = F.avg_pool2d(thumbnails[:, None], SIDE // COARSE).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)
