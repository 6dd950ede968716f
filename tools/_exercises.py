"""Exercises: which notebooks follow from a source, and what of a solution is cut out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jupytext
from nbformat import NotebookNode

# nbgrader marks solutions in the same way, so a teacher can convert these notebooks.
_REGION = re.compile(r"^([ ]*)### BEGIN SOLUTION\n.*?^[ ]*### END SOLUTION$", re.MULTILINE | re.DOTALL)
_MARKS = re.compile(r"^[ ]*### (BEGIN|END) SOLUTION\n", re.MULTILINE)
_CHECK = re.compile(r'^.*tl\.check\("((\w+)/\w+)".*\n?', re.MULTILINE)
FOLDERS = ("notebooks", "exercises", "solutions")


def sources(root: Path) -> list[Path]:
    """Return the sources of lessons, then those of exercises."""
    return [path for kind in ("lessons", "solutions") for path in sorted((root / "sources" / kind).glob("*.py"))]


def targets(root: Path, source: Path) -> list[Path]:
    """Return the notebooks that follow from a source: one of a lesson; an exercise and its solution."""
    folders = ["notebooks"] if source.parent.name == "lessons" else ["exercises", "solutions"]
    return [root / folder / f"{source.stem}.ipynb" for folder in folders]


def notebooks(root: Path) -> list[Path]:
    """Return all notebooks that were built."""
    return [path for folder in FOLDERS for path in sorted((root / folder).glob("*.ipynb"))]


def shown(text: str, target: Path) -> str:
    """Return a source's text as a notebook shows it: an exercise has three dots where the solution stands."""
    return _REGION.sub(r"\1...  # your code", text) if target.parent.name == "exercises" else text


def answers(source: Path) -> dict[str, str]:
    """Return step -> the solved cell without marks and check, as `tl.solution` prints it."""
    if source.parent.name == "lessons":
        return {}
    cells: list[NotebookNode] = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent").cells
    solved = [cell.source for cell in cells if _REGION.search(cell.source)]
    return {_CHECK.search(cell)[1]: _CHECK.split(_MARKS.sub("", cell))[0].strip() for cell in solved}


def answers_file(root: Path, source: Path) -> Path:
    """Return the file of the package in which the answers to an exercise lie."""
    return root / "tlcourse" / "lessons" / "solutions" / f"{source.stem.split('_')[0]}.json"


def answers_text(source: Path) -> str:
    """Return the text of that file."""
    return json.dumps(answers(source), indent=1, ensure_ascii=False) + "\n"


def unsolved(nb: NotebookNode, target: Path, steps: list[str]) -> list[str]:
    """Return what a built exercise or solution says that it should not: *not yet* in one, *right* in the other."""
    if target.parent.name == "notebooks":
        return []
    wanted = "right: " if target.parent.name == "solutions" else "not yet: "
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    found = [output.data["text/plain"] for output in outputs if "text/plain" in output.get("data", {})]
    verdicts = [text for text in found if text.startswith(("right: ", "not yet: ", "not right: "))]
    wrong = [f"a check says {text!r}" for text in verdicts if not text.startswith(wanted)]
    missing = [f"{len(verdicts)} verdicts for {len(steps)} steps"] if len(verdicts) != len(steps) else []
    return wrong + missing
