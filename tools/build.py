"""Build the notebooks from their sources, check them, set the repository's address in them.

python tools/build.py                 build and execute every notebook
python tools/build.py 3_2 3_3         build those sections
python tools/build.py --check         say where a committed notebook differs from its source, executing nothing
python tools/build.py --address URL   set https://HOST/OWNER/NAME everywhere, or `none`, executing nothing

A source is a percent-format script in sources/lessons/, or in sources/solutions/, which gives an exercise and its
solution. The build adds the header and executes from a clean kernel in the `mini` profile. It leaves out timings and
live widgets, and refuses warnings, paths of the machine, and a solution that its own checks refuse.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import _address
import _exercises
import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # The build uses this tree's package, installed or not.

CELL_SECONDS = 600  # A cell that takes longer hangs: a whole lesson is meant to take 90 seconds.
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
ANYONES_HOME = re.compile(r"(?<![\w.~])(/(home|Users)/\w|/(root)/|[A-Za-z]:\\+(Users)\\)")


def main(argv: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Build, check or re-address; return 0 on success, 1 when a notebook is wrong, 2 on wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SECTION", help="3_2, ex2 or 3_2_feature_extraction; default: all")
    parser.add_argument("--check", action="store_true", help="compare the committed notebooks with their sources")
    parser.add_argument("--address", metavar="URL", help="set the repository's address everywhere; `none` unsets it")
    arguments = parser.parse_args(argv)
    try:
        if arguments.address is not None:
            return set_address(root, _address.validated(arguments.address))
        sources = _sources(root, arguments.names)
        if arguments.check:
            found = [problem for source in sources for problem in check(root, source)]
            found += [] if arguments.names else _orphans(root, sources)
            count = sum(len(_exercises.targets(root, source)) for source in sources)
            print("\n".join(found) or f"{count} notebooks match their sources.")
            return 1 if found else 0
        jobs = [(source, target) for source in sources for target in _exercises.targets(root, source)]
        return max([build(root, *job) for job in jobs], default=0)
    except KeyboardInterrupt:
        print("build: interrupted; the notebook that was being built is as it was", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 2


def _sources(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the sources whose names are, or begin with, the names given; all without names."""
    every = _exercises.sources(root)
    chosen = []
    for name in (name.replace(".", "_").removesuffix("_py") for name in names):
        fits = [source for source in every if source.stem == name or source.stem.startswith(f"{name}_")]
        if not fits:
            raise ValueError(f"no source fits {name!r}. There are: {', '.join(source.stem for source in every)}.")
        chosen += fits
    return list(dict.fromkeys(chosen)) if names else every


def assemble(root: Path, source: Path, target: Path | None = None) -> NotebookNode:
    """Return a source's notebook, with the header, not executed; everything in it follows from the text."""
    target = target or _exercises.targets(root, source)[-1]
    script = jupytext.reads(_exercises.shown(source.read_text(encoding="utf-8"), target), fmt="py:percent")
    cells = [cell for cell in script.cells if cell.source.strip()]
    opening = next((index for index, cell in enumerate(cells) if _ends_opening(cell)), len(cells))
    header = _address.header(_address.current(root), target.relative_to(root).as_posix())
    seen: dict[str, int] = {}
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        # An id that follows from the cell's own text stays when cells are added above it.
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.v4.new_notebook(cells=[*cells[:opening], *header, *cells[opening:]], metadata=metadata)


def _ends_opening(cell: NotebookNode) -> bool:
    """Whether the header belongs above this cell: the first code, or the first section after title and promise."""
    return cell.cell_type == "code" or cell.source.startswith("## ")


def build(root: Path, source: Path, target: Path) -> int:
    """Build one notebook; return 1, and leave the old one as it was, when a cell fails or its output is unfit."""
    from tlcourse.cli import progress
    from tlcourse.lessons import claims_in, execute, write

    if answers := _exercises.answers(source):
        _exercises.answers_file(root, source).write_text(_exercises.answers_text(source), encoding="utf-8")
    nb = assemble(root, source, target)
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(root, folder)
        show = progress(sys.stdout.isatty())
        error = execute(nb, cwd=Path(folder), env=environment, timeout=CELL_SECONDS, on_step=show)
    false = [claim.statement for claim in claims_in(nb) if not claim.holds]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET_MIME not in output.get("data", {})]
    nb.metadata["language_info"] = nbformat.from_dict({"name": "python"})  # The kernel added its version.
    nb.metadata["tlcourse"] = nbformat.from_dict({"outputs": _digest(nb)})
    found = [error] if error else [f"claim does not hold: {statement}" for statement in false]
    found = found or [*_unfit(root, nb), *_exercises.unsolved(nb, target, list(answers))]
    if found:
        print(f"{target.name} was NOT built:", *found, sep="\n")
        return 1
    target.parent.mkdir(exist_ok=True)
    write(nb, target)
    print(f"{target.name}: {len(nb.cells)} cells, {len(claims_in(nb))} claims, {target.stat().st_size / 1000:.0f} kB")
    return 0


