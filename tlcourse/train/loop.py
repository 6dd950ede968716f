"""The training loop of the course: short enough to read, complete enough to use."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from tlcourse.evaluate import autocast, evaluate
from tlcourse.models.stages import train_mode
from tlcourse.table import Table
from tlcourse.train.schedules import Schedule, as_schedule

Loader = Iterable[tuple[torch.Tensor, torch.Tensor]]


class HasLoaders(Protocol):
    """Anything with a training and a validation loader, such as `splits.loaders()`."""

    train: Loader
    val: Loader


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured: losses in nats, accuracies from 0 to 1, training time in seconds."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


@dataclass
class History:
    """The epochs of a run, which of them had the best weights, and the first epoch and name of each phase."""

    epochs: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    interrupted: bool = False
    phases: list[tuple[int, str]] = field(default_factory=list)

    def column(self, name: str) -> list[float]:
        """Return one measurement for every epoch, such as `"val_accuracy"`."""
        return [getattr(epoch, name) for epoch in self.epochs]

    def table(self) -> Table:
        """Return the history as a table, a row an epoch."""
        return Table(asdict(epoch) | {"best": epoch is self.best} for epoch in self.epochs)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def fit(
    model: nn.Module,
    data: HasLoaders,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    scheduler: Schedule | torch.optim.lr_scheduler.LRScheduler | None = None,
    precision: str = "float32",
    frozen_norms: str = "eval",
) -> History:
    """Train a model, and leave it with the weights of its best epoch on the validation part.

    Best is the highest accuracy; among equals, the lowest loss. Ctrl-C ends the run early and keeps the best
    weights so far. The loss is cross-entropy.

    Args:
        model: trained on the device it is on; what is frozen stays frozen, batch-norm statistics included.
        data: has loaders `train` and `val` that give images `(B, 3, H, W)` and labels `(B,)`.
        optimizer: holds the parameters to train.
        epochs: passes over the training part.
        scheduler: a `Schedule`, or a scheduler that is stepped once after every optimizer step, so that its length is
            `epochs * len(data.train)` steps.
        precision: `"float32"`, or `"bfloat16"` for mixed precision.
        frozen_norms: `"train"` lets frozen batch norms move, as a plain loop does.

    Raises:
        ValueError: there is nothing to train, or no image to train on.
        FloatingPointError: the loss became infinite or not a number.
    """
    _check(model, data, optimizer, epochs)
    schedule = as_schedule(scheduler)
    device = next(model.parameters()).device
    history, best_state = History(), None
    try:
        for number in tqdm(range(1, epochs + 1), desc="epochs", leave=False):
            start, seen = time.perf_counter(), 0
            loss_sum = torch.zeros((), device=device)  # summed on the device: reading a value makes it wait
            right = torch.zeros((), device=device)
            train_mode(model, frozen_norms=frozen_norms)
            for images, labels in data.train:
                images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
                with autocast(device, precision):
                    logits = model(images)
                    loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if schedule is not None and schedule.interval == "step":
                    schedule.scheduler.step()
                seen += len(labels)
                loss_sum += loss.detach() * len(labels)
                right += (logits.detach().argmax(1) == labels).sum()
            seconds = time.perf_counter() - start
            if not seen:
                raise ValueError("There is no image to train on: the training loader is empty.")
            if not loss_sum.isfinite():
                raise FloatingPointError(
                    f"The training loss of epoch {number} is {loss_sum.item()}. Use a lower learning rate."
                )
            val = evaluate(model, data.val, precision=precision)
            if schedule is not None and schedule.interval != "step":
                schedule.scheduler.step(*[val.loss] * (schedule.interval == "metric"))
            lr = max(group["lr"] for group in optimizer.param_groups)
            train_loss, train_accuracy = loss_sum.item() / seen, right.item() / seen
            epoch = Epoch(number, train_loss, train_accuracy, val.loss, val.accuracy, lr, seconds)
            history.epochs.append(epoch)
            if history.best is None or _score(epoch) > _score(history.best):
                history.best = epoch
                best_state = {name: value.clone() for name, value in model.state_dict().items()}
    except KeyboardInterrupt:
        history.interrupted = True
        print(f"Stopped after {len(history.epochs)} whole epochs of {epochs}; the best weights so far are kept.")
    if best_state is not None:
        model.load_state_dict(best_state)
    model.eval()
    return history


def _score(epoch: Epoch) -> tuple[float, float]:
    return epoch.val_accuracy, -epoch.val_loss


def _check(model: nn.Module, data: HasLoaders, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}: train for at least one.")
    if not (hasattr(data, "train") and hasattr(data, "val")) or hasattr(data, "loaders"):
        raise ValueError("data needs loaders `train` and `val`: pass `splits.loaders(batch_size=32)`.")
    mine = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(p.requires_grad and id(p) in mine for p in held):
        raise ValueError(
            "The optimizer holds no trainable parameter of this model. Freeze and replace the head first, "
            "then build the optimizer from the model's parameters."
        )
