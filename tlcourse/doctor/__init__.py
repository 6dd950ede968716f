"""The doctor: looks at a set-up, a script, a folder or a checkpoint and says what is wrong with it."""

import importlib
from typing import Any

_HOMES = {"Finding": "report", "Report": "report", "diagnose": "files", "examine": "examination"}
__all__ = ["Finding", "Report", "diagnose", "examine"]


def __getattr__(name: str) -> Any:  # reading a script needs no torch, examining a model does
    if name in _HOMES:
        return getattr(importlib.import_module(f"tlcourse.doctor.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tlcourse.doctor' has no attribute {name!r}")
