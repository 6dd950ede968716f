"""Lessons: no measured number typed by hand, claims, captions, short cells, a notebook that matches its source."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "sources" / "lessons").glob("*.py"))

# What may hold a digit in prose: names, sections, examples of the chapter, code, formulas.
NAMES = r"ResNet-50|Example \d|\b3\.\d\b|3-D|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`"
# Numbers in words that would be results or settings if a lesson typed them.
WORDS = r"\b(hundred|thousand|million|percent|per cent|twice|ten|twenty|fifty|dozen)\b"

pytestmark = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def cells(source, kind):
    return [c for c in jupytext.read(source, fmt="py:percent").cells if c.cell_type == kind]


def test_prose_holds_no_number_that_a_cell_should_measure(source):
    found = []
    for cell in cells(source, "markdown"):
        prose = re.sub(NAMES, "", cell.source, flags=re.S)
        found += [line for line in prose.splitlines() if re.search(r"\d", line) or re.search(WORDS, line)]
    assert found == []


def test_code_cells_are_short_and_figures_have_titles(source):
    for cell in cells(source, "code"):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 32, lines[0]
        for call in re.findall(r"tl\.plots\.\w+\((?:[^()]|\([^()]*\)|\((?:[^()]|\([^()]*\))*\))*\)", cell.source):
            assert "title=" in call, call[:80]


def test_prose_avoids_words_that_belittle_or_sell(source):
    for cell in cells(source, "markdown"):
        found = re.findall(r"\b(simply|just|obviously|clearly|easily|powerful|amazing|seamless)\b", cell.source, re.I)
        assert found == [], cell.source[:80]


def test_the_notebook_claims_and_shows_figures_of_modest_size(source):
    notebook = nbformat.read(ROOT / "notebooks" / f"{source.stem}.ipynb", as_version=4)
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    claims = [o for o in outputs if "application/vnd.tlcourse.claim+json" in o.get("data", {})]
    figures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(claims) >= 10
    assert len(figures) >= 5
    # Base64 needs four letters for three bytes; 150 kB per figure keeps the notebook quick to open.
    assert max(len(p) * 3 // 4 for p in figures) <= 150_000


def test_only_cells_with_varying_output_are_tagged(source):
    notebook = nbformat.read(ROOT / "notebooks" / f"{source.stem}.ipynb", as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    strict = [c for c in code if "nbval-ignore-output" not in c.metadata.get("tags", [])]
    assert len(strict) >= 5
    assert sum(bool(c.outputs) for c in strict) >= 4
