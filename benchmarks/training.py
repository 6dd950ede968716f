"""The same training with this package and with its peers: images per second, memory, time to an accuracy.

    python benchmarks/training.py --images FOLDER      # everything; writes training.json, .md and .png
    python benchmarks/training.py --only tlcourse,plain --repeats 1 --out runs/trial

The folder has `train`, `val` and `test`, with a subfolder per class. Without `--images` it is `dogs-vs-cats` in the
folder that TLCOURSE_REAL names. Every run is a process of its own. In each repeat every contestant runs once, in an
order that rotates. A run that does different work from the first one ends the command.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

import torch
from peers import CONTESTANTS
from training_report import machine, markdown, plot
from training_work import Job, Watch, Work, bare, memory

import tlcourse as tl
from tlcourse.runtime import OfflineError

ACCURACY = Work("tl_resnet", size=64, train=480, val=200, test=400, batch=32, epochs=5, lr=0.003)
TARGET = 0.8  # validation accuracy
MAX_WORKERS = 8  # on a GPU: more do not help one GPU


def speed(device: str) -> Work:
    """Return the work whose speed is measured: about half a minute on a processor, or on one GPU."""
    if device == "cpu":
        return Work("resnet18", size=128, train=256, val=64, test=64, batch=64, epochs=3, lr=0.01)
    return Work("resnet50", size=224, train=1600, val=64, test=64, batch=64, epochs=3, lr=0.01)


def prepare(images: Path, work: Work, folder: Path) -> int:
    """Copy as many images as the work needs, the same number from every class; return the number of classes.

    Raises:
        ValueError: a part or images are missing, or the images do not fill whole batches.
    """
    if work.train % work.batch or work.epochs < 2:
        raise ValueError(
            f"{work.train} images in batches of {work.batch}, {work.epochs} epochs: take a multiple of the batch, "
            "because some libraries drop the last batch and others do not, and at least 2 epochs, because a cache "
            "saves time from the second epoch on."
        )
    for part in ("train", "val", "test"):
        classes = sorted(path for path in (images / part).glob("*") if path.is_dir())
        if len(classes) < 2:
            raise ValueError(f"{images} has no classes in {part}: give a folder with train, val and test.")
        count = getattr(work, part)
        for i, source in enumerate(classes):
            files = sorted(path for path in source.iterdir() if path.is_file())
            wanted = count // len(classes) + (i < count % len(classes))
            if wanted > len(files):
                raise ValueError(f"{part}/{source.name} has {len(files)} images, {wanted} are needed.")
            target = folder / part / source.name
            target.mkdir(parents=True)
            for j in range(wanted):
                shutil.copy(files[j * len(files) // wanted], target)
    return len(classes)


def initial(model: str, classes: int, file: Path, seed: int) -> str:
    """Save the weights that every contestant starts from, and return what they are."""
    torch.manual_seed(seed)
    try:
        network, kind = tl.models.create(model, classes), "pre-trained weights"
    except OfflineError:
        network, kind = (
            tl.models.create(model, classes, weights=None),
            "random weights: no pre-trained ones are on this machine",
        )
    torch.save(network.state_dict(), file)
    return kind


def one(spec: dict) -> dict:
    """Run one contestant, or the bare compute, in this process."""
    work, folder, device = Work(**spec["work"]), Path(spec["folder"]), torch.device(spec["device"])
    classes = len(list((folder / "train").iterdir()))
    model = tl.models.create(work.model, classes, weights=None)
    model.load_state_dict(torch.load(spec["initial"], weights_only=True))
    torch.manual_seed(spec["seed"])
    if spec["name"] == "bare":
        return bare(model, work, device)
    watch = Watch(model, work, device)
    job = Job(work, folder, model, watch, device, spec["precision"], spec["workers"], spec["seed"])
    accuracies = CONTESTANTS[spec["name"]].run(job)
    seen = watch.report() | {"val_accuracy": accuracies, "memory": memory(device)}
    model.eval().to(device)
    with torch.no_grad():
        right = [(model(images.to(device)).argmax(1).cpu() == labels).sum() for images, labels in job.loader("test")]
    return seen | {"test_accuracy": int(sum(right)) / work.test}


def launch(spec: dict) -> dict:
    """Run `one` in a new process with an empty cache; return its result, or the reason of its failure."""
    with tempfile.TemporaryDirectory() as cache:
        quiet = {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TLCOURSE_CACHE": cache}
        visible = {"CUDA_VISIBLE_DEVICES": ""} if spec["device"] == "cpu" else {}
        command = [sys.executable, __file__, "--one", json.dumps(spec)]
        done = subprocess.run(command, env=os.environ | quiet | visible, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"failed": lines[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def differences(run: dict, reference: dict) -> list[str]:
    """Return how a run's work differs from the reference's, one sentence per difference.

    Counts, shapes, initial weights and optimizer must be the same. Crops are random, so the mean and the standard
    deviation of the normalised pixels may differ by 0.25, and the distance that the weights moved by half.
    """
    found = [
        f"{key} is {run['same'][key]}, not {value}"
        for key, value in reference["same"].items()
        if run["same"][key] != value
    ]
    for name, mine, other in zip(("mean", "deviation"), run["pixels"], reference["pixels"], strict=True):
        if abs(mine - other) > 0.25:
            found.append(f"the pixels' {name} is {mine:.2f}, not about {other:.2f}")
    if not 2 / 3 < run["moved"] / reference["moved"] < 3 / 2:
        found.append(f"the weights moved by {run['moved']:.4f} of their length, not about {reference['moved']:.4f}")
    if run["precision"] == "float32" and not run["computed"].startswith("float32"):
        found.append(f"it computed in {run['computed']}, and was told float32")
    return found


def measure(name: str, common: dict, entries: list[tuple[str, str]], options: argparse.Namespace) -> Iterator[dict]:
    """Run every entry of a section `options.repeats` times; end the command when one does different work."""
    reference, dropped = None, set()
    for repeat in range(options.repeats):
        shift = repeat * max(1, len(entries) // options.repeats) % len(entries)
        for who, precision in entries[shift:] + entries[:shift]:
            if (who, precision) in dropped:
                continue
            spec = common | {"name": who, "precision": precision, "seed": options.seed + repeat}
            spec["workers"] = workers(who, options)
            run = launch(spec) | {"section": name, "repeat": repeat, **spec}
            if "failed" in run or (precision == "bfloat16" and not run["computed"].startswith(precision)):
                dropped.add((who, precision))  # it would not do better next time
            if "same" in run:
                reference = reference or run
                if wrong := differences(run, reference):
                    sys.exit(f"{who} ({precision}) does different work from {reference['name']}: {'; '.join(wrong)}.")
            print(f"{name} {repeat + 1}/{options.repeats} {who:12} {precision:8} {_short(run)}", flush=True)
            yield {key: value for key, value in run.items() if key not in ("folder", "initial", "work")}


def workers(who: str, options: argparse.Namespace) -> int | None:
    """Return the number of loader processes of a contestant; None lets it choose."""
    if options.workers is not None or who == "bare":
        return options.workers
    if options.device == "cpu" or who == "tlcourse":
        return CONTESTANTS[who].workers
    return min(MAX_WORKERS, os.cpu_count() or 1)


def _short(run: dict) -> str:
    if "same" not in run:
        return run.get("failed") or " ".join(f"{form} {rate:.1f};" for form, rate in run["bare"].items())
    rate = run["same"]["images"] / sum(run["seconds"])
    return f"{rate:7.1f} images/s, {run['computed']}, val {run['val_accuracy'][-1]:.3f}"


def main() -> int:
    """Measure, write table and plot; return 1 when a contestant failed."""
    options = arguments()
    if options.one:
        with redirect_stdout(sys.stderr):
            result = one(json.loads(options.one))
        print(json.dumps(result))
        return 0
    stem = options.out / ("training" if options.device == "cpu" else "training_gpu")
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        everything(options, stem.with_suffix(".json"))
    record = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    stem.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    if any("same" in run for run in record["runs"] if run["section"] == "speed"):
        plot(record, stem.with_suffix(".png"))
    return int(any("failed" in run for run in record["runs"]))


def everything(options: argparse.Namespace, file: Path) -> None:
    """Measure what the options ask for, and save every run in `file` as soon as it ends."""
    now = tl.setup(device=options.device, seed=options.seed)
    names = [name for name in CONTESTANTS if not options.only or name in options.only.split(",")]
    here = [name for name in names if CONTESTANTS[name].installed]
    asked = {"model": options.model, "size": options.size, "train": options.train, "epochs": options.epochs}
    asked = {key: value for key, value in (asked | {"batch": options.batch}).items() if value is not None}
    works = {"speed": replace(speed(options.device), **asked), "accuracy": ACCURACY}
    told = [(name, "default") for name in here] + [("tlcourse", "float32")] * ("tlcourse" in here)
    switched = [(name, "bfloat16") for name in here if name != "tlcourse"] * now.bf16
    entries = {"speed": [("bare", ""), *told, *switched], "accuracy": told}
    record = {"machine": machine(now), "missing": [name for name in names if name not in here]}
    record |= {"target": TARGET, "repeats": options.repeats, "works": {}, "weights": {}, "runs": []}
    with tempfile.TemporaryDirectory() as temporary:
        for section in options.sections.split(","):
            work, folder = works[section], Path(temporary) / section
            classes = prepare(options.images, work, folder / "images")
            record["weights"][section] = initial(work.model, classes, folder / "initial.pt", options.seed)
            record["works"][section] = asdict(work)
            common = {"work": asdict(work), "folder": str(folder / "images"), "initial": str(folder / "initial.pt")}
            for run in measure(section, common | {"device": options.device}, entries[section], options):
                record["runs"].append(run)
                file.write_text(json.dumps(record, indent=1), encoding="utf-8")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    real = os.environ.get("TLCOURSE_REAL")
    parser.add_argument("--images", type=Path, default=real and Path(real, "dogs-vs-cats"))
    parser.add_argument("--sections", default="speed,accuracy", help="speed, accuracy, or both")
    parser.add_argument("--model", help="of the speed section, like the next four")
    for option in ("--size", "--train", "--batch", "--epochs", "--workers"):
        parser.add_argument(option, type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help=f"some of {','.join(CONTESTANTS)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for runs, table and plot")
    parser.add_argument("--report", action="store_true", help="write table and plot again, from the runs saved there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.images or options.one or options.report):
        parser.error("name a folder of images: --images FOLDER, or set TLCOURSE_REAL")
    for given, known in ((options.sections, ("speed", "accuracy")), (options.only or "plain", CONTESTANTS)):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: choose among {', '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
