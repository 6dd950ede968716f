"""How much faster is training on stored activations than running the frozen part in every epoch?

    python benchmarks/frozen.py                       # 160 images of Dogs vs Cats, 10 epochs, about two minutes
    python benchmarks/frozen.py --train 1600 --val 400 --model squeezenet1_1 --weights FILE --stage features.9

Four contenders start from the same weights, see the same images in the same order, and take turns, an epoch each:
a plain loop in float32; `fit` on images; and `fit` on cached activations in both precisions.
An epoch is all training images and one evaluation on the validation part, without augmentation. The plain loop decodes
every image in every epoch; `fit` decodes it once, in its first pass, which starts from an empty cache.
Writes benchmarks/frozen.md, or the file that --out names.
"""

import argparse
import copy
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import tlcourse as tl
from tlcourse import runtime
from tlcourse.data import Splits
from tlcourse.data.loading import pixel_cache as _pixels
from tlcourse.evaluation import Evaluation, evaluate
from tlcourse.features import precompute

REPORT = Path(__file__).with_suffix(".md")
BATCH = 32
NEEDED = {"head": 8.0, "more": 2.5}  # times the plain loop, first pass included


@dataclass
class Contender:
    """One way to train: seconds of the first pass and of each epoch, and what came out."""

    name: str
    model: nn.Module
    epoch: Callable[[], None]
    data: object
    first: float = 0.0
    epochs: list[float] = field(default_factory=list)
    result: Evaluation | None = None

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return self.first + sum(self.epochs)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4)


class PlainLoaders:
    """Loaders that decode every image each time it is used, in the order of the package's loaders."""

    def __init__(self, splits: Splits):
        batches = splits.loaders(BATCH, seed=0).train.batch_sampler
        # The seed that a plain loader draws for its workers comes from elsewhere: else the order would be another.
        common = {"num_workers": tl.get_runtime().workers, "generator": torch.Generator()}
        self.train = DataLoader(splits.train, batch_sampler=batches, **common)
        self.val = DataLoader(splits.val, 2 * BATCH, **common)


def plain_loop(model: nn.Module, splits: Splits) -> Contender:
    """The loop and the loaders of a tutorial, in float32; frozen batch norms in evaluation mode."""
    data, optimizer = PlainLoaders(splits), optimizer_of(model)

    def epoch() -> None:
        tl.models.train_mode(model)
        for images, labels in data.train:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        evaluate(model, data.val)

    return Contender("plain loop, float32", model, epoch, data)


def fit_on_images(model: nn.Module, splits: Splits, precision: str) -> Contender:
    """The package's loop and loaders, the frozen part in every epoch. Its first pass decodes the images."""
    forget_images()
    start = time.perf_counter()
    for loader in splits.loaders(BATCH)[:2]:
        next(iter(loader))
    first = time.perf_counter() - start
    data, optimizer = splits.loaders(BATCH, seed=0), optimizer_of(model)

    def epoch() -> None:
        tl.train.fit(model, data, optimizer, epochs=1, precision=precision)

    return Contender(f"`fit` on images, {precision}", model, epoch, data, first)


def fit_on_kept(model: nn.Module, splits: Splits, precision: str) -> Contender:
    """The package's loop on the frozen part's output, computed once per image. Its first pass starts from the files."""
    forget_images()
    start = time.perf_counter()
    cached = precompute(model, splits, precision=precision)
    first = time.perf_counter() - start
    data, optimizer = cached.loaders(BATCH, seed=0), optimizer_of(cached.trainable_part)

    def epoch() -> None:
        tl.train.fit(cached.trainable_part, data, optimizer, epochs=1, precision=precision)

    return Contender(f"`fit` on cached activations, {precision}", cached.trainable_part, epoch, data, first)


def forget_images() -> None:
    """Let no contender find what another has decoded."""
    _pixels.remembered.clear()
    shutil.rmtree(tl.get_runtime().cache / "pixels", ignore_errors=True)


