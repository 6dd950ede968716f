"""`tlcourse run`: finds a notebook, runs it in this Python, keeps what came out, and answers by its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from tlcourse import cli
from tlcourse.lessons import run as notebooks

ROOT = Path(__file__).resolve().parents[1]
SOURCE_TREE = notebooks.SOURCE_TREE
SETUP = "import os, sys\nimport tlcourse as tl\nprint(os.environ['TLCOURSE_PROFILE'], sys.executable)"
MIXED = [
    SETUP,
    "tl.claim('one is less than two', 1 < 2, '1 and 2')",
    "tl.claim('a false one', 2 < 1)\nafter = 1",
    "tl.claim('another false one', 4 < 3)",
    "print('goes on')\ntl.claim('a last one', True)",
    "1 / 0  # tagged: meant to fail",
]
BROKEN = [SETUP, "tl.claim('before the fault', True)", "broken = {}['missing']", "print('never runs')"]
SILENT = ["print('nothing claimed')"]
UNDECLARED = ["import tlcourse.lessons.claims as c\nraise c.ClaimError('raised, not shown')"]
SLOW = [SETUP, "tl.claim('it started', True)", "import time\ntime.sleep(60)"]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory, small_package: Path):
    """A folder with notebooks, as the working folder; the user's own `python3` kernel is broken."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "notebooks").mkdir()
    lessons = {"3_1_mixed": MIXED, "3_2_broken": BROKEN, "3_20_slow": SLOW, "0_silent": SILENT, "1_raised": UNDECLARED}
    for name, sources in lessons.items():
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        cells[-1].metadata["tags"] = ["raises-exception"] if "tagged" in sources[-1] else []
        cells[0].outputs = [nbformat.v4.new_output("stream", text="from an old run")]
        cells.insert(0, nbformat.v4.new_markdown_cell("# Title\n\n## Load the images"))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / f"{name}.ipynb")
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "broken"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(small_package))
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setattr(notebooks, "SOURCE_TREE", folder / "jupyter")
        yield folder


def run(section: str, *options: str) -> tuple[int, nbformat.NotebookNode]:
    """Run a section; return the exit status and the notebook written."""
    status = cli.main(["run", section, *options])
    (path,) = Path("runs").glob(f"{section.replace('.', '_')}_*.ipynb")
    return status, nbformat.read(path, as_version=4)


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_false_claims_do_not_stop_a_run_and_are_in_its_table(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (course / "notebooks").iterdir()}
    status, nb = run("3.1", "--profile", "full")
    printed = capsys.readouterr().out
    assert status == 1
    assert [cell.execution_count for cell in nb.cells[1:]] == [1, 2, 3, 4, 5, 6]
    assert text_of(nb.cells[1]) == f"full {sys.executable}\n"
    assert "goes on" in text_of(nb.cells[5])
    assert "yes    one is less than two  1 and 2" in printed
    assert "NO     a false one" in printed
    assert "NO     another false one" in printed
    assert "2 of 4 claims hold." in printed
    assert "runs/3_1_mixed.ipynb" in Path(printed.split()[-1]).as_posix()
    assert [line.split("  ")[0] for line in printed.splitlines()[:6]] == [f"cell {n}/6" for n in range(1, 7)]
    assert "Load the images" in printed.splitlines()[0]
    assert before == {path: path.read_bytes() for path in (course / "notebooks").iterdir()}


def test_an_error_ends_the_run_and_the_notebook_is_written(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, nb = run("3_2")
    printed = capsys.readouterr().out
    assert status == 1
    assert "FAILED in cell 3/4 (broken = {}['missing'])" in printed
    assert "KeyError: 'missing'" in printed
    assert "\x1b" not in printed
    assert "1 of 1 claims hold." in printed
    assert nb.cells[3].outputs[-1].ename == "KeyError"
    assert nb.cells[4].execution_count is None
    assert sorted(path.name for path in Path("runs").glob("*3_2_*")) == ["3_2_broken.ipynb"]  # No half-written file.


def test_a_notebook_without_claims_says_so(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, nb = run("0")
    assert status == 0
    assert "no claims" in capsys.readouterr().out
    assert text_of(nb.cells[1]) == "nothing claimed\n"


def test_a_claim_error_that_no_claim_showed_is_a_failed_cell(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = run("1")
    assert status == 1
    assert "raised, not shown" in capsys.readouterr().out


def test_a_cell_may_not_take_longer_than_the_timeout(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, nb = run("3_20", "--timeout", "2")
    printed = capsys.readouterr().out
    assert status == 1
    assert "longer than 2 seconds" in printed
    assert text_of(nb.cells[1]).startswith("mini")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_keeps_what_ran(course: Path) -> None:
    command = [sys.executable, "-m", "tlcourse.cli", "run", "3.20", "--out", "stopped"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        seen = process.stdout.readline() + process.stdout.readline()
        time.sleep(0.5)  # The third cell sleeps by now.
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=120)
    assert "cell 2/3" in seen
    assert process.returncode == 130
    assert "Interrupted" in printed
    assert "yes    it started" in printed
    nb = nbformat.read(course / "stopped" / "3_20_slow.ipynb", as_version=4)
    assert text_of(nb.cells[1]).startswith("mini")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["9.9"], "There are: 0_silent, 1_raised, 3_1_mixed, 3_20_slow, 3_2_broken"),
        (["3"], "fits several notebooks: 3_1_mixed, 3_20_slow, 3_2_broken"),
        (["lost.ipynb"], "no notebook at lost.ipynb"),
        (["3.1", "--out", "notebooks"], "would replace"),
        (["3.1", "--out", "notebooks/0_silent.ipynb"], "is a file"),
    ],
)
def test_wrong_questions_are_answered(
    course: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["3.1", "--timeout", "0"], ["3.1", "--profile", "huge"], []])
