"""The doctor for a folder of images: damaged, small and long images, copies, and classes of different sizes."""

from collections import Counter
from pathlib import Path

from PIL import Image

from tlcourse.data import dark_notes, find_duplicates, find_unreadable, folder_layout
from tlcourse.doctor.checks.data import MAJORITY
from tlcourse.doctor.report import Findings, Report, listed, note, suspicious, wrong
from tlcourse.table import Table

TINY = 32  # pixels of the short side: images below were probably thumbnails
LONG = 4  # long side over short side
RARE = 10  # images of a class below which nothing can be measured
LOPSIDED = 10.0  # the largest class over the smallest


def diagnose_folder(path: Path) -> Report:
    """Look at every image: can it be read, is it large enough, is it there twice, are classes balanced."""
    root = path.absolute()
    try:
        layout = folder_layout.scan(root)
    except ValueError as error:
        return Report(str(path), Table(), [wrong("layout", str(error))])
    table = Table()
    for part, items in layout.parts.items():
        counts = Counter(label for label, _ in items)
        table += [{"part": part, "class": name, "images": counts[i]} for i, name in enumerate(layout.classes)]
    files = [file for items in layout.parts.values() for _, file in items]
    faults, findings = find_unreadable(files), []
    if faults:
        names = listed((f"{_below(root, file)} ({why})" for file, why in faults.items()), 8)
        findings.append(wrong("unreadable/images", f"{len(faults)} of {len(files):,}: {names}"))
    good = {part: [item for item in items if item[1] not in faults] for part, items in layout.parts.items()}
    readable = [file for file in files if file not in faults]
    findings += [*_sizes(root, readable), *_balance(layout), *_copies(root, layout.classes, good)]
    return Report(str(path), table, findings, layout.notes + dark_notes(readable))


def _sizes(root: Path, files: list[Path]) -> Findings:
    sizes = {}
    for file in files:
        with Image.open(file) as image:  # reads the header alone
            sizes[file] = image.size
    tiny = [file for file in files if min(sizes[file]) < TINY]
    long = [file for file in files if max(sizes[file]) > LONG * min(sizes[file])]
    meant = len(tiny) > len(files) / 2  # a set of small images
    for severity, name, found in ((note if meant else suspicious, "tiny-images", tiny), (note, "long-images", long)):
        if found:
            names = listed(f"{_below(root, file)} ({sizes[file][0]} x {sizes[file][1]})" for file in found)
            yield severity(name, f"{len(found)} of {len(files):,}: {names}")


def _balance(layout: folder_layout.Layout) -> Findings:
    for part, items in layout.parts.items():
        counts = Counter(label for label, _ in items)
        (top, most), (bottom, fewest) = counts.most_common()[0], counts.most_common()[-1]
        if most / len(items) >= MAJORITY or most >= LOPSIDED * fewest:
            sizes = f"{most:,} {layout.classes[top]}, {fewest:,} {layout.classes[bottom]}, {len(items):,} in all"
            yield suspicious("imbalance/sizes", f"{part}: {sizes}")
        if fewest < RARE:
            rare = listed(f"{layout.classes[label]} ({n})" for label, n in sorted(counts.items()) if n < RARE)
            yield note("few-images", f"in {part}: {rare}")


def _copies(root: Path, classes: list[str], parts: dict[str, list[tuple[int, Path]]]) -> Findings:
    pairs = find_duplicates({part: [file for _, file in items] for part, items in parts.items()}, within=True)
    items = {pair: [parts[part][index] for part, index in (pair.first, pair.second)] for pair in pairs}

    def evidence(chosen: list) -> str:
        exact = sum(pair.exact for pair in chosen)
        names = listed((" = ".join(_below(root, file) for _, file in items[pair]) for pair in chosen), 3)
        return f"{exact} exact and {len(chosen) - exact} near copies: {names}"

    if across := [pair for pair in pairs if pair.first[0] != pair.second[0]]:
        yield wrong("same-image/folders", evidence(across))
    if differing := [pair for pair in pairs if items[pair][0][0] != items[pair][1][0]]:
        names = {" and ".join(classes[label] for label, _ in items[pair]) for pair in differing}
        yield suspicious("two-labels", evidence(differing), classes=listed(sorted(names)))
    if inside := [pair for pair in pairs if pair.first[0] == pair.second[0]]:
        # A random split of a folder without parts would put copies into two of them.
        yield (suspicious if len(parts) == 1 else note)("copies", evidence(inside))


def _below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()
