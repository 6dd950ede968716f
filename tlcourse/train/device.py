"""What a run computes on: a device or several processes, a precision, a memory format."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from accelerate.utils import gather_object
from torch import nn

from tlcourse.data import shard_loader
from tlcourse.evaluation import Evaluation, autocast, evaluate
from tlcourse.models import PARALLEL
from tlcourse.runtime import best_precision

PRECISIONS = ("float32", "bfloat16", "float16")
LAUNCHER = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # what `accelerate launch` was told
Batch = tuple[torch.Tensor, torch.Tensor]


class Machine:
    """One process and one device, or several of them that train one model together.

    Processes come from `torchrun`, `accelerate launch` or `notebook_launcher`; each computes its part of every batch,
    and gradients, counts and answers are put together, so that they train as one process would.
    """

    def __init__(self, model: nn.Module, precision: str | None):
        # Precision is ours: the loop shows it. An accelerator made elsewhere keeps its own settings.
        self.accelerator = Accelerator(mixed_precision=None if is_initialized() else "no")
        self.several = self.accelerator.num_processes > 1
        self.device = self.accelerator.device if self.several else next(model.parameters()).device
        self.precision = precision or LAUNCHER.get(os.environ.get("ACCELERATE_MIXED_PRECISION", ""))
        self.precision = self.precision or best_precision(self.device)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}.")
        # float16 has a small range: the loss is scaled so that small gradients do not vanish.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.accelerator.is_main_process

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return what the forward pass is called on: the model, or a wrapper that averages gradients."""
        return model if not self.several or isinstance(model, PARALLEL) else self.accelerator.prepare(model)

    def share(self, loader: Iterable[Batch], *, training: bool) -> Iterable[Batch]:
        """Return a loader of this process's part of every batch."""
        if not self.several:
            return loader
        state = self.accelerator
        return shard_loader(loader, state.process_index, state.num_processes, whole_small=training)

    def autocast(self) -> AbstractContextManager:
        """Return the context of a forward pass in this precision."""
        return autocast(self.device, self.precision)

    def to_device(self, batch: Batch) -> Batch:
        """Return images and labels on the device; the processor does not wait for a GPU that copies."""
        images, labels = batch
        return images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def no_sync(self, net: nn.Module, last: bool) -> AbstractContextManager:
        """Return a context in which gradients are averaged only after the last batch of a step."""
        return nullcontext() if last or not self.several else self.accelerator.no_sync(net)

    def share_of_step(self, labels: torch.Tensor, window: list[Batch]) -> torch.Tensor | float:
        """Return the weight of a batch's mean loss in the mean over all images of a step, in all processes."""
        count = sum(len(y) for _, y in window)
        if not self.several:
            return len(labels) / count
        total = self.accelerator.reduce(torch.tensor(float(count), device=self.device))
        return len(labels) * self.accelerator.num_processes / total  # gradients are averaged over processes

    def step(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], clip: float | None) -> None:
        """Take one step of the optimizer on gradients that are complete."""
        if clip is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()

    def sum(self, *values: torch.Tensor) -> list[float]:
        """Return numbers summed over all processes."""
        summed = torch.stack([value.double() if value.device.type == "cpu" else value.float() for value in values])
        return (self.accelerator.reduce(summed) if self.several else summed).tolist()

    def evaluate(self, model: nn.Module, loader: Iterable[Batch]) -> Evaluation:
        """Measure a model on all images of a shared loader, each of them once."""
        self.same_buffers(model)
        if not self.several:
            return evaluate(model, loader, precision=self.precision)
        mine = [evaluate(model, [batch], precision=self.precision) for batch in loader]
        parts = gather_object([(part.labels.cpu(), part.logits) for part in mine])
        return Evaluation(torch.cat([labels for labels, _ in parts]), torch.cat([logits for _, logits in parts]))

    def same_buffers(self, model: nn.Module) -> None:
        """Give every process the batch-norm statistics of the first; each has seen its own part of the batches."""
        if self.several:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def gather(self, value: object) -> list[object]:
        """Return one value of each process, in the order of the processes."""
        return gather_object([value]) if self.several else [value]

    def finish(self) -> None:
        """Wait until a GPU has done what it was given, so that a clock tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.accelerator.wait_for_everyone()


@contextmanager
def fast_convolutions(model: nn.Module) -> Iterator[None]:
    """Keep kernels in the memory format in which convolutions are fastest, and put them back at the end.

    On a GPU the fastest algorithm for each size of image is searched for. A model that somebody has wrapped for
    several processes stays as it is: the wrapper has laid out its gradients.
    """
    search = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = search or not torch.are_deterministic_algorithms_enabled()
    wrapped = isinstance(model, PARALLEL)
    try:
        if not wrapped:
            model.to(memory_format=torch.channels_last)
        yield
    finally:
        torch.backends.cudnn.benchmark = search
        if not wrapped:
            model.to(memory_format=torch.contiguous_format)