def _environment(root: Path, folder: str) -> dict[str, str]:
    """Return a kernel's environment in which only this tree decides what the cells do."""
    own = ("TLCOURSE_", "MPLBACKEND", "IPYTHONDIR")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment | {
        "TLCOURSE_PROFILE": "mini",
        "PYTHONPATH": os.pathsep.join(path),
        "IPYTHONDIR": str(Path(folder) / ".ipython"),
    }


def _digest(nb: NotebookNode) -> str:
    """Return a digest of all outputs: it shows an output that was edited or taken out after the build."""
    outputs = [cell.outputs for cell in nb.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()[:16]


def _unfit(root: Path, nb: NotebookNode) -> Iterator[str]:
    """Yield what keeps a notebook's outputs from being committed."""
    count = 0
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type != "code":
            continue
        count += 1
        where = f"cell {number} ({cell.source.splitlines()[0][:60]})"
        if cell.execution_count is None:
            yield f"{where} was not executed"
        elif cell.execution_count != count:
            yield f"{where} was executed as number {cell.execution_count}, not {count}"
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                yield f"{where} has an error: {output.ename}: {output.evalue}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"{where} wrote to stderr: {output.text.strip()[:300]}"
            if path := _machine_path(root, output):
                yield f"{where} shows a path of this machine: {path}"


def _machine_path(root: Path, output: NotebookNode) -> str:
    """Return the first line of an output's text that has an absolute path of a machine, or ""."""
    texts = [output.get("text", ""), "\n".join(output.get("traceback", []))]
    data = output.get("data", {})
    texts += [data[mime] for mime in data if not mime.startswith("image/") or mime == "image/svg+xml"]
    folders = [str(folder) for folder in (root, Path.home(), Path(tempfile.gettempdir())) if len(folder.parts) > 1]
    lines = [line for text in texts for line in str(text).splitlines()]
    here = re.compile("|".join(rf"(?<![\w.~]){re.escape(folder)}(?!\w)" for folder in folders))
    return next((line.strip()[:200] for line in lines if here.search(line) or ANYONES_HOME.search(line)), "")


def check(root: Path, source: Path) -> list[str]:
    """Return what is wrong with a source's committed notebooks; nothing is executed."""
    file, wanted = _exercises.answers_file(root, source), _exercises.answers(source)
    old = wanted and (not file.exists() or file.read_text(encoding="utf-8") != _exercises.answers_text(source))
    found = [f"{file.name} differs from its source. Run python tools/build.py {source.stem}"] if old else []
    return found + [line for target in _exercises.targets(root, source) for line in _check(root, source, target)]


def _check(root: Path, source: Path, target: Path) -> list[str]:
    if not target.exists():
        return [f"{target.name} is missing. Run python tools/build.py {source.stem}"]
    committed = nbformat.reads(target.read_text(encoding="utf-8"), as_version=4)
    found = list(_unfit(root, committed))
    if not found and committed.metadata.get("tlcourse", {}).get("outputs") != _digest(committed):
        found = ["an output was changed after the build"]
    wanted = assemble(root, source, target)
    pairs = zip_longest(committed.cells, wanted.cells)
    differences = (_difference(number, *pair) for number, pair in enumerate(pairs, 1))
    # One cell too many makes all cells after it differ: the first difference is the one that tells.
    first = next(filter(None, differences), None)
    return [f"{target.name}: {problem}" for problem in [*([first] if first else []), *found]]


def _difference(number: int, committed: NotebookNode | None, wanted: NotebookNode | None) -> str:
    """Return how a committed cell differs from its source, or ""."""
    if committed is None or wanted is None:
        cell, side = (committed, "source") if wanted is None else (wanted, "notebook")
        return f"cell {number} ({cell.source.splitlines()[0][:60]}) is missing in the {side}"
    old, new = (
        [f"{cell.cell_type} {cell.metadata.get('tags', [])}", *cell.source.splitlines()] for cell in (committed, wanted)
    )
    lines = list(difflib.unified_diff(old, new, "notebook", "source", lineterm="", n=1))
    if not lines:
        return ""
    more = ["…"] if len(lines) > 12 else []
    return "\n  ".join([f"cell {number} differs from its source", *lines[:12], *more])


def _orphans(root: Path, sources: list[Path]) -> list[str]:
    wanted = {target for source in sources for target in _exercises.targets(root, source)}
    return [f"{path.name} has no source in sources/" for path in _exercises.notebooks(root) if path not in wanted]


def set_address(root: Path, address: str) -> int:
    """Set the repository's address ("" unsets it) in every file that holds it; nothing is executed."""
    from tlcourse.atomic_write import atomic_write
    from tlcourse.lessons import write

    # Everything is made before anything is written: a file that does not fit leaves the whole tree as it was.
    texts = _address.texts(root, address)
    notebooks = {}
    for path in _exercises.notebooks(root):
        nb = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        notebooks[path] = _address.with_header(nb, address, path.relative_to(root).as_posix())
    for path, text in texts.items():
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    for path, nb in notebooks.items():
        write(nb, path)
    print(f"Address: {address or 'unset'}. Files: {len(texts)}; notebooks: {len(notebooks)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
