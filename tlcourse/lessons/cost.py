"""What a network costs: parameters, multiply-adds, seconds, and the memory of a training step."""

import csv
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tlcourse.evaluation import evaluation_mode
from tlcourse.models import count, train_mode
from tlcourse.side_effects import no_side_effects
from tlcourse.table import Table

__all__ = ["front", "measure", "multiply_adds", "published", "seconds", "training_memory"]

MOMENTS = 2  # numbers that Adam keeps for each parameter that trains


def multiply_adds(model: nn.Module, size: int) -> int:
    """Count the multiplications, each with its addition, for one image `(3, size, size)`.

    Convolutions, linear layers and attention are counted, nothing else. A model on the device `meta` has no numbers, so
    counting one is quick.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    # Attention in one piece, as there and in fused kernels, is not counted.
    torch.backends.mha.set_fastpath_enabled(False)
    counter = FlopCounterMode(display=False)
    try:
        with evaluation_mode(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(_images(model, 1, size))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def seconds(
    models: Mapping[str, nn.Module], size: int | Mapping[str, int], *, batch_size: int = 1, repeats: int = 7
) -> dict[str, list[float]]:
    """Measure how long each model takes for a batch of images `(3, size, size)`, in evaluation mode.

    `size` is one for all, or model -> size. The models take turns, so that a slow minute of the machine is shared by
    all of them. Each runs once before, which is not measured: first calls allocate memory and choose algorithms. A GPU
    is waited for.
    """
    measured: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name, model in models.items():
            images = _images(model, batch_size, _size_of(name, size))
            with evaluation_mode(model), torch.inference_mode():
                _wait(images.device)
                start = time.perf_counter()
                model(images)
                _wait(images.device)
                if turn:
                    measured[name].append(time.perf_counter() - start)
    return measured


def training_memory(model: nn.Module, size: int, *, batch_size: int = 32) -> dict[str, int]:
    """Return the bytes that a training step with Adam holds: weights, gradients, optimizer, activations.

    Activations are what the forward pass keeps for the backward pass. They are counted on two and on three images: the
    difference grows with the batch. Work space is not in it. The model is left as it was.
    """
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    two, three = (_kept_for_backward(model, _images(model, images, size)) for images in (2, 3))
    activations = two + (batch_size - 2) * (three - two)
    return {"weights": weights, "gradients": trained, "optimizer": MOMENTS * trained, "activations": activations}


def _kept_for_backward(model: nn.Module, images: torch.Tensor) -> int:
    """Return the bytes that a forward pass in training mode keeps, without the model's own tensors."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with no_side_effects(model), torch.enable_grad(), hooks:
        outputs = train_mode(model)(images)
    del outputs  # until here they hold the graph, and so every storage: no address was used twice
    return sum(kept.values())


def measure(
    models: Mapping[str, nn.Module], size: int | Mapping[str, int], *, batch_size: int = 8, repeats: int = 7
) -> Table:
    """Return a row for each model: parameters, multiply-adds, latency of one image, and images per second in batches.

    Latency is the median in milliseconds; half of the measurements lie within its `spread`. `least` is the quickest
    call: other programs can only add to it.
    """
    single = seconds(models, size, repeats=repeats)
    batches = seconds(models, size, batch_size=batch_size, repeats=max(2, repeats // 2))
    table = Table()
    for name, model in models.items():
        low, middle, high = statistics.quantiles(single[name], n=4)
        table.append(
            {
                "model": name,
                "image size": _size_of(name, size),
                "parameters (M)": count(model.parameters()) / 1e6,
                "multiply-adds (G)": multiply_adds(model, _size_of(name, size)) / 1e9,
                "latency (ms)": 1000 * middle,
                "spread (ms)": 1000 * (high - low),
                "least (ms)": 1000 * min(single[name]),
                f"images/s, batch {batch_size}": batch_size / statistics.median(batches[name]),
            }
        )
    return table


def published() -> Table:
    """Return accuracies on ImageNet's validation set that timm has published for some of its weights, in percent.

    `image size` is that of the measurement, which may be larger than in training. Source: results/results-imagenet.csv
    of https://github.com/huggingface/pytorch-image-models, commit 0173a139, read on 2026-11-26.
    """
    with Path(__file__).with_name("published.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return Table({**row, "image size": int(row["image size"]), "top-1": float(row["top-1"])} for row in rows)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names on the Pareto front, cheapest first, of points `(cost, value)`.

    A point is on the front when none that costs as much or less has a higher value, and none with its value costs less.
    """
    names: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not names or points[name][1] > points[names[-1]][1]:
            names.append(name)
    return names


def _size_of(name: str, size: int | Mapping[str, int]) -> int:
    return size if isinstance(size, int) else size[name]


def _images(model: nn.Module, batch_size: int, size: int) -> torch.Tensor:
    first = next(model.parameters())
    return torch.zeros(batch_size, 3, size, size, device=first.device, dtype=first.dtype)


def _wait(device: torch.device) -> None:
    """Wait until the device has done what it was given: a GPU works on while Python goes on."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
