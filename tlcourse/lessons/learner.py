"""What a learner can ask for beside a check: hints, a solution, and which steps are done."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from tlcourse.lessons.checks import Verdict, known
from tlcourse.lessons.guesses import somebody_reads
from tlcourse.lessons.hints import HINTS

SOLUTIONS = Path(__file__).with_name("solutions")
_done: set[str] = set()
_given: dict[str, int] = {}  # step -> hints that were shown


def hint(name: str) -> Verdict:
    """Show the next hint for a step of an exercise: each call shows a stronger one, then the last one again.

    Raises:
        ValueError: there is no such step, or it has no hints.
    """
    hints = _of_an_exercise(name)
    _given[name] = number = min(_given.get(name, 0) + 1, len(hints))
    more = f'\n`tl.solution("{name}")` shows one answer.' if number == len(hints) else ""
    return Verdict(f"hint {number} of {len(hints)}", hints[number - 1] + more)


def solution(name: str) -> None:
    """Print one answer to a step of an exercise; others can be right, too.

    Raises:
        ValueError: there is no such step, or it has no solution.
    """
    _of_an_exercise(name)
    file = SOLUTIONS / f"{name.partition('/')[0]}.json"
    print(f"# One answer to {name}; others are right, too.")
    print(json.loads(file.read_text(encoding="utf-8"))[name])


def progress(part: str = "", *, reset: str = "") -> object:
    """Return a table of the steps that your checks found right, kept in the cache folder of this machine.

    Args:
        part: a lesson or an exercise, such as "ex2"; all of them without it.
        reset: forget what was done in this part, hints included, before.

    Raises:
        ValueError: there is no such part.
    """
    from tlcourse.table import Table

    steps = known()
    for name in filter(None, (part, reset)):
        if not any(step.startswith(f"{name}/") for step in steps):
            parts = sorted({step.partition("/")[0] for step in steps})
            raise ValueError(f"There is no part {name!r}. There are {', '.join(parts)}.")
    done = _read()
    if reset:
        gone = {step for step in steps if step.startswith(f"{reset}/")}
        done -= gone
        for step in gone:
            _given.pop(step, None)
        _write(done)
    shown = [step for step in steps if not part or step.startswith(f"{part}/")]
    return Table({"step": step, "done": step in done} for step in shown)


def remember(name: str) -> None:
    """Keep that a step was answered right."""
    _write(_read() | {name})


def _of_an_exercise(name: str) -> tuple[str, ...]:
    known(name)
    if name not in HINTS:
        raise ValueError(f"{name!r} is a task of a lesson: its solution is folded into the text above it.")
    return HINTS[name]


def _file() -> Path:
    from tlcourse.runtime import cache_folder

    return cache_folder() / "progress.json"


def _read() -> set[str]:
    """Return the steps done: in this session, and where somebody reads also in earlier ones."""
    if somebody_reads():
        with suppress(OSError, ValueError, TypeError):  # no file yet, or a damaged one: counted anew
            _done.update(map(str, json.loads(_file().read_text(encoding="utf-8"))))
    return set(_done)


def _write(done: set[str]) -> None:
    """Keep the steps done; a cache folder that cannot be written to is no reason to stop a check."""
    from tlcourse.atomic_write import atomic_write

    _done.clear()
    _done.update(done)
    if somebody_reads():
        with suppress(OSError), atomic_write(_file()) as part:
            part.write_text(json.dumps(sorted(done)), encoding="utf-8")
