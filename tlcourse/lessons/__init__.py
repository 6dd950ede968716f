"""What lessons and exercises stand on: guesses, sliders, checks, hints, claims, comparisons, and running a notebook."""

import importlib
from typing import TYPE_CHECKING, Any

from tlcourse.lessons.checks import check
from tlcourse.lessons.claims import CLAIM_MIME, ClaimError, claim
from tlcourse.lessons.grading import add_check
from tlcourse.lessons.guesses import guess, slider
from tlcourse.lessons.learner import hint, progress, solution

if TYPE_CHECKING:
    from tlcourse.lessons import cost, experiments
    from tlcourse.lessons.kernel import Step, execute
    from tlcourse.lessons.machine import check_machine
    from tlcourse.lessons.run import LessonResult, claims_in, find, find_all, run_lesson, write

__all__ = [
    "CLAIM_MIME",
    "ClaimError",
    "LessonResult",
    "Step",
    "add_check",
    "check",
    "check_machine",
    "claim",
    "claims_in",
    "cost",
    "execute",
    "experiments",
    "find",
    "find_all",
    "guess",
    "hint",
    "progress",
    "run_lesson",
    "slider",
    "solution",
    "write",
]


def __getattr__(name: str) -> Any:
    # Running notebooks needs Jupyter's libraries, comparing needs torch; guesses, checks and claims need neither.
    if name in ("cost", "experiments"):
        return importlib.import_module(f"tlcourse.lessons.{name}")
    if name in __all__:
        home = {"Step": "kernel", "execute": "kernel", "check_machine": "machine"}.get(name, "run")
        return getattr(importlib.import_module(f"tlcourse.lessons.{home}"), name)
    raise AttributeError(f"module 'tlcourse.lessons' has no attribute {name!r}")
