"""All random numbers that training draws, as a state that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch

from tlcourse.side_effects import generator_state, reachable


def get_rng_state(data: Any) -> dict[str, Any]:
    """Return the state of the global random numbers and of every generator that the loaders hold, as plain values."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": _packed(np.random.get_state()),
        "loaders": [_packed(state) for _, state in _held(data)],
    }


def set_rng_state(state: dict[str, Any], data: Any = None) -> None:
    """Set the state of all random numbers; those that the loaders hold only where there are loaders."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(_unpacked(state["python"]))
    np.random.set_state(_unpacked(state["numpy"]))
    if data is not None:
        for (put_back, _), saved in zip(_held(data), state["loaders"], strict=True):
            put_back(_unpacked(saved))


def _held(data: Any) -> list:
    """Return how to set each generator of the loaders, their samplers and data sets, and its state; always in order."""
    parts = reachable([getattr(data, "train", None), getattr(data, "val", None)])
    return [held for part in parts if (held := generator_state(part)) is not None]


def _packed(value: Any) -> Any:
    """Replace NumPy's arrays, which a checkpoint that is read safely cannot hold."""
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.view(f"i{value.itemsize}").copy()), "dtype": str(value.dtype)}
    if isinstance(value, dict):
        return {key: _packed(item) for key, item in value.items()}
    return tuple(_packed(item) for item in value) if isinstance(value, tuple) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict) and "array" in value:
        return value["array"].numpy().view(value["dtype"])
    if isinstance(value, dict):
        return {key: _unpacked(item) for key, item in value.items()}
    return tuple(_unpacked(item) for item in value) if isinstance(value, tuple) else value
