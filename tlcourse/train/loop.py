"""The training loop of the course: short enough to read, complete enough to use."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from tlcourse.evaluation import check_outputs, main_output
from tlcourse.models import check_optimizer, train_mode
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.checks import as_loaders, check_schedule, steps_per_epoch
from tlcourse.train.device import Devices, HasLoaders, fast_convolutions
from tlcourse.train.history import History
from tlcourse.train.schedules import Schedule, as_schedule
from tlcourse.train.state import FitConfig, Loss, TrainState


def fit(
    model: nn.Module,
    data: HasLoaders,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    scheduler: Schedule | torch.optim.lr_scheduler.LRScheduler | None = None,
    loss: Loss = F.cross_entropy,
    precision: str | None = None,
    accumulate: int = 1,
    clip_grad_norm: float | None = None,
    patience: int | None = None,
    ema_decay: float | None = None,
    checkpoints: Checkpoints | None = None,
    frozen_bn: str = "eval",
) -> History:
    """Train a model, and leave it in evaluation mode with the weights of its best epoch on the validation set.

    Best is the highest accuracy; among equals, the lowest loss. Ctrl-C ends training after the current step and keeps
    the best weights; a second one ends it at once. Under `torchrun`, `accelerate launch` and `notebook_launcher` the
    processes train one model together, and each batch is split among them.

    Args:
        model: trained on the device it is on; what is frozen stays frozen, batch-norm statistics included.
        data: loaders `train` and `val`, as attributes or in a dictionary, that give images `(B, 3, H, W)` and labels
            `(B,)`, or in training the probabilities `(B, C)` that MixUp makes. More in a batch is left out, and so is a
            last training batch of one image where there is batch norm, which cannot use it.
        optimizer: holds the parameters to train.
        epochs: passes over the training set.
        scheduler: from `tl.train.schedules`, or one of PyTorch's, stepped after every optimizer step; give
            `tl.train.Schedule(scheduler, "epoch")` to step it after every epoch.
        loss: mean over a batch, of logits `(B, C)` and labels; for label smoothing give
            `nn.CrossEntropyLoss(label_smoothing=0.1)`. Validation always measures cross-entropy.
        precision: `"float32"`, `"bfloat16"` or `"float16"`; without one, bfloat16 where it makes the device faster.
        accumulate: batches per optimizer step; their gradients are those of one large batch.
        clip_grad_norm: largest norm of the gradients of a step.
        patience: stop after this many epochs without a better one.
        ema_decay: decay of an exponential moving average of the weights, such as 0.999; validation and the returned
            weights use the average.
        checkpoints: where to save. A run that finds its checkpoint continues from there, with the same result.
        frozen_bn: `"train"` lets the statistics of frozen batch norms change, as a plain loop does.

    Raises:
        ValueError: there is nothing to train, no image to train on, a setting out of range, outputs or labels whose
            accuracy cannot be measured, a scheduler that does not fit the optimizer, or the checkpoint of another run.
        FloatingPointError: the loss became infinite or not a number, in training or in the first validation.
    """
    data = as_loaders(data, saved=checkpoints is not None)
    config = FitConfig(
        epochs=epochs,
        loss=loss,
        precision=precision,
        accumulate=accumulate,
        clip_grad_norm=clip_grad_norm,
        patience=patience,
        ema_decay=ema_decay,
        checkpoints=checkpoints,
        frozen_bn=frozen_bn,
    )
    check_optimizer(model, optimizer)
    check_schedule(scheduler, optimizer, epochs, steps_per_epoch(data.train, accumulate), checkpoints is not None)
    with fast_convolutions(model):
        state = TrainState(model, data, optimizer, as_schedule(scheduler), config)
        history = state.history
        state.resume()  # a checkpoint that does not fit changes nothing
        try:
            with _deferred_interrupt(state.devices) as stop:
                loop(state, stop)
            history.stopped_early = len(history.epochs) < epochs
        except KeyboardInterrupt:
            history.interrupted = True
        finally:
            state.restore_best()
    if history.interrupted and state.devices.is_main_process:
        again = "" if checkpoints is None else " Make the same call again to continue from the last checkpoint."
        kept = "the best weights are kept" if history.best else "there are no best weights yet: the last are kept"
        print(f"Stopped after {len(history.epochs)} whole epochs of {epochs}; {kept}.{again}")
    return history


def loop(state: TrainState, stop: list[bool]) -> None:
    """Train until all epochs are done, patience runs out, or Ctrl-C puts something into `stop`."""
    config, devices, optimizer, schedule = state.config, state.devices, state.optimizer, state.schedule
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own_loss = config.loss is not F.cross_entropy and not isinstance(config.loss, nn.CrossEntropyLoss)
    with state.progress_bar() as bar:
        while not state.finished:
            train_mode(state.model, frozen_bn=config.frozen_bn)
            for micro_batches in state.accumulation_groups():  # one optimizer step each
                optimizer.zero_grad()
                for i, batch in enumerate(micro_batches, start=1):
                    images, labels = devices.to_device(batch)
                    with devices.no_sync(state.forward_model, last=i == len(micro_batches)):
                        with devices.autocast():
                            logits = main_output(state.forward_model(images))
                            check_outputs(logits, labels, own_loss=own_loss)
                            loss = config.loss(logits, labels)
                        devices.scaler.scale(loss * devices.loss_weight(config.loss, labels, micro_batches)).backward()
                    state.update_metrics(loss, logits, labels)
                if config.clip_grad_norm is not None:
                    devices.scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(parameters, config.clip_grad_norm)
                devices.scaler.step(optimizer)  # without float16, the scaler only calls `optimizer.step()`
                devices.scaler.update()
                if schedule is not None:
                    schedule.step("step")
                if state.ema is not None:
                    state.ema.update_parameters(state.model)
                bar.update()
                state.end_step()
                if stop:
                    state.save()
                    raise KeyboardInterrupt
            val = devices.evaluate(state.eval_model, state.val_loader)
            if schedule is not None:
                schedule.step("epoch")
                schedule.step("metric", val.loss)
            state.end_epoch(val)
            bar.set_postfix_str(f"epoch {len(state.history.epochs)}, validation {val.accuracy:.3f}")


@contextmanager
def _deferred_interrupt(devices: Devices) -> Iterator[list[bool]]:
    """Give a list that is empty until Ctrl-C is pressed, so that the current step is finished; a second one raises.

    Several processes would stop at different steps and wait for each other, so there the first one raises too.
    """
    pressed: list[bool] = []
    usual = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()  # others may not handle signals

    def press(number: int, frame: object) -> None:
        if pressed:
            usual(number, frame)
        pressed.append(True)

    if devices.distributed or not in_main_thread or usual is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual)
