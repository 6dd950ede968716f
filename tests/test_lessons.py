"""Lessons: the size budget, words, no measured number typed by hand, claims, figures, any cell twice."""

import ast
import builtins
import json
import os
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from tlcourse.lessons import CLAIM_MIME, execute

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "sources" / "lessons").glob("*.py"))
LESSONS = [source for source in SOURCES if not source.stem.startswith("0_")]

MOST_CELLS, MOST_WORDS, MOST_LINES, MOST_CLAIMS = 40, 1500, 300, 10
GUESSES = range(5, 8)
LINES_A_CELL, LETTERS_A_LINE = 20, 76
FILE_BYTES, FIGURE_BYTES = 1_500_000, 150_000

# What may hold a digit in prose: names, sections, examples of the chapter, code, formulas, links.
NAMES = (
    r"ResNet-\d+|Example \d|\b3\.\d\w?\b|Builds on\*\* 0|# 0 Start|3-D"
    r"|\$\$.*?\$\$|\$[^$]*\$|```.*?```|`[^`]*`|\]\([^)]*\)"
)
# Numbers in words that would be results or settings if a lesson typed them.
NUMBER_WORDS = r"\b(hundred|thousand|million|percent|per cent|twice|twenty|fifty|dozen)\b"
FORBIDDEN = r"\b(simply|just|obviously|clearly|easily|powerful|amazing|seamless|please note)\b"
PROMISE = r"about 25 minutes"  # to read


def parts(source):
    """Return a lesson's code cells and its markdown cells, as text."""
    cells = jupytext.read(source, fmt="py:percent").cells
    return [[c.source for c in cells if c.cell_type == kind] for kind in ("code", "markdown")]


def notebook(source):
    return nbformat.read(ROOT / "notebooks" / f"{source.stem}.ipynb", as_version=4)


def outputs(source):
    return [output for cell in notebook(source).cells for output in cell.get("outputs", [])]


def pngs(source):
    return [len(o.data["image/png"]) * 3 // 4 for o in outputs(source) if "image/png" in o.get("data", {})]


def lines_of(code):
    return [line for line in code.splitlines() if line.strip()]


every_lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
full_lesson = pytest.mark.parametrize("source", LESSONS, ids=lambda path: path.stem)


@every_lesson
def test_a_lesson_can_be_finished(source):
    code, _ = parts(source)
    cells = notebook(source).cells  # with the set-up cell, blank lines, and the solutions' words
    assert len(cells) <= MOST_CELLS
    assert sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown") <= MOST_WORDS
    assert sum(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code") <= MOST_LINES
    for cell in code:
        assert len(lines_of(cell)) <= LINES_A_CELL, cell[:200]
    assert [line for cell in code for line in lines_of(cell) if len(line) > LETTERS_A_LINE] == []
    assert sum(cell.count("tl.claim(") for cell in code) <= MOST_CLAIMS


@full_lesson
def test_a_lesson_asks_before_it_shows_and_gives_tasks(source):
    code, prose = parts(source)
    text, words = "\n".join(code), "\n".join(prose)
    assert text.count("tl.guess(") in GUESSES
    assert text.count("guess.compare(") == text.count("tl.guess(")
    assert 1 <= text.count("tl.check(") <= 3
    assert words.count("<summary>Solution</summary>") == text.count("tl.check(")
    assert "tl.examine(" in text  # the trap is found with the doctor
    assert "From the chapter" in words or source.stem.startswith("3_1")
    assert words.count("From the chapter") <= 3
    assert re.search(r"^FOLDER = None", text, re.M)
    assert "save_checkpoint" in text
    assert "load_checkpoint" in text
    takeaway = words.split("## Take-away")[1]
    assert 3 <= len(re.findall(r"^- ", takeaway, re.M)) <= 5
    assert takeaway.count("<details>") == 3


@every_lesson
def test_the_first_image_comes_early_and_files_are_small(source):
    code = [cell for cell in notebook(source).cells if cell.cell_type == "code"]
    early = [o for cell in code[:4] for o in cell.outputs if "image/png" in o.get("data", {})]
    assert early, "no figure within the first three code cells after the set-up"
    assert max(pngs(source)) <= FIGURE_BYTES
    assert (ROOT / "notebooks" / f"{source.stem}.ipynb").stat().st_size <= FILE_BYTES


@every_lesson
def test_prose_holds_no_number_that_a_cell_should_measure(source):
    found = []
    for text in parts(source)[1]:
        prose = re.sub(f"{PROMISE}|{NAMES}", "", text, flags=re.S)
        found += [line for line in prose.splitlines() if re.search(r"\d", line) or re.search(NUMBER_WORDS, line)]
    assert found == []


@every_lesson
def test_prose_avoids_words_that_belittle_or_sell(source):
    for text in parts(source)[1]:
        assert re.findall(FORBIDDEN, text, re.I) == [], text[:80]


@every_lesson
def test_figures_have_titles_that_say_something(source):
    for cell in parts(source)[0]:
        for call in re.findall(r"tl\.plots\.\w+\((?:[^()]|\([^()]*\)|\((?:[^()]|\([^()]*\))*\))*\)", cell):
            assert "title=" in call, call[:80]
        assert not re.findall(r'title="[A-Z]+"', cell), "a title that was to be written later"


@every_lesson
def test_outputs_have_claims_and_no_warning(source):
    records = [o.data[CLAIM_MIME] for o in outputs(source) if CLAIM_MIME in o.get("data", {})]
    assert records
    assert all(record["holds"] for record in records)
    text = json.dumps(outputs(source))
    assert re.findall(r"\w*Warning", text) == []


@every_lesson
def test_functions_of_a_lesson_use_what_they_are_given(source):
    """No global of the notebook but imported modules, functions and constants in capitals."""
    trees = [ast.parse(cell) for cell in parts(source)[0]]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    known = {*dir(builtins), "tl", *(f.name for f in functions)}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                known |= {(a.asname or a.name).split(".")[0] for a in node.names}
    for function in functions:
        own = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own |= {n.name for n in ast.walk(function) if isinstance(n, ast.FunctionDef)}
        own |= {a.arg for n in ast.walk(function) if isinstance(n, ast.arguments) for a in [*n.args, *n.kwonlyargs]}
        used = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        assert {name for name in used - own - known if not name.isupper()} == set(), function.name


@every_lesson
def test_only_cells_with_varying_output_are_tagged(source):
    code = [cell for cell in notebook(source).cells if cell.cell_type == "code"]
    strict = [cell for cell in code if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    assert sum(bool(cell.outputs) for cell in strict) >= 3


@pytest.mark.slow
@every_lesson
def test_any_cell_runs_twice(source, tmp_path):
    lesson = notebook(source)
    cells = []
    for cell in lesson.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            cells.append(nbformat.v4.new_code_cell(cell.source, metadata=cell.metadata))
    lesson.cells = cells
    assert execute(lesson, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}) == ""
    records = [
        o.data[CLAIM_MIME] for c in lesson.cells for o in c.get("outputs", []) if CLAIM_MIME in o.get("data", {})
    ]
    assert all(record["holds"] for record in records)
