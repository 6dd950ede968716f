"""Checks of the parts: their labels, their order, and images that are in two of them."""

from collections.abc import Iterator
from itertools import combinations
from weakref import WeakKeyDictionary

import torch

from tlcourse.data import duplicates
from tlcourse.doctor.parts import Part, origin, source
from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

MAJORITY = 0.8  # share of one class from which on accuracy says little
MOST_READ = {"train": 2000}  # images read to look for copies, a few seconds' worth
MOST_READ_OTHERS = 1000
MOST_LISTED = 200_000  # items whose origin is looked up
GRAVE = 0.005  # share of a part: fewer copies than that move an accuracy by less than half a point
ALIKE_BY_NATURE = 0.01  # share of images with a near copy within their own part, from which on it proves little

_read: WeakKeyDictionary[object, duplicates.Signatures] = WeakKeyDictionary()


def parts_have_the_same_classes(setup: Setup) -> Iterator[Finding]:
    """Class 3 is the same class in every part."""
    named = [part for part in setup.parts if part.classes is not None]
    for a, b in combinations(named, 2):
        if a.classes != b.classes:
            only = [f"{a.name} alone has {name}" for name in a.classes if name not in b.classes]
            only += [f"{b.name} alone has {name}" for name in b.classes if name not in a.classes]
            yield wrong(
                "classes-differ",
                f"{a.name} and {b.name} number their classes differently.",
                f"{len(a.classes)} and {len(b.classes)} classes; {listed(only) if only else 'their order differs'}",
                "Give each part the same class folders: labels are positions in the sorted list of their names.",
            )


def labels_are_in_range(setup: Setup) -> Iterator[Finding]:
    """Labels go from 0 to one less than the number of classes; every class is there to learn."""
    for part in setup.parts:
        if part.labels is None or not len(part.labels):
            continue
        low, high = int(part.labels.min()), int(part.labels.max())
        count = len(part.classes) if part.classes is not None else None
        if low < 0 or (count is not None and high >= count):
            evidence = f"labels of {part.name} go from {low} to {high}" + (f"; {count} classes" if count else "")
            advice = "Number the classes from 0; -100 alone may mean: leave this one out."
            yield wrong("labels", "Labels are out of range.", evidence, advice)
        elif count:
            counts = torch.bincount(part.labels, minlength=count)
            empty = [part.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]
            if empty:
                finding = suspicious if part.evaluated else wrong
                what = f"Classes have no image in the {part.name} part."
                advice = "Split class by class, as `tl.data.from_folder` does, or take the class out."
                yield finding("labels", what, f"{len(empty)} of {count}: {listed(empty)}", advice)


def accuracy_says_something(setup: Setup) -> Iterator[Finding]:
    """Where one class is nearly everything, saying it always is nearly always right."""
    for part in setup.parts:
        if part.labels is None or len(part.labels) < 10 or int(part.labels.min()) < 0:
            continue
        counts = torch.bincount(part.labels)
        share, top = counts.max().item() / len(part.labels), int(counts.argmax())
        if share >= MAJORITY and len(counts) > 1:
            name = part.classes[top] if part.classes else f"class {top}"
            yield suspicious(
                "imbalance",
                f"The {part.name} part is nearly all one class: accuracy hides what happens to the others.",
                f"{counts[top]:,} of {len(part.labels):,} are {name}: always saying so is right in {share:.1%}",
                "Report recall by class or balanced accuracy, and draw the rare classes more often or weight them.",
            )


def order_is_right(setup: Setup) -> Iterator[Finding]:
    """Training draws a new order each epoch; measuring keeps it, and leaves nothing out."""
    for part in setup.parts:
        if part.evaluated:
            if part.shuffled:
                what = f"The {part.name} loader shuffles."
                advice = "Right for the accuracy; without shuffling, answers line up with the files."
                yield note("shuffled-evaluation", what, "its sampler is a RandomSampler", advice)
            rest = len(part) % (getattr(part.loader, "batch_size", None) or 1)
            if rest and part.loader.drop_last:
                evidence = f"drop_last leaves out {rest} of {len(part):,} images"
                yield suspicious(
                    "drop-last", f"Part of {part.name} is never measured.", evidence, "Set drop_last=False."
                )
        elif part.shuffled is False and part.labels is not None and part.loader.batch_size:
            batches = part.labels.split(part.loader.batch_size)
            lonely = sum(bool((batch == batch[0]).all()) for batch in batches) / len(batches)
            if len(part.labels.unique()) > 1 and len(batches) > 1 and part.loader.batch_size > 1 and lonely > 0.5:
                yield wrong(
                    "unshuffled-training",
                    "Training images come sorted by class: each batch pulls towards one class.",
                    f"{lonely:.0%} of {len(batches)} batches have one class only",
                    "Build the training loader with shuffle=True.",
                )