def test_wrong_options_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["run", *arguments])
    assert error.value.code == 2


def test_the_lessons_are_beside_the_package() -> None:
    assert SOURCE_TREE == ROOT


def test_every_way_to_name_a_section(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (course / "notebooks" / "3_2_broken.ipynb").resolve()
    for name in ("3.2", "3_2", "3_2_broken", "notebooks/3_2_broken.ipynb", str(wanted)):
        assert notebooks.find(name) == wanted
    # Beside the package's source tree too, from any folder; without notebooks anywhere the message says where to go.
    monkeypatch.chdir(course / "jupyter")
    monkeypatch.setattr(notebooks, "SOURCE_TREE", course)
    assert notebooks.find("3.2") == wanted
    monkeypatch.setattr(notebooks, "SOURCE_TREE", course / "jupyter")
    with pytest.raises(ValueError, match="in a clone of the course's repository"):
        notebooks.find("3.2")


def new_process(folder: Path, *command: str) -> str:
    """Run a command of this Python in a folder, without a choice of how threads wait; return what it prints."""
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    ).stdout


def test_threads_of_a_kernel_wait_passively(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("import os\nprint(os.environ.get('OMP_WAIT_POLICY'))")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "waits.ipynb")
    assert "Written to" in new_process(tmp_path, "-m", "tlcourse.cli", "run", "waits.ipynb")
    assert text_of(nbformat.read(tmp_path / "runs" / "waits.ipynb", as_version=4).cells[0]) == "PASSIVE\n"


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "script.py"], ["doctor", "notebook.ipynb"]], ids=" ".join)
def test_commands_that_need_no_heavy_library_import_none(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "script.py").write_text("import torch\n")
    cells = [nbformat.v4.new_code_cell("import torch")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebook.ipynb")
    code = (
        "import atexit, sys, time\n"
        "atexit.register(lambda: print('', time.process_time(), ' '.join(sys.modules), sep='\\n'))\n"
        f"from tlcourse import cli\nsys.exit(cli.main({arguments}))"
    )
    *printed, seconds, modules = new_process(tmp_path, "-c", code).splitlines()
    assert {"torch", "torchvision", "timm", "sklearn", "matplotlib"} & set(modules.split()) == set()
    assert float(seconds) < 1, "seconds of processor time"
    assert len(printed) > 1


def constants(*sources: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_a_constant_gets_another_value_where_it_is_assigned():
    nb = constants("%matplotlib inline", "import os\nLIMIT = (\n    None\n)  # or a number\nSIZE = 3", "LIMIT = 4")
    notebooks.set_constant(nb, "LIMIT", 200)
    notebooks.set_constant(nb, "SIZE", "a 'b'")
    assert nb.cells[1].source == "import os\nLIMIT = 200\nSIZE = \"a 'b'\""
    assert nb.cells[2].source == "LIMIT = 4"  # what follows from there is the lesson's own
    with pytest.raises(ValueError, match=r"sets no FOLDER\. It sets LIMIT, SIZE, LIMIT"):
        notebooks.set_constant(nb, "FOLDER", "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [("LIMIT=200", 200), ("FOLDER=None", None), ("DATA=digits", "digits"), ("A=b=c", "b=c"), ("X=[1, 2]", [1, 2])],
)
def test_a_setting_is_a_value_or_text(text, value):
    assert cli.setting(text) == (text.partition("=")[0], value)


def test_a_folder_in_a_setting_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "my-images").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.setting("FOLDER=my-images") == ("FOLDER", str(tmp_path / "my-images"))


@pytest.mark.parametrize("text", ["LIMIT", "=3", "a b=3"])
def test_what_is_no_setting_is_refused(text):
    with pytest.raises(SystemExit):
        cli.main(["run", "3.2", "--set", text])


def test_all_lessons_run_with_a_seed_and_the_last_line_names_what_failed(tmp_path, small_package, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    for name, source in {"1_good": "import os\nprint('seed', os.environ['TLCOURSE_SEED'])", "2_bad": "1 / 0"}.items():
        nbformat.write(constants(source), tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(small_package))
    assert cli.main(["run", "all", "--seed", "7"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 lessons are as they should be. 2_bad"
    good = nbformat.read(tmp_path / "runs" / "1_good.ipynb", as_version=4)
    assert good.cells[0].outputs[0].text == "seed 7\n"
