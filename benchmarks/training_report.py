"""Table and plot of what `training.py` measured."""

import math
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch
from peers import CONTESTANTS

from tlcourse.plots import COLOURS, OTHERS
from tlcourse.plots.style import new_figure
from tlcourse.runtime import Runtime

LIBRARIES = ("torch", "torchvision", "timm", "fastai", "lightning", "transformers", "accelerate")
METHOD = """Medians of {repeats} repeats, in brackets the smallest and the largest value. In each repeat every \
contestant runs once, in a process of its own, in an order that rotates. All start from the same weights, read the \
same files, take random crops of 60 to 100 % of an image's area, flip half of them, and take the same steps of SGD \
(momentum 0.9). Numbers of images and steps, shapes, initial weights, the optimizer's settings, the pixels' mean and \
standard deviation and how far the weights moved are compared in each run; the command ends when they differ. Time \
starts after the imports, with the preparation of the data, and excludes evaluations. Checkpoints, logs and progress \
bars are off. Memory is that of the main process, libraries included; `loaders` is the number of processes that load \
images."""
# title -> which of a contestant's runs belong to the comparison
COMPARISONS: dict[str, Callable[[dict], bool]] = {
    "Everybody in float32": lambda run: _told(run) == "float32",
    "Everybody's own defaults": lambda run: run["precision"] == "default",
    "Everybody in bfloat16": lambda run: _told(run) == "bfloat16",
}


def _told(run: dict) -> str:
    """Return the precision whose comparison a run belongs to; "" where switching to bfloat16 had no effect."""
    computed = run["computed"].partition(",")[0]
    if run["precision"] != "default":
        return computed if computed == run["precision"] else ""
    # This package is told float32 in a run of its own, so its default counts only where it is something else.
    return "" if run["name"] == "tlcourse" and computed == "float32" else computed


def machine(now: Runtime) -> dict[str, str]:
    """Describe the machine without naming it, and give the versions of the libraries."""
    model = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        lines = described.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"{name} {version(name).partition('+')[0]}" for name in LIBRARIES if find_spec(name)]
    device = torch.cuda.get_device_name(now.device) if now.device.type == "cuda" else "no GPU used"
    fast = "bfloat16 in hardware" if now.bf16 else "no bfloat16 in hardware"
    processor = f"{model}, cores: {cores}, threads: {torch.get_num_threads()}; {device}; {fast}"
    if hasattr(os, "getloadavg"):
        processor += f"; load before the first run: {os.getloadavg()[0]:.1f}"
    return {"machine": processor, "versions": ", ".join(versions)}


def rates(run: dict) -> dict[str, float]:
    """Return training images per second: of the whole run, of its first epoch, and of the later epochs."""
    seconds, images = run["seconds"], run["same"]["images"]
    each = images / len(seconds)
    return {
        "whole": images / sum(seconds),
        "first": each / seconds[0],
        "later": each * (len(seconds) - 1) / sum(seconds[1:]),
    }


def compare(record: dict, section: str, wanted: Callable[[dict], bool]) -> dict[str, list[dict]]:
    """Return contestant -> its runs in a comparison, in the order of `CONTESTANTS`."""
    good = [run for run in record["runs"] if run["section"] == section and "same" in run and wanted(run)]
    chosen = {name: [run for run in good if run["name"] == name] for name in CONTESTANTS}
    return {name: runs for name, runs in chosen.items() if runs}


def lead(table: dict[str, list[dict]]) -> float | None:
    """Return this package's images per second divided by the fastest peer's: medians of the whole run."""
    middle = {name: median(rates(run)["whole"] for run in runs) for name, runs in table.items()}
    mine = middle.pop("tlcourse", None)
    return mine / max(middle.values()) if mine and middle else None


def bare_rates(record: dict, kind: str = "bare") -> dict[str, list[float]]:
    """Return images per second of the bare compute: form -> one value per repeat."""
    runs = [run[kind] for run in record["runs"] if run["section"] == "speed" and kind in run]
    return {form: [run[form] for run in runs] for form in (runs[0] if runs else {})}


