"""Snapshots of a model's tensors at each look, to say at the next one whether weights really moved."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

SAMPLED = 4096  # values kept of each tensor: enough to say by how much it moved, and a few MB for the largest models


class Change(NamedTuple):
    """How a tensor changed: `size` is |new - old| / |old| on the sampled values; frozen at both looks, or not.

    Where the old values were all 0 (`from_zero`), `size` is 1. `unfrozen` is what was frozen at the last look alone.
    """

    size: float
    frozen: bool
    from_zero: bool = False
    unfrozen: bool = False


# Some values of each tensor, the sum of all of them, and whether it took gradients.
Snapshot = tuple[torch.Tensor, float, bool]
# By model, so that a deleted model is forgotten; a model whose head was replaced keeps its backbone's snapshots.
_snapshots: WeakKeyDictionary[nn.Module, dict[str, Snapshot]] = WeakKeyDictionary()


def compare(model: nn.Module) -> dict[str, Change] | None:
    """Take a snapshot of every parameter and buffer, and return what changed since the last one; None at the first.

    Tensors that are new or have another shape are left out.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    before, now = _snapshots.get(model), {name: _snapshot(tensor) for name, tensor in tensors}
    _snapshots[model] = now
    if before is None:
        return None
    known = [name for name in now if name in before and len(before[name][0]) == len(now[name][0])]
    return {name: _change(before[name], now[name]) for name in known}


def _snapshot(tensor: torch.Tensor) -> Snapshot:
    flat = tensor.detach().flatten()
    step = max(1, -(-len(flat) // SAMPLED))
    wide = torch.float32 if flat.device.type == "mps" else torch.float64  # all that Apple's GPUs have
    # The sum notices what the sampled values miss.
    return flat[::step].cpu().double(), flat.sum(dtype=wide).item(), tensor.requires_grad


def _change(old: Snapshot, new: Snapshot) -> Change:
    difference, size = (new[0] - old[0]).norm().item(), old[0].norm().item()
    if difference == 0:
        difference, size = abs(new[1] - old[1]), abs(old[1])
    from_zero = size == 0 and difference > 0
    share = 1.0 if from_zero else difference / max(size, 1e-12)
    return Change(share, not (old[2] or new[2]), from_zero, new[2] and not old[2])
