"""tlcourse: transfer learning and fine-tuning, measured."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:  # What a name stands for is imported when it is first used: importing the package stays quick.
    from tlcourse import (
        data,
        doctor,
        evaluation,
        features,
        lessons,
        models,
        plots,
        predict,
        preprocessing,
        recipes,
        synthetic,
        train,
    )
    from tlcourse.doctor import examine
    from tlcourse.lessons import check, claim, cost, experiments, guess, hint, progress, slider, solution
    from tlcourse.runtime import get_runtime, setup
    from tlcourse.table import Table

__version__ = "0.1.0"
__all__ = [
    "Table",
    "check",
    "claim",
    "cost",
    "data",
    "doctor",
    "evaluation",
    "examine",
    "experiments",
    "features",
    "get_runtime",
    "guess",
    "hint",
    "lessons",
    "models",
    "plots",
    "predict",
    "preprocessing",
    "progress",
    "recipes",
    "setup",
    "slider",
    "solution",
    "synthetic",
    "train",
]

_HOMES = {"Table": "table", "examine": "doctor", "get_runtime": "runtime", "setup": "runtime"}
_HOMES |= dict.fromkeys(
    ("check", "claim", "cost", "experiments", "guess", "hint", "progress", "slider", "solution"), "lessons"
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tlcourse.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"tlcourse.{name}")
    raise AttributeError(f"module 'tlcourse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _wait_passively() -> bool:
    """Let OpenMP's threads sleep while they wait, unless the user has chosen; return whether this comes too late.

    By default they spin. Where another program needs a core, they spend on that what they should compute with, and
    training falls to a fraction of its speed. OpenMP reads the variable once, when torch is imported; kernels and other
    processes that start from here inherit it.
    """
    if any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return "torch" in sys.modules


THREADS_SPIN = _wait_passively()

# timm takes most of a second to import. Whoever imports it, now or later, finds the embedded backbone registered.
wrapt.register_post_import_hook(lambda timm: importlib.import_module("tlcourse.models.tl_resnet"), "timm")