def target_time(run: dict, target: float) -> float:
    """Return the seconds of training, without evaluations, until validation accuracy reached the target."""
    spent = 0.0
    for seconds, accuracy in zip(run["seconds"], run["val_accuracy"], strict=True):
        spent += seconds
        if accuracy >= target:
            return spent
    return math.inf


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Write a median with the smallest and the largest value."""
    if math.isinf(median(values)):
        return f"not reached in {sum(map(math.isinf, values))} of {len(values)}"
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})".replace("inf", "not reached")


def markdown(record: dict) -> str:
    """Return the report."""
    sections = [_speed if name == "speed" else _accuracy for name in record["works"]]
    lines = ["# The same training with this package and with others", ""]
    lines += [f"Made by `python benchmarks/training.py`. {record['machine']['machine']}.", ""]
    lines += [f"Versions: {record['machine']['versions']}.", ""]
    lines += [METHOD.format(repeats=record["repeats"]), ""]
    for write in sections:
        lines += write(record)
    if record["missing"]:
        lines += ["", "Not installed: " + ", ".join(CONTESTANTS[name].title for name in record["missing"]) + "."]
    switched = [run for run in record["runs"] if run.get("precision") == "bfloat16" and "computed" in run]
    if deaf := {CONTESTANTS[run["name"]].title for run in switched if not _told(run)}:
        lines += ["", f"The switch to bfloat16 has no effect here: {', '.join(sorted(deaf))}."]
    failed = {(run["name"], run["failed"]) for run in record["runs"] if "failed" in run}
    lines += [f"\nFailed: {name}: {reason}" for name, reason in sorted(failed)]
    return "\n".join(lines) + "\n"


def _work(record: dict, section: str) -> str:
    work = record["works"][section]
    return (
        f"All of `{work['model']}` ({record['weights'][section]}) at {work['size']} pixels, {work['train']:,} "
        f"images, batches of {work['batch']}, {work['epochs']} epochs, rate {work['lr']}."
    )


def _speed(record: dict) -> list[str]:
    bare = bare_rates(record)
    lines = ["## Images per second", "", _work(record, "speed")]
    for title, wanted in COMPARISONS.items():
        table = compare(record, "speed", wanted)
        if not table:
            continue
        ahead = lead(table)
        lines += ["", f"### {title}", ""]
        if ahead is not None:
            lines += [f"tlcourse / fastest peer: {ahead:.2f} in images per second over the whole run.", ""]
        lines += ["| | loaders | computed in | whole run | first epoch | later epochs | later / bare | memory, MB |"]
        lines += ["|---|--:|---|--:|--:|--:|--:|--:|"]
        for name, runs in table.items():
            columns = [spread([rates(run)[key] for run in runs]) for key in ("whole", "first", "later")]
            form = runs[0]["computed"]
            share = f"{_share(runs, bare[form]):.2f}" if form in bare else "–"
            lines.append(_row(name, runs, form, *columns, share, _memory(runs)))
    if bare:
        lines += ["", "### Bare compute on a batch that is already in memory", "", "Images per second.", ""]
        lines += ["| | forward and backward | with the optimizer's step |", "|---|--:|--:|"]
        full = bare_rates(record, "synthetic")
        lines += [f"| {form} | {spread(values)} | {spread(full[form])} |" for form, values in bare.items()]
    lines += ["", *_overhead(record, bare), ""]
    return lines


def _share(runs: list[dict], bare: list[float]) -> float:
    """Return images per second of the later epochs divided by the bare compute's in the same repeat: the median."""
    return median(rates(run)["later"] / bare[run["repeat"]] for run in runs if run["repeat"] < len(bare))


def _overhead(record: dict, bare: dict[str, list[float]]) -> list[str]:
    lines, full = [], bare_rates(record, "synthetic")
    for precision in ("float32", "default"):
        runs = compare(record, "speed", lambda run, p=precision: run["precision"] == p).get("tlcourse", [])
        if runs and (form := runs[0]["computed"]) in bare:
            of_bare, of_steps = _share(runs, bare[form]), _share(runs, full[form])
            lines.append(
                f"- tlcourse, {precision} ({form}), later epochs: {of_bare:.2f} of the bare forward and backward, "
                f"{of_steps:.2f} of it with the optimizer's step"
            )
    if lines:
        lines += [
            "",
            "These ratios compare processes that ran minutes apart. [overhead.md](overhead.md) measures in turns.",
        ]
    return lines


