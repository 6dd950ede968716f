"""`tlcourse check`: run a submitted exercise away from everything else, and count the steps that its run found right.

The kernel and the process that talks to it have a time limit together, and a memory limit each. Verdicts are taken
from this run alone, and only where `tl.check` has signed them. That stops what was saved, printed or overwritten. It
does not stop somebody who attacks the package from within its own process, or who writes to other folders on purpose:
where a mark depends on it, read the answers, too; where you trust nobody, run it in a container.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import site
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tlcourse.atomic_write import user_path

# No answer needs these: they are what checks are made of.
_MACHINERY = re.compile(r"\b(?:tl|tlcourse)\.lessons\b|\bSTEPS\b|TLCOURSE_CHECK|/proc/")


@dataclass
class Grade:
    """What a submission reached: a point for each step that is right."""

    notebook: str
    steps: list[dict] = field(default_factory=list)
    points: int = 0
    of: int = 0
    error: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        width = max(len(one["step"]) for one in self.steps)
        lines = [f"{one['points']}  {one['step']:<{width}}  {one['outcome']}: {one['message']}" for one in self.steps]
        lines += [f"STOPPED {self.error}"] if self.error else []
        return "\n".join([self.notebook, *lines, f"{self.points} of {self.of} points. {self.seconds:.1f} s."])


def grade(submission: Path, *, timeout: float = 300.0, gigabytes: float = 4.0) -> Grade:
    """Run a submission in a temporary folder, and return its points; the submission is not changed.

    Args:
        submission: the notebook.
        timeout: seconds for the whole run.
        gigabytes: of memory for each process of the run; 0 sets no limit. Windows and macOS know no such limit.

    Raises:
        ValueError: there is no such file, it is no notebook, or it belongs to no exercise.
    """
    from tlcourse.lessons.checks import known

    cells = _code(submission)
    found = re.findall(r"^(ex\d+)(?:_|$)", submission.stem) or re.findall(r"check\(\s*[\"'](ex\d+)/", "\n".join(cells))
    steps = [step for step in known() if found and step.startswith(f"{found[0]}/")]
    if not steps:
        raise ValueError(f"{submission} belongs to no exercise: it checks no step, and its name begins with none.")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tlcourse-check-", ignore_cleanup_errors=True) as folder:
        run = _run(submission, Path(folder), timeout, gigabytes)
    if changed := [text for text in map(_MACHINERY.search, cells) if text]:
        run["verdicts"] = {}
        run["error"] = f"because the code names {changed[0][0]}, which checks are made of. Read these answers yourself."
    result = Grade(submission.name, of=len(steps), error=run["error"])
    for step in steps:
        why = run["errors"].get(step, "its cell is missing, or did not come as far as its check")
        outcome, message = run["verdicts"].get(step, ("no verdict", why))
        result.steps.append({"step": step, "points": int(outcome == "right"), "outcome": outcome, "message": message})
    result.points = sum(one["points"] for one in result.steps)
    result.seconds = round(time.perf_counter() - start, 1)
    return result


def _code(submission: Path) -> list[str]:
    import nbformat

    if not submission.is_file():
        raise ValueError(f"There is no file {submission}.")
    try:
        nb = nbformat.read(submission, as_version=4)
        return [str(cell.source) for cell in nb.cells if cell.cell_type == "code"]
    except Exception as error:  # what is no notebook fails in many ways
        raise ValueError(f"{submission} is no notebook ({type(error).__name__}).") from None


def _run(submission: Path, folder: Path, timeout: float, gigabytes: float) -> dict:
    """Run the notebook in processes of their own, all of which have ended when this returns."""
    result = folder / secrets.token_hex(8)  # not to be guessed by the code that runs
    (folder / "work").mkdir()
    (folder / "work" / submission.name).write_bytes(submission.read_bytes())
    mark = secrets.token_hex(8)
    own = {"HOME": "home", "TMPDIR": "tmp", "IPYTHONDIR": "ipython", "MPLCONFIGDIR": "matplotlib"}
    own |= {"JUPYTER_RUNTIME_DIR": "jupyter", "TLCOURSE_CACHE": "cache", "XDG_CACHE_HOME": "xdg"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TLCOURSE_")}
    environment |= {name: str(folder / place) for name, place in own.items()}
    for name in own:
        Path(environment[name]).mkdir()
    environment |= {"PYTHONUSERBASE": site.getuserbase(), "TLCOURSE_PROFILE": "mini", "TLCOURSE_CHECK_RUN": mark}
    path = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    command = [sys.executable, "-m", "tlcourse.lessons.grading", submission.name, str(result), str(gigabytes)]
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    error = ""
    process = subprocess.Popen(command, cwd=folder / "work", env=environment, start_new_session=True, **nowhere)
    try:
        if process.wait(timeout):
            error = "The run broke off: it used more memory than it may, or printed more."
    except subprocess.TimeoutExpired:
        error = f"The time limit of {timeout:g} seconds is over."
    finally:
        _end(process, mark)
    run = {"verdicts": {}, "errors": {}, "error": "", "where": ""}
    with suppress(OSError, ValueError):
        run |= json.loads(result.read_text(encoding="utf-8"))
    if error:
        run["error"] = f"in {run['where'] or 'the start'}. {error}"
    return run


def _end(process: subprocess.Popen, mark: str) -> None:
    """End a run's processes: the descendants, and whatever carries its mark, also when it has left the family."""
    import psutil

    gone = psutil.Error
    for _ in range(5):
        found = []
        with suppress(gone):
            found += psutil.Process(process.pid).children(recursive=True)
        for other in psutil.process_iter():
            with suppress(gone, OSError):
                if other.environ().get("TLCOURSE_CHECK_RUN") == mark:
                    found.append(other)
        if not found and process.poll() is not None:
            return
        if process.poll() is None:
            process.kill()
        for other in found:
            with suppress(gone):
                other.kill()
        process.wait()
        psutil.wait_procs(found, timeout=5)


