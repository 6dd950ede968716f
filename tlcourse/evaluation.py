"""Measure a classifier: accuracy with its confidence interval, confusion matrix, and the most confident errors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn import functional as F

USUAL_FORMAT = "view size is not compatible"  # torch's words where `.view` meets the channels-last format


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
        """Number of images that are classified correctly; outputs that are not finite are no answer."""
        return int((self.logits.amax(1).isfinite() & (self.predicted == self.labels)).sum())

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
        ValueError: the loader gives no image; or as `read_batch` and `check_outputs`.
    """
    device = next(model.parameters()).device
    labels, logits = [], []
    with evaluation_mode(model):
        for images, targets in map(read_batch, loader):
            with autocast(device, precision):
                outputs = run(model, images.to(device, non_blocking=True))
            check_outputs(outputs, targets)
            logits.append(outputs.float())
            labels.append(class_numbers(targets))
    if not labels:
        raise ValueError("There is no image to evaluate on: the loader is empty.")
    return Evaluation(torch.cat(labels).cpu(), torch.cat(logits).cpu())


def run(model: nn.Module, images: torch.Tensor) -> Any:
    """Run a model, and return its logits, as `main_output` does."""
    try:
        return main_output(model(images))
    except RuntimeError as error:
        if USUAL_FORMAT not in str(error):
            raise
        return main_output(model(images.contiguous()))  # a `.view` in the network needs torch's usual memory format


def main_output(outputs: Any) -> Any:
    """Return the logits of what a model returns; auxiliary outputs (Inception, GoogLeNet) are left out."""
    return getattr(outputs, "logits", outputs)


def read_batch(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch's images and labels; more beside them, such as file names, is left out.

    Raises:
        ValueError: it is a dictionary, or holds no images and labels in this order.
    """
    if isinstance(batch, Mapping):
        raise ValueError(
            f"The loader gives dictionaries with {', '.join(map(str, batch))}. Give it a collate_fn that returns "
            "(images, labels)."
        )
    pair = [batch] if isinstance(batch, torch.Tensor) else batch[:2]
    if len(pair) < 2 or not all(isinstance(part, torch.Tensor) for part in pair):
        raise ValueError(
            f"The loader gives no pairs (images, labels) of tensors, but {[type(p).__name__ for p in pair]}."
        )
    labels = pair[1]
    return pair[0], labels if labels.is_floating_point() else labels.long()


def class_numbers(labels: torch.Tensor) -> torch.Tensor:
    """Return labels `(N,)`; of probabilities `(N, C)`, as MixUp makes them, the most probable class."""
    return labels.argmax(1) if labels.ndim == 2 else labels


def check_outputs(logits: Any, labels: torch.Tensor, *, own_loss: bool = False) -> None:
    """Raise a ValueError unless accuracy can be measured: one output per class, one class per image.

    `logits` are `(B, C)` with two classes or more; `labels` are class numbers `(B,)`, or probabilities `(B, C)`. For a
    loss of one's own, whole numbers may mean something else, such as the rows of a teacher's answers.
    """
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"The model returns a {type(logits).__name__}: let it return logits (B, C) alone.")
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"The model returns {tuple(logits.shape)}, and classes need one output each, (B, C). For two classes give "
            "the head two outputs, labels 0 and 1 as integers (B,), and cross-entropy: one output with "
            "BCEWithLogitsLoss is the same model, but its accuracy would be measured wrongly here."
        )
    on_cpu = labels.device.type == "cpu"  # a look at values on a GPU would wait for it
    if labels.is_floating_point():
        shares = labels.shape == logits.shape
        if not shares or (on_cpu and not torch.allclose(labels.sum(1).float(), torch.ones(len(labels)), atol=1e-2)):
            raise ValueError(
                f"Labels are numbers with a point, {tuple(labels.shape)}. Give class numbers as integers (B,), or a "
                f"probability for each class, {tuple(logits.shape)}, that add up to 1; several classes in one image "
                "are not measured here."
            )
    elif labels.ndim != 1 or len(labels) != len(logits):
        raise ValueError(
            f"Labels have the shape {tuple(labels.shape)} for outputs {tuple(logits.shape)}: give one class number per "
            "image, (B,), with labels.squeeze(1), or of rows with a single 1 labels.argmax(1)."
        )
    elif on_cpu and not own_loss and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(
            f"Labels go from {labels.min()} to {labels.max()}, and the model has {logits.shape[1]} outputs: "
            "classes are numbered from 0, and each needs an output. Leave out images that have no class."
        )


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
