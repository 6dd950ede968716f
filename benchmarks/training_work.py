"""The work that `training.py` gives to every contestant, and a watch that records what each does with it."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.datasets import ImageFolder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SCALE = (0.6, 1.0)  # share of an image's area that a random crop keeps
MOMENTUM = 0.9


@dataclass(frozen=True)
class Work:
    """Fine-tune all of `model` on images of `size` pixels; `train`, `val` and `test` are numbers of images."""

    model: str
    size: int
    train: int
    val: int
    test: int
    batch: int
    epochs: int
    lr: float

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return self.train // self.batch


class Watch:
    """Records with hooks of model and optimizer what a contestant does, in the same way for every contestant.

    An epoch's training ends with its last optimizer step; the next epoch begins when the last forward pass of the
    evaluation ends. The first one begins with `start`, so its time includes all preparation of the data.
    """

    def __init__(self, model: nn.Module, work: Work, device: torch.device):
        self.model, self.work, self.device = model, work, device
        self.images = self.steps = self.val_images = 0
        self.shapes: set[tuple[int, ...]] = set()
        self.seconds: list[float] = []
        self.first: dict = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        self._initial = [p.detach().clone() for p in model.parameters()]
        self._began = 0.0
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave)
        convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        convolution.register_forward_hook(self._computed)

    def start(self) -> None:
        """Start the clock."""
        self._began = _now(self.device)

    def follow(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Count this optimizer's steps."""
        optimizer.register_step_post_hook(self._stepped)
        self.optimizers.append(optimizer)
        return optimizer

    def report(self) -> dict:
        """Return the record; what must be the same for all contestants is under `same`.

        Raises:
            RuntimeError: the optimizer took fewer or more steps than the work has.
        """
        if self.steps != (planned := self.work.steps * self.work.epochs):
            raise RuntimeError(f"{self.steps} optimizer steps were taken, the work has {planned}")
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        keys = ("lr", "momentum", "weight_decay", "nesterov")
        rules = sorted({tuple(float(group[key]) for key in keys) for group in groups})
        held = sum(p.numel() for group in groups for p in group["params"])
        same = {
            "images": self.images,
            "steps": self.steps,
            "evaluated": self.val_images,
            "shapes": sorted(self.shapes),
            "start": self.first.pop("start", ""),
            "optimizer": rules,
            "trained": held,
        }
        return {"same": same, "seconds": self.seconds, **self.first}

    def _enter(self, model: nn.Module, inputs: tuple) -> None:
        images = inputs[0]
        if not model.training:
            self.val_images += len(images)
            return
        if not self.images:
            before, values = _now(self.device), images.detach().float()
            self.first |= {"start": digest(model), "pixels": [values.mean().item(), values.std().item()]}
            self._began += _now(self.device) - before  # recording is not part of the work
        self.images += len(images)
        self.shapes.add(tuple(images.shape))

    def _leave(self, model: nn.Module, *_: object) -> None:
        if not model.training:
            self._began = _now(self.device)

    def _computed(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if self.images and "computed" not in self.first:
            dtype = str(output.dtype).removeprefix("torch.")
            last = output.is_contiguous(memory_format=torch.channels_last)
            self.first["computed"] = f"{dtype}, {'channels-last' if last else 'contiguous'}"

    def _stepped(self, *_: object) -> None:
        self.steps += 1
        if self.steps % self.work.steps == 0:
            self.seconds.append(_now(self.device) - self._began)
        if self.steps == self.work.steps * self.work.epochs:
            pairs = zip(self.model.parameters(), self._initial, strict=True)
            far = sum((p.detach().cpu() - old).pow(2).sum() for p, old in pairs)
            self.first["moved"] = (far / sum(old.pow(2).sum() for old in self._initial)).sqrt().item()


def digest(model: nn.Module) -> str:
    """Return a digest of weights and buffers, whatever their memory format."""
    state = hashlib.blake2b(digest_size=8)
    for name, value in model.state_dict().items():
        state.update(name.encode())
        state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


@dataclass(frozen=True)
class Job:
    """What one run gets. `precision` is `"default"` (the contestant's own choice) or `"bfloat16"`; `"float32"` is for
    this package alone, because it is every peer's default. `workers` is None where the contestant chooses."""

    work: Work
    folder: Path
    model: nn.Module
    watch: Watch
    device: torch.device
    precision: str
    workers: int | None
    seed: int

    def sgd(self, parameters: Iterable[nn.Parameter] | None = None) -> torch.optim.Optimizer:
        """Return the optimizer of every contestant, with its steps counted."""
        parameters = self.model.parameters() if parameters is None else parameters
        return self.watch.follow(torch.optim.SGD(parameters, lr=self.work.lr, momentum=MOMENTUM))

    def dataset(self, part: str) -> ImageFolder:
        """Return a part as torchvision's data set, with its transforms."""
        size = self.work.size
        end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        if part == "train":
            steps = [transforms.RandomResizedCrop(size, scale=SCALE), transforms.RandomHorizontalFlip(), *end]
        else:
            steps = [transforms.Resize(resize(size)), transforms.CenterCrop(size), *end]
        return ImageFolder(str(self.folder / part), transforms.Compose(steps))

    def loader(self, part: str) -> torch.utils.data.DataLoader:
        """Return PyTorch's loader of a part."""
        return torch.utils.data.DataLoader(
            self.dataset(part),
            batch_size=self.work.batch,
            shuffle=part == "train",
            num_workers=self.workers or 0,
            persistent_workers=bool(self.workers),
            pin_memory=self.device.type == "cuda",
        )

    def autocast(self) -> torch.autocast | nullcontext:
        """Return PyTorch's autocast to bfloat16, or a context that does nothing."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


def resize(size: int) -> int:
    """Return the length of the short side before the centre crop, in ImageNet's usual proportion."""
    return round(size * 256 / 224)


@dataclass(frozen=True)
class Contestant:
    """A way to train; `module` must be installed, `workers` is the faster of 0 and 2 loader processes on two cores."""

    title: str
    run: Callable[[Job], list[float]]
    module: str
    workers: int | None = 0

    @property
    def installed(self) -> bool:
        """Whether its library can be imported here."""
        return find_spec(self.module) is not None


def memory(device: torch.device) -> float | None:
    """Return the peak memory of this process in megabytes: on a GPU the GPU's memory, else the main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:
        return None  # Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


BARE = {
    f"{name}, {layout}": (dtype, memory)
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16))
    for layout, memory in (("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last))
}
BATCHES = 3  # timed in each form, after one that warms up


def bare(model: nn.Module, work: Work, device: torch.device) -> dict[str, dict[str, float]]:
    """Return images per second on a batch in memory: of forward and backward, and with the optimizer's step too."""
    images, labels = torch.randn(work.batch, 3, work.size, work.size), torch.arange(work.batch, device=device) % 2
    rates: dict[str, dict[str, float]] = {"bare": {}, "synthetic": {}}
    for form, (dtype, memory) in BARE.items():
        model = model.to(device, memory_format=memory).train()
        batch = images.to(device).contiguous(memory_format=memory)
        optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=MOMENTUM)

        def step(update: bool, model=model, batch=batch, dtype=dtype, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = F.cross_entropy(model(batch), labels)
            loss.backward()
            if update:
                optimizer.step()

        step(True)
        for kind in rates:
            began = _now(device)
            for _ in range(BATCHES):
                step(kind == "synthetic")
            rates[kind][form] = BATCHES * work.batch / (_now(device) - began)
    return rates


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
