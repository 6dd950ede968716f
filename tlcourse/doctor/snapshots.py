"""What the doctor remembers of a model between two looks, to say whether weights really moved."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

SAMPLED = 4096  # values kept of each tensor: enough to say by how much it moved, and a few MB for the largest models


@dataclass(frozen=True)
class TensorSnapshot:
    """One tensor at one look: some of its values, the sum of all of them, and whether it took gradients."""

    values: torch.Tensor
    total: float
    trainable: bool


@dataclass(frozen=True)
class Change:
    """How a tensor changed: `size` is |new - old| / |old| on the sampled values; frozen at both looks, or not."""

    size: float
    frozen: bool


# By model, so that a deleted model is forgotten; a model whose head was replaced keeps its body's looks.
_looks: WeakKeyDictionary[nn.Module, dict[str, TensorSnapshot]] = WeakKeyDictionary()


def compare(model: nn.Module) -> dict[str, Change] | None:
    """Look at every parameter and buffer, and return what changed since the last look; None at the first.

    Tensors that are new or have another shape are left out.
    """
    before, now = _looks.get(model), _look(model)
    _looks[model] = now
    if before is None:
        return None
    known = {name: before[name] for name in now if name in before}
    return {
        name: Change(_size(old, now[name]), not old.trainable and not now[name].trainable)
        for name, old in known.items()
        if len(old.values) == len(now[name].values)
    }


@torch.no_grad()
def _look(model: nn.Module) -> dict[str, TensorSnapshot]:
    looks = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        flat = tensor.detach().reshape(-1)
        step = max(1, -(-len(flat) // SAMPLED))
        wide = torch.float32 if flat.device.type == "mps" else torch.float64  # all that Apple's GPUs have
        # The sum notices what the sampled values miss.
        total = flat.sum(dtype=wide).item()
        looks[name] = TensorSnapshot(flat[::step].cpu().double(), total, tensor.requires_grad)
    return looks


def _size(old: TensorSnapshot, new: TensorSnapshot) -> float:
    difference = (new.values - old.values).norm().item()
    if difference == 0 and new.total != old.total:
        return abs(new.total - old.total) / max(abs(old.total), 1e-12)
    return difference / max(old.values.norm().item(), 1e-12)
