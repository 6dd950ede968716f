"""Render the toy pets and pack them as the image set that the package carries.

python tools/render_toypets.py [--out tlcourse/data/toypets.zip] [--seed 0] [--train 1000 --val 200 --test 800]

On one machine the same arguments give the same bytes.
"""

import argparse
import io
import os
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from tlcourse.data import toypets

OUT = Path(__file__).parents[1] / "tlcourse" / "data" / "toypets.zip"
QUALITY = 92  # WebP: 2,000 pictures in 3.8 MB, and no blocks to be seen
BLOCK = 1_000_000  # pictures per --seed, so that two sets never share one


def members(seed: int, counts: dict[str, int]) -> list[tuple[str, int, int]]:
    """List every picture as (name in the zip, label, seed); no seed occurs twice.

    Raises:
        ValueError: A split cannot be balanced, or the set is larger than a block of seeds.
    """
    odd = {split: count for split, count in counts.items() if count % 2 or count < 0}
    if odd:
        raise ValueError(f"each split has as many cats as dogs: give even numbers, not {odd}")
    if sum(counts.values()) > BLOCK:
        raise ValueError(f"{sum(counts.values()):,} pictures are too many: give at most {BLOCK:,} in all")
    rows, number = [], seed * BLOCK
    for split, count in counts.items():
        for i in range(count):
            rows.append((f"{split}/{toypets.CLASSES[i % 2]}/{i // 2:04d}.webp", i % 2, number))
            number += 1
    return sorted(rows)


def encode(picture: torch.Tensor) -> bytes:
    """A uint8 picture `(3, H, W)` as WebP."""
    stream = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "WEBP", quality=QUALITY, method=6)
    return stream.getvalue()


def pack(out: Path, rows: list[tuple[str, int, int]]) -> None:
    """Render the pictures on all cores and write them to a zip, which appears only when it is complete."""

    def one(row: tuple[str, int, int]) -> bytes:
        _, label, seed = row
        return encode(toypets.render([toypets.sample(label, seed)])[0])

    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=out.name, suffix=".part")
    try:
        with (
            os.fdopen(handle, "wb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for (name, *_), data in zip(rows, pool.map(one, rows), strict=True):
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o644 << 16
                archive.writestr(info, data)
        os.chmod(temporary, 0o644)  # temporary files are private
        os.replace(temporary, out)
    except BaseException:
        os.unlink(temporary)
        raise


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, render, pack, and print speed and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the zip to write")
    parser.add_argument("--seed", type=int, default=0, help="another number gives another set")
    for split, count in (("train", 1000), ("val", 200), ("test", 800)):
        parser.add_argument(f"--{split}", type=int, default=count, help="pictures in this split, half of them cats")
    options = parser.parse_args(arguments)
    try:
        rows = members(options.seed, {split: getattr(options, split) for split in ("train", "val", "test")})
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # the pool has a thread for every core
    start = time.perf_counter()
    pack(options.out, rows)
    rate = len(rows) / (time.perf_counter() - start)
    print(f"{len(rows):,} pictures, {rate:.1f} images/s, {options.out.stat().st_size / 1e6:.2f} MB: {options.out}")


if __name__ == "__main__":
    main()
