"""Decoded images, kept as uint8: small sets in memory, larger ones in a file that is mapped into memory."""

import itertools
import os
import shutil
import struct
import threading
import warnings
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from tlcourse import runtime
from tlcourse.atomic_write import atomic_write
from tlcourse.data.images import ImageSet
from tlcourse.data.reading import Generated

Transform = Callable[[Image.Image], Image.Image]

MAX_IN_MEMORY = 64 * 2**20  # bytes of a set in memory: more than that is worth a file, which other runs can use too
MAX_GENERATED = 1024 * 2**20  # the same for generated images: the name of a file would need all of them drawn
MAX_REMEMBERED = 512 * 2**20  # bytes of all sets in memory that are kept for the next loader
DECODE_AHEAD = 4  # images per core that may wait to be written

# A file holds the pixels of all images, then height, width and checksum of each, and at the end this.
FORMAT = 2
TRAILER = struct.Struct("<QQ")  # number of images, checksum of their heights, widths and checksums


@dataclass(frozen=True)
class DecodeEachTime:
    """The images of a set, decoded at each access."""

    images: ImageSet
    transform: Transform

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self.transform(self.images.raw(index)))


class PixelFile:
    """The images of a file in memory; `index` holds their heights, widths and checksums, `(N, 3)`."""

    def __init__(self, content: np.ndarray, index: np.ndarray):
        self.content, self.index = content, index
        self.ends = np.cumsum(3 * index[:, 0] * index[:, 1])

    def __getitem__(self, index: int) -> np.ndarray:
        height, width, _ = self.index[index]
        return self.content[self.ends[index] - 3 * height * width : self.ends[index]].reshape(height, width, 3)


Pixels = list[np.ndarray] | DecodeEachTime | PixelFile

# By key: pixels, and the sources of generated images, whose key holds their functions' addresses.
remembered: OrderedDict[str, tuple[Pixels, list]] = OrderedDict()
_lock = threading.RLock()


def load_pixels(images: ImageSet, transform: Transform) -> Pixels:
    """Return `transform` of each image, uint8 `(H, W, 3)`, computed once where memory or disk have room for it.

    Files are named after the images and the transform's repr; a damaged one is replaced. They take at most half of the
    disk that they leave free: those unused for longest are deleted.

    Raises:
        ValueError: an image cannot be read; the message names the file.
    """
    generated = any(isinstance(source, Generated) for source in images.sources)
    if generated:  # identified without drawing them, by their functions' addresses
        named = ((id(s.make), *s[1:]) if isinstance(s, Generated) else images.identity(s) for s in images.sources)
    content = repr(list(named)) if generated else images.content
    key = sha256(f"{FORMAT} {PIL.__version__} {transform} {content}".encode()).hexdigest()[:32]
    with _lock:
        if key not in remembered:
            file = None if generated else runtime.get_runtime().cache / "pixels" / f"{key}.pixels"
            remembered[key] = _open_or_decode(images, transform, file), images.sources if generated else []
        remembered.move_to_end(key)
        while len(remembered) > 1 and _bytes_in_memory() > MAX_REMEMBERED:
            remembered.popitem(last=False)
        return remembered[key][0]


def _bytes_in_memory() -> int:
    lists = (pixels for pixels, _ in remembered.values() if isinstance(pixels, list))
    return sum(array.nbytes for array in itertools.chain.from_iterable(lists))


def _open_or_decode(images: ImageSet, transform: Transform, file: Path | None) -> Pixels:
    if file is not None and (stored := read(file)) is not None:
        return stored
    first, size = [], 0
    with closing(_decode(images, transform)) as arrays:
        for array in arrays:
            first.append(array)
            size += array.nbytes
            if size > (MAX_GENERATED if file is None else MAX_IN_MEMORY):
                break
        else:
            return first
        expected = size * len(images) // len(first)
        if file is not None:
            with suppress(OSError):  # a full disk, a folder that cannot be written
                file.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(file.parent / ".lock"):  # several processes of one training want the same file
                    if (stored := read(file)) is not None:
                        return stored
                    if _make_room(file.parent, expected):
                        write(file, itertools.chain(first, arrays))
                        if (stored := read(file)) is not None:
                            return stored
    warnings.warn(
        f"The {len(images):,} decoded images need {expected / 2**30:.1f} GiB, for which there is no room in "
        f"{'memory' if file is None else runtime.shorten(file.parent)}. Every epoch decodes them again"
        f"{'.' if file is None else ': set TLCOURSE_CACHE to a larger disk to save that time.'}",
        stacklevel=2,
    )
    return DecodeEachTime(images, transform)


def _decode(images: ImageSet, transform: Transform) -> Iterator[np.ndarray]:
    """Yield all images in their order, decoded by all cores: Pillow releases Python's lock."""
    decoder, pool = DecodeEachTime(images, transform), ThreadPoolExecutor(runtime.cores())
    indices = tqdm(range(len(images)), desc="decoding images once", leave=False, delay=1)
    try:
        jobs = (pool.submit(decoder.__getitem__, index).result for index in indices)
        yield from results(jobs, DECODE_AHEAD * runtime.cores())
    finally:
        pool.shutdown(cancel_futures=True)


def results(jobs: Iterable[Callable[[], Any]], ahead: int) -> Iterator[Any]:
    """Yield what jobs return, in their order; each starts when it is taken from `jobs`, up to `ahead` too early."""
    waiting: deque[Callable[[], Any]] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def write(file: Path, arrays: Iterable[np.ndarray]) -> None:
    """Write images `(H, W, 3)` to a file, which appears only when it is complete."""
    index = []
    with atomic_write(file) as part, part.open("wb") as stream:
        for array in arrays:
            data = np.ascontiguousarray(array).data
            stream.write(data)
            index.append((*array.shape[:2], zlib.crc32(data)))
        lines = np.array(index, dtype="<i8").tobytes()
        stream.write(lines + TRAILER.pack(len(index), zlib.crc32(lines)))


def read(file: Path) -> PixelFile | None:
    """Open a file of images; None where there is none, or where it is damaged."""
    try:
        content = np.asarray(np.memmap(file, np.uint8, "r"))
        os.utime(file)  # which files are in use decides which are deleted for new ones
        count, checksum = TRAILER.unpack(content[-TRAILER.size :].tobytes())
    except (OSError, ValueError, struct.error):
        return None
    lines = content[-TRAILER.size - 24 * count : -TRAILER.size].tobytes()
    if count == 0 or len(lines) != 24 * count or zlib.crc32(lines) != checksum:
        return None
    stored = PixelFile(content, np.frombuffer(lines, dtype="<i8").reshape(count, 3))
    if stored.ends[-1] + len(lines) + TRAILER.size != len(content):
        return None
    with ThreadPoolExecutor(runtime.cores()) as pool:
        checksums = pool.map(lambda i: zlib.crc32(stored[i]), range(count), chunksize=64)
        return stored if list(checksums) == stored.index[:, 2].tolist() else None


def _make_room(folder: Path, needed: int) -> bool:
    """Delete files, the longest unused first, until `needed` bytes fit; return False where they cannot.

    The caller holds the folder's lock, so an unfinished file was left by a process that was killed.
    """
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
    files = sorted(folder.glob("*.pixels"), key=lambda file: file.stat().st_mtime)
    taken = sum(file.stat().st_size for file in files)
    allowed = (shutil.disk_usage(folder).free + taken) // 2
    for file in files if needed <= allowed else []:
        if taken + needed <= allowed:
            break
        taken -= file.stat().st_size
        with suppress(OSError):  # Windows keeps a file that is in use
            file.unlink()
    return needed <= allowed
