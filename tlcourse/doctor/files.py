"""The doctor for what lies on the disk: a script or notebook, a folder of images, a checkpoint."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tlcourse.data import find_duplicates, find_unreadable, folder_layout
from tlcourse.doctor.checks.data import MAJORITY
from tlcourse.doctor.report import Finding, Report, listed, note, suspicious, wrong
from tlcourse.doctor.scripts import data as rules_data
from tlcourse.doctor.scripts import loop as rules_loop
from tlcourse.doctor.scripts import schedule as rules_schedule
from tlcourse.doctor.scripts import setup as rules_setup
from tlcourse.doctor.scripts.reader import Script, read_script
from tlcourse.models import read_weights
from tlcourse.predict import load_checkpoint
from tlcourse.table import Table

RULES = (*rules_setup.RULES, *rules_data.RULES, *rules_loop.RULES, *rules_schedule.RULES)
SCRIPTS = (".py", ".ipynb")
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
TINY = 32  # pixels of the short side: photos below were probably thumbnails
RARE = 10  # images of a class below which nothing can be measured
LOPSIDED = 10.0  # the largest class over the smallest


def diagnose(path: str | Path) -> Report:
    """Look at a script, a notebook, a checkpoint or a folder of images; nothing is run or changed.

    Raises:
        ValueError: it is none of these, or is not there.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return folder(path)
    if not path.is_file():
        raise ValueError(f"There is no file or folder {path}. Check the path; a relative one starts at {Path.cwd()}.")
    if path.suffix in SCRIPTS:
        return script(path)
    if path.suffix in WEIGHTS:
        return checkpoint(path)
    raise ValueError(
        f"{path} is no script ({', '.join(SCRIPTS)}), no checkpoint ({', '.join(WEIGHTS)}) and no folder of images. "
        "Give one of these."
    )


def script(path: Path) -> Report:
    """Read a script or notebook, without running it, and look for known mistakes."""
    parsed = read_script(path)
    findings = [*_broken(parsed), *(finding for rule in RULES for finding in _applied(rule, parsed))]
    findings.sort(key=lambda finding: [int(number) for number in re.findall(r"\d+", finding.where)])
    table = Table([{"lines": len(parsed.places) - 1, "calls": len(parsed.calls), "rules": len(RULES)}])
    remark = "A script's text does not show everything: `tl.examine(model, optimizer, data)` looks at what is there."
    return Report(str(path), table, findings, [remark])


def folder(path: Path) -> Report:
    """Look at every image of a folder: can it be read, is it large enough, is it there twice, are classes balanced."""
    try:
        layout = folder_layout.scan(path.absolute())
    except ValueError as error:
        advice = "Sort the images into `train`, `val` and `test` folders with one folder for each class."
        return Report(str(path), Table(), [wrong("layout", "The folder cannot be used as it is.", str(error), advice)])
    table = Table()
    for part, items in layout.parts.items():
        counts = Counter(label for label, _ in items)
        table += [{"part": part, "class": name, "images": counts[i]} for i, name in enumerate(layout.classes)]
    files = [file for items in layout.parts.values() for _, file in items]
    faults = find_unreadable(files)
    good = {part: [item for item in items if item[1] not in faults] for part, items in layout.parts.items()}
    findings = [
        *_faults(path, faults, len(files)),
        *_sizes(path, [file for file in files if file not in faults]),
        *_balance(layout),
        *_copies(path, layout.classes, good),
    ]
    return Report(str(path), table, findings, layout.notes)


def checkpoint(path: Path) -> Report:
    """Read a file of weights, without running code, and look whether they can be weights."""
    try:
        state = read_weights(path)
    except ValueError as error:
        advice = "Get the file again, or save `model.state_dict()` where the model was trained."
        return Report(str(path), Table(), [wrong("unreadable", "The weights cannot be read.", str(error), advice)])
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    values = sum(tensor.numel() for tensor in state.values())
    table = Table([{"tensors": len(state), "values": values, "types": listed(counts), "bytes": path.stat().st_size}])
    return Report(str(path), table, [*_values(state), *_statistics(state), *_facts(path, state)])


