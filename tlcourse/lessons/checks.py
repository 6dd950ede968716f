"""Checks of a reader's answers: not yet, not right and why, or right and why it matters."""

import html
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tlcourse.lessons.claims import box

# Okabe and Ito's sky blue, vermilion and bluish green, which colour-blind readers can tell apart.
_STYLES = {"not yet": ("…", "#56B4E9"), "not right": ("✗", "#D55E00"), "right": ("✓", "#009E73")}
# What a step does with an answer: raise `NotRightError`, or return why the right answer matters.
Step = Callable[[Any], str]
STEPS: dict[str, Step] = {}


class NotRightError(Exception):
    """An answer is not right; the message says what was seen, and what to try."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: `outcome` is "not yet", "not right" or "right"."""

    outcome: str
    message: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return box(*_STYLES[self.outcome], self.outcome, html.escape(self.message))


def step(name: str) -> Callable[[Step], Step]:
    """Register a function as the check of a step, such as "3.2/freeze"."""

    def register(function: Step) -> Step:
        STEPS[name] = function
        return function

    return register


def check(name: str, answer: Any) -> Verdict:
    """Check an answer; `...` and None are no answer yet.

    Raises:
        ValueError: there is no such step.
    """
    from tlcourse.lessons import steps  # noqa: F401  (registers the steps of the lessons)

    if name not in STEPS:
        raise ValueError(f"There is no step {name!r}. There are {', '.join(sorted(STEPS))}.")
    if answer is ... or answer is None:
        return Verdict("not yet", "replace the three dots with your answer, and run the cell again.")
    try:
        return Verdict("right", STEPS[name](answer))
    except NotRightError as reason:
        return Verdict("not right", str(reason))
    except Exception as error:
        return Verdict("not right", _failed(error))


def _failed(error: Exception) -> str:
    """Say which line of the reader's code failed, or that the check could not use the answer."""
    message = f"{type(error).__name__}: {error}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_readers(frame.filename)]
    if own:
        return f"your code stopped in line {own[-1].lineno}, `{own[-1].line}`, with {message}"
    return f"the check cannot use this answer ({message}). Compare it with what the task asks for."


def _is_readers(filename: str) -> bool:
    """Whether a file is a notebook's cell, or text that was run: not the package, not a library."""
    return "ipykernel_" in filename or filename.startswith("<")
