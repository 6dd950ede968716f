"""The house's rules that a machine can hold: lint, format, floors, lengths, dependencies, no machine's paths."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import build
import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]

# From the ground up, each room or file of the top level on a floor of its own: a file imports only from floors below,
# or from its own room.
GROUND = ["runtime", "table", "atomic_write", "evaluation", "preprocessing", "side_effects"]
ROOMS = ["synthetic", "data", "models", "features", "train", "plots", "lessons"]
FLOORS = [*GROUND, *ROOMS, "recipes", "predict", "doctor", "cli"]

# Import names that differ from the names of what is installed.
DISTRIBUTIONS = {
    **{"PIL": "pillow", "sklearn": "scikit-learn", "IPython": "ipython"},
    **{"jupyter_client": "jupyter-client", "huggingface_hub": "huggingface-hub"},
}
CONDA_NAMES = {"torch": "pytorch", "jupyter-client": "jupyter_client", "huggingface-hub": "huggingface_hub"}

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked_files() -> list[Path]:
    """Return the files that are, or are about to be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    files = {ROOT / name for name in done.stdout.split("\0") if name}
    return sorted(path for path in files if path.is_file())


def module_files() -> list[Path]:
    return sorted((ROOT / "tlcourse").rglob("*.py"))


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_are_short() -> None:
    files = [*module_files(), *sorted((ROOT / "tools").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def imports(path: Path) -> set[str]:
    """Return what a module imports, as absolute names: `a.b` for `import a.b`, `a` and `a.b` for `from a import b`."""
    package = ["tlcourse", *path.relative_to(ROOT / "tlcourse").parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def top(name: str) -> str:
    """Return the room, or the file of the top level, in which a module or a name of the package lives."""
    return name.removeprefix("tlcourse.").split(".")[0]


def test_rooms_and_files_import_only_from_floors_below() -> None:
    wrong = []
    for path in module_files():
        own = path.relative_to(ROOT / "tlcourse").parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # the package's own file shows what its modules made
        assert own in FLOORS, f"{own} has no floor: add it to FLOORS in {Path(__file__).name}"
        others = {top(name) for name in imports(path) if name.startswith("tlcourse.")} - {own}
        wrong += [
            f"{path.relative_to(ROOT)} imports {name}" for name in others if name not in FLOORS[: FLOORS.index(own)]
        ]
    assert wrong == []


def test_rooms_are_entered_by_their_door() -> None:
    wrong = []
    for path in module_files():
        own = path.relative_to(ROOT / "tlcourse").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tlcourse."):
                room, inside = top(node.module), node.module.count(".") > 1
                if room in FLOORS and room != own and inside:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} goes past the door of {room}: {node.module}")
    assert wrong == []


def test_what_a_door_shows_is_there() -> None:
    for room in [*ROOMS, "doctor"]:
        door = importlib.import_module(f"tlcourse.{room}")
        assert [name for name in door.__all__ if not hasattr(door, name)] == [], room


def test_no_file_has_a_name_with_an_underscore_in_front() -> None:
    assert [path.name for path in module_files() if path.name.startswith("_") and path.stem != "__init__"] == []


def test_no_module_is_hidden_by_a_function_of_its_name() -> None:
    hidden = []
    for path in module_files():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.stem in ("__init__", "cli"):
            continue
        module = importlib.import_module(name)
        shown = getattr(sys.modules[name.rpartition(".")[0]], path.stem)
        hidden += [name] if shown is not module else []
    assert hidden == []


def requirements(names: list[str]) -> dict[str, str]:
    """Return name -> version bounds; extras and markers are left out."""
    split = (re.match(r"([\w.-]+)(?:\[.*?\])?\s*([^;]*)", name) for name in names)
    return {match[1]: match[2].strip() for match in split}


def test_environment_and_pyproject_agree() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    listed = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    conda = requirements(listed)
    assert conda.pop("python") == PYPROJECT["project"]["requires-python"]
    assert conda.pop("pip") == ""
    wanted = requirements(PYPROJECT["project"]["dependencies"])
    assert conda == {CONDA_NAMES.get(name, name): bounds for name, bounds in wanted.items()}
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}


def test_what_the_package_imports_is_declared() -> None:
    tops = {name.split(".")[0] for path in module_files() for name in imports(path)}
    others = tops - set(sys.stdlib_module_names) - {"tlcourse", ""}
    declared = set(requirements(PYPROJECT["project"]["dependencies"]))
    assert {DISTRIBUTIONS.get(name, name) for name in others} - declared == set()


def test_the_version_and_the_address_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (version,) = re.findall(r'^__version__ = "(.*)"$', (ROOT / "tlcourse" / "__init__.py").read_text(), re.MULTILINE)
    assert citation["version"] == version
    repository = PYPROJECT["project"]["urls"]["Repository"]
    assert citation.get("repository-code", repository) == repository
    assert ("repository-code" in citation) == (".invalid/" not in repository)


def test_data_that_the_package_needs_is_packed() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["tlcourse"]
    package = ROOT / "tlcourse"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in tracked_files() if package in path.parents and path.suffix != ".py"}
    assert files - packed == set()


def test_no_file_names_a_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # Pictures and weights.
        name = path.relative_to(ROOT)
        found += [f"{name}: {line[:100]}" for line in lines if build.ANYONES_HOME.search(line) or str(ROOT) in line]
    assert found == []


def test_ci_is_a_script_that_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert lines[-1] == "pytest"
    assert "set -euo pipefail" in lines


def test_the_package_carries_at_most_12_megabytes() -> None:
    carried = [path for path in tracked_files() if ROOT / "tlcourse" in path.parents and path.suffix != ".py"]
    assert sum(path.stat().st_size for path in carried) <= 12_000_000
