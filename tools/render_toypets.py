"""Render the toy pets and pack them as the image set that the package carries.

python tools/render_toypets.py [--out tlcourse/data/toypets.zip] [--seed 0] [--train 1000] [--drawn-train 120] ...

On one machine the same arguments give the same bytes.
"""

import argparse
import io
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import toypets
from PIL import Image

from tlcourse.atomic_write import atomic_write

OUT = Path(__file__).parents[1] / "tlcourse" / "data" / "toypets.zip"
QUALITY = 82  # WebP: the whole set in 4 MB, and no blocks to be seen
LOSSLESS = ("line", "silhouette")  # smaller than lossy: few tones, sharp edges
BLOCK = 1_000_000  # images per --seed, so that two sets never share one
COUNTS = {"train": 1000, "val": 200, "test": 800}
DRAWN = {"train": 120, "val": 40, "test": 160}  # of each other style

Row = tuple[str, str, int, str, int]  # name in the zip, style, label, breed, seed


def members(seed: int, counts: dict[str, dict[str, int]]) -> list[Row]:
    """List every image of every style and split; each has its own seed, so no animal is in two splits.

    Raises:
        ValueError: A split cannot be balanced, or the set is larger than a block of seeds.
    """
    kinds = [(label, breed) for label, name in enumerate(toypets.CLASSES) for breed in toypets.BREEDS[name]]
    odd = {
        f"{style} {split}": count
        for style, splits in counts.items()
        for split, count in splits.items()
        if count % len(kinds) or count < 0
    }
    if odd:
        raise ValueError(f"each split has as many images of every breed: give multiples of {len(kinds)}, not {odd}")
    total = sum(sum(splits.values()) for splits in counts.values())
    if total > BLOCK:
        raise ValueError(f"{total:,} images are too many: give at most {BLOCK:,} in all")
    rows, number = [], seed * BLOCK
    for style, splits in counts.items():
        for split, count in splits.items():
            for i in range(count):
                label, breed = kinds[i % len(kinds)]
                name = f"{style}/{split}/{toypets.CLASSES[label]}/{breed}/{i // len(kinds):04d}.webp"
                rows.append((name, style, label, breed, number))
                number += 1
    return sorted(rows)


def encode(image: torch.Tensor, style: str) -> bytes:
    """Return a uint8 image `(3, H, W)` as WebP."""
    stream, exact = io.BytesIO(), style in LOSSLESS
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(
        stream, "WEBP", lossless=exact, quality=100 if exact else QUALITY, method=6
    )
    return stream.getvalue()


def pack(out: Path, rows: list[Row]) -> None:
    """Render the images on all cores and write them to a zip, which appears only when it is complete."""

    def one(row: Row) -> bytes:
        _, style, label, breed, seed = row
        return encode(toypets.render([toypets.sample(label, seed, breed=breed)], style=style)[0], style)

    with (
        atomic_write(out) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for (name, *_), data in zip(rows, pool.map(one, rows), strict=True):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, render, pack, and print speed and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the zip to write")
    parser.add_argument("--seed", type=int, default=0, help="another number gives another set")
    for split, count in COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"images in the {split} part, of all breeds")
    for split, count in DRAWN.items():
        parser.add_argument(f"--drawn-{split}", type=int, default=count, help="images there of each other style")
    options = vars(parser.parse_args(arguments))
    out = options["out"]
    lifelike = {split: options[split] for split in COUNTS}
    drawn = {split: options[f"drawn_{split}"] for split in DRAWN}
    try:
        rows = members(options["seed"], {style: lifelike if style == "photo" else drawn for style in toypets.STYLES})
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # the pool has a thread for every core
    start = time.perf_counter()
    pack(out, rows)
    rate = len(rows) / (time.perf_counter() - start)
    print(f"{len(rows):,} images, {rate:.1f} images/s, {out.stat().st_size / 1e6:.2f} MB: {out}")


if __name__ == "__main__":
    main()
