"""The training loop of the course: short enough to read, complete enough to use."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from tlcourse.models import train_mode, unwrap_model
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.device import Machine, fast_convolutions
from tlcourse.train.history import History
from tlcourse.train.schedules import Schedule, as_schedule
from tlcourse.train.state import Run, averaged

Loader = Iterable[tuple[torch.Tensor, torch.Tensor]]


class HasLoaders(Protocol):
    """Anything with a training and a validation loader, such as `splits.loaders()`."""

    train: Loader
    val: Loader


@dataclass(frozen=True)
class How:
    """How a step is made, and when to stop: the settings of `fit`."""

    epochs: int
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    accumulate: int
    clip_grad_norm: float | None
    patience: int | None
    frozen_bn: str

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}: train for at least one.")
        if self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate}: a step takes at least one batch.")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(
                f"clip_grad_norm is {self.clip_grad_norm}: the largest norm of gradients must be positive."
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}: wait for at least one epoch.")


def fit(
    model: nn.Module,
    data: HasLoaders,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    scheduler: Schedule | torch.optim.lr_scheduler.LRScheduler | None = None,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
    precision: str | None = None,
    accumulate: int = 1,
    clip_grad_norm: float | None = None,
    patience: int | None = None,
    ema_decay: float | None = None,
    checkpoints: Checkpoints | None = None,
    frozen_bn: str = "eval",
) -> History:
    """Train a model, and leave it with the weights of its best epoch on the validation part.

    Best is the highest accuracy; among equals, the lowest loss. Ctrl-C ends the run after the step it is in and keeps
    what was reached; a second one ends it at once. Under `torchrun`, `accelerate launch` and `notebook_launcher` the
    processes train one model together, and each batch is shared out among them.

    Args:
        model: trained on the device it is on; what is frozen stays frozen, batch-norm statistics included.
        data: has loaders `train` and `val` that give images `(B, 3, H, W)` and labels `(B,)`.
        optimizer: holds the parameters to train.
        epochs: passes over the training part.
        scheduler: from `tl.train.schedules`, or one of PyTorch's, stepped after every optimizer step.
        loss: mean over a batch, of logits `(B, C)` and labels; for label smoothing give
            `nn.CrossEntropyLoss(label_smoothing=0.1)`. Validation always measures cross-entropy.
        precision: `"float32"`, `"bfloat16"` or `"float16"`; without one, bfloat16 where it makes the device faster.
        accumulate: batches an optimizer step; their gradients are those of one large batch.
        clip_grad_norm: largest norm of the gradients of a step.
        patience: stop after so many epochs without a better one.
        ema_decay: share of the old in a running average of the weights, such as 0.999; the average is kept.
        checkpoints: where to save; a run that finds its checkpoint goes on from there, to the same end.
        frozen_bn: `"train"` lets frozen batch norms move, as a plain loop does.

    Raises:
        ValueError: there is nothing to train, no image to train on, a setting out of range, or the checkpoint is of
            another run.
        FloatingPointError: the loss became infinite or not a number.
    """
    how = How(epochs, loss, accumulate, clip_grad_norm, patience, frozen_bn)
    _check(model, data, optimizer)
    _check_run(data, ema_decay, checkpoints)
    machine, inner = Machine(model, precision), unwrap_model(model)
    with fast_convolutions(model):
        net, average = machine.prepare(model), averaged(inner, ema_decay)
        run = Run(inner, optimizer, as_schedule(scheduler), machine, average, data, checkpoints, accumulate)
        try:
            run.resume()
            with _stop_button(machine) as pressed:
                loop(run, net, how, pressed)
        except KeyboardInterrupt:
            run.history.interrupted = True
        finally:
            run.keep_best()
    if run.history.interrupted and machine.main:
        again = "" if checkpoints is None else " The same call goes on from the last save."
        print(f"Stopped after {len(run.history.epochs)} whole epochs of {epochs}; the best weights are kept.{again}")
    return run.history


def loop(run: Run, net: nn.Module, how: How, pressed: list[bool]) -> None:
    """Train until the epochs are over, patience runs out, or somebody presses stop."""
    machine, optimizer, schedule = run.machine, run.optimizer, run.schedule
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with run.progress(how.epochs) as bar:
        while not run.over(how.epochs, how.patience):
            train_mode(run.model, frozen_bn=how.frozen_bn)
            for window in run.windows():  # the batches of one optimizer step
                optimizer.zero_grad()
                for i, batch in enumerate(window, start=1):
                    images, labels = machine.to_device(batch)
                    with machine.no_sync(net, last=i == len(window)):
                        with machine.autocast():
                            logits = net(images)
                            loss = how.loss(logits, labels)
                        machine.scaler.scale(loss * machine.share_of_step(labels, window)).backward()
                    run.count(loss, logits, labels)
                machine.step(optimizer, parameters, how.clip_grad_norm)
                if schedule is not None:
                    schedule.step("step")
                if run.average is not None:
                    run.average.update_parameters(run.model)
                bar.update()
                run.advance()
                if pressed:
                    run.save()
                    raise KeyboardInterrupt
            val = machine.evaluate(run.measured, run.val)
            if schedule is not None:
                schedule.step("epoch")
                schedule.step("metric", val.loss)
            run.close_epoch(val)
            bar.set_postfix_str(f"epoch {len(run.history.epochs)}, validation {val.accuracy:.3f}")


@contextmanager
def _stop_button(machine: Machine) -> Iterator[list[bool]]:
    """Turn the first Ctrl-C into a note, so that the step being made is finished; the second one acts at once.

    Several processes would stop at different steps and wait for each other: there Ctrl-C acts at once.
    """
    pressed: list[bool] = []
    usual = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if machine.several or not main or usual is not signal.default_int_handler:
        yield pressed
        return

    def press(number: int, frame: object) -> None:
        if pressed:
            usual(number, frame)
        pressed.append(True)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual)


def _check(model: nn.Module, data: HasLoaders, optimizer: torch.optim.Optimizer) -> None:
    if not (hasattr(data, "train") and hasattr(data, "val")) or hasattr(data, "loaders"):
        raise ValueError("data needs loaders `train` and `val`: pass `splits.loaders(batch_size=32)`.")
    check_optimizer(model, optimizer)


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless an optimizer holds something of this model that trains."""
    mine = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(p.requires_grad and id(p) in mine for p in held):
        raise ValueError(
            "The optimizer holds no trainable parameter of this model. Freeze and replace the head first, "
            "then build the optimizer from the model's parameters."
        )


def _check_run(data: HasLoaders, ema_decay: float | None, checkpoints: Checkpoints | None) -> None:
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ValueError(f"ema_decay is {ema_decay}: the share of the old weights lies between 0 and 1, such as 0.999.")
    if checkpoints is not None and getattr(data.train, "persistent_workers", False):
        raise ValueError(
            "The training loader keeps its worker processes, and with them random numbers that no checkpoint holds. "
            "Make it with persistent_workers=False."
        )