def _broken(parsed: Script) -> Iterator[Finding]:
    for line in parsed.broken:
        advice = "Python stops here before it runs anything."
        if "leading zeros" in line:
            advice += " A number is written without commas, as 25557032 or 25_557_032."
        place, _, told = line.partition(": ")
        yield wrong("syntax", "This is not Python.", told, advice, place)


def _applied(rule: Any, parsed: Script) -> Iterator[Finding]:
    try:
        yield from rule(parsed)
    except Exception as error:  # odd code must not hide what other rules find
        told = f"{type(error).__name__}: {error}"
        yield note("check-failed", f"The rule {rule.__name__} stumbled.", told, "Please report it, with this line.")


def _faults(root: Path, faults: dict[Path, str], count: int) -> Iterator[Finding]:
    if faults:
        names = listed((f"{_below(root, file)} ({why})" for file, why in faults.items()), 8)
        advice = "Delete or replace them, or load with skip_unreadable=True."
        yield wrong("unreadable", "Files cannot be read.", f"{len(faults)} of {count:,}: {names}", advice)


def _sizes(root: Path, files: list[Path]) -> Iterator[Finding]:
    sizes = {}
    for file in files:
        with Image.open(file) as image:  # reads the header alone
            sizes[file] = image.size
    tiny = [file for file, size in sizes.items() if min(size) < TINY]
    if tiny:
        shown = listed(f"{_below(root, file)} ({sizes[file][0]} x {sizes[file][1]})" for file in tiny)
        finding = note if len(tiny) > len(files) / 2 else suspicious  # a set of small pictures is meant to be one
        advice = "See whether these are thumbnails; backbones see little in them."
        yield finding(
            "tiny-images", f"Images are smaller than {TINY} pixels.", f"{len(tiny)} of {len(files):,}: {shown}", advice
        )
    long = [file for file, (width, height) in sizes.items() if max(width, height) > 4 * min(width, height)]
    if long:
        advice = "A square crop at the centre shows a small part of them: look at what it leaves."
        shown = listed(f"{_below(root, file)} ({sizes[file][0]} x {sizes[file][1]})" for file in long)
        yield note("long-images", "Images are far from square.", f"{len(long)} of {len(files):,}: {shown}", advice)


def _balance(layout: folder_layout.Layout) -> Iterator[Finding]:
    for part, items in layout.parts.items():
        counts = Counter(label for label, _ in items)
        (top, most), (bottom, fewest) = counts.most_common()[0], counts.most_common()[-1]
        shown = f"{part}: {most:,} {layout.classes[top]}, {fewest:,} {layout.classes[bottom]}, {len(items):,} in all"
        if most / len(items) >= MAJORITY or most >= LOPSIDED * fewest:
            advice = "Report recall by class, and draw rare classes more often or weight them."
            yield suspicious("imbalance", "Classes differ much in size.", shown, advice)
        if fewest < RARE:
            rare = listed(f"{layout.classes[label]} ({n})" for label, n in sorted(counts.items()) if n < RARE)
            advice = "Add images: one more right or wrong moves such a class's recall by a tenth or more."
            yield note("few-images", f"Classes have fewer than {RARE} images in {part}.", rare, advice)


