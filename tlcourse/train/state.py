"""The settings and the state of training: everything that changes while a model trains is in a checkpoint."""

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from tlcourse.evaluation import Evaluation, class_numbers, read_batch
from tlcourse.models import groups_beside, unwrap_model
from tlcourse.runtime import shorten
from tlcourse.side_effects import get_rng_state, set_rng_state
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.checks import fingerprint, steps_per_epoch
from tlcourse.train.device import Batch, Devices, HasLoaders, Loss, without_singles
from tlcourse.train.history import Epoch, History
from tlcourse.train.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """The settings of `fit`, which says what each one means."""

    epochs: int
    loss: Loss
    precision: str | None
    accumulate: int
    clip_grad_norm: float | None
    patience: int | None
    ema_decay: float | None
    checkpoints: Checkpoints | None
    frozen_bn: str

    def __post_init__(self) -> None:
        reduction = getattr(self.loss, "reduction", getattr(self.loss, "keywords", {}).get("reduction"))
        if isinstance(self.loss, type) or not callable(self.loss) or reduction in ("sum", "none"):
            raise ValueError(f"loss is {self.loss!r}: give a function or an instance that returns the mean of a batch.")
        for name in ("epochs", "accumulate", "patience"):
            if (number := getattr(self, name)) is not None and (number < 1 or number % 1):
                raise ValueError(f"{name} is {number}: give a whole number, 1 or more.")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm is {self.clip_grad_norm}: the largest gradient norm must be positive.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it must lie between 0 and 1, such as 0.999.")


