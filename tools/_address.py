"""The repository's address: what depends on it, and how to set it everywhere at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

UNSET = "https://repository-address-not-set.invalid/tlcourse"
_REPOSITORY = re.compile(r'^(Repository = )"([^"]*)"$', re.MULTILINE)
_CITATION = re.compile(r"^repository-code: .*\n", re.MULTILINE)
_BADGES = re.compile(r"(<!-- badges -->\n).*?(<!-- /badges -->)", re.DOTALL)
_ADDRESS = re.compile(r"https://[\w-]+(\.[\w-]+)+(:\d+)?/[\w.-]+/[\w.-]+", re.ASCII)

# A form of Colab: it shows the title, and the code on request.
_INSTALL = """\
#@title Set up the course: run this first
import importlib.util, subprocess as sp, sys
if importlib.util.find_spec("tlcourse") is None:
    sp.check_call([sys.executable, "-m", "pip", "install", "-q", "git+{address}"])
import tlcourse as tl
runtime = tl.setup()"""

_EXPLAIN = """\
#@title Set up the course: run this first
try:
    import tlcourse as tl
except ModuleNotFoundError:
    raise ModuleNotFoundError("This notebook needs the course's package. In a clone of it: pip install -e .") from None
runtime = tl.setup()"""


def validated(text: str) -> str:
    """Return an address as given, or "" for `none`.

    Raises:
        ValueError: it is not https://HOST/OWNER/NAME.
    """
    if text == "none":
        return ""
    if not _ADDRESS.fullmatch(text) or text.endswith(".git") or ".invalid/" in text:
        raise ValueError(f"{text!r} is no repository address. Give https://HOST/OWNER/NAME without .git, or none.")
    return text


def current(root: Path) -> str:
    """Return the address that pyproject.toml holds, or "" when it is unset."""
    found = _REPOSITORY.search((root / "pyproject.toml").read_text(encoding="utf-8"))
    if not found:
        raise ValueError('pyproject.toml has no line `Repository = "…"` under [project.urls]. Put it back.')
    return "" if found[2] == UNSET else found[2]


def setup_source(address: str) -> str:
    """Return the first code cell, the same in every notebook."""
    return _INSTALL.format(address=address) if address else _EXPLAIN


def badges(address: str, notebook: str) -> str:
    """Return the line of badges for a notebook (its path in the repository); Colab opens GitHub's repositories only."""
    line = f"[Repository]({address})"
    if address.startswith("https://github.com/"):
        repository = address.removeprefix("https://github.com/")
        image = "https://colab.research.google.com/assets/colab-badge.svg"
        target = f"https://colab.research.google.com/github/{repository}/blob/main/{notebook}"
        line = f"[![Open in Colab]({image})]({target}) {line}"
    return line


def header(address: str, notebook: str) -> list[NotebookNode]:
    """Return the cells that the build adds to a notebook."""
    setup = nbformat.v4.new_code_cell(setup_source(address), id="setup", metadata={"tags": ["nbval-ignore-output"]})
    if not address:
        return [setup]
    return [nbformat.v4.new_markdown_cell(badges(address, notebook), id="badges"), setup]


def with_header(nb: NotebookNode, address: str, notebook: str) -> NotebookNode:
    """Return an executed notebook with the header of another address; its outputs stay.

    Raises:
        ValueError: it has no header to replace.
    """
    nb.cells = [cell for cell in nb.cells if cell.id != "badges"]
    place = next((index for index, cell in enumerate(nb.cells) if cell.id == "setup"), None)
    if place is None:
        raise ValueError(f"{notebook} has no cell with the id `setup`. Build it again first.")
    *before, setup = header(address, notebook)
    nb.cells[place].source = setup.source
    nb.cells[place:place] = before
    return nb


def texts(root: Path, address: str) -> dict[Path, str]:
    """Return the new text of every file but the notebooks that holds the address.

    Raises:
        ValueError: a file lacks the place where the address belongs.
    """
    changes: dict[str, Callable[[str], str]] = {
        "pyproject.toml": lambda text: _REPOSITORY.sub(rf'\1"{address or UNSET}"', text),
        "CITATION.cff": lambda text: _CITATION.sub("", text) + (f'repository-code: "{address}"\n' if address else ""),
        "README.md": lambda text: _BADGES.sub(rf"\g<1>{_readme_badges(root, address)}\2", text),
    }
    current(root)
    if not _BADGES.search((root / "README.md").read_text(encoding="utf-8")):
        raise ValueError("README.md has no lines `<!-- badges -->` and `<!-- /badges -->`. Put them under its title.")
    paths = {root / name: change for name, change in changes.items()}
    return {path: change(path.read_text(encoding="utf-8")) for path, change in paths.items()}


def _readme_badges(root: Path, address: str) -> str:
    """Return the line between README.md's markers; its badge opens the first notebook."""
    if not address:
        return ""
    first = min((root / "notebooks").glob("*.ipynb"), default=None)
    return badges(address, f"notebooks/{first.name}" if first else "") + "\n"