def _copies(root: Path, classes: list[str], parts: dict[str, list[tuple[int, Path]]]) -> Iterator[Finding]:
    pairs = find_duplicates({part: [file for _, file in items] for part, items in parts.items()}, within=True)
    found = [(pair, *(parts[part][index] for part, index in (pair.first, pair.second))) for pair in pairs]

    def told(own: list) -> str:
        exact = sum(pair.exact for pair, *_ in own)
        names = listed((f"{_below(root, a)} = {_below(root, b)}" for _, (_, a), (_, b) in own), 3)
        return f"{exact} exact and {len(own) - exact} near copies: {names}"

    across = [one for one in found if one[0].first[0] != one[0].second[0]]
    if across:
        advice = "Keep each picture in one part: delete it from train."
        yield wrong("same-picture", "The same pictures are in two parts.", told(across), advice)
    differing = [one for one in found if one[1][0] != one[2][0]]
    if differing:
        names = listed({f"{classes[a]} and {classes[b]}" for _, (a, _), (b, _) in differing})
        advice = "Look at them: one of the two labels is wrong, or both are right and the classes overlap."
        yield suspicious("two-labels", f"The same pictures are in two classes: {names}.", told(differing), advice)
    inside = [one for one in found if one[0].first[0] == one[0].second[0]]
    if inside:
        what = "The same pictures are in one part more than once."
        flat = len(parts) == 1
        advice = "Keep one of each: a split by chance would put copies into two parts." if flat else "Keep one of each."
        yield (suspicious if flat else note)("copies", what, told(inside), advice)


def _values(state: dict[str, torch.Tensor]) -> Iterator[Finding]:
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    broken = [name for name, tensor in floats.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        advice = "The training diverged before it was saved: use an earlier checkpoint."
        evidence = f"{len(broken)} of {len(state)}: {listed(broken)}"
        yield wrong("not-finite", "Tensors hold NaN or infinite values.", evidence, advice)
    dead = [n for n, t in floats.items() if t.ndim > 1 and t.numel() and not bool(t.any())]
    if dead:
        advice = "See whether the file was written by a program that had not loaded weights."
        yield suspicious("all-zero", "Whole weight tensors are zero.", f"{len(dead)}: {listed(dead)}", advice)
    still = [
        n
        for n, t in floats.items()
        if t.ndim > 1 and t.numel() > 1 and bool((t == t.flatten()[0]).all()) and bool(t.any())
    ]
    if still:
        advice = "A weight whose values are all the same has not been initialised or trained."
        yield suspicious("constant", "Whole weight tensors hold one value.", f"{len(still)}: {listed(still)}", advice)


def _statistics(state: dict[str, torch.Tensor]) -> Iterator[Finding]:
    variances = {name: tensor for name, tensor in state.items() if name.endswith("running_var")}
    negative = [name for name, tensor in variances.items() if bool((tensor < 0).any())]
    if negative:
        advice = "A variance cannot be negative: the file is damaged, or was averaged wrongly."
        yield wrong("statistics", "Batch-norm variances are negative.", listed(negative), advice)
    fresh = [
        name
        for name, tensor in variances.items()
        if bool((tensor == 1).all()) and not bool(state.get(name.replace("running_var", "running_mean"), tensor).any())
    ]
    if fresh:
        evidence = f"{len(fresh)} of {len(variances)}: {listed(fresh)}"
        advice = (
            "The network never ran in training mode, or these were not saved: it will answer nonsense in evaluation."
        )
        yield suspicious("statistics", "Batch norms have the statistics of a new network.", evidence, advice)


def _facts(path: Path, state: dict[str, torch.Tensor]) -> Iterator[Finding]:
    try:
        load_checkpoint(path)
    except ValueError as error:
        if "weights only" in str(error) or path.suffix != ".safetensors":
            advice = "`tl.predict.save_checkpoint` writes architecture, classes and preprocessing with the weights."
            what = "The file holds weights alone: it does not say which model, classes or preprocessing they belong to."
            yield note("weights-only", what, f"{len(state)} tensors", advice)
        else:
            advice = "Save it again with `tl.predict.save_checkpoint`."
            what = "The file says what it is, and its weights do not fit that."
            yield wrong("checkpoint", what, str(error), advice)


def _below(root: Path, file: Path) -> str:
    root = root.absolute()
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
