"""Compare ways of learning: each way, number of images and seed is one run."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from timm import layers
from timm.models.resnet import BasicBlock
from torch import nn
from tqdm.auto import tqdm

from tlcourse.atomic_write import atomic_write
from tlcourse.data import ImageSet, Loaders, Splits
from tlcourse.evaluation import Evaluation, evaluate
from tlcourse.features import Features, extract, fit_probe, stage_features
from tlcourse.lessons.batch_statistics import WithNewStatistics
from tlcourse.lessons.comparison import Difference, Runs, plot_differences
from tlcourse.models import create, param_groups
from tlcourse.runtime import best_precision, get_runtime
from tlcourse.table import Table
from tlcourse.train import fit, schedules

STORED = Path(__file__).with_name("runs")
COLUMNS = ("data", "way", "images", "seed", "accuracy", "loss", "seconds")
__all__ = ["SCHEDULES", "Difference", "DropPath", "Probe", "Runs", "Trained", "WithNewStatistics"]
__all__ += ["add", "compare", "describe", "machine", "plot_differences", "stored"]

SCHEDULES = {
    "one-cycle": partial(schedules.one_cycle, warmup=0.2),
    "cosine": schedules.cosine,
    "warm-up and cosine": schedules.warmup_cosine,
    "constant": lambda optimizer, steps: schedules.constant(optimizer),
}
# A way learns from `images` images of the training set, chosen by the seed, and is measured on the validation set.
Way = Callable[[Splits, int, int], Evaluation | dict[str, Evaluation]]


def compare(
    ways: Mapping[str, Way], splits: Splits, *, sizes: Sequence[int], seeds: Sequence[int], bar: bool = True
) -> Runs:
    """Run every way with every number of training images and every seed, and measure it on the validation set.

    For one seed all ways learn from the same images. The test set is not read.

    Args:
        ways: name -> `Probe`, `Trained`, or a function of yours: `way(splits, images, seed)` learns from
            `splits.take(train=images, seed=seed)` and returns an `Evaluation` on the validation set, or several in a
            dictionary by the name of what they were measured on.
        splits: the images; each way takes its own training images from them.
        sizes: numbers of training images.
        seeds: each decides the choice of images, and what the way does at random.
        bar: show a progress bar.

    Raises:
        ValueError: there is no way, size or seed, or a way returned something else than an `Evaluation`.
    """
    if not (ways and sizes and seeds):
        raise ValueError("Nothing to compare: give at least one way, one number of images and one seed.")
    rows = Table()
    jobs = [(name, images, seed) for images in sizes for seed in seeds for name in ways]
    for name, images, seed in tqdm(jobs, desc="runs", leave=False, disable=None if bar else True):
        start = time.perf_counter()
        found = ways[name](splits, images, seed)
        found = found if isinstance(found, dict) else {splits.name: found}
        if wrong := [type(value).__name__ for value in found.values() if not isinstance(value, Evaluation)]:
            raise ValueError(f"{name!r} returned {wrong[0]}. Return tl.train.evaluate(model, loaders.val).")
        seconds = round(time.perf_counter() - start, 2)
        for data, measured in found.items():
            values = (data, name, images, seed, measured.accuracy, round(measured.loss, 4), seconds)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return Runs(rows, {splits.name: {"ways": {name: describe(way) for name, way in ways.items()}}})


def stored(name: str) -> Runs:
    """Return runs that the package carries, made by `python tools/store_runs.py`.

    Raises:
        ValueError: there are none of this name.
    """
    file = STORED / f"{name}.json"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in STORED.glob("*.json")))
        raise ValueError(f"There are no stored runs {name!r}. Choose among {names}.")
    content = json.loads(file.read_text(encoding="utf-8"))
    return Runs(Table(dict(zip(content["columns"], row, strict=True)) for row in content["rows"]), content["about"])


def add(name: str, runs: Runs, ways: Mapping[str, Way]) -> Path:
    """Write runs where `stored` finds them, with date, versions, machine, settings, instead of those of their set."""
    file, data = STORED / f"{name}.json", {row["data"] for row in runs.rows}
    old = stored(name) if file.is_file() else Runs(Table(), {})
    packages = {package: version(package) for package in ("torch", "torchvision", "timm")}
    made = {"date": date.today().isoformat(), **packages, "machine": machine()}
    made["ways"] = {way: describe(function) for way, function in ways.items()}
    rows = [row for row in old.rows if row["data"] not in data] + list(runs.rows)
    lines = ",\n".join(json.dumps([row[column] for column in COLUMNS]) for row in rows)
    head = json.dumps({"about": {**old.about, **dict.fromkeys(sorted(data), made)}, "columns": COLUMNS}, indent=1)
    STORED.mkdir(exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n]}}\n', encoding="utf-8")
    return file


@dataclass(frozen=True)
class Probe:
    """The way "frozen": a logistic regression on features, of the last stage or another, computed once for all runs."""

    model: nn.Module = field(repr=False)
    stage: str | None = field(default=None, repr=False)
    _known: dict[str, tuple] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, splits: Splits, images: int, seed: int) -> Evaluation:
        """Fit a probe on the features of `images` training images."""
        if self._known.get("parts", (None,))[0] is not splits:
            plain = splits.plain()
            self._known["parts"] = (splits, self._features(plain.train), self._features(plain.val))
        _, train, val = self._known["parts"]
        positions = replace(splits, train=ImageSet(range(len(train.y)), train.y, splits.classes))
        rows = positions.take(train=images, seed=seed).train.sources
        return fit_probe(Features(train.x[rows], train.y[rows]), seed=seed).evaluate(val)

    def _features(self, images: ImageSet) -> Features:
        return stage_features(self.model, images)[self.stage] if self.stage else extract(self.model, images)


@dataclass(frozen=True)
class Trained:
    """The ways "scratch" and "fine-tuned": train for a number of passes over the images, measure after the last one.

    AdamW on augmented images. No epoch is chosen, so nothing is gained by luck.

    Args:
        lr: highest learning rate of the head.
        passes: passes over the training images.
        weights: as in `tl.models.create`; None trains from scratch.
        layer_decay: factor from each stage's learning rate to that of the one below.
        model: a name for `tl.models.create`.
        start: called with the new model and the images to learn from, before training: to freeze, or to set the head.
        schedule: one of `SCHEDULES`.
        batch_size: images in a batch.
    """

    lr: float
    passes: int
    weights: str | None = "default"
    layer_decay: float = 1.0
    model: str = "tl_resnet"
    start: Callable[[nn.Module, Splits], Any] | None = None
    schedule: str = "one-cycle"
    batch_size: int = 16

    def __call__(self, splits: Splits, images: int, seed: int) -> Evaluation:
        """Train a new model on `images` training images."""
        model, few = self.fit(splits, images, seed)
        return evaluate(model, few.loaders().val, precision=best_precision(get_runtime().device))

    def fit(self, splits: Splits, images: int, seed: int) -> tuple[nn.Module, Splits]:
        """Return the trained model, and the splits that it learned from."""
        torch.manual_seed(seed)
        few = splits.take(train=images, seed=seed)
        model = create(self.model, len(splits.classes), weights=self.weights).to(get_runtime().device)
        if self.start is not None:
            self.start(model, few)
        loaders = few.loaders(self.batch_size, seed=seed)
        passes = _Passes(loaders.train, self.passes)
        optimizer = torch.optim.AdamW(param_groups(model, self.lr, layer_decay=self.layer_decay), weight_decay=1e-2)
        schedule = SCHEDULES[self.schedule](optimizer, len(passes))
        fit(model, Loaders(passes, loaders.val, loaders.test), optimizer, epochs=1, scheduler=schedule)
        return model, few


@dataclass(frozen=True)
class DropPath:
    """A start that drops residual blocks of a timm ResNet while training, up to this rate in the last one.

    Source: Huang et al. 2016, Deep networks with stochastic depth; the same as timm's `drop_path_rate`.
    """

    rate: float

    def __call__(self, model: nn.Module, splits: Splits) -> None:
        """Set the rate of each block."""
        blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
        for i, block in enumerate(blocks):
            block.drop_path = layers.DropPath(self.rate * i / (len(blocks) - 1))


@dataclass
class _Passes:
    """A loader that goes through another one several times."""

    loader: Any
    passes: int

    def __len__(self) -> int:
        return self.passes * len(self.loader)

    def __iter__(self) -> Iterator:
        for _ in range(self.passes):
            yield from self.loader


def describe(way: Any) -> str:
    """Return a way's settings as text: fields of a dataclass, functions by their names."""
    if not is_dataclass(way):
        return getattr(way, "__name__", None) or repr(way)
    shown = (f"{f.name}={describe(getattr(way, f.name))}" for f in fields(way) if f.repr)
    return f"{type(way).__name__}({', '.join(shown)})"


def machine() -> str:
    """Say what computes here."""
    device = get_runtime().device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} processor, {torch.get_num_threads()} threads, {best_precision(device)}"
