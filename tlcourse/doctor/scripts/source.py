"""From a file to Python: notebooks cell by cell, magics as IPython reads them, lines that are not Python."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tlcourse.doctor.scripts.reader import Script

MAX_SYNTAX_ERRORS = 5  # lines that are left out before a source is given up
PYTHON_CELLS = re.compile(r"%%(time|timeit|capture|prun|python3?|memit)\b")
# A line of IPython's with what it is for: a magic that runs the Python after it, a value, or anything else.
MAGIC = r"(?s)(\s*)(?:%(?:time|timeit|prun)\s+(?:-\w+\s+)*(.*)|([\w., ]+=)\s*[!%]\w.*|[%!?].*|[\w.]+\?\??\s*)$"


def read_script(file: Path) -> Script:
    """Read a `.py` or `.ipynb` file; a notebook's cells become one script, its magics empty statements.

    Raises:
        ValueError: it cannot be read as text or as a notebook.
    """
    kind, skipped = "notebook" if file.suffix == ".ipynb" else "script", []
    try:
        text = file.read_text(encoding="utf-8-sig")
        cells = json.loads(text)["cells"] if kind == "notebook" else []
        lines = list(_lines(cells, skipped)) if kind == "notebook" else list(_placed(text, ""))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as a {kind}: {error}.") from error
    return _parse([line for _, line in lines], [place for place, _ in lines], skipped)


def _parse(lines: list[str], places: list[str], skipped: list[str]) -> Script:
    """Parse a source; lines that are not Python go into `errors` and are left out, so that the rest can be read."""
    errors: dict[str, str] = {}
    while True:
        try:
            return Script(ast.parse("\n".join(lines)), places, errors, skipped)
        except (SyntaxError, ValueError) as error:
            number = min(getattr(error, "lineno", 1) or 1, len(lines)) - 1
            line, place = lines[number], places[number]
            if place in errors or len(errors) == MAX_SYNTAX_ERRORS:
                return Script(ast.parse(""), places, errors, [*skipped, "the rest, after so many errors"])
            if sys.version_info < (3, 12) and "f-string" in str(error):
                skipped.append(f"{place}, which may be right in Python 3.12 and newer")
            else:
                errors[place] = f"{getattr(error, 'msg', error)}: `{line.strip()}`"
            lines[number] = line[: len(line) - len(line.lstrip())] + "pass"


def _lines(cells: list[dict], skipped: list[str]) -> Iterator[tuple[str, str]]:
    """Yield every line of the code cells with its place; cells are counted from 1, those of text included."""
    for number, cell in enumerate(cells, start=1):
        code = "".join(cell["source"])
        first = next((line for line in code.split("\n") if line.strip() and not line.startswith("#")), "")
        if cell["cell_type"] == "code" and first.startswith("%%") and not PYTHON_CELLS.match(first):
            skipped.append(f"cell {number} ({first.split()[0]})")
        elif cell["cell_type"] == "code":
            yield from _placed(code.replace(first, "pass", 1) if first.startswith("%%") else code, f"cell {number}, ")


def _placed(code: str, cell: str) -> Iterator[tuple[str, str]]:
    """Yield each line with its place; where IPython's lines stand, statements that do nothing."""
    lines, number, inside = code.split("\n"), 0, ""
    try:
        ast.parse(code)
        number = len(lines)
    except (SyntaxError, ValueError):
        pass
    while number < len(lines):  # not all of it is Python
        end = number + 1
        magic = None if inside else re.match(MAGIC, lines[number])
        while magic and lines[end - 1].endswith("\\") and end < len(lines):
            end += 1
        if magic:
            indent, python, target = magic.groups()
            lines[number] = indent + (python or (f"{target} None" if target else "pass"))
            lines[number + 1 : end] = [""] * (end - number - 1)
        for quotes in ('"""', "'''"):  # a line of a long text may begin with any mark
            if inside in ("", quotes) and lines[number].count(quotes) % 2:
                inside = "" if inside else quotes
        number = end
    yield from ((f"{cell}line {i}", line) for i, line in enumerate(lines, start=1))
