"""The doctor for a folder of images: damaged or tiny files, copies, and how many images each class has."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tlcourse.data import find_duplicates, find_unreadable, folder_layout
from tlcourse.doctor.checks.data import MAJORITY
from tlcourse.doctor.report import Finding, Report, listed, note, suspicious, wrong
from tlcourse.table import Table

TINY = 32  # pixels of the short side: images below were probably thumbnails
RARE = 10  # images of a class below which nothing can be measured
LOPSIDED = 10.0  # the largest class over the smallest


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
        finding = note if len(tiny) > len(files) / 2 else suspicious  # a set of small images is meant to be one
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
        advice = "Keep each image in one part: delete it from train."
        yield wrong("same-image", "The same images are in two parts.", told(across), advice)
    differing = [one for one in found if one[1][0] != one[2][0]]
    if differing:
        names = listed({f"{classes[a]} and {classes[b]}" for _, (a, _), (b, _) in differing})
        advice = "Look at them: one of the two labels is wrong, or both are right and the classes overlap."
        yield suspicious("two-labels", f"The same images are in two classes: {names}.", told(differing), advice)
    inside = [one for one in found if one[0].first[0] == one[0].second[0]]
    if inside:
        what = "The same images are in one part more than once."
        flat = len(parts) == 1
        advice = "Keep one of each: a split by chance would put copies into two parts." if flat else "Keep one of each."
        yield (suspicious if flat else note)("copies", what, told(inside), advice)


def _below(root: Path, file: Path) -> str:
    root = root.absolute()
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
