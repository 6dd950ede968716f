"""The build: a notebook follows from its source, and nothing that differs, fails or leaks gets by."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import _address
import build
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://github.com/someone/transfer-course"

SOURCE = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # A small lesson
# It promises little.

# %% [markdown]
# ## First
# Look at this.

# %% tags=["nbval-ignore-output"]
import os
import sys

import ipywidgets

print(os.environ["TLCOURSE_PROFILE"], os.environ.get("TLCOURSE_DATA"))
sys.stdout.flush()
print("two pieces, one stream")
ipywidgets.IntSlider()

# %%
tl.claim("one is less than two", 1 < 2)

# %% tags=["raises-exception"]
raise ValueError("on purpose")

# %%
6 * 7

# %%
6 * 7
"""


def new_tree(folder: Path, small_package: Path) -> Path:
    """Make a small repository with one source."""
    shutil.copytree(small_package / "tlcourse", folder / "tlcourse")
    pyproject, citation = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CITATION.cff"))
    unset = re.sub(r"(?m)^Repository = .*$", f'Repository = "{_address.UNSET}"', pyproject)
    (folder / "pyproject.toml").write_text(unset, encoding="utf-8")
    (folder / "CITATION.cff").write_text(re.sub(r"(?m)^repository-code: .*\n", "", citation), encoding="utf-8")
    (folder / "README.md").write_text("# Course\n<!-- badges -->\n<!-- /badges -->\n\nText.\n")
    (folder / "sources" / "lessons").mkdir(parents=True)
    (folder / "sources" / "lessons" / "1_1_small.py").write_text(SOURCE)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, small_package: Path) -> Path:
    """A tree whose notebook was built once, with settings around that the build must not take over."""
    root = new_tree(tmp_path_factory.mktemp("tree"), small_package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLCOURSE_PROFILE", "full")
        patch.setenv("TLCOURSE_DATA", "elsewhere")
        assert build.main([], root=root) == 0
    return root


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    """A copy of the built tree, to change."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


def notebook(root: Path) -> nbformat.NotebookNode:
    return nbformat.read(root / "notebooks" / "1_1_small.ipynb", as_version=4)


def save(nb: nbformat.NotebookNode, root: Path) -> None:
    nbformat.write(nb, root / "notebooks" / "1_1_small.ipynb")


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_built_notebook(built: Path) -> None:
    nb = notebook(built)
    nbformat.validate(nb)
    assert [cell.cell_type for cell in nb.cells] == [
        "markdown",
        "code",
        "markdown",
        "code",
        "code",
        "code",
        "code",
        "code",
    ]
    title, setup, _, first, claim, error, *rest = nb.cells
    assert title.source == "# A small lesson\nIt promises little."
    assert setup.source == _address.setup_source("")
    assert setup.metadata == {"tags": ["nbval-ignore-output"]}
    assert first.outputs == [
        nbformat.v4.new_output("stream", name="stdout", text="mini None\ntwo pieces, one stream\n")
    ]
    assert claim.outputs[0].data["text/plain"] == "claim holds: one is less than two"
    assert error.outputs[0].ename == "ValueError"
    assert [cell.metadata for cell in rest] == [{}, {}]
    assert nb.metadata.language_info == {"name": "python"}
    assert nb.metadata.kernelspec.name == "python3"
    assert rest[1].id == f"{rest[0].id}-2"


def test_threads_of_a_build_wait_passively(tree: Path) -> None:
    (tree / "sources" / "lessons" / "1_1_small.py").write_text(
        "# %%\nimport os\n\nprint(os.environ.get('OMP_WAIT_POLICY'))\n"
    )
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    code = f"import sys, pathlib, build; sys.exit(build.main([], root=pathlib.Path({str(tree)!r})))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", env=environment, check=True)
    assert notebook(tree).cells[1].outputs[0].text == "PASSIVE\n"


def test_building_again_changes_no_byte(tree: Path) -> None:
    before = contents(tree)
    assert build.main(["1.1"], root=tree) == 0
    assert contents(tree) == before


def test_a_cell_above_leaves_the_other_ids(tree: Path) -> None:
    source = tree / "sources" / "lessons" / "1_1_small.py"
    before = [cell.id for cell in notebook(tree).cells]
    source.write_text(SOURCE.replace("# %% tags", "# %%\nnew = 1\n\n# %% tags", 1))
    after = [cell.id for cell in build.assemble(tree, source).cells]
    assert [id for id in after if id in before] == before
    assert len(after) == len(before) + 1


@pytest.mark.parametrize(
    ("cell", "messages"),
    [
        ("1 / 0", ["cell 2/2 (1 / 0)", "ZeroDivisionError", "Traceback"]),
        ('tl.claim("two is less than one", 2 < 1)', ["claim does not hold: two is less than one"]),
        ('import warnings\nwarnings.warn("take care")\nos.getcwd()', ["wrote to stderr", "path of this machine"]),
    ],
)
def test_a_notebook_that_fails_leaves_the_old_one(
    tree: Path, capsys: pytest.CaptureFixture[str], cell: str, messages: list[str]
) -> None:
    (tree / "sources" / "lessons" / "1_1_small.py").write_text(f"# %%\n{cell}\n".replace("os.", "__import__('os')."))
    before = contents(tree)
    assert build.main(["1_1"], root=tree) == 1
    printed = capsys.readouterr().out
    assert "1_1_small.ipynb was NOT built" in printed
    assert [message for message in messages if message not in printed] == []
    assert contents(tree) == before


def test_check_accepts_what_was_built(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--check"], root=tree) == 0
    assert "1 notebooks match" in capsys.readouterr().out
    save(notebook(tree), tree)  # Written by another tool, in another layout.
    assert build.main(["--check"], root=tree) == 0


def change_source(nb: nbformat.NotebookNode) -> None:
    nb.cells[0].source = nb.cells[0].source.replace("little", "Little")


def change_tag(nb: nbformat.NotebookNode) -> None:
    nb.cells[3].metadata.tags = ["nbval-skip"]


def change_type(nb: nbformat.NotebookNode) -> None:
    nb.cells[0] = nbformat.v4.new_raw_cell(nb.cells[0].source, id=nb.cells[0].id)


def change_header(nb: nbformat.NotebookNode) -> None:
    nb.cells[1].source += "\nprint(1)"


def drop_cell(nb: nbformat.NotebookNode) -> None:
    del nb.cells[-1]


def add_cell(nb: nbformat.NotebookNode) -> None:
    nb.cells.append(nbformat.v4.new_markdown_cell("More."))


def drop_output(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].outputs = []


def edit_output(nb: nbformat.NotebookNode) -> None:
    nb.cells[6].outputs[0].data["text/plain"] = "43"


def clear_cell(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].outputs, nb.cells[4].execution_count = [], None


def run_out_of_order(nb: nbformat.NotebookNode) -> None:
    nb.cells[7].execution_count = 9


def add_error(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].outputs = [nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[])]


def add_warning(nb: nbformat.NotebookNode) -> None:
    nb.cells[4].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="careful"))


def add_path(nb: nbformat.NotebookNode) -> None:
    nb.cells[7].outputs[0].data["text/plain"] = "'" + "/".join(["", "home", "reader", "images"]) + "'"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_source, "cell 1 differs from its source"),
        (change_tag, "cell 4 differs from its source"),
        (change_type, "cell 1 differs from its source"),
        (change_header, "cell 2 differs from its source"),
        (drop_cell, "cell 8 (6 * 7) is missing in the notebook"),
        (add_cell, "cell 9 (More.) is missing in the source"),
        (drop_output, "an output was changed"),
        (edit_output, "an output was changed"),
        (clear_cell, "was not executed"),
        (run_out_of_order, "executed as number 9, not 6"),
        (add_error, "has an error: KeyError"),
        (add_warning, "wrote to stderr: careful"),
        (add_path, "path of this machine"),
    ],
)
def test_check_catches(tree: Path, capsys: pytest.CaptureFixture[str], change: object, message: str) -> None:
    nb = notebook(tree)
    change(nb)
    save(nb, tree)
    before = contents(tree)
    assert build.main(["--check"], root=tree) == 1
    printed = capsys.readouterr().out
    assert message in printed
    assert printed.startswith("1_1_small.ipynb: ")
    assert len(printed.splitlines()) < 20
    assert contents(tree) == before


def test_check_shows_a_short_diff(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tree / "sources" / "lessons" / "1_1_small.py"
    source.write_text(SOURCE.replace("1 < 2", "1 < 3"))
    assert build.main(["1_1", "--check"], root=tree) == 1
    printed = capsys.readouterr().out
    assert '-tl.claim("one is less than two", 1 < 2)' in printed
    assert '+tl.claim("one is less than two", 1 < 3)' in printed


def test_check_wants_one_notebook_for_each_source(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tree / "sources" / "lessons" / "1_1_small.py"
    source.rename(source.with_stem("1_2_other"))
    assert build.main(["--check"], root=tree) == 1
    printed = capsys.readouterr().out
    assert "1_2_other.ipynb is missing" in printed
    assert "1_1_small.ipynb has no source" in printed


def test_an_unknown_section_is_a_usage_error(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["7_7"], root=tree) == 2
    assert "There are: 1_1_small" in capsys.readouterr().err


@pytest.mark.parametrize("address", [ADDRESS, "https://git.example.org/group/course"])
def test_an_address_is_set_everywhere_and_taken_back(tree: Path, address: str) -> None:
    before = contents(tree)
    outputs = [cell.get("outputs") for cell in notebook(tree).cells]
    assert build.main(["--address", address], root=tree) == 0
    after = contents(tree)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"pyproject.toml", "CITATION.cff", "README.md", "notebooks/1_1_small.ipynb"}
    for name in changed:
        assert address.encode() in after[name]
        assert b".invalid" not in after[name]
    nb = notebook(tree)
    badge, setup = nb.cells[1:3]
    assert [cell.get("outputs") for cell in nb.cells if cell.id != "badges"] == outputs
    assert f'"git+{address}"' in setup.source
    colab = "colab.research.google.com/github/someone/transfer-course/blob/main/notebooks/1_1_small.ipynb"
    assert (colab in badge.source) == (colab in after["README.md"].decode()) == (address == ADDRESS)
    assert build.main(["--check"], root=tree) == 0
    assert build.main(["--address", address], root=tree) == 0
    assert contents(tree) == after
    assert build.main(["--address", "none"], root=tree) == 0
    assert contents(tree) == before


@pytest.mark.parametrize(
    "address",
    [
        "",
        "github.com/someone/course",
        "http://github.com/someone/course",
        "https://github.com/someone",
        "https://github.com/someone/course/",
        "https://github.com/someone/course.git",
        "https://github.com/someone/course/tree/main",
        "https://user:secret@github.com/someone/course",
        "https://localhost/someone/course",
        "https://github.com/someone/cou rse",
        'https://github.com/someone/course"',
        "https://x.invalid/someone/course",
    ],
)
def test_what_is_no_address_changes_nothing(tree: Path, capsys: pytest.CaptureFixture[str], address: str) -> None:
    before = contents(tree)
    assert build.main(["--address", address], root=tree) == 2
    assert "https://HOST/OWNER/NAME" in capsys.readouterr().err
    assert contents(tree) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("README.md", "badges"), ("pyproject.toml", "Repository"), ("notebooks/1_1_small.ipynb", "setup")],
)
def test_a_file_without_its_place_stops_before_anything_is_written(
    tree: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    path = tree / name
    path.write_text(path.read_text().replace("badges", "x").replace("Repository =", "x =").replace('"setup"', '"x"'))
    before = contents(tree)
    assert build.main(["--address", ADDRESS], root=tree) == 2
    assert message in capsys.readouterr().err
    assert contents(tree) == before


def run_first_cell(tmp_path: Path, address: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the first cell in a Python without any packages; a stand-in for pip notes what it was asked."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(
        "import sys, pathlib\nhere = pathlib.Path(__file__).parents[1]\n"
        "(here / 'asked').write_text(' '.join(sys.argv[1:]))\n"
        "(here / 'target' / 'tlcourse.py').write_text('def setup():\\n    print(\"ready\")\\n')\n"
    )
    cell = f"import sys\nsys.path.insert(0, {str(tmp_path / 'target')!r})\n{_address.setup_source(address)}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-I", "-S", "-c", cell]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False), tmp_path / "asked"


def test_without_an_address_the_first_cell_installs_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    done, asked = run_first_cell(tmp_path, "")
    assert done.returncode == 1
    assert "ModuleNotFoundError: This notebook needs the course's package." in done.stderr
    assert "pip install -e ." in done.stderr
    assert not asked.exists()


def test_with_an_address_the_first_cell_installs_and_goes_on(tmp_path: Path) -> None:
    done, asked = run_first_cell(tmp_path, ADDRESS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ready\n"
    assert asked.read_text() == f"install -q git+{ADDRESS}"


def test_the_first_cell_is_short() -> None:
    for address in ("", ADDRESS):
        lines = _address.setup_source(address).splitlines()
        assert len(lines) <= 6
        assert max(map(len, lines)) <= 120
