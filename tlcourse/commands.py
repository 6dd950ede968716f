"""`tlcourse train` and `tlcourse predict`."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tlcourse.atomic_write import refuse_unwritable, user_path

if TYPE_CHECKING:  # What a subcommand needs is imported when it runs, so that `tlcourse --help` answers at once.
    from tlcourse.evaluation import Evaluation

SHOWN = 20  # classes whose recall is printed


def add_train(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tlcourse train` to the command."""
    parser = subcommands.add_parser(
        "train",
        help="train a classifier on a folder of images",
        description="Train on a folder with one subfolder per class, with or without train, val and test above them, "
        "or on images whose labels are in a CSV file. Reports validation and test accuracy, each class's recall, "
        "and writes a checkpoint for `tlcourse predict`. Exit status: 0 success, 1 something outside failed, 2 wrong "
        "usage, 130 stopped by Ctrl-C: what whole epochs learned is kept.",
    )
    path = os.path.expanduser
    parser.add_argument("--data", required=True, type=path, help="a folder of images, or a name such as toypets")
    parser.add_argument("--labels", type=user_path, metavar="FILE", help="CSV: an image's name or id, and its label")
    parser.add_argument("--model", default="tl_resnet", help="from torchvision or timm, or tl_resnet (default)")
    parser.add_argument("--weights", default="default", type=path, help="a file of weights, or `none`: random ones")
    parser.add_argument("--recipe", default="linear-probe", metavar="NAME", help="linear-probe, frozen or fine-tune")
    parser.add_argument("--epochs", type=int, help="for frozen and fine-tune, as the next two (default: 5)")
    parser.add_argument("--batch-size", type=int, help="images per step (default: 32)")
    parser.add_argument("--lr", type=float, help="highest learning rate (default: 0.001)")
    parser.add_argument("--seed", type=int, default=0, help="for splits, head and order (default: 0)")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave damaged images out instead of stopping")
    parser.add_argument("--out", type=user_path, help="checkpoint (default: runs/DATA-MODEL-RECIPE.safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint if there is one")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    parser.set_defaults(function=_train)


def _train(arguments: argparse.Namespace) -> int:
    from tlcourse import data, models, predict, recipes, runtime

    now = runtime.setup(device=arguments.device, seed=arguments.seed)
    out = _output(arguments, list(recipes.RECIPES))
    refuse_unwritable(now.cache / "features" / "any", "Name another folder in TLCOURSE_CACHE.")
    if arguments.labels or Path(arguments.data).exists():
        options = {"seed": arguments.seed, "skip_unreadable": arguments.skip_unreadable}
        splits = data.from_folder(arguments.data, labels=arguments.labels, **options)
    else:
        splits = data.load(arguments.data)
    weights = None if arguments.weights == "none" else arguments.weights
    model = models.create(arguments.model, len(splits.classes), weights=weights).to(now.device)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    refuse_unwritable(out, "Give another --out.", size=size)
    splits = splits.for_model(model)
    print(splits)
    options, loop = {"seed": arguments.seed}, _loop_options(arguments)
    if arguments.recipe != "linear-probe":
        options |= loop
    elif loop:
        print(f"linear-probe has no training loop: {', '.join(loop)} are not used.")
    about = {"recipe": arguments.recipe, "seed": arguments.seed}
    try:
        result = recipes.RECIPES[arguments.recipe](model, splits, **options)
    except BaseException as error:
        if getattr(error, "trained", False):
            predict.save_checkpoint(out, model, splits.classes, **about)
            print(
                f"tlcourse: the model was trained and is written to {out}, but could not be measured.", file=sys.stderr
            )
        raise
    facts = {part: {"accuracy": e.accuracy, "images": e.n} for part, e in (("val", result.val), ("test", result.test))}
    predict.save_checkpoint(out, model, splits.classes, **about, **facts)
    if result.history and result.history.epochs:
        print(result.history.table())
    print(f"{arguments.recipe}: {result.note}")
    print(f"validation accuracy  {result.val}")
    print(f"test accuracy        {result.test}")
    print(_by_class(result.test, splits.classes))
    print(f"Written to {out}. Use it: tlcourse predict {out} IMAGE ...")
    return 130 if result.history and result.history.interrupted else 0