@contextmanager
def cache_of_its_own() -> Iterator[None]:
    """Put the cache into a temporary folder: what the user has kept is neither found nor deleted."""
    now = tl.get_runtime()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        runtime._current = replace(now, cache=Path(folder))
        try:
            yield
        finally:
            runtime._current = now
            _pixels.remembered.clear()


def compare(model: nn.Module, stage: str, splits: Splits, epochs: int) -> list[Contender]:
    """Train from one stage on in all ways, in turns."""
    tl.models.unfreeze_from(model, stage)
    with torch.no_grad():
        model(torch.stack([splits.val[i][0] for i in range(8)]))  # libraries choose their kernels at first use
    other = "bfloat16" if tl.get_runtime().bf16 else "float32"
    with cache_of_its_own():
        contenders = [
            plain_loop(copy.deepcopy(model), splits),
            fit_on_images(copy.deepcopy(model), splits, other),
            *(fit_on_kept(copy.deepcopy(model), splits, precision) for precision in dict.fromkeys(["float32", other])),
        ]
        for number in range(1, epochs + 1):
            for contender in contenders:
                torch.manual_seed(number)  # of dropout
                start = time.perf_counter()
                contender.epoch()
                contender.epochs.append(time.perf_counter() - start)
            print(f"{stage}, epoch {number}: " + ", ".join(f"{c.epochs[-1]:.2f} s" for c in contenders), flush=True)
        for contender in contenders:
            contender.result = evaluate(contender.model, contender.data.val)
    return contenders


def rows(stage: str, contenders: list[Contender]) -> list[str]:
    """Return the table's lines for one stage, ratios against the first contender."""
    plain, lines = contenders[0], []
    for one in contenders:
        epoch, result = statistics.median(one.epochs), one.result
        ratios = f"{statistics.median(plain.epochs) / epoch:.1f} | {plain.total / one.total:.1f}"
        lines.append(
            f"| {stage} | {one.name} | {one.first:.1f} | {epoch:.2f} | {one.total:.1f} | {ratios} | "
            f"{result.accuracy:.3f} | {result.loss:.3f} |"
        )
    return lines


def main() -> int:
    """Compare for the head alone and for a stage with the head; return 0 when both reach what is needed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="dogs-vs-cats", help="a name of the catalog, or a folder")
    parser.add_argument("--train", type=int, default=160)
    parser.add_argument("--val", type=int, default=80)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", help="a file; without it the weights are random")
    parser.add_argument("--stage", default="layer4", help="trained beside the head in the second comparison")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=REPORT)
    given = parser.parse_args()
    tl.setup()
    model = tl.models.create(given.model, 2, weights=given.weights)
    prepared = tl.preprocessing.Preprocessing(given.size, given.size)
    splits = tl.data.load(given.data, model=prepared, train=given.train, val=given.val, test=2, augment=False)
    found = {stage: compare(copy.deepcopy(model), stage, splits, given.epochs) for stage in ("head", given.stage)}
    trained = {stage: stage if stage == "head" else f"{stage} to head" for stage in found}
    device = tl.get_runtime().device
    text = "\n".join(
        [
            "# Frozen work done once",
            "",
            f"{given.model}, {'random' if given.weights is None else 'pre-trained'} weights, {given.size} pixels; "
            f"{given.train} training and {given.val} validation images of {Path(given.data).name}, {given.epochs} "
            f"epochs, batches of {BATCH}. PyTorch {torch.__version__.partition('+')[0]}, {device.type}, "
            f"{os.cpu_count()} cores, {torch.get_num_threads()} threads. Made by `python benchmarks/frozen.py`.",
            "",
            "Times in seconds, an epoch's the median; ratios against the plain loop, of an epoch and of the whole run, "
            "first pass included. Accuracy and loss on the validation part, after the last epoch.",
            "",
            "| trains | way | first pass | epoch | whole run | x an epoch | x the run | accuracy | loss |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
            *(line for stage, contenders in found.items() for line in rows(trained[stage], contenders)),
            "",
        ]
    )
    given.out.write_text(text, encoding="utf-8")
    print(text)
    reached = [
        contenders[0].total / contenders[-1].total >= NEEDED["head" if stage == "head" else "more"]
        for stage, contenders in found.items()
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
