"""Find a lesson's notebook, run it from a clean kernel, and list its claims."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tlcourse.atomic_write import atomic_write
from tlcourse.lessons.claims import CLAIM_MIME
from tlcourse.lessons.kernel import Step, execute

SOURCE_TREE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Claim:
    """A claim as a run measured it."""

    statement: str
    holds: bool
    measured: str


@dataclass
class LessonResult:
    """What running a notebook gave; `error` is empty when no cell failed, `seconds` counts the whole run."""

    path: Path
    claims: list[Claim] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Whether every cell ran and every claim held."""
        return not self.error and not self.interrupted and all(claim.holds for claim in self.claims)


def find(section: str) -> Path:
    """Return the notebook for "3.2", "3_2", "3_2_feature_extraction" or a path.

    It is searched for in `notebooks/` of the current folder, then beside the package's source tree.

    Raises:
        ValueError: no notebook, or more than one, fits; the message lists those there are.
    """
    if section.endswith(".ipynb"):
        if Path(section).is_file():
            return Path(section).resolve()
        raise ValueError(f"There is no notebook at {section}. {_available()}")
    name = section.replace(".", "_")
    for folder in _folders():
        found = [p for p in sorted(folder.glob("*.ipynb")) if p.stem == name or p.stem.startswith(f"{name}_")]
        exact = [path for path in found if path.stem == name] or found
        if len(exact) > 1:
            names = ", ".join(path.stem for path in exact)
            raise ValueError(f"{section!r} fits several notebooks: {names}. Give more of the name.")
        if exact:
            return exact[0]
    raise ValueError(f"There is no notebook for section {section!r}. {_available()}")


def _folders() -> list[Path]:
    """Return the folders in which notebooks are searched for, in that order."""
    folders = [Path.cwd() / "notebooks", SOURCE_TREE / "notebooks"]
    return [folder.resolve() for folder in dict.fromkeys(folders) if folder.is_dir()]


def _available() -> str:
    """Say which notebooks there are."""
    names = sorted({path.stem for folder in _folders() for path in folder.glob("*.ipynb")})
    if not names:
        return "No notebooks were found: run this in a clone of the course's repository, or give a notebook's path."
    return f"There are: {', '.join(names)}."


def run_lesson(
    source: Path,
    out: Path,
    *,
    profile: str | None = None,
    timeout: float | None = None,
    on_step: Callable[[Step], None] | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
) -> LessonResult:
    """Run a notebook in a clean kernel and write the executed copy to the folder `out`; `source` is not changed.

    The copy is written in every case, also after an error or an interruption. A false claim ends its cell and not the
    run; any other error ends the run. `timeout` is in seconds per cell. The kernel's working folder is `out`, so files
    that a lesson writes land there too. `seed` is the base seed; `settings` gives constants of the notebook, such as
    `FOLDER`, other values.

    Raises:
        ValueError: the executed notebook would replace `source`, `out` is no folder, or there is no such constant.
    """
    target = out / source.name
    if target.resolve() == source.resolve():
        raise ValueError(f"The executed notebook would replace {source}. Choose another folder than {out}.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Give a folder for the executed notebook.")
    nb = nbformat.read(source, as_version=4)
    for name, value in (settings or {}).items():
        set_constant(nb, name, value)
    out.mkdir(parents=True, exist_ok=True)
    env = os.environ | ({"TLCOURSE_PROFILE": profile} if profile else {})
    env |= {} if seed is None else {"TLCOURSE_SEED": str(seed)}
    result = LessonResult(target)
    start = time.perf_counter()
    try:
        result.error = execute(nb, cwd=out, env=env, timeout=timeout, on_step=on_step)
    except KeyboardInterrupt:
        result.interrupted = True
    finally:
        result.claims = claims_in(nb)
        result.seconds = time.perf_counter() - start
        write(nb, target)
    return result


def set_constant(nb: NotebookNode, name: str, value: object) -> None:
    """Give a constant of a notebook another value where its cell assigns it.

    Raises:
        ValueError: no cell assigns it; the message lists the constants that there are.
    """
    constants = []
    for cell in nb.cells:
        if cell.cell_type != "code" or cell.source.lstrip().startswith(("%", "!")):
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name) and target.id.isupper():
                constants.append(target.id)
                if target.id == name:
                    lines = cell.source.splitlines()
                    lines[node.lineno - 1 : node.end_lineno] = [f"{name} = {value!r}"]
                    cell.source = "\n".join(lines)
                    return
    raise ValueError(f"The notebook sets no {name}. It sets {', '.join(constants) or 'no constant'}.")


def find_all() -> list[Path]:
    """Return all notebooks of the course, in the order of their names.

    Raises:
        ValueError: there are none.
    """
    for folder in _folders():
        if found := sorted(folder.glob("*.ipynb")):
            return found
    raise ValueError(_available())


def claims_in(nb: NotebookNode) -> list[Claim]:
    """Return the claims that a notebook's outputs carry, in order."""
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    records = [output.data[CLAIM_MIME] for output in outputs if CLAIM_MIME in output.get("data", {})]
    return [Claim(record["statement"], record["holds"], record["measured"]) for record in records]


def write(nb: NotebookNode, path: Path) -> None:
    """Write a notebook atomically."""
    with atomic_write(path) as part:
        part.write_text(nbformat.writes(nb).rstrip("\n") + "\n", encoding="utf-8", newline="\n")
