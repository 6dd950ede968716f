"""Exercises: size, what is cut out, hints and progress; untouched every step is *not yet*, solved it is *right*."""

import json
import re
from pathlib import Path

import _exercises
import build
import jupytext
import nbformat
import pytest

import tlcourse as tl
from tlcourse.lessons import guesses, learner
from tlcourse.lessons.hints import HINTS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "sources" / "solutions").glob("*.py"))
every_exercise = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A learner who has done nothing, and reads."""
    for name in ("TLCOURSE_UNATTENDED", "PYTEST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(learner, "_done", set())
    monkeypatch.setattr(learner, "_given", {})
    assert guesses.somebody_reads()
    return tmp_path / "progress.json"


def notebook(source, folder):
    return nbformat.read(ROOT / folder / f"{source.stem}.ipynb", as_version=4)


def code(nb):
    return [cell.source for cell in nb.cells if cell.cell_type == "code"]


@every_exercise
def test_an_exercise_has_the_size_of_a_lesson_and_says_what_it_is(source):
    cells = jupytext.read(source, fmt="py:percent").cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.strip()]
    assert len(cells) + 2 <= 40
    assert len(prose.split()) <= 1500
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 76
    for word in ("**Difficulty:**", "**Time:**", "**Builds on**", "**It trains you to**", "From the chapter"):
        assert word in prose
    assert len(_exercises.answers(source)) >= 4


@every_exercise
def test_notebooks_follow_from_the_source(source):
    assert build.check(ROOT, source) == []
    exercise, solution = "\n".join(code(notebook(source, "exercises"))), "\n".join(code(notebook(source, "solutions")))
    assert "SOLUTION" not in exercise
    assert solution.count("### BEGIN SOLUTION") == exercise.count("...  # your code") == exercise.count("tl.check(")


@every_exercise
def test_untouched_each_step_is_not_yet_and_solved_it_is_right(source):
    for folder, wanted in (("exercises", "not yet"), ("solutions", "right")):
        nb = notebook(source, folder)
        steps = re.findall(r'tl\.check\("(.+?)"', "\n".join(code(nb)))
        assert steps == list(_exercises.answers(source))
        assert build._exercises.unsolved(nb, ROOT / folder / "x.ipynb", steps) == [], wanted


def test_a_changed_answer_in_the_package_is_found(tmp_path, monkeypatch):
    wrong = tmp_path / "ex2.json"
    wrong.write_text("{}")
    monkeypatch.setattr(_exercises, "answers_file", lambda root, source: wrong)
    assert "differs from its source" in build.check(ROOT, SOURCES[0])[0]


def test_a_solution_that_its_checks_refuse_is_not_built():
    nb = notebook(SOURCES[0], "exercises")
    steps = list(_exercises.answers(SOURCES[0]))
    found = _exercises.unsolved(nb, ROOT / "solutions" / "x.ipynb", steps)
    assert len(found) == len(steps)
    assert "not yet" in found[0]


@every_exercise
def test_the_solution_on_request_is_right_by_itself(source, capsys):
    """With the notebook's imports. Answers that are no function need its data: its notebook was run with them."""
    imports = re.findall(r"^(?:import|from) .+$", source.read_text(encoding="utf-8"), re.M)
    space = {"tl": tl}
    for step in _exercises.answers(source):
        tl.solution(step)
        text = capsys.readouterr().out
        if functions := re.findall(r"^def (\w+)", text, re.M):
            exec("\n".join([*imports, text]), space)  # with what the steps before it have left
            assert tl.check(step, space[functions[-1]]).outcome == "right"


@pytest.mark.parametrize("name", HINTS)
def test_three_hints_each_once_then_the_last_again(name, fresh):
    given = [tl.hint(name) for _ in range(4)]
    assert [one.outcome for one in given] == ["hint 1 of 3", "hint 2 of 3", "hint 3 of 3", "hint 3 of 3"]
    assert len({one.message for one in given}) == 3
    assert all(len(one.message) > 80 for one in given)
    assert "tl.solution(" in given[-1].message
    assert "hint 1 of 3" in given[0]._repr_html_()


def test_every_step_of_an_exercise_has_hints_and_an_answer():
    answers = [step for source in SOURCES for step in _exercises.answers(source)]
    assert answers == list(HINTS)
    for call in (tl.hint, tl.solution):
        with pytest.raises(ValueError, match="folded into the text"):
            call("3.3b/warmup")
        with pytest.raises(ValueError, match="There is no step"):
            call("ex2/none")


def test_progress_is_kept_and_one_exercise_can_be_reset(fresh, monkeypatch):
    assert not any(row["done"] for row in tl.progress())
    tl.check("0/set", "validation")
    tl.check("0/set", "test")  # what was right once stays done
    learner.remember("ex2/groups")
    monkeypatch.setattr(learner, "_done", set())  # a new session
    done = [row["step"] for row in tl.progress() if row["done"]]
    assert sorted(done) == sorted(json.loads(fresh.read_text())) == ["0/set", "ex2/groups"]
    tl.hint("ex2/groups")
    assert not any(row["done"] for row in tl.progress("ex2", reset="ex2"))
    assert json.loads(fresh.read_text()) == ["0/set"]
    assert tl.hint("ex2/groups").outcome == "hint 1 of 3"
    for part in ({"part": "ex9"}, {"reset": "ex9"}):
        with pytest.raises(ValueError, match="There is no part 'ex9'"):
            tl.progress(**part)


@pytest.mark.parametrize("text", ["no json", '{"a": 1', "3", "[[1]]"])
def test_a_damaged_file_of_progress_stops_nothing(fresh, text):
    fresh.write_text(text)
    assert tl.check("0/set", "validation").outcome == "right"
    assert [row["step"] for row in tl.progress() if row["done"]] == ["0/set"]


def test_nothing_is_written_where_nobody_reads(fresh, monkeypatch):
    monkeypatch.setenv("TLCOURSE_UNATTENDED", "1")
    tl.check("0/set", "validation")
    assert not fresh.exists()
    assert [row["step"] for row in tl.progress() if row["done"]] == ["0/set"]


def test_a_function_without_a_body_is_not_yet():
    def bare(model): ...

    def documented(model):
        """Do this."""
        ...  # your code

    def constant(model):
        return 0.01

    assert [tl.check("ex2/groups", f).outcome for f in (bare, documented)] == ["not yet", "not yet"]
    assert tl.check("ex2/groups", constant).outcome == "not right"