def _accuracy(record: dict) -> list[str]:
    target = record["target"]
    lines = ["## Time to an accuracy", "", _work(record, "accuracy")]
    lines += [f"The target is {target} on the validation set; the test set is for the model after the last epoch.", ""]
    lines += [f"| | loaders | computed in | seconds to {target} | images per second | last validation | test |"]
    lines += ["|---|--:|---|--:|--:|--:|--:|"]
    for wanted in (lambda run: run["precision"] == "default", lambda run: run["precision"] == "float32"):
        for name, runs in compare(record, "accuracy", wanted).items():
            columns = [
                spread([target_time(run, target) for run in runs]),
                spread([rates(run)["whole"] for run in runs]),
                spread([run["val_accuracy"][-1] for run in runs], 3),
                spread([run["test_accuracy"] for run in runs], 3),
            ]
            lines.append(_row(name, runs, runs[0]["computed"], *columns))
    return [*lines, ""]


def _row(name: str, runs: list[dict], *cells: str) -> str:
    loading = "its own choice" if runs[0]["workers"] is None else str(runs[0]["workers"])
    return f"| {' | '.join([CONTESTANTS[name].title, loading, *cells])} |"


def _memory(runs: list[dict]) -> str:
    held = [run["memory"] for run in runs if run["memory"] is not None]
    return spread(held, 0) if held else "–"


def plot(record: dict, path: Path) -> None:
    """Draw every contestant's images per second, in full colour for its default; dotted is the fastest bare compute."""
    titles = {"float32": "Everybody in float32", "bfloat16": "Everybody in bfloat16"}
    tables = {dtype: compare(record, "speed", COMPARISONS[title]) for dtype, title in titles.items()}
    default = compare(record, "speed", COMPARISONS["Everybody's own defaults"])
    names = [name for name in CONTESTANTS if any(name in table for table in tables.values())]
    shades, bare = {"float32": COLOURS["frozen"], "bfloat16": OTHERS[1]}, bare_rates(record)
    ahead = lead(default)
    message = f"With every library's defaults, tlcourse is {ahead:.2f} × as fast as the fastest peer" if ahead else ""
    with new_figure(7.6, 0.6 * len(names) + 1.8, title=message) as ((ax,),):
        for place, (dtype, table) in enumerate(tables.items()):
            for name, runs in table.items():
                values, y = [rates(run)["whole"] for run in runs], names.index(name) + (0.34 * place - 0.17)
                own = default.get(name, runs)[0]["computed"].startswith(dtype)
                ax.barh(y, median(values), height=0.32, color=shades[dtype], alpha=1 if own else 0.4)
                ax.plot([min(values), max(values)], [y, y], color="black", lw=1)
                end = (max(values), y)
                ax.annotate(f"{median(values):,.0f}", end, (4, 0), textcoords="offset points", va="center", fontsize=9)
            fastest = max((median(values) for form, values in bare.items() if form.startswith(dtype)), default=None)
            if fastest and table:
                ax.axvline(fastest, color=shades[dtype], ls=":", lw=1.5, zorder=0)
                ax.text(fastest, -0.55, f"bare\n{dtype}", ha="center", va="bottom", color=shades[dtype], fontsize=9)
        ax.set_yticks(range(len(names)), [CONTESTANTS[name].title for name in names])
        ax.set_ylim(len(names) - 0.5, -0.55)
        work = record["works"]["speed"]
        ax.set_xlabel(
            f"training images per second, {work['model']} at {work['size']} pixels, median and range\n"
            "blue: float32, orange: bfloat16; full colour: the default, pale: when chosen"
        )
    ax.figure.savefig(path)
    plt.close(ax.figure)
