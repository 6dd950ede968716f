"""What surrounds the code: lint, format, dependencies, versions, packaged data, no machine's paths."""

import os
import re
import subprocess
import sys

import build
import pytest
import yaml
from source_files import PACKAGE, ROOT, imports, module_files, tracked_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Import names that differ from the names of what is installed.
DISTRIBUTIONS = {
    **{"PIL": "pillow", "sklearn": "scikit-learn", "IPython": "ipython"},
    **{"jupyter_client": "jupyter-client", "huggingface_hub": "huggingface-hub"},
}
CONDA_NAMES = {"torch": "pytorch", "jupyter-client": "jupyter_client", "huggingface-hub": "huggingface_hub"}

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
    tops = {found.module.split(".")[0] for path in module_files() for found in imports(path)}
    others = tops - set(sys.stdlib_module_names) - {"tlcourse", ""}
    declared = set(requirements(PYPROJECT["project"]["dependencies"]))
    assert {DISTRIBUTIONS.get(name, name) for name in others} - declared == set()


def test_the_version_and_the_address_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (version,) = re.findall(r'^__version__ = "(.*)"$', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    assert citation["version"] == version
    repository = PYPROJECT["project"]["urls"]["Repository"]
    assert citation.get("repository-code", repository) == repository
    assert ("repository-code" in citation) == (".invalid/" not in repository)


def test_data_that_the_package_needs_is_packed() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["tlcourse"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = {path for path in tracked_files() if PACKAGE in path.parents and path.suffix != ".py"}
    assert files - packed == set()


def test_no_file_names_a_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # images and weights
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
    carried = [path for path in tracked_files() if PACKAGE in path.parents and path.suffix != ".py"]
    assert sum(path.stat().st_size for path in carried) <= 12_000_000
