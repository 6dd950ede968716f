"""Variants of one network, such as smaller ones: bytes, time for an image, accuracy, and answers that stay the same."""

import logging
import time
from dataclasses import dataclass

import torch
from matplotlib.ticker import LogLocator
from torch import nn

from tlcourse import plots
from tlcourse.data import ImageSet
from tlcourse.evaluation import Evaluation
from tlcourse.table import Table

# On a machine with CUDA's compiler and no GPU, the import below would print a message that nobody needs here.
logging.getLogger("torch.utils.cpp_extension").setLevel("ERROR")
from torch.utils import benchmark  # noqa: E402

BATCH = 50  # images at a time
ROUNDS = 7  # original and variant are timed in turns, so that a busy moment slows both


def latency(model: nn.Module, images: torch.Tensor, *, seconds: float = 0.3) -> tuple[float, float]:
    """Return the median time of a forward pass on one thread in ms, and its spread (the range of the middle half).

    The timer warms up first, and repeats for at least so many seconds. It counts the thread's time on the processor:
    on a quiet machine that is the time that passes, and on a busy one other programs do not count.
    """
    names = {"model": model, "images": images}
    timer = benchmark.Timer("model(images)", globals=names, num_threads=1, timer=time.thread_time)
    with torch.inference_mode():
        measured = timer.blocked_autorange(min_run_time=seconds)
    return 1000 * measured.median, 1000 * measured.iqr


@dataclass(frozen=True)
class Variant:
    """What was measured of a variant.

    `megabytes` of its file; `ms` and `spread` of the time for an image; `speed`, how many times faster than the
    original it is; `result` on the images; `same`, the share of images with the original's answer.
    """

    megabytes: float
    ms: float
    spread: float
    speed: float
    result: Evaluation
    same: float

    @property
    def accuracy(self) -> float:
        """Fraction of images that are classified correctly."""
        return self.result.accuracy


class Variants(dict[str, Variant]):
    """Variants of a network by name, each measured on the same images and compared with the original's answers.

    Args:
        original: the network that the others are made from, on the processor and in evaluation mode.
        part: images to answer for, such as the validation set.
    """

    def __init__(self, original: nn.Module, part: ImageSet):
        super().__init__()
        self.original = original
        self.images = torch.stack([image for image, _ in part])
        self.labels = part.labels
        self.answers = self.logits(original)

    def logits(self, model: nn.Module) -> torch.Tensor:
        """Return a model's logits for all images, `(N, C)`, a batch at a time."""
        with torch.inference_mode():
            return torch.cat([model(batch) for batch in self.images.split(BATCH)])

    def same(self, logits: torch.Tensor) -> float:
        """Return the share of images with the original's answer."""
        return (logits.argmax(1) == self.answers.argmax(1)).float().mean().item()

    def add(self, name: str, model: nn.Module, size: int) -> Table:
        """Measure a variant whose file has `size` bytes, and return its row beside the first one's."""
        logits, one = self.logits(model), self.images[:1]
        times = [[latency(m, one, seconds=0.03)[0] for m in (self.original, model)] for _ in range(ROUNDS)]
        first, own = torch.tensor(times).T
        base = next(iter(self.values())).ms if self else first.median().item()
        own = base * own / first  # of the time that the original took when it was added
        low, high = own.quantile(0.25).item(), own.quantile(0.75).item()
        speed = base / own.median().item()
        result = Evaluation(self.labels, logits)
        self[name] = Variant(size / 1e6, own.median().item(), high - low, speed, result, self.same(logits))
        return self.table(*dict.fromkeys([next(iter(self)), name]))

    def table(self, *names: str) -> Table:
        """Return a row for each of these variants, or for all."""
        rows = {name: self[name] for name in names or self}
        return Table(
            {
                "variant": name,
                "MB": round(row.megabytes, 2),
                "ms": round(row.ms, 2),
                "spread": round(row.spread, 2),
                "times faster": round(row.speed, 2),
                "accuracy": row.accuracy,
                "same answers": round(row.same, 3),
            }
            for name, row in rows.items()
        )

    def plot(self, *, title: str) -> None:
        """Draw accuracy with its interval against size and against time; `title` is the message."""
        with plots.new_figure(8, 3.8, title=title, ncols=2, sharey=True) as (axes,):
            for i, (name, row) in enumerate(self.items()):
                low, high = row.result.interval
                error = [[row.accuracy - low], [high - row.accuracy]]
                shade = (*plots.OTHERS, plots.GREY)[i % (len(plots.OTHERS) + 1)]
                look = {"color": shade, "fmt": plots.MARKERS[i % len(plots.MARKERS)], "ms": 7, "lw": 1, "capsize": 2}
                for ax, x in zip(axes, (row.megabytes, row.ms), strict=True):
                    ax.errorbar(x, row.accuracy, error, label=name, **look)
            for ax, label in zip(axes, ("file, MB", "time for one image, ms"), strict=True):
                ax.set(xscale="log", xlabel=f"{label} (log scale)")
                ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
                ax.xaxis.set_major_formatter("{x:g}")
                ax.xaxis.set_minor_formatter("")
            axes[0].set_ylabel("validation accuracy")
            axes[1].legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=9)
