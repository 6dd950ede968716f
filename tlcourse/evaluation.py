"""Measure a classifier: accuracy with its confidence interval, confusion matrix, and the most confident errors."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Evaluation:
    """A classifier's outputs on one set of images: `labels` `(N,)` and `logits` `(N, C)`."""

    labels: torch.Tensor
    logits: torch.Tensor

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def predicted(self) -> torch.Tensor:
        """The most probable class of each image, `(N,)`."""
        return self.logits.argmax(1)

    @property
    def probabilities(self) -> torch.Tensor:
        """Softmax of the logits, `(N, C)`."""
        return self.logits.softmax(1)

    @cached_property
    def correct(self) -> int:
        """Number of images that are classified correctly."""
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Fraction of images that are classified correctly."""
        return self.correct / self.n

    @cached_property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return F.cross_entropy(self.logits, self.labels).item()

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy, which stays within 0 and 1 and holds near both.

        Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
        """
        interval = binomtest(self.correct, self.n).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)

    def confusion(self) -> torch.Tensor:
        """Count images by true class (row) and predicted class (column), `(C, C)`."""
        return torch.from_numpy(confusion_matrix(self.labels, self.predicted, labels=range(self.logits.shape[1])))

    def worst(self, k: int = 8) -> torch.Tensor:
        """Return the indices of at most `k` misclassified images, the most confident first."""
        wrong = (self.predicted != self.labels).nonzero().flatten()
        confidence = self.probabilities[wrong].amax(1)
        return wrong[confidence.argsort(descending=True, stable=True)][:k]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.accuracy:.3f} ({self.correct:,} of {self.n:,} right, 95 % interval {low:.3f} to {high:.3f})"

    __repr__ = __str__


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of repeated measurements and its standard error."""
    measured = torch.tensor(values, dtype=torch.float64)
    if len(measured) < 2:
        raise ValueError(f"A standard error needs at least two measurements, not {len(measured)}.")
    return measured.mean().item(), (measured.std() / len(measured) ** 0.5).item()


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Iterable[tuple[torch.Tensor, torch.Tensor]], *, precision: str = "float32"
) -> Evaluation:
    """Run a model over a loader in evaluation mode, and restore every module's mode afterwards.

    Raises:
        ValueError: the loader gives no image.
    """
    device = next(model.parameters()).device
    labels, logits = [], []
    with evaluation_mode(model):
        for images, targets in loader:
            with autocast(device, precision):
                logits.append(model(images.to(device, non_blocking=True)).float())
            labels.append(targets)
    if not labels:
        raise ValueError("There is no image to evaluate on: the loader is empty.")
    return Evaluation(torch.cat(labels).cpu(), torch.cat(logits).cpu())


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and restore its own mode at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context that computes in `"float32"` or, where it is safe to, in `"bfloat16"` or `"float16"`.

    bfloat16 has the range of float32. float16 does not: scale the loss to train in it.
    """
    dtypes = {"float32": torch.bfloat16, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in dtypes:
        raise ValueError(f"precision is {precision!r}: choose one of {', '.join(map(repr, dtypes))}.")
    return torch.autocast(device.type, dtypes[precision], enabled=precision != "float32")
