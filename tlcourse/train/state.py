"""The state of a run: everything that changes while a model trains, and so everything that a checkpoint holds."""

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

from tlcourse.evaluation import Evaluation
from tlcourse.runtime import shorten
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.device import Batch, Machine
from tlcourse.train.history import Epoch, History
from tlcourse.train.rng import get_rng_state, set_rng_state
from tlcourse.train.schedules import Schedule

FORMAT = 1


@dataclass
class Run:
    """A model, what trains it, and how far it has come.

    `step` counts the optimizer steps of the run, `done` those of the epoch that has begun, `seconds` its time.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule | None
    machine: Machine
    average: AveragedModel | None
    data: Any
    checkpoints: Checkpoints | None = None
    accumulate: int = 1
    history: History = field(default_factory=History)
    best_weights: dict[str, torch.Tensor] | None = None
    step: int = 0
    done: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.train = self.machine.share(self.data.train, training=True)
        self.val = self.machine.share(self.data.val, training=False)
        self.rates: tuple[float, ...] = ()
        # Random numbers: at the beginning of the epoch, from which its order follows, and at a resumed step.
        self.begun: dict[str, Any] = {}
        self.resumed: dict[str, Any] = {}
        self.clear()

    @property
    def measured(self) -> nn.Module:
        """The model whose weights are measured and kept: the average of the weights where there is one."""
        return self.model if self.average is None else self.average.module

    def over(self, epochs: int, patience: int | None) -> bool:
        """Say whether the run has come to its end."""
        trained = len(self.history.epochs)
        best = self.history.best.epoch if self.history.best else trained
        self.history.stopped_early = trained < epochs and patience is not None and trained - best >= patience
        return trained >= epochs or self.history.stopped_early

    def progress(self, epochs: int) -> tqdm:
        """Return a bar of optimizer steps, which counts what was done before a checkpoint too."""
        steps = None if (each := steps_an_epoch(self.train, self.accumulate)) is None else epochs * each
        quiet = {} if self.machine.main else {"disable": True}  # TQDM_DISABLE decides where nobody says
        return tqdm(total=steps, initial=self.step, desc="steps", leave=False, **quiet)

    def clear(self) -> None:
        """Begin an epoch. Its sums stay on the device: reading a value would make it wait."""
        self.done, self.seconds = 0, 0.0
        self.loss_sum, self.right, self.seen = (torch.zeros((), device=self.machine.device) for _ in range(3))

    def windows(self) -> Iterator[list[Batch]]:
        """Yield the batches of each optimizer step of an epoch; a resumed epoch goes on where it was left."""
        self.clock = time.perf_counter()
        if not self.done:
            self.begun = self.machine.gather(get_rng_state(self.data))[0]
            if self.machine.several:  # all must go through the images in the order of the first
                set_rng_state(self.begun, self.data)
        batches = iter(self.train)
        if self.done:  # a checkpoint was made within this epoch: pass over what came before it
            deque(islice(batches, self.done * self.accumulate), maxlen=0)
            set_rng_state(self.resumed)
        while window := list(islice(batches, self.accumulate)):
            self.rates = tuple(group["lr"] for group in self.optimizer.param_groups)  # before a schedule moves them
            yield window
        self.machine.finish()
        self.seconds += time.perf_counter() - self.clock

    def advance(self) -> None:
        """Note that a step was made, and save the run if it is time to."""
        now = time.perf_counter()
        self.step, self.done, self.seconds = self.step + 1, self.done + 1, self.seconds + now - self.clock
        self.clock = now
        if self.checkpoints is not None and self.checkpoints.due(self.step):
            self.save()

    def count(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch to the sums of its epoch."""
        self.loss_sum += loss.detach() * len(labels)
        self.right += (logits.detach().argmax(1) == labels).sum()
        self.seen += len(labels)

    def close_epoch(self, val: Evaluation) -> None:
        """Add an epoch to the history, keep the weights if they are the best so far, and save the run.

        Raises:
            ValueError: there was no image.
            FloatingPointError: the loss became infinite or not a number.
        """
        number = len(self.history.epochs) + 1
        loss_sum, right, seen = self.machine.sum(self.loss_sum, self.right, self.seen)
        if not seen:
            raise ValueError("There is no image to train on: the training loader is empty.")
        if not math.isfinite(loss_sum):
            folder = "" if self.checkpoints is None else " and a new folder for its checkpoints"
            raise FloatingPointError(
                f"The training loss of epoch {number} is {loss_sum}. Use a lower learning rate{folder}."
            )
        train = (loss_sum / seen, right / seen)
        epoch = Epoch(number, *train, val.loss, val.accuracy, max(self.rates), self.seconds, int(seen), self.rates)
        self.history.epochs.append(epoch)
        if self.history.best is None or epoch.score > self.history.best.score:
            self.history.best = epoch
            self.best_weights = {name: value.clone() for name, value in self.measured.state_dict().items()}
        self.clear()
        self.save()

    def keep_best(self) -> None:
        """Give the model the best weights so far, and put it into evaluation mode."""
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def save(self) -> None:
        """Write a checkpoint, where checkpoints are wanted."""
        if self.checkpoints is None:
            return
        state = self.state()
        if self.machine.main:
            self.checkpoints.save(self.step, state)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if self.checkpoints is None:
            return
        state = self.checkpoints.load()
        self.machine.wait()  # nobody writes before all have read
        if state is None:
            return
        self.load_state(state)
        if self.machine.main:
            print(
                f"Resumed after {len(self.history.epochs)} epochs and {self.done} steps, "
                f"from {shorten(self.checkpoints.folder)}."
            )

    def state(self) -> dict[str, Any]:
        """Return all of it, as tensors, numbers, texts, lists and dictionaries."""
        now, best = get_rng_state(self.data), self.history.best
        return {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.scheduler.state_dict() if self.schedule else None,
            "scaler": self.machine.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "best": None if best is None else {"epoch": best.epoch, "weights": self.best_weights},
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
            "position": {"step": self.step, "done": self.done, "seconds": self.seconds, "rates": list(self.rates)},
            "sums": [self.loss_sum, self.right, self.seen],
            "random": self.machine.gather({"begun": self.begun if self.done else now, "now": now}),
            "batches": {"an epoch": steps_an_epoch(self.train, 1), "a step": self.accumulate},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: it is that of another model, optimizer or schedule; nothing is changed then.
        """
        self._check(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.scheduler.load_state_dict(state["schedule"])
        self.machine.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.history.epochs = [Epoch(**row | {"rates": tuple(row["rates"])}) for row in state["epochs"]]
        if state["best"]:
            self.history.best = self.history.epochs[state["best"]["epoch"] - 1]
            self.best_weights = state["best"]["weights"]
        self.step, self.done, self.seconds = (state["position"][name] for name in ("step", "done", "seconds"))
        self.rates = tuple(state["position"]["rates"])
        self.loss_sum, self.right, self.seen = (value.to(self.machine.device) for value in state["sums"])
        mine = state["random"][self.machine.accelerator.process_index % len(state["random"])]
        set_rng_state(mine["begun"], self.data)
        self.begun, self.resumed = mine["begun"], mine["now"]

    def _check(self, state: dict[str, Any]) -> None:
        ours, theirs = (_outline(of) for of in (self.state(), state))
        if different := [name for name in ours if ours[name] != theirs.get(name)]:
            raise ValueError(
                f"The checkpoint is of another run: its {' and '.join(different)} differ from what is to be trained. "
                "Give a new folder, or set up the run as it was."
            )


def averaged(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return the running average of a model's weights and buffers, `decay` of the old to `1 - decay` of the new."""
    return None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def steps_an_epoch(loader: Any, accumulate: int) -> int | None:
    """Return the number of optimizer steps, or None of a stream, whose loader has a length but cannot tell it."""
    try:
        return -(-len(loader) // accumulate)
    except TypeError:
        return None


def _outline(state: dict[str, Any]) -> dict[str, Any]:
    """Describe what must be the same for a state to fit."""
    groups = state["optimizer"]["param_groups"]
    return {
        "format": state["format"],
        "model": {name: tuple(value.shape) for name, value in state["model"].items()},
        "optimizer's groups": [(group.get("name"), len(group["params"]), sorted(group)) for group in groups],
        "schedule": state["schedule"] and sorted(state["schedule"]),
        "weight average": state["average"] is not None,
        "batches": state["batches"],
    }
