"""Real images where there are some, and a package small enough for kernels that start often."""

import os
import shutil
from pathlib import Path

import pytest

import tlcourse  # noqa: F401  (before torch: its threads then sleep while they wait)

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `real` unless TLCOURSE_REAL names a folder of images."""
    real = os.environ.get("TLCOURSE_REAL")
    if real and not Path(real).is_dir():
        raise pytest.UsageError(f"TLCOURSE_REAL is {real!r}, which is no folder. Unset it, or unpack the images there.")
    if not real:
        skip = pytest.mark.skip(reason="needs real images: set TLCOURSE_REAL to their folder")
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; for tests marked `real`."""
    return Path(os.environ["TLCOURSE_REAL"]).resolve()


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The folder of a real backbone's weights; for tests marked `real`."""
    if "TLCOURSE_REAL_WEIGHTS" not in os.environ:
        pytest.skip("needs real weights: set TLCOURSE_REAL_WEIGHTS to their folder")
    return Path(os.environ["TLCOURSE_REAL_WEIGHTS"]).resolve()


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stand-in for `tlcourse`: real claims and command, no torch, for kernels that start fast."""
    folder = tmp_path_factory.mktemp("small")
    package = folder / "tlcourse"
    package.mkdir()
    for name in ("cli.py", "commands.py", "atomic_write.py"):
        shutil.copy(ROOT / "tlcourse" / name, package / name)
    shutil.copytree(ROOT / "tlcourse" / "lessons", package / "lessons", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").write_text(
        "from .lessons import claim\n\n\ndef setup():\n    print('profile mini')\n", encoding="utf-8"
    )
    return folder
