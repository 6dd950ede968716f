"""An array that is computed once, in blocks of rows, and kept in a file; a damaged file is computed again."""

import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from tlcourse.atomic_write import atomic_write

IN_MEMORY = 2**30  # bytes; a larger file stays on disk, and rows are read from there
CHECKSUM = struct.Struct("<I")  # at the end of the file, of all bytes before it

Compute = Callable[[], Iterable[torch.Tensor]]  # gives all rows in order, in blocks, float32


def computed_once(file: Path | None, shape: tuple[int, ...], compute: Compute) -> np.ndarray:
    """Return an array of a shape: from its file, or computed and stored there; without a file, in memory.

    It is float16, or float32 where a value is too large for that (65,504). The file is NumPy's, with a checksum after
    the array. It is written block by block, because it may be larger than the memory; of more than `IN_MEMORY` bytes
    it is mapped, not read.

    Raises:
        OSError: the disk has too little room.
        FloatingPointError: a value is infinite or not a number.
    """
    if file is None:
        return _in_smallest_type(None, shape, compute)
    if (stored := _read(file, shape)) is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):  # the processes of one training want the same file
            if (stored := _read(file, shape)) is None:
                stored = _in_smallest_type(file, shape, compute)
    return stored


def _in_smallest_type(file: Path | None, shape: tuple[int, ...], compute: Compute) -> np.ndarray:
    try:
        return _computed(file, shape, compute, torch.float16)
    except OverflowError:
        return _computed(file, shape, compute, torch.float32)


def _computed(file: Path | None, shape: tuple[int, ...], compute: Compute, dtype: torch.dtype) -> np.ndarray:
    blocks = _blocks(shape, compute, dtype)
    if file is None:
        array, start = torch.empty(shape, dtype=dtype).numpy(), 0
        for block in blocks:
            array[start : start + len(block)] = block
            start += len(block)
        return array
    _check_room(file, int(np.prod(shape)) * dtype.itemsize, shape[0])
    with atomic_write(file) as part, open(part, "w+b") as out:
        header = {"descr": "<f2" if dtype is torch.float16 else "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        out.seek(0)
        checksum = zlib.crc32(out.read())
        for block in blocks:
            out.write(block.data)
            checksum = zlib.crc32(block.data, checksum)
        out.write(CHECKSUM.pack(checksum))
    stored = _read(file, shape)
    if stored is None:
        raise OSError(f"{file} was written and cannot be read back: is the disk faulty?")
    return stored


def _blocks(shape: tuple[int, ...], compute: Compute, dtype: torch.dtype) -> Iterator[np.ndarray]:
    """Yield all rows in blocks of their final type, each block checked."""
    done = 0
    for block in compute():
        if not block.isfinite().all():
            bad = done + int((~block.isfinite().flatten(1).all(1)).nonzero()[0])
            raise FloatingPointError(f"Row {bad} of {shape[0]} has a value that is infinite or not a number.")
        narrow = block.to(dtype)
        if not narrow.isfinite().all():
            raise OverflowError
        done += len(narrow)
        assert narrow.shape[1:] == shape[1:], (narrow.shape, shape)
        yield narrow.contiguous().numpy()
    if done != shape[0]:
        raise ValueError(f"There are {shape[0]} rows to compute, and {done} came.")


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the array, or None where the file is missing, damaged or another array's."""
    if not file.is_file() or file.stat().st_size <= CHECKSUM.size:
        return None
    content = np.memmap(file, np.uint8, "r")
    if content[-CHECKSUM.size :].tobytes() != CHECKSUM.pack(zlib.crc32(content[: -CHECKSUM.size])):
        return None
    array = np.load(file, mmap_mode="r" if file.stat().st_size > IN_MEMORY else None, allow_pickle=False)
    return array if array.shape == shape and array.dtype in (np.float16, np.float32) else None


def _check_room(file: Path, needed: int, count: int) -> None:
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise OSError(
            f"{count:,} rows of activations need {needed:,} bytes, and {file.parent} has {free:,} free. Take fewer "
            "views, freeze more stages (activations are smaller there), or keep the cache on another disk."
        )
