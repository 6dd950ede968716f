"""What lessons stand on: claims, and running a lesson's notebook from a clean kernel."""

import importlib
from typing import TYPE_CHECKING, Any

from tlcourse.lessons.claims import CLAIM_MIME, ClaimError, claim

if TYPE_CHECKING:
    from tlcourse.lessons.kernel import Step, execute
    from tlcourse.lessons.run import LessonResult, claims_in, find, run_lesson, write

__all__ = [
    "CLAIM_MIME",
    "ClaimError",
    "LessonResult",
    "Step",
    "claim",
    "claims_in",
    "execute",
    "find",
    "run_lesson",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # Running notebooks needs Jupyter's libraries. Claims do not, and every lesson imports them.
        home = "kernel" if name in ("Step", "execute") else "run"
        return getattr(importlib.import_module(f"tlcourse.lessons.{home}"), name)
    raise AttributeError(f"module 'tlcourse.lessons' has no attribute {name!r}")
