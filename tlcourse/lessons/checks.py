"""Checks of a reader's answers: not yet, not right and why, or right and why it matters."""

import hashlib
import hmac
import html
import os
import re
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcourse.lessons.claims import box
from tlcourse.lessons.hints import HINTS

# Okabe and Ito's sky blue, vermilion and bluish green, which colour-blind readers can tell apart.
_STYLES = {"not yet": ("…", "#56B4E9"), "not right": ("✗", "#D55E00"), "right": ("✓", "#009E73")}
_STYLES["hint"] = ("?", "#E69F00")
CHECK_MIME = "application/vnd.tlcourse.check+json"
# `tlcourse check` gives the kernel a key, with which verdicts are signed: text that looks like one earns no point.
_KEY = os.environ.pop("TLCOURSE_CHECK_KEY", "")
# What a step does with an answer: raise `NotRightError`, or return why the right answer matters.
Step = Callable[[Any], str]
STEPS: dict[str, Step] = {}


class NotRightError(Exception):
    """An answer is not right; the message says what was seen, and what to try."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: `outcome` is "not yet", "not right" or "right"; a hint is shown in the same way."""

    outcome: str
    message: str
    step: str = ""
    proof: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        style = _STYLES.get(self.outcome, _STYLES["hint"])  # "hint 1 of 3"
        text = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", html.escape(self.message))
        return box(*style, self.outcome, text.replace("\n", "<br>"))

    def _repr_mimebundle_(self, **_: object) -> dict[str, object] | None:
        if not self.proof:
            return None
        record = {"step": self.step, "outcome": self.outcome, "message": self.message, "proof": self.proof}
        return {"text/plain": repr(self), "text/html": self._repr_html_(), CHECK_MIME: record}


def step(name: str) -> Callable[[Step], Step]:
    """Register a function as the check of a step, such as "3.2/freeze"."""

    def register(function: Step) -> Step:
        STEPS[name] = function
        return function

    return register


def known(name: str = "") -> list[str]:
    """Return the names of all steps, after making sure that there is one of this name.

    Raises:
        ValueError: there is no such step.
    """
    from tlcourse.lessons import exercises, steps  # noqa: F401  (they register their steps)

    if name and name not in STEPS:
        raise ValueError(f"There is no step {name!r}. There are {', '.join(sorted(STEPS))}.")
    return list(STEPS)


def check(name: str, answer: Any) -> Verdict:
    """Check an answer; `...`, None and a function without a body are no answer yet.

    Raises:
        ValueError: there is no such step.
    """
    from tlcourse.lessons import learner

    known(name)
    outcome, message = _judged(name, answer)
    if outcome == "right":
        learner.remember(name)
    if name in HINTS and outcome == "right":
        message += f'\n`tl.solution("{name}")` shows one answer, to set beside yours.'
    elif name in HINTS:
        message += f'\n`tl.hint("{name}")` gives a hint.'
    return Verdict(outcome, message, name, sign(_KEY, name, outcome) if _KEY else "")


def sign(key: str, name: str, outcome: str) -> str:
    """Return the signature of a verdict."""
    return hmac.new(key.encode(), f"{name} {outcome}".encode(), hashlib.sha256).hexdigest()


def _judged(name: str, answer: Any) -> tuple[str, str]:
    if answer is ... or answer is None:
        return "not yet", "replace the three dots with your answer, and run the cell again."
    if _has_no_body(answer):
        return "not yet", "the function has no body yet. Replace its three dots, and run the cell again."
    try:
        return "right", STEPS[name](answer)
    except NotRightError as reason:
        return "not right", str(reason)
    except Exception as error:
        return "not right", _failed(error)


def _without_body(): ...


def _with_docstring():
    """Say what is to be written."""
    ...


def _has_no_body(answer: Any) -> bool:
    """Whether a function is as an exercise gives it: a head, a docstring and three dots."""
    code = getattr(answer, "__code__", None)
    if code is None or code.co_name == "<lambda>":
        return False
    empty = {_without_body.__code__.co_code, _with_docstring.__code__.co_code}
    return code.co_code in empty and set(code.co_consts) <= {None, answer.__doc__}


def _failed(error: Exception) -> str:
    """Say which line of the reader's code failed, or that the check could not use the answer."""
    message = f"{type(error).__name__}: {error}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_readers(frame.filename)]
    if own:
        return f"your code stopped in line {own[-1].lineno}, `{own[-1].line}`, with {message}"
    return f"the check cannot use this answer ({message}). Compare it with what the task asks for."


def _is_readers(filename: str) -> bool:
    """Whether a file is a notebook's cell, text that was run, or a script: not the package, and not a library."""
    libraries = [path for name, path in sysconfig.get_paths().items() if name.endswith("lib")]
    return not filename.startswith((*libraries, str(Path(__file__).parents[1]), "<string>", "<frozen "))
