"""What training runs on: one device or several processes, a precision, a memory format."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from accelerate.utils import gather_object
from torch import nn

from tlcourse.data import shard_loader
from tlcourse.evaluation import USUAL_FORMAT, Evaluation, autocast, evaluate
from tlcourse.models import NORMS, PARALLEL
from tlcourse.runtime import best_precision
from tlcourse.side_effects import no_side_effects

LAUNCHER = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # what `accelerate launch` was told
Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class HasLoaders(Protocol):
    """Anything with a training and a validation loader, such as `splits.loaders()`."""

    train: Iterable[Batch]
    val: Iterable[Batch]


def without_singles(batches: Iterable[Batch], model: nn.Module) -> Iterator[Batch]:
    """Leave out batches of one image behind larger ones: batch norm has nothing to average in them."""
    norms, larger = any(isinstance(module, NORMS) for module in model.modules()), False
    for batch in batches:
        larger |= len(batch[1]) > 1
        if len(batch[1]) > 1 or not (norms and larger):
            yield batch


class Devices:
    """One process with one device, or several that train one model together.

    `torchrun`, `accelerate launch` or `notebook_launcher` start several. Each process computes its part of every batch;
    gradients, counts and outputs are gathered, so that the result is that of one process.

    Raises:
        ValueError: no such precision.
    """

    def __init__(self, model: nn.Module, precision: str | None):
        # Precision is ours: the loop shows it. An accelerator made elsewhere keeps its own settings.
        self.accelerator = Accelerator(mixed_precision=None if is_initialized() else "no")
        self.is_main_process = self.accelerator.is_main_process
        # A bar in a notebook does not look at TQDM_DISABLE, as others do.
        self.shows_progress = self.is_main_process and "TQDM_DISABLE" not in os.environ
        self.distributed = self.accelerator.num_processes > 1
        self.device = self.accelerator.device if self.distributed else next(model.parameters()).device
        precision = precision or LAUNCHER.get(os.environ.get("ACCELERATE_MIXED_PRECISION", ""))
        self.precision = precision or best_precision(self.device)
        self.autocast()  # raises where there is no such precision
        # float16 has a small range: the loss is scaled so that small gradients do not vanish.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self.usual_format: bool | None = None  # until the first batch is there

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return what the forward pass is called on: the model, or a wrapper that averages gradients."""
        return self.accelerator.prepare(model) if self.distributed and not isinstance(model, PARALLEL) else model

    def shard_loader(self, loader: Iterable[Batch], *, training: bool) -> Iterable[Batch]:
        """Return a loader of this process's part of every batch."""
        index, count = self.accelerator.process_index, self.accelerator.num_processes
        return shard_loader(loader, index, count, whole_small=training)

    def autocast(self) -> AbstractContextManager:
        """Return the context of a forward pass in this precision."""
        return autocast(self.device, self.precision)

    def to_device(self, batch: Batch) -> Batch:
        """Return images and labels on the device, without waiting for a GPU that copies them."""
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        return images.contiguous() if self.usual_format else images, labels

    def choose_format(self, model: nn.Module, images: torch.Tensor) -> None:
        """Go back to torch's usual memory format for a network with a `.view` that needs it, tried on two images.

        Networks of modules of torchvision and timm alone need no trial.
        """
        self.usual_format = False
        kinds = {type(module).__module__ for module in model.modules()}  # a learner may have put in one of their own
        if all(kind.startswith(("torch.nn.", "torchvision.", "timm.", "tlcourse.models.")) for kind in kinds):
            return
        try:
            with no_side_effects(model), self.autocast():
                model(images[:2].to(self.device))
        except RuntimeError as error:
            if USUAL_FORMAT not in str(error):
                raise
            self.usual_format = True
            model.to(memory_format=torch.contiguous_format)

    def no_sync(self, net: nn.Module, last: bool) -> AbstractContextManager:
        """Return a context in which processes average gradients only after the last micro-batch of a step."""
        return nullcontext() if last or not self.distributed else self.accelerator.no_sync(net)

    def loss_weight(self, loss: Loss, labels: torch.Tensor, micro_batches: list[Batch]) -> torch.Tensor | float:
        """Return the factor for a micro-batch's mean loss.

        With it, the step's gradient is that of the mean over all its images, across all processes.
        """
        own, count = _counted(loss, labels), sum(_counted(loss, y) for _, y in micro_batches)
        if not self.distributed:
            return own / count
        total = self.accelerator.reduce(torch.tensor(float(count), device=self.device))
        return own * self.accelerator.num_processes / total  # gradients are averaged over processes

    def all_reduce_sum(self, *values: torch.Tensor) -> list[float]:
        """Return numbers, each summed over all processes."""
        summed = torch.stack([value.double() if value.device.type == "cpu" else value.float() for value in values])
        return (self.accelerator.reduce(summed) if self.distributed else summed).tolist()

    def evaluate(self, model: nn.Module, loader: Iterable[Batch]) -> Evaluation:
        """Evaluate a model on the images of all processes' loaders, each image once."""
        if not self.distributed:
            return evaluate(model, loader, precision=self.precision)
        for buffer in model.buffers():  # the first process's batch-norm statistics; each has seen its own images
            torch.distributed.broadcast(buffer, 0)
        mine = [evaluate(model, [batch], precision=self.precision) for batch in loader]
        parts = gather_object([(part.labels.cpu(), part.logits) for part in mine])
        return Evaluation(torch.cat([labels for labels, _ in parts]), torch.cat([logits for _, logits in parts]))

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process, in the order of the processes."""
        return gather_object([value]) if self.distributed else [value]

    def synchronize(self) -> None:
        """Wait until a GPU has finished its work, so that times are right."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.accelerator.wait_for_everyone()


def _counted(loss: Loss, labels: torch.Tensor) -> torch.Tensor | int:
    """Return by what a mean loss divides: the number of images, or the sum of their classes' weights."""
    weight = loss.weight if isinstance(loss, nn.CrossEntropyLoss) and not labels.is_floating_point() else None
    return len(labels) if weight is None else weight[labels.to(weight.device)].sum()


@contextmanager
def fast_convolutions(model: nn.Module) -> Iterator[None]:
    """Keep a model in the memory format in which convolutions are fastest, and restore the usual one at the end.

    On a GPU, cuDNN searches for the fastest algorithm for each image size. A model in a parallel wrapper keeps its
    format, because the wrapper has laid out its gradients already.
    """
    search, wrapped = torch.backends.cudnn.benchmark, isinstance(model, PARALLEL)
    torch.backends.cudnn.benchmark = search or not torch.are_deterministic_algorithms_enabled()
    try:
        if not wrapped:
            model.to(memory_format=torch.channels_last)
        yield
    finally:
        torch.backends.cudnn.benchmark = search
        if not wrapped:
            model.to(memory_format=torch.contiguous_format)
