"""The `tlcourse` command."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlcourse.atomic_write import user_path
from tlcourse.commands import add_predict, add_train
from tlcourse.lessons import add_check

if TYPE_CHECKING:  # What a subcommand needs is imported when it runs, so that `tlcourse --help` answers at once.
    from tlcourse.lessons import LessonResult, Step


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return 0 success, 1 bad result or fault outside, 2 wrong usage, 130 Ctrl-C, 141 no reader."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a service, or a shell's `2>&-`, closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        # A character that the terminal's encoding lacks becomes a question mark instead of an error.
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="tlcourse", description="Transfer learning and fine-tuning, measured.")
    subcommands = parser.add_subparsers(title="subcommands", required=True)
    for add in (_add_run, add_train, add_predict, _add_doctor, add_check):
        add(subcommands)
    status = _status(parser.parse_args(argv))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python tries again at its end
        if not isinstance(error, BrokenPipeError):
            print(f"tlcourse: {error}", file=sys.stderr)
        return 141 if isinstance(error, BrokenPipeError) else 1
    return status


def _status(arguments: argparse.Namespace) -> int:
    """Run what was asked for; what the world outside does wrong becomes one line and a status."""
    try:
        return arguments.function(arguments)
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt as stop:
        print(f"tlcourse: stopped by Ctrl-C. {stop}".rstrip(), file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"tlcourse: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        outside = type(error).__name__ in ("OfflineError", "OutOfMemoryError", "SafetensorError")
        memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        if not (outside or memory or isinstance(error, OSError | ArithmeticError)):
            raise  # a fault of ours
        print(f"tlcourse: {'There is not enough memory. ' * memory}{error}", file=sys.stderr)
        return 1


def seconds(text: str) -> float:
    """Parse a positive number of seconds."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def setting(text: str) -> tuple[str, object]:
    """Parse NAME=VALUE: a value is a number, None, True or False, else text; a folder's path becomes absolute."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise ValueError(text)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        path = Path(value).expanduser()
        return name, str(path.absolute()) if path.exists() else value


def _add_run(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subcommands.add_parser(
        "run",
        help="run a lesson from top to bottom and check its claims",
        description="Run a lesson's notebook in a clean kernel, write the executed copy, list its claims. "
        "Exit status: 0 all claims hold, 1 a claim is false or a cell failed, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument(
        "section", type=os.path.expanduser, help="a section (3.2), a notebook's name or a path; `all` for every lesson"
    )
    parser.add_argument("--profile", choices=("mini", "full"), help="default: TLCOURSE_PROFILE, else by the hardware")
    parser.add_argument(
        "--out", type=user_path, default=Path("runs"), help="folder for the executed copy (default: runs)"
    )
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="limit for one cell (default: none)")
    parser.add_argument("--seed", type=int, metavar="N", help="base seed of all random numbers (default: 0)")
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value for a constant of the notebook, such as LIMIT=200 (images) or FOLDER=my-images",
    )
    parser.set_defaults(function=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tlcourse import lessons

    sources = lessons.find_all() if arguments.section == "all" else [lessons.find(arguments.section)]
    options = {"profile": arguments.profile, "timeout": arguments.timeout, "seed": arguments.seed}
    options |= {"on_step": progress(sys.stdout is not None and sys.stdout.isatty()), "settings": dict(arguments.set)}
    failed = []
    for source in sources:
        if len(sources) > 1:
            print(f"\n{source.stem}")
        result = lessons.run_lesson(source, arguments.out, **options)
        print(summary(result))
        if result.interrupted:
            return 130
        failed += [] if result.ok else [source.stem]
    if len(sources) > 1:
        print(f"\n{len(sources) - len(failed)} of {len(sources)} lessons are as they should be.", *failed)
    return 1 if failed else 0


def progress(tty: bool) -> Callable[[Step], None]:
    """Return a function that prints one line per cell; a terminal also shows the cell that is running."""

    def show(step: Step) -> None:
        line = f"cell {step.number:{len(str(step.total))}}/{step.total}  {step.label:<48}"
        if step.seconds is not None:
            print(f"{line}  {step.seconds:6.1f} s", flush=True)
        elif tty:
            print(line, end="\r", flush=True)

    return show


def summary(result: LessonResult) -> str:
    """Return a run's summary: the error if there was one, the table of claims, the time and the path."""
    lines = [""]
    if result.error:
        where, *rest = result.error.splitlines()
        shown = rest if len(rest) <= 14 else ["…", *rest[-14:]]
        lines += [f"FAILED in {where}", *(f"  {line}".rstrip() for line in shown), ""]
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


def _add_doctor(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subcommands.add_parser(
        "doctor",
        help="look for mistakes in a script, a notebook, a checkpoint or a folder of images",
        description="Say what is wrong, with the evidence and what to do; nothing is run or changed. "
        "Exit status: 0 nothing is wrong, 1 something is, 2 wrong usage.",
    )
    parser.add_argument("path", type=os.path.expanduser, help=".py, .ipynb, .safetensors, .pth, or a folder")
    parser.set_defaults(function=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from tlcourse import doctor

    report = doctor.diagnose(arguments.path)
    print(report)
    return 0 if report else 1


if __name__ == "__main__":
    sys.exit(main())
