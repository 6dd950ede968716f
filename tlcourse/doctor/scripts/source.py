"""From a file to lines of Python: notebooks cell by cell, magics as IPython reads them, and lines that are no Python."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tlcourse.doctor.scripts.reader import Script

MAX_SYNTAX_ERRORS = 5  # lines that are left out before a source is given up
PYTHON_CELLS = re.compile(r"%%(time|timeit|capture|prun|python3?|snakeviz|memit|mprun|lprun)\b")
PYTHON_LINES = re.compile(r"(?s)^(\s*)%(?:time|timeit|prun|memit)\s+(?:-\w+\s+)*(.*)")
MAGIC = re.compile(r"^\s*([%!?]|[\w.]+\?{1,2}\s*(#.*)?$|[\w., ]+=\s*[!%]\w)")
ASSIGNED = re.compile(r"^(\s*[\w., ]+?)\s*=\s*[!%]\w.*")


def read_script(file: Path) -> Script:
    """Read a `.py` or `.ipynb` file; a notebook's cells become one script, its magics empty statements.

    Raises:
        ValueError: it cannot be read as text or as a notebook.
    """
    notebook, skipped = file.suffix == ".ipynb", []
    try:
        text = file.read_text(encoding="utf-8-sig")
        if notebook:
            lines = list(_notebook_lines(json.loads(text), skipped))
        else:
            lines = [(f"line {i}", line) for i, line in enumerate(_python(text).split("\n"), start=1)]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read as a {'notebook' if notebook else 'script'}: {error}.") from error
    return _parse([line for _, line in lines], [place for place, _ in lines], skipped)


def _parse(lines: list[str], places: list[str], skipped: list[str]) -> Script:
    """Parse a source; lines that are not Python go into `errors` and are left out, so that the rest can be read."""
    errors: dict[str, str] = {}
    while True:
        try:
            return Script(ast.parse("\n".join(lines)), places, errors, skipped)
        except SyntaxError as error:
            number = min(error.lineno or 1, len(lines)) - 1
            line, place = lines[number], places[number]
            if place in errors or len(errors) == MAX_SYNTAX_ERRORS:
                return Script(ast.parse(""), places, errors, [*skipped, f"all from {place} on"])
            if sys.version_info < (3, 12) and error.msg.startswith("f-string") and re.search(r"\bf[\"'].*\{", line):
                skipped.append(f"{place}, an f-string for Python 3.12 and newer")
            else:
                errors[place] = f"{error.msg}: `{line.strip()}`"
            lines[number] = line[: len(line) - len(line.lstrip())] + "pass"


def _python(code: str) -> str:
    """Return code in which IPython's magics are statements that do nothing; what is Python already stays as it is."""
    try:
        ast.parse(code)
        return code
    except SyntaxError:
        lines = code.split("\n")
    inside, number = False, 0
    while number < len(lines):
        line, end = lines[number], number + 1
        if not inside and MAGIC.match(line):
            while lines[end - 1].endswith("\\") and end < len(lines):
                end += 1
            kept = PYTHON_LINES.match("\n".join(lines[number:end]))
            indent = re.match(r"\s*", line)[0]
            new = kept[1] + kept[2] if kept else ASSIGNED.sub(r"\1 = None", line) if "=" in line else indent + "pass"
            new = new if kept or ASSIGNED.match(line) else indent + "pass"
            lines[number:end] = (new.split("\n") + [""] * (end - number))[: end - number]
        elif line.count('"""') % 2 or line.count("'''") % 2:
            inside = not inside  # a line of a long text may begin with any mark
        number = end
    return "\n".join(lines)


def _notebook_lines(notebook: dict, skipped: list[str]) -> Iterator[tuple[str, str]]:
    """Yield every line of the code cells with its place; cells are counted from 1, those of text included."""
    for number, cell in enumerate(notebook["cells"], start=1):
        code = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        first = next((line for line in code.split("\n") if line.strip() and not line.startswith("#")), "")
        if first.startswith("%%"):
            if not PYTHON_CELLS.match(first):
                skipped.append(f"cell {number} ({first.split()[0]})")
                continue
            code = code.replace(first, "pass", 1)
        for position, line in enumerate(_python(code).split("\n"), start=1):
            yield f"cell {number}, line {position}", line