def _output(arguments: argparse.Namespace, recipes: list[str]) -> Path:
    """Return the file to write, after checking what can be checked before anything is read."""
    name = Path(arguments.data).resolve().name if Path(arguments.data).exists() else arguments.data
    name = os.fsencode(name).decode(errors="replace")  # of an old archive, perhaps
    plain_model = arguments.model.replace("/", "-")
    out = arguments.out or Path("runs") / f"{name}-{plain_model}-{arguments.recipe}.safetensors"
    if arguments.recipe not in recipes:
        raise ValueError(f"There is no recipe {arguments.recipe!r}: choose among {', '.join(recipes)}.")
    if out.suffix != ".safetensors" or any("\ud800" <= sign <= "\udfff" for sign in str(out)):
        raise ValueError(f"--out is {out}: name a file that ends in .safetensors, in UTF-8.")
    if Path(arguments.data).resolve() in out.resolve().parents[1:]:
        raise ValueError(f"{out} would lie among the images of {arguments.data}. Give another --out.")
    refuse_unwritable(out, "Give another --out.")
    if out.exists() and not arguments.overwrite:
        raise ValueError(f"{out} exists. Give another --out, or --overwrite to replace it.")
    given = _loop_options(arguments)
    if given.get("epochs", 1) < 1 or given.get("batch_size", 2) < 2 or not 0 < given.get("lr", 1) < float("inf"):
        text = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(f"{text}: epochs must be at least 1, batch_size at least 2, and lr positive and finite.")
    return out


def _loop_options(arguments: argparse.Namespace) -> dict[str, int | float]:
    """Return what was given for a training loop."""
    values = {"epochs": arguments.epochs, "batch_size": arguments.batch_size, "lr": arguments.lr}
    return {name: value for name, value in values.items() if value is not None}


def _by_class(test: Evaluation, classes: list[str]) -> str:
    """Return the recall of each class, the lowest first, and a word where the model has learned too little."""
    from tlcourse.table import Table

    counts = test.confusion()
    found = sorted((float(counts[i, i] / n), i, n) for i, n in enumerate(counts.sum(1).tolist()) if n)
    rows = [{"class": classes[i], "test images": n, "recall": f"{share:.3f}"} for share, i, n in found[:SHOWN]]
    text = str(Table(rows)) + f"\n(the {SHOWN} lowest of {len(found)} classes)" * (len(found) > SHOWN)
    _, largest, images = max(found, key=lambda row: row[2])
    if test.accuracy <= images / test.n:
        always = f"The model always answers {classes[test.predicted[0]]}. " * (len(test.predicted.unique()) == 1)
        text += f"\n{always}To answer {classes[largest]} each time is right in {images / test.n:.3f} of the cases."
    return text


def add_predict(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tlcourse predict` to the command."""
    parser = subcommands.add_parser(
        "predict",
        help="classify images with a checkpoint of `tlcourse train`",
        description="Print file, class and probability for every image. "
        "Exit status: 0 all were read, 1 some were not, 2 wrong usage.",
    )
    parser.add_argument("checkpoint", type=user_path)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image, or a folder for all images in it")
    parser.add_argument("--csv", type=user_path, metavar="FILE", help="write file, class, and each class's probability")
    parser.set_defaults(function=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from tlcourse import predict

    if arguments.csv:
        if arguments.csv.suffix.lower() != ".csv":  # not an image that the shell put there
            raise ValueError(f"--csv is {arguments.csv}: name a file that ends in .csv.")
        refuse_unwritable(arguments.csv, "Give another --csv.")
    model, about = predict.load_checkpoint(arguments.checkpoint)
    files = predict.image_files(arguments.images)
    width = max(len(str(file)) for file in files)
    answers = []
    for file in files:
        answers += predict.predict_files(model, about["classes"], [file])
        answer = answers[-1]
        said = f"not read: {answer.error}" if answer.error else f"{answer.label}  {answer.probability:.3f}"
        with suppress(BrokenPipeError) if arguments.csv else nullcontext():  # `| head` ends the reading, not the table
            print(f"{file!s:<{width}}  {said}", flush=True)
    if arguments.csv:
        predict.write_csv(arguments.csv, about["classes"], answers)
        print(f"Written to {arguments.csv}.", file=sys.stderr)
    return int(any(answer.error for answer in answers))
