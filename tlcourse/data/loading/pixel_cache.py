"""Decoded images, kept as uint8: small sets in memory, larger ones in a file that is mapped into memory."""

import itertools
import os
import shutil
import struct
import threading
import warnings
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from tlcourse import runtime
from tlcourse.atomic_write import atomic_write
from tlcourse.data.images import Generated, ImageSet

Keep = Callable[[Image.Image], Image.Image]

SMALL = 64 * 2**20  # bytes that a set may take in memory: more than that is worth a file, which other runs use too
DRAWN = 1024 * 2**20  # the same for generated images: a file's key would need every image drawn
ASIDE = 4  # decoded images a core that may wait until they are written
REMEMBERED = 512 * 2**20  # bytes of all sets in memory that are kept for the next loader

# A file: the pixels of all images, a line (height, width, checksum) for each, and this.
FORMAT = 1
TRAILER = struct.Struct("<8sIIQ")  # name, format, checksum of the lines, number of images
MAGIC = b"tlpixels"


class Decoder:
    """The images of a set, decoded anew each time."""

    def __init__(self, images: ImageSet, keep: Keep):
        self.images, self.keep = images, keep

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self.keep(self.images.raw(index)))


class Mapped:
    """The images of a file; `lines` are heights, widths and checksums, `(N, 3)`."""

    def __init__(self, flat: np.ndarray, lines: np.ndarray):
        self.flat, self.shapes = flat, lines[:, :2]
        self.starts = np.concatenate([[0], np.cumsum(3 * lines[:, 0] * lines[:, 1])])

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = self.shapes[index]
        return self.flat[self.starts[index] : self.starts[index + 1]].reshape(height, width, 3)


Pixels = Sequence[np.ndarray] | Decoder | Mapped


class _Remembered(NamedTuple):
    pixels: Pixels
    sources: list  # held, because generated images are known by their functions' addresses
    bytes: int


_remembered: OrderedDict[str, _Remembered] = OrderedDict()
_building = threading.RLock()


def pixels(images: ImageSet, keep: Keep) -> Pixels:
    """Return what `keep` leaves of each image, uint8 `(H, W, 3)`, decoded once where memory or disk have room for it.

    `keep` is named by its repr. A file is written whole or not at all, under a key made of images and `keep`; a damaged
    one is written anew. Files take at most half of what the disk has free without them: those that were used longest
    ago give way.

    Raises:
        ValueError: an image cannot be read; it names the file.
    """
    drawn = any(isinstance(source, Generated) for source in images.sources)
    content = _drawn_content(images) if drawn else images.content
    key = sha256(f"{FORMAT} {PIL.__version__} {keep} {content}".encode()).hexdigest()[:32]
    with _building:
        if key not in _remembered:
            file = None if drawn else runtime.get_runtime().cache / "pixels" / f"{key}.pixels"
            found = _find(images, keep, file)
            size = sum(array.nbytes for array in found) if isinstance(found, list) else 0
            _remembered[key] = _Remembered(found, images.sources if drawn else [], size)
        _remembered.move_to_end(key)
        while len(_remembered) > 1 and sum(entry.bytes for entry in _remembered.values()) > REMEMBERED:
            _remembered.popitem(last=False)
        return _remembered[key].pixels


def _drawn_content(images: ImageSet) -> str:
    """Name the images of a set without drawing them; true within this process, while their functions live."""
    return repr([(id(s.make), *s[1:]) if isinstance(s, Generated) else images.identity(s) for s in images.sources])


def _find(images: ImageSet, keep: Keep, file: Path | None) -> Pixels:
    if file is not None and (stored := read(file)) is not None:
        return stored
    first, size, limit = [], 0, DRAWN if file is None else SMALL
    with closing(_decode(Decoder(images, keep))) as arrays:
        for array in arrays:
            first.append(array)
            size += array.nbytes
            if size > limit:
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
        f"{'memory' if file is None else runtime.shorten(file.parent)}. Every epoch makes them anew"
        f"{'.' if file is None else ': set TLCOURSE_CACHE to a larger disk to save that time.'}",
        stacklevel=2,
    )
    return Decoder(images, keep)


def _decode(decoder: Decoder) -> Iterator[np.ndarray]:
    """Yield all images in their order, decoded by all cores: Pillow works outside of Python's lock."""
    pool, waiting = ThreadPoolExecutor(runtime.cores()), deque()
    try:
        for index in tqdm(range(len(decoder)), desc="decoding images once", leave=False, delay=1):
            waiting.append(pool.submit(decoder.__getitem__, index))
            if len(waiting) > ASIDE * runtime.cores():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def write(file: Path, arrays: Iterable[np.ndarray]) -> None:
    """Write images `(H, W, 3)` as one file, whole or not at all."""
    lines = []
    with atomic_write(file) as part, part.open("wb") as stream:
        for array in arrays:
            data = np.ascontiguousarray(array)
            stream.write(data.data)
            lines.append((*data.shape[:2], zlib.crc32(data.data)))
        index = np.array(lines, dtype="<i8").tobytes()
        stream.write(index)
        stream.write(TRAILER.pack(MAGIC, FORMAT, zlib.crc32(index), len(lines)))


def read(file: Path) -> Mapped | None:
    """Open a file of images; None where there is none, or where it is damaged."""
    try:
        flat = np.asarray(np.memmap(file, np.uint8, "r"))
        os.utime(file)  # which files are in use decides which give way to others
        magic, version, checksum, count = TRAILER.unpack(flat[-TRAILER.size :].tobytes())
        index = flat[-TRAILER.size - 24 * count : -TRAILER.size].tobytes()
    except (OSError, ValueError, struct.error):
        return None
    if (magic, version) != (MAGIC, FORMAT) or len(index) != 24 * count or zlib.crc32(index) != checksum:
        return None
    lines = np.frombuffer(index, dtype="<i8").reshape(count, 3)
    stored = Mapped(flat, lines)
    if stored.starts[-1] + len(index) + TRAILER.size != len(flat):
        return None
    with ThreadPoolExecutor(runtime.cores()) as pool:
        checksums = pool.map(lambda i: zlib.crc32(stored[i]), range(count), chunksize=64)
        return stored if list(checksums) == lines[:, 2].tolist() else None


def _make_room(folder: Path, needed: int) -> bool:
    """Delete files, the longest unused first, until `needed` bytes fit; False where they cannot.

    The caller holds the folder's lock: what is unfinished here was left by a process that was killed.
    """
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
    files = sorted(folder.glob("*.pixels"), key=lambda file: file.stat().st_mtime)
    taken = sum(file.stat().st_size for file in files)
    allowed = (shutil.disk_usage(folder).free + taken) // 2
    if needed > allowed:
        return False
    for file in files:
        if taken + needed <= allowed:
            break
        taken -= file.stat().st_size
        with suppress(OSError):  # Windows keeps a file that is in use
            file.unlink()
    return True