def run_here(name: str, result: Path, gigabytes: float) -> None:
    """Run a notebook in the working folder, and keep the verdicts after each cell in a file."""
    import nbformat

    from tlcourse.atomic_write import atomic_write
    from tlcourse.lessons.kernel import Step, execute

    with suppress(ImportError):  # there is none on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        if gigabytes:
            resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
    nb, key = nbformat.read(name, as_version=4), secrets.token_hex(16)
    for cell in nb.cells:
        cell.metadata["tags"] = ["raises-exception"]  # an error ends its cell, and not the run
    run = {"verdicts": {}, "errors": {}, "error": "", "where": ""}

    def keep(step: Step | None, error: str = "") -> None:
        where = run["where"] if step is None else f"cell {step.number}/{step.total} ({step.label})"
        run.update(_verdicts(nb, key), error=error, where=where)
        with atomic_write(result) as part:
            part.write_text(json.dumps(run), encoding="utf-8")

    error = execute(nb, cwd=Path.cwd(), env=os.environ | {"TLCOURSE_CHECK_KEY": key}, on_step=keep)
    keep(None, "in " + " ".join(error.split())[-400:] if error else "")


def _verdicts(nb: dict, key: str) -> dict:
    """Return the last signed verdict of each step, and the errors of the cells that should have given one."""
    from tlcourse.lessons.checks import CHECK_MIME, HINTS, sign

    verdicts, errors = {}, {}
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            record = output.get("data", {}).get(CHECK_MIME)
            if isinstance(record, dict) and set(record) == {"step", "outcome", "message", "proof"}:
                step, outcome, message, proof = map(str, record.values())
                if proof == sign(key, step, outcome):
                    verdicts[step] = outcome, message.split("\n`tl.")[0][:600]
            if output["output_type"] == "error":
                reason = f"{output['ename']}: {output['evalue']}"[:300]
                errors |= {step: reason for step in HINTS if step in cell["source"]}
    return {"verdicts": verdicts, "errors": errors}


def add_check(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tlcourse check` to the command."""
    parser = subcommands.add_parser(
        "check",
        help="run a submitted exercise and count its points",
        description="Run an exercise's notebook in processes of their own, in a temporary folder, and print the points "
        "of each step. Exit status: 0 every step is right, 1 not every step, 2 wrong usage.",
    )
    parser.add_argument("notebook", type=user_path)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for the run (default: 300)")
    parser.add_argument("--memory", type=float, default=4.0, metavar="GB", help="for each process (default: 4; 0: all)")
    parser.set_defaults(function=_check)


def _check(arguments: argparse.Namespace) -> int:
    if not arguments.timeout > 0 or not arguments.memory >= 0:
        raise ValueError("--timeout has to be positive, and --memory 0 or more.")
    result = grade(arguments.notebook, timeout=arguments.timeout, gigabytes=arguments.memory)
    print(json.dumps(asdict(result), indent=1) if arguments.json else result)
    return 0 if result.points == result.of else 1


if __name__ == "__main__":
    run_here(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
