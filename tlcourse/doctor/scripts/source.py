"""From a file to Python: notebooks cell by cell, magics as IPython reads them, lines that are not Python."""

import ast
import json
import re
import sys
from pathlib import Path

from tlcourse.doctor.scripts.reader import Script

MAX_SYNTAX_ERRORS = 5  # lines that are left out before a source is given up
PYTHON_CELLS = re.compile(r"%%(time|timeit|capture|prun|python3?|memit)\b")
# A line of IPython's with what it is for: a magic that runs the Python after it, a value, or anything else.
MAGIC = r"(?s)\s*(?:%(?:time|timeit|prun)\s+(?:-\w+\s+)*(.*)|([\w., ]+=)\s*[!%]\w.*|[%!?].*|[\w.]+\?\??\s*)$"


def read_script(file: Path) -> Script:
    """Read a `.py` or `.ipynb` file; a notebook's cells become one script, its magics empty statements.

    Raises:
        ValueError: it cannot be read as text or as a notebook.
    """
    kind = "notebook" if file.suffix == ".ipynb" else "script"
    try:
        text = file.read_text(encoding="utf-8-sig")
        cells = json.loads(text)["cells"] if kind == "notebook" else [{"cell_type": "code", "source": text}]
        sources = ["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in cells]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as a {kind}: {error}.") from error
    lines: dict[str, str] = {}  # by place
    errors: dict[str, str] = {}
    skipped: list[str] = []
    for number, code in enumerate(sources, start=1):  # cells are counted from 1, those of text included
        cell = f"cell {number}, " if kind == "notebook" else ""
        first = next((line for line in code.split("\n") if line.strip() and not line.startswith("#")), "")
        if cell and first.startswith("%%") and not PYTHON_CELLS.match(first):
            skipped.append(f"cell {number} ({first.split()[0]})")
        else:
            lines |= _as_python(code, cell, errors, skipped)
    return Script(ast.parse("\n".join(lines.values())), list(lines), errors, skipped)


def _as_python(code: str, cell: str, errors: dict[str, str], skipped: list[str]) -> dict[str, str]:
    """Return a source's lines by their places; IPython's, and those that are no Python, as statements that do nothing.

    The first line that is no Python goes into `errors`, with its place; the next ones may follow from it.
    """
    lines = code.split("\n")
    places = [f"{cell}line {number}" for number in range(1, len(lines) + 1)]
    mended: list[str] = []
    while True:
        try:
            ast.parse("\n".join(lines))
            return dict(zip(places, lines, strict=True))
        except (SyntaxError, ValueError) as error:
            message, number = str(getattr(error, "msg", error)), getattr(error, "lineno", 1) or 1
        number = min(number, len(lines)) - 1
        line, place, python = lines[number], places[number], "pass"
        if magic := re.match(MAGIC, line):
            python = magic[1] or (f"{magic[2]} None" if magic[2] else "pass")
            while lines[number].endswith("\\") and number + 1 < len(lines):  # it goes on
                lines[number], number = "", number + 1
        elif place in mended or len(mended) == MAX_SYNTAX_ERRORS:
            skipped.append(f"{cell or 'all of it, '}after so many errors")
            return {}
        else:
            newer = " in Python 3.12 and newer" if sys.version_info < (3, 12) and "f-string" in message else ""
            if newer or mended:
                skipped.append(f"{place}, which may be right{newer}")
            else:
                errors[place] = f"{message}: `{line.strip()}`"
            mended.append(place)
            inner = next(filter(str.strip, lines[number + 1 :]), "")
            python = "" if inner[:1].isspace() and not line[:1].isspace() else "pass"  # of a merge, for example
        lines[number] = line[: len(line) - len(line.lstrip())] + python
