"""The `tlcourse` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # What a subcommand needs is imported when it runs, so that `tlcourse --help` answers at once.
    from tlcourse.notebooks import Run, Step


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return 0 when all went well, 1 when its result is bad, 2 when it was asked wrongly."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal whose encoding lacks a sign shows a question mark rather than ending the run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="tlcourse", description="Transfer learning and fine-tuning, measured.")
    subcommands = parser.add_subparsers(title="subcommands", required=True)
    _add_run(subcommands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.function(arguments)
    except ValueError as error:
        print(f"tlcourse: {error}", file=sys.stderr)
        return 2


def seconds(text: str) -> float:
    """Read a positive number of seconds."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


# --- tlcourse run -----------------------------------------------------------------------------------------------------


def _add_run(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subcommands.add_parser(
        "run",
        help="run a lesson from top to bottom and check its claims",
        description="Run a lesson's notebook from a clean kernel, write it executed, list what its claims measured. "
        "Exit status: 0 all claims hold, 1 a claim is false or a cell failed, 2 asked wrongly, 130 interrupted.",
    )
    parser.add_argument("section", help="a section (3.2), a notebook's name or a path")
    parser.add_argument("--profile", choices=("mini", "full"), help="default: TLCOURSE_PROFILE, else by the hardware")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="where the executed notebook goes (default: runs)"
    )
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="most time for one cell (default: no limit)")
    parser.set_defaults(function=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tlcourse import notebooks

    result = notebooks.run(
        notebooks.find(arguments.section),
        arguments.out,
        profile=arguments.profile,
        timeout=arguments.timeout,
        on_step=_progress(sys.stdout.isatty()),
    )
    print(summary(result))
    if result.interrupted:
        return 130
    return 0 if result.ok else 1


def _progress(tty: bool) -> Callable[[Step], None]:
    """Return a printer of one line per cell; a terminal also sees the cell that is running."""

    def show(step: Step) -> None:
        line = f"cell {step.number:{len(str(step.total))}}/{step.total}  {step.label:<48}"
        if step.seconds is not None:
            print(f"{line}  {step.seconds:6.1f} s", flush=True)
        elif tty:
            print(line, end="\r", flush=True)

    return show


def summary(result: Run) -> str:
    """Return what a run found: the error if there was one, the table of claims, the time and the path."""
    lines = [""]
    if result.error:
        lines += ["FAILED in " + _shortened(result.error), ""]
    if result.interrupted:
        lines += ["Interrupted: the cells after this point did not run.", ""]
    if result.claims:
        width = max(len(claim.statement) for claim in result.claims)
        lines.append(f"holds  {'claim':<{width}}  measured")
        for claim in result.claims:
            lines.append(f"{'yes' if claim.holds else 'NO':<5}  {claim.statement:<{width}}  {claim.measured}".rstrip())
    false = sum(not claim.holds for claim in result.claims)
    total = len(result.claims)
    count = f"{total - false} of {total} claims hold" if total else "This run made no claims"
    lines += ["", f"{count}. {result.seconds:.1f} s. Written to {result.path}"]
    return "\n".join(lines)


def _shortened(error: str, most: int = 14) -> str:
    """Return an error's first line, which says where, and its last lines, which say what."""
    where, *lines = error.splitlines()
    kept = lines if len(lines) <= most else ["…", *lines[-most:]]
    return "\n".join([where, *(f"  {line}".rstrip() for line in kept)])


if __name__ == "__main__":
    sys.exit(main())