@dataclass
class TrainState:
    """A model, what trains it, and how far training has come.

    `step` counts all optimizer steps, `steps_in_epoch` those of the current epoch; `rates` are those of the last step.
    """

    model: nn.Module
    data: HasLoaders
    optimizer: torch.optim.Optimizer
    schedule: Schedule | None
    config: FitConfig
    history: History = field(default_factory=History)
    best_weights: dict[str, torch.Tensor] | None = None
    step: int = 0
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.devices = Devices(self.model, self.config.precision)
        self.forward_model = self.devices.prepare(self.model)  # the forward pass goes through it
        self.model, self.ema = unwrap_model(self.model), None
        if decay := self.config.ema_decay:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.train_loader = self.devices.shard_loader(self.data.train, training=True)
        self.val_loader = self.devices.shard_loader(self.data.val, training=False)
        # What the optimizer trains beside the model, such as the parameters of a loss.
        self.beside = [p.detach() for group in groups_beside(self.model, self.optimizer) for p in group["params"]]
        self.rng_at_epoch_start: dict[str, Any] = {}  # the order of the epoch's images follows from it
        self.rng_at_save: dict[str, Any] = {}
        self.start_epoch()

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated and kept: the average of the weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        epochs, best, patience = len(self.history.epochs), self.history.best, self.config.patience
        return epochs >= self.config.epochs or (None not in (patience, best) and epochs - best.epoch >= patience)

    def progress_bar(self) -> tqdm:
        """Return a bar of optimizer steps, those before a checkpoint included."""
        steps = steps_per_epoch(self.train_loader, self.config.accumulate)
        total, hidden = steps and self.config.epochs * steps, not self.devices.shows_progress
        return tqdm(total=total, initial=self.step, desc="steps", leave=False, disable=hidden)

    def start_epoch(self) -> None:
        """Set the sums of an epoch to zero. They stay on the device: reading one would wait for the GPU."""
        self.steps_in_epoch, self.seconds = 0, 0.0
        self.loss_sum, self.correct, self.images = (torch.zeros((), device=self.devices.device) for _ in range(3))

    def accumulation_groups(self) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each optimizer step of an epoch; a resumed epoch continues after the last one."""
        self.clock, loaders = time.perf_counter(), [self.data.train, self.data.val]
        if not self.steps_in_epoch:
            self.rng_at_epoch_start = self.devices.gather(get_rng_state(loaders))[0]
            if self.devices.distributed:  # all processes take the images in the order of the first
                set_rng_state(self.rng_at_epoch_start, loaders)
        batches = map(read_batch, self.train_loader)
        if not self.devices.distributed:
            batches = without_singles(batches, self.model)
        if self.steps_in_epoch:  # resumed within this epoch: skip the batches before the checkpoint
            deque(islice(batches, self.steps_in_epoch * self.config.accumulate), maxlen=0)
            set_rng_state(self.rng_at_save)
        while micro_batches := list(islice(batches, self.config.accumulate)):
            if self.devices.usual_format is None:
                self.devices.choose_format(self.model, micro_batches[0][0])
                if self.ema is not None and self.devices.usual_format:
                    self.ema.to(memory_format=torch.contiguous_format)
            self.rates = tuple(float(group["lr"]) for group in self.optimizer.param_groups)  # before they are changed
            yield micro_batches
        self.devices.synchronize()
        self.seconds += time.perf_counter() - self.clock

    def update_metrics(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a micro-batch to the sums of its epoch."""
        self.loss_sum += loss.detach().squeeze() * len(labels)
        self.correct += (logits.detach().argmax(1) == class_numbers(labels)).sum()
        self.images += len(labels)

    def end_step(self) -> None:
        """Count an optimizer step, and save a checkpoint if one is due."""
        now = time.perf_counter()
        self.step, self.steps_in_epoch = self.step + 1, self.steps_in_epoch + 1
        self.seconds, self.clock = self.seconds + now - self.clock, now
        if (checkpoints := self.config.checkpoints) and checkpoints.every and self.step % checkpoints.every == 0:
            self.save()

    def end_epoch(self, val: Evaluation) -> None:
        """Add an epoch to the history, keep its weights if it is the best so far, and save a checkpoint.

        Raises:
            ValueError: there was no image.
            FloatingPointError: the loss became infinite or not a number.
        """
        number, rates = len(self.history.epochs) + 1, self.rates
        loss_sum, correct, images = self.devices.all_reduce_sum(self.loss_sum, self.correct, self.images)
        if not images:
            raise ValueError("There is no image to train on: the training loader is empty.")
        if not math.isfinite(loss_sum):
            folder = " and a new folder for its checkpoints" if self.config.checkpoints else ""
            advice = f"Use a lower learning rate{folder}, and look for images whose values are not finite."
            raise FloatingPointError(f"The training loss of epoch {number} is {loss_sum}. {advice}")
        train = (loss_sum / images, correct / images)  # each image counts as much as any other
        epoch = Epoch(number, *train, val.loss, val.accuracy, max(rates), self.seconds, int(images), rates)
        self.history.epochs.append(epoch)
        if self.history.best is None:
            raise FloatingPointError(
                f"The validation loss of epoch {number} is {val.loss}, and no epoch before was better. Use a lower "
                "learning rate, and look for images whose values are not finite."
            )
        if self.history.best is epoch:
            self.best_weights = {name: value.clone() for name, value in self.eval_model.state_dict().items()}
        self.start_epoch()
        self.save()

    def restore_best(self) -> None:
        """Give the model the best weights so far, and put it into evaluation mode."""
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def save(self) -> None:
        """Save a checkpoint, if `fit` was given a place for it."""
        if self.config.checkpoints:
            state = self.state_dict()  # asks every process for its random state
            if self.devices.is_main_process:
                self.config.checkpoints.save(self.step, state)

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is one."""
        state = self.config.checkpoints.load() if self.config.checkpoints else None
        self.devices.barrier()  # nobody saves before all have read
        if state is None:
            return
        self.load_state_dict(state)
        if self.devices.is_main_process:
            done = f"{len(self.history.epochs)} epochs and {self.steps_in_epoch} steps"
            print(f"Resumed after {done}, from {shorten(self.config.checkpoints.folder)}.")

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as plain values, which `torch.load(weights_only=True)` can read."""
        now = get_rng_state([self.data.train, self.data.val])
        rng = {"epoch_start": self.rng_at_epoch_start if self.steps_in_epoch else now, "save": now}
        return {
            "format": 2,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.scheduler.state_dict() if self.schedule else None,
            "scaler": self.devices.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "best_weights": self.best_weights,
            "beside": self.beside,
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
            "progress": {name: getattr(self, name) for name in ("step", "steps_in_epoch", "seconds", "rates")},
            "sums": [self.loss_sum, self.correct, self.images],
            "rng": self.devices.gather(rng),
            "batches": [steps_per_epoch(self.train_loader, 1), self.config.accumulate],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            ValueError: it belongs to another model, optimizer or schedule; nothing is changed then.
        """
        ours, saved = (fingerprint(of) for of in (self.state_dict(), state))
        if different := [name for name in ours if ours[name] != saved.get(name)]:
            raise ValueError(
                f"The checkpoint is of another run, with another {' and another '.join(different)}. "
                "Give a new folder, or set up the run as it was. For more epochs, use a schedule of "
                "`tl.train.schedules`: torch's own keep the length that they were made for."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for ours, saved in zip(self.beside, state.get("beside", []), strict=True):
            ours.copy_(saved)
        if self.schedule:
            self.schedule.scheduler.load_state_dict(state["schedule"])
        self.devices.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.best_weights = state["best_weights"]
        self.history.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        vars(self).update(state["progress"])
        self.loss_sum, self.correct, self.images = (value.to(self.devices.device) for value in state["sums"])
        rng = state["rng"][self.devices.accelerator.process_index % len(state["rng"])]
        self.rng_at_epoch_start, self.rng_at_save = rng["epoch_start"], rng["save"]
        set_rng_state(self.rng_at_epoch_start, [self.data.train, self.data.val])