def parts_share_no_item(setup: Setup) -> Iterator[Finding]:
    """No position of a data set, and no file, is in two parts."""
    known = {part.name: _origins(part) for part in setup.parts if len(part) <= MOST_LISTED}
    for a, b in combinations(known, 2):
        both = known[a].keys() & known[b].keys()
        if both:
            small = min(len(known[a]), len(known[b]))
            yield wrong(
                "same-item",
                f"The same items are in {a} and in {b}: the measurement has seen its answers.",
                f"{len(both):,} of {small:,}, such as {known[b][next(iter(both))]}",
                "Split positions once, and give each part its own.",
            )


def parts_share_no_image(setup: Setup) -> Iterator[Finding]:
    """No image is in two parts, under another name, size or compression, or mirrored."""
    parts = [part for part in setup.parts if len(part)]
    if len(parts) < 2 or any(True for _ in parts_share_no_item(setup)):
        return
    read = {part.name: _signatures(part) for part in parts}
    read = {name: own for name, own in read.items() if own is not None}
    pairs = duplicates.find_duplicates({name: signatures for name, (_, signatures) in read.items()})
    alike = _alike_by_nature([signatures for _, signatures in read.values()]) if pairs else False
    for a, b in combinations(read, 2):
        own = [pair for pair in pairs if (pair.first[0], pair.second[0]) == (a, b)]
        if not own:
            continue
        measured = b if b != "train" else a
        side = 1 if measured == b else 0
        exact = len({(pair.first, pair.second)[side] for pair in own if pair.exact})
        copies = len({(pair.first, pair.second)[side] for pair in own})
        share, sure, first = copies / len(read[measured][1]), exact if alike else copies, own[0]
        where = " and ".join(
            f"{name} {_described(setup, name, read[name][0][index])}" for name, index in (first.first, first.second)
        )
        finding = wrong if sure and sure / len(read[measured][1]) >= GRAVE else suspicious
        nature = "; images within one part are as alike, so near copies prove little" if alike and not exact else ""
        yield finding(
            "same-image",
            f"The same images are in {a} and in {b}: the measurement has seen its answers.",
            f"{exact} exact and {copies - exact} near copies among {len(read[measured][1]):,} images of {measured} "
            f"({share:.1%}), such as {where} (correlation {first.correlation:.3f}){nature}",
            f"Take them out of {a if measured == b else b}; `tl.data.find_duplicates(data)` lists them all. "
            "Frames of one film, or images of one animal, belong into one part.",
        )


def _origins(part: Part) -> dict[object, str]:
    """Return where each item comes from, as a key that two parts would share, with a name for it."""
    found = {}
    for index in range(len(part)):
        inner, position = origin(part.dataset, index)
        made_of = source(part.dataset, index)
        if isinstance(made_of, str | tuple) or hasattr(made_of, "__fspath__"):
            found[str(made_of)] = str(made_of)
        else:
            found[(id(inner), position)] = f"item {position} of {type(inner).__name__}"
    return found


def _signatures(part: Part) -> tuple[list[int], duplicates.Signatures] | None:
    """Read a bounded number of images, and remember them for the next look at the same data set."""
    positions = part.spread(MOST_READ.get(part.name, MOST_READ_OTHERS))
    try:
        if part.dataset not in _read or len(_read[part.dataset]) != len(positions):
            _read[part.dataset] = duplicates.signatures([_image(part, index) for index in positions])
    except Exception:  # an image that cannot be read, or one that has no source and changes each time
        return None
    return positions, _read[part.dataset]


def _image(part: Part, index: int):
    found = source(part.dataset, index)
    if found is not None:
        return found
    if part.random_transforms:
        raise ValueError("augmented")
    image = part.item(index)[0]
    return image if isinstance(image, torch.Tensor) else torch.as_tensor(image)


def _alike_by_nature(all_signatures: list[duplicates.Signatures]) -> bool:
    largest = max(all_signatures, key=len)
    near = [pair for pair in duplicates.find_duplicates({"": largest}, within=True) if not pair.exact]
    return len(near) > ALIKE_BY_NATURE * len(largest)


def _described(setup: Setup, name: str, index: int) -> str:
    made_of = source(setup.part(name).dataset, index)
    if isinstance(made_of, tuple):
        return made_of[-1]
    return str(made_of) if isinstance(made_of, str) or hasattr(made_of, "__fspath__") else f"item {index}"


CHECKS = (
    parts_have_the_same_classes,
    labels_are_in_range,
    accuracy_says_something,
    order_is_right,
    parts_share_no_item,
    parts_share_no_image,
)
