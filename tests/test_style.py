"""The house's rules that a machine can hold: lint, format, floors, lengths, dependencies, no machine's paths."""

import ast
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

# From the ground up. A module imports only modules that stand before it; a package stands where its last module does.
FLOORS = [
    *("runtime", "assets", "claims", "files", "table"),
    *("data.transforms", "data._images", "data._layout", "data._choose"),
    *("data._augment", "data._pixels", "data._loader", "data._shard", "data._splits", "data.folders", "data.leaks"),
    *("data._draws", "data._tracer", "data._solids", "data._scenery", "data._appearance"),
    *("data._breeds", "data._sculptor", "data._heads", "data._anatomy"),
    *("data._shading", "data._styles", "data.toypets"),
    *("data._patterns", "data._radiographs", "data._surfaces", "data._covers", "data._landuse", "data.domains"),
    "data.catalog",
    *("models.tl_resnet", "models.heads", "models.loading", "models.zoo"),
    *("models.outline", "models.stages", "models.groups", "models.freezing"),
    *("evaluate", "quiet", "features", "_trace", "_cut", "_rows", "_kept", "prefix", "transfer"),
    *("train._shares", "train.schedules", "train.history", "train.checkpoints", "train._chance", "train._machine"),
    *("train.run", "train.loop", "train.rates", "train.phases", "strategies"),
    *("predict", "_figures", "_curves", "plots", "_execute", "notebooks"),
    *("doctor.report", "doctor.memory", "doctor.parts", "doctor.case"),
    *("doctor.checks_model", "doctor.checks_optimizer", "doctor.checks_schedule", "doctor.checks_plateau"),
    *("doctor.checks_images", "doctor.checks_data", "doctor.checks_results", "doctor.examine"),
    *("doctor.script", "doctor.rules_loop", "doctor.rules_schedule", "doctor.rules_setup", "doctor.rules_data"),
    "doctor.files",
    "cli",
]

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


def floor(name: str) -> int:
    """Return how high a name of the package stands; -1 for a name that is no module (a function, say)."""
    name = name.removeprefix("tlcourse.")
    inside = [index for index, module in enumerate(FLOORS) if module == name or module.startswith(f"{name}.")]
    return max(inside, default=-1)


def test_modules_import_only_from_floors_below() -> None:
    wrong = []
    for path in module_files():
        module = ".".join(path.relative_to(ROOT / "tlcourse").with_suffix("").parts)
        if module.endswith("__init__"):
            continue  # A package's own file shows what its modules made.
        assert module in FLOORS, f"{module} has no floor: add it to FLOORS in {Path(__file__).name}"
        names = {name for name in imports(path) if name.startswith("tlcourse.") and floor(name) >= 0}
        # `from tlcourse.data import _images` names a module: the package on the way to it does not count.
        names -= {name.rpartition(".")[0] for name in names}
        wrong += [f"{module} imports {name}" for name in names if floor(name) >= FLOORS.index(module)]
    assert wrong == []


def test_the_floor_table_has_no_module_that_is_gone() -> None:
    assert [name for name in FLOORS if not (ROOT / "tlcourse" / f"{name.replace('.', '/')}.py").exists()] == []


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
