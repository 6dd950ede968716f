"""`tlcourse check`: points come from a run, and no submission can hang it, fool it in passing, or leave a process."""

import json
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from tlcourse import cli
from tlcourse.lessons import grading

ROOT = Path(__file__).resolve().parents[1]
NAME = "ex2_schedule_the_learning_rate.ipynb"
SPAWN = "import subprocess\nsubprocess.Popen(['sleep', '4321'], start_new_session=True)"


@pytest.fixture
def submission(tmp_path):
    """Write a submission: the exercise or its solution, with text replaced, and cells before the first step."""

    def write(*, solved=(), first="", replace=None, name=NAME):
        nb, answers = (nbformat.read(ROOT / kind / NAME, as_version=4) for kind in ("exercises", "solutions"))
        for cell, answer in zip(nb.cells, answers.cells, strict=True):
            if cell.cell_type == "code" and any(f'"ex2/{step}"' in cell.source for step in solved):
                cell.source = answer.source
            for old, new in (replace or {}).items():
                cell.source = cell.source.replace(old, new)
        if first:
            place = next(i for i, cell in enumerate(nb.cells) if cell.id == "setup")
            nb.cells.insert(place + 1, nbformat.v4.new_code_cell(first))
        path = tmp_path / name
        nbformat.write(nb, path)
        return path

    return write


def points(result):
    return {one["step"].removeprefix("ex2/"): one["points"] for one in result.steps}


def left_behind():
    found = []
    for process in psutil.process_iter(["cmdline"]):
        found += [process] if "4321" in (process.info["cmdline"] or []) else []
    return found


def test_an_untouched_exercise_has_no_point(submission, capsys):
    path = submission()
    before = path.read_bytes()
    assert cli.main(["check", str(path), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["points"], result["of"], result["error"]) == (0, 5, "")
    assert {one["outcome"] for one in result["steps"]} == {"not yet"}
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_solved_exercise_has_all_points_under_any_name(submission, capsys):
    steps = ("plateau", "groups", "warmup", "late", "gain")
    path = submission(solved=steps, replace={"EPOCHS, BATCHES = 5": "EPOCHS, BATCHES = 2"}, name="anna.ipynb")
    assert cli.main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1  ex2/gain     right: " in out
    assert "5 of 5 points." in out


def test_wrong_and_crashing_answers_cost_their_own_points_alone(submission):
    path = submission(
        solved=("plateau", "groups", "warmup", "late"),
        replace={
            "patience=2": "patience=3",
            "rate /= 2": "rate = undefined_name",
            "fall = epochs * batches - batches": "fall = = 3",
            "from functools import partial": "import sys\nsys.exit(1)",
        },
    )
    result = grading.grade(path)
    assert points(result) == {"plateau": 0, "groups": 0, "warmup": 0, "late": 1, "gain": 0}
    told = {one["step"].removeprefix("ex2/"): one["message"] for one in result.steps}
    assert "`patience`: it is 3" in told["plateau"]
    assert "undefined_name" in told["groups"]
    assert "SyntaxError" in told["warmup"]
    assert "SystemExit" in told["gain"]


def test_an_endless_cell_ends_with_the_limit_and_keeps_what_was_right(submission):
    endless = {"from functools import partial": f"{SPAWN}\nwhile True: pass"}
    path = submission(solved=("plateau", "groups"), replace=endless)
    start = time.perf_counter()
    result = grading.grade(path, timeout=25)
    assert time.perf_counter() - start < 55
    assert points(result) == {"plateau": 1, "groups": 1, "warmup": 0, "late": 0, "gain": 0}
    assert "time limit of 25 seconds" in result.error
    assert "cell 11/13" in result.error
    assert left_behind() == []


def test_verdicts_that_are_saved_printed_or_made_up_earn_nothing(submission):
    path = submission(
        first="def fake(name, answer):\n    print('right: done')\n    from IPython.display import display\n"
        "    record = {'step': name, 'outcome': 'right', 'message': '', 'proof': 'x'}\n"
        "    display({'text/plain': 'right: done', 'application/vnd.tlcourse.check+json': record}, raw=True)\n"
        "tl.check = fake",
        replace={"verdict.outcome": "verdict"},
    )
    nb = nbformat.read(path, as_version=4)
    solution = nbformat.read(ROOT / "solutions" / NAME, as_version=4)
    for cell, answer in zip([c for c in nb.cells if c.id != nb.cells[2].id], solution.cells, strict=False):
        if cell.cell_type == answer.cell_type == "code":
            cell.outputs = answer.outputs
    nbformat.write(nb, path)
    result = grading.grade(path)
    assert result.points == 0
    assert {one["outcome"] for one in result.steps} == {"no verdict"}


def test_code_that_names_what_checks_are_made_of_is_left_to_a_person(submission):
    first = "from tlcourse.lessons import checks\nchecks.STEPS['ex2/groups'] = lambda answer: 'well done'"
    result = grading.grade(submission(first=first, solved=("groups",)))
    assert result.points == 0
    assert "Read these answers yourself" in result.error


def test_a_kernel_that_dies_keeps_what_was_right(submission):
    dies = submission(solved=("plateau",), replace={"import math": f"{SPAWN}\nimport os\nos._exit(0)"})
    result = grading.grade(dies)
    assert points(result)["plateau"] == 1
    assert "cell 5/13" in result.error
    assert left_behind() == []


@pytest.mark.slow
def test_greed_for_memory_costs_its_own_point_alone(submission):
    greedy = submission(solved=("plateau", "late"), replace={"import math": "torch.ones(2**30)"})
    result = grading.grade(greedy, gigabytes=3)
    assert points(result) == {"plateau": 1, "groups": 0, "warmup": 0, "late": 1, "gain": 0}
    assert "memory" in result.steps[2]["message"]


@pytest.mark.slow
def test_a_flood_of_output_drowns_nobody(submission):
    flood = submission(solved=("plateau",), replace={"import math": "while True: print('x' * 10**6)"})
    start = time.perf_counter()
    result = grading.grade(flood, timeout=60, gigabytes=1.5)
    assert time.perf_counter() - start < 90
    assert points(result) == {"plateau": 1, "groups": 0, "warmup": 0, "late": 0, "gain": 0}
    assert psutil.Process().memory_info().rss < 3 * 2**30


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "no file"), ("not json", "no notebook"), ("{}", "no notebook"), ('{"cells": 3}', "no notebook")],
)
def test_what_is_no_submission_is_refused(tmp_path, capsys, text, reason):
    path = tmp_path / NAME
    if text is not None:
        path.write_text(text)
    assert cli.main(["check", str(path)]) == 2
    assert reason in capsys.readouterr().err


def test_a_notebook_without_checks_belongs_to_no_exercise(tmp_path, capsys):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), tmp_path / "a.ipynb")
    assert cli.main(["check", str(tmp_path / "a.ipynb")]) == 2
    assert "belongs to no exercise" in capsys.readouterr().err
    assert cli.main(["check", str(tmp_path / "a.ipynb"), "--timeout", "0"]) == 2
