"""The `tlcourse` command."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlcourse.lessons import add_check

if TYPE_CHECKING:  # What a subcommand needs is imported when it runs, so that `tlcourse --help` answers at once.
    from tlcourse.lessons import LessonResult, Step


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit status: 0 success, 1 a bad result, 2 wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks becomes a question mark instead of an error.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="tlcourse", description="Transfer learning and fine-tuning, measured.")
    subcommands = parser.add_subparsers(title="subcommands", required=True)
    for add in (_add_run, _add_train, _add_predict, _add_doctor, add_check):
        add(subcommands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.function(arguments)
    except ValueError as error:
        print(f"tlcourse: {error}", file=sys.stderr)
        return 2


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
    parser.add_argument("section", help="a section (3.2), a notebook's name or a path; `all` for every lesson")
    parser.add_argument("--profile", choices=("mini", "full"), help="default: TLCOURSE_PROFILE, else by the hardware")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the executed copy (default: runs)")
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
    options |= {"on_step": progress(sys.stdout.isatty()), "settings": dict(arguments.set)}
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


def _add_train(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subcommands.add_parser(
        "train",
        help="train a classifier on a folder of images",
        description="Train on a folder with one subfolder per class, with or without train, val and test above them. "
        "Reports validation and test accuracy, and writes a checkpoint for `tlcourse predict`.",
    )
    parser.add_argument("--data", required=True, help="a folder of images, or a name from the catalog such as toypets")
    parser.add_argument("--model", default="tl_resnet", help="from torchvision or timm, or tl_resnet (default)")
    parser.add_argument("--weights", default="default", help="a .safetensors or .pth file, or `none`: random weights")
    parser.add_argument("--recipe", default="linear-probe", metavar="NAME", help="linear-probe, frozen or fine-tune")
    parser.add_argument("--epochs", type=int, default=5, help="for frozen and fine-tune (default: 5)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate (default: 0.001)")
    parser.add_argument("--seed", type=int, default=0, help="for splits, head and order (default: 0)")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave damaged images out instead of stopping")
    parser.add_argument("--out", type=Path, help="checkpoint (default: runs/DATA-MODEL-RECIPE.safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint if there is one")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    parser.set_defaults(function=_train)


def _train(arguments: argparse.Namespace) -> int:
    from tlcourse import data, models, predict, recipes, runtime

    now = runtime.setup(device=arguments.device, seed=arguments.seed)
    name = Path(arguments.data).resolve().name if Path(arguments.data).exists() else arguments.data
    plain_model = arguments.model.replace("/", "-")
    out = arguments.out or Path("runs") / f"{name}-{plain_model}-{arguments.recipe}.safetensors"
    if out.is_dir() or out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}: name a file that ends in .safetensors.")
    if out.exists() and not arguments.overwrite:
        raise ValueError(f"{out} exists. Give another --out, or --overwrite to replace it.")
    if arguments.recipe not in recipes.RECIPES:
        raise ValueError(f"There is no recipe {arguments.recipe!r}: choose among {', '.join(recipes.RECIPES)}.")
    if arguments.epochs < 1 or arguments.batch_size < 2:
        raise ValueError(
            f"epochs={arguments.epochs} must be at least 1, and batch_size={arguments.batch_size} at least 2."
        )
    if not arguments.lr > 0:
        raise ValueError(f"lr={arguments.lr} must be positive.")
    if Path(arguments.data).exists():
        splits = data.from_folder(arguments.data, seed=arguments.seed, skip_unreadable=arguments.skip_unreadable)
    else:
        splits = data.load(arguments.data)
    weights = None if arguments.weights == "none" else arguments.weights
    model = models.create(arguments.model, len(splits.classes), weights=weights).to(now.device)
    splits = splits.for_model(model)
    print(splits)
    options = {"seed": arguments.seed}
    if arguments.recipe != "linear-probe":
        options |= {"epochs": arguments.epochs, "lr": arguments.lr, "batch_size": arguments.batch_size}
    result = recipes.RECIPES[arguments.recipe](model, splits, **options)
    facts = {part: {"accuracy": e.accuracy, "images": e.n} for part, e in (("val", result.val), ("test", result.test))}
    predict.save_checkpoint(out, model, splits.classes, recipe=arguments.recipe, seed=arguments.seed, **facts)
    if result.history:
        print(result.history.table())
    print(f"{arguments.recipe}: {result.note}")
    print(f"validation accuracy  {result.val}")
    print(f"test accuracy        {result.test}")
    print(f"Written to {out}. Use it: tlcourse predict {out} IMAGE ...")
    return 0


def _add_predict(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subcommands.add_parser(
        "predict",
        help="classify images with a checkpoint of `tlcourse train`",
        description="Print file, class and probability for every image. "
        "Exit status: 0 all were read, 1 some were not, 2 wrong usage.",
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image, or a folder for all images in it")
    parser.set_defaults(function=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from tlcourse import predict

    model, about = predict.load_checkpoint(arguments.checkpoint)
    files = predict.image_files(arguments.images)
    width = max(len(str(file)) for file in files)
    failed = 0
    for file in files:
        (answer,) = predict.predict_files(model, about["classes"], [file])
        if answer.error:
            failed += 1
            print(f"{file!s:<{width}}  not read: {answer.error}", flush=True)
        else:
            print(f"{file!s:<{width}}  {answer.label}  {answer.probability:.3f}", flush=True)
    return 1 if failed else 0


def _add_doctor(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subcommands.add_parser(
        "doctor",
        help="look for mistakes in a script, a notebook, a checkpoint or a folder of images",
        description="Say what is wrong, with the evidence and what to do; nothing is run or changed. "
        "Exit status: 0 nothing is wrong, 1 something is, 2 wrong usage.",
    )
    parser.add_argument("path", help=".py, .ipynb, .safetensors, .pth, or a folder")
    parser.set_defaults(function=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from tlcourse import doctor

    report = doctor.diagnose(arguments.path)
    print(report)
    return 0 if report else 1


if __name__ == "__main__":
    sys.exit(main())
