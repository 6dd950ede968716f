"""Snapshots of a model's tensors at each look, to say at the next one whether weights really moved."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

SAMPLED = 4096  # values kept of each tensor: enough to say by how much it moved, and a few MB for the largest models


class TensorSnapshot(NamedTuple):
    """One tensor at one look: some of its values, the sum of all of them, and whether it took gradients."""

    values: torch.Tensor
    total: float
    trainable: bool


class Change(NamedTuple):
    """How a tensor changed: `size` is |new - old| / |old| on the sampled values; frozen at both looks, or not."""

    size: float
    frozen: bool


# By model, so that a deleted model is forgotten; a model whose head was replaced keeps its backbone's snapshots.
_snapshots: WeakKeyDictionary[nn.Module, dict[str, TensorSnapshot]] = WeakKeyDictionary()


def compare(model: nn.Module) -> dict[str, Change] | None:
    """Take a snapshot of every parameter and buffer, and return what changed since the last one; None at the first.

    Tensors that are new or have another shape are left out.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    before, now = _snapshots.get(model), {name: _snapshot(tensor) for name, tensor in tensors}
    _snapshots[model] = now
    if before is None:
        return None
    known = {name: before[name] for name in now if name in before}
    same = {name: old for name, old in known.items() if len(old.values) == len(now[name].values)}
    return {name: _change(old, now[name]) for name, old in same.items()}


def _snapshot(tensor: torch.Tensor) -> TensorSnapshot:
    flat = tensor.detach().reshape(-1)
    step = max(1, -(-len(flat) // SAMPLED))
    wide = torch.float32 if flat.device.type == "mps" else torch.float64  # all that Apple's GPUs have
    # The sum notices what the sampled values miss.
    return TensorSnapshot(flat[::step].cpu().double(), flat.sum(dtype=wide).item(), tensor.requires_grad)


def _change(old: TensorSnapshot, new: TensorSnapshot) -> Change:
    difference, size = (new.values - old.values).norm().item(), old.values.norm().item()
    if difference == 0:
        difference, size = abs(new.total - old.total), abs(old.total)
    return Change(difference / max(size, 1e-12), not old.trainable and not new.trainable)
