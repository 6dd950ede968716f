"""Count the lines of the package, file by file, and the functions that its five main calls pass through.

python tools/house.py                           # prints
python tools/house.py --write --before FOLDER   # writes docs/house.md, beside the calls of an older checkout
"""

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import tlcourse as tl

PACKAGE = Path(tl.__file__).resolve().parent
REPORT = Path(__file__).resolve().parents[1] / "docs" / "house.md"
# What a learner reads to understand the package, in this order.
CORE = ("models/heads", "models/stage", "models/optimizer_groups", "preprocessing", "data/splits")
CORE += ("features/extraction", "features/probe", "evaluation")
CORE += ("train/schedules", "train/state", "train/loop", "train/gradual")
METHOD = """`python tools/house.py --write --before FOLDER` writes this page. The five calls are made once, one after \
the other, on a CPU, with all modules imported and an empty cache; "before" is the checkout in FOLDER. *Functions* are \
those of the package that a call enters in any thread, each once, without lambdas, comprehensions, generator \
expressions and what `dataclass` writes. *With inner* is as Python 3.11 counts in the main thread alone, with lambdas \
and comprehensions, those of a kind in one function once; newer versions run most comprehensions in their function."""


def lines() -> dict[str, int]:
    """Return the lines of each file of the package, empty ones and comments included: `room/file` -> lines."""
    files = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}


def count(call: Callable[[], Any], package: Path = PACKAGE) -> tuple[Any, dict[str, int]]:
    """Return what a call returns, and how many files and functions of the package it entered."""
    entered: set[tuple] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{package}{os.sep}"):
            names = (code.co_name, code.co_firstlineno, getattr(code, "co_qualname", code.co_name))
            entered.add((code.co_filename, *names, threading.current_thread() is threading.main_thread()))

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        result = call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    named = {(file, name, line) for file, name, line, *_ in entered if not name.startswith("<")}
    inner = {(file, qualified) for file, *_, qualified, main in entered if main}
    return result, {"files": len({file for file, *_ in named}), "functions": len(named), "with inner": len(inner)}


def main_calls() -> dict[str, dict[str, int]]:
    """Make the five main calls one after the other, and count each; what lies between them is not counted."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "tlcourse."):
        importlib.import_module(module.name)
    tl.setup("mini", device="cpu")
    counts, parts = {}, {"train": 64, "val": 32, "test": 32}
    model, counts["models.create"] = count(lambda: tl.models.create("tl_resnet", 2))
    splits, counts["data.load"] = count(lambda: tl.data.load("toypets", model=model, **parts))
    optimizer = torch.optim.AdamW(tl.models.param_groups(tl.models.freeze(model), lr=1e-3))
    loaders = splits.loaders(batch_size=32)
    _, counts["train.fit"] = count(lambda: tl.train.fit(model, loaders, optimizer, epochs=1))
    tl.models.unfreeze_from(model, "layer4")
    room = getattr(tl, "prefix", tl.features)  # in older checkouts `precompute` had a room of its own
    _, counts["features.precompute"] = count(lambda: room.precompute(model, splits))
    optimizer = torch.optim.AdamW(tl.models.param_groups(model, lr=1e-3))
    _, counts["examine"] = count(lambda: tl.examine(model, optimizer, splits))
    return counts


def counted_in(checkout: Path) -> dict[str, dict[str, int]]:
    """Count the main calls in a new process, with the package of a checkout and an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {"TLCOURSE_CACHE": cache, "TQDM_DISABLE": "1", "PYTHONPATH": str(checkout)}
        command = [sys.executable, __file__, "--calls"]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(before: Path | None) -> str:
    """Return the report."""
    files, tables = lines(), {"": counted_in(PACKAGE.parent)} | ({" before": counted_in(before)} if before else {})
    heads = [f"{kind}{when}" for when in tables for kind in ("files", "functions", "with inner")]
    text = ["# The house in numbers", "", METHOD, "", f"| call | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for call in tables[""]:
        text.append(f"| `tl.{call}` | {' | '.join(str(n) for now in tables.values() for n in now[call].values())} |")
    core = ", ".join(f"{name} {files.get(name, '(no such file)')}" for name in CORE)
    text += ["", f"The core: {sum(files.get(name, 0) for name in CORE):,} lines, in reading order: {core}."]
    text += ["", f"The package: {sum(files.values()):,} lines.", "", "| room | lines | files |", "|---|--:|---|"]
    for room in sorted({name.rpartition("/")[0] for name in files}):
        own = {name.rpartition("/")[2]: n for name, n in files.items() if name.rpartition("/")[0] == room}
        listed = ", ".join(f"{name} {n}" for name, n in own.items())
        text.append(f"| {room or 'top level'} | {sum(own.values()):,} | {listed} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="an older checkout, to count its calls too")
    parser.add_argument("--write", action="store_true", help=f"write docs/{REPORT.name}")
    parser.add_argument("--calls", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    report = json.dumps(main_calls()) if options.calls else markdown(options.before)
    print(report)
    if options.write:
        REPORT.write_text(report, encoding="utf-8")
