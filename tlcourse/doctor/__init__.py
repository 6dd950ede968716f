"""The doctor: looks at a set-up, a script, a folder or a checkpoint, and says what is wrong with it.

A name is imported when it is first used: `tlcourse doctor train.py` needs no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlcourse.doctor.examination import examine
    from tlcourse.doctor.files import diagnose
    from tlcourse.doctor.report import Finding, Report

__all__ = ["Finding", "Report", "diagnose", "examine"]

_HOMES = {"Finding": "report", "Report": "report", "diagnose": "files", "examine": "examination"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tlcourse.doctor' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tlcourse.doctor.{_HOMES[name]}"), name)
