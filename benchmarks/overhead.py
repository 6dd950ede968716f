"""What training costs beyond forward and backward: `fit` on images and the bare compute, in turns, in one process.

    python benchmarks/overhead.py --images FOLDER      # ResNet-18 at 128 pixels; writes overhead.md

Speeds of one machine differ by a tenth from minute to minute, and the overhead is a twentieth. So each epoch of `fit`
stands beside as many steps of forward and backward on a batch in memory, right before and right after it. The first
epoch, which decodes the images, is left out. Loading, augmentation, the optimizer's step and all counting are in the
time of `fit`; measuring on the validation part is not.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import torch
import torchvision
from torch.nn import functional as F
from training_report import machine

import tlcourse as tl
from tlcourse.preprocessing import Preprocessing

REPORT = Path(__file__).with_suffix(".md")
SIZE, BATCH, IMAGES = 128, 64, 256
ALLOWED = 0.05


def bare(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, precision: str, steps: int) -> float:
    """Return seconds of forward and backward on one batch, so many times, in the memory format that `fit` uses."""
    model.to(memory_format=torch.channels_last).train()
    start = time.perf_counter()
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        model.zero_grad()
    return time.perf_counter() - start


def pairs(loaders: tl.data.Loaders, precision: str, rounds: int) -> list[tuple[float, float]]:
    """Return seconds of an epoch of `fit`, and of the bare compute around it, for each round."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = next(iter(loaders.train))
    steps = len(loaders.train)
    tl.train.fit(model, loaders, optimizer, epochs=1, precision=precision)  # decodes, and warms up
    bare(model, images, labels, precision, 1)
    measured, before = [], bare(model, images, labels, precision, steps)
    for _ in range(rounds):
        seconds = tl.train.fit(model, loaders, optimizer, epochs=1, precision=precision).epochs[0].seconds
        after = bare(model, images, labels, precision, steps)
        measured.append((seconds, (before + after) / 2))
        before = after
    return measured


def main() -> int:
    """Measure both precisions, write the table; return 1 when the overhead is more than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    real = os.environ.get("TLCOURSE_REAL")
    parser.add_argument("--images", type=Path, default=real and Path(real, "dogs-vs-cats"))
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    if not options.images:
        parser.error("name a folder of images: --images FOLDER, or set TLCOURSE_REAL")
    now = tl.setup("mini", device="cpu")
    splits = tl.data.from_folder(options.images, model=Preprocessing(SIZE, 146)).take(train=IMAGES, val=2, test=2)
    lines = [
        "# What training costs beyond forward and backward",
        "",
        f"Made by `python benchmarks/overhead.py`. {machine(now)['machine']}.",
        "",
        f"ResNet-18 at {SIZE} pixels, {IMAGES} images, batches of {BATCH}, SGD with momentum; medians of "
        f"{options.rounds} epochs, each beside the bare compute right before and after it; in brackets the quartiles.",
        "",
        "| precision | `fit`, images/s | bare, images/s | overhead |",
        "|---|--:|--:|--:|",
    ]
    worst = 0.0
    for precision in ("float32", "bfloat16")[: 1 + now.bf16]:
        found = pairs(splits.loaders(BATCH, seed=0), precision, options.rounds)
        shares = [1 - bare / fit for fit, bare in found]
        fit, bare_only = (statistics.median(IMAGES / pair[i] for pair in found) for i in (0, 1))
        low, middle, high = statistics.quantiles(shares, n=4)
        worst = max(worst, middle)
        lines.append(f"| {precision} | {fit:.1f} | {bare_only:.1f} | {middle:.1%} ({low:.1%} to {high:.1%}) |")
    text = "\n".join(lines) + "\n"
    REPORT.write_text(text, encoding="utf-8")
    print(text)
    return int(worst > ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main())
