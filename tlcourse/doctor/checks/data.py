"""Checks of the parts: their labels, their order, and images that are in two of them."""

from itertools import combinations
from weakref import WeakKeyDictionary

import torch

from tlcourse.data import duplicates
from tlcourse.doctor.parts import Part
from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

MAJORITY = 0.8  # share of one class from which on accuracy says little
MOST_LISTED = 200_000  # items whose origin is looked up
GRAVE = 0.005  # share of a part: fewer copies than that move an accuracy by less than half a point
ALIKE_BY_NATURE = 0.01  # share of images with a near copy within their own part, from which on it proves little

_read: WeakKeyDictionary[object, duplicates.Signatures] = WeakKeyDictionary()


def parts_have_the_same_classes(setup: Setup) -> Findings:
    """Class 3 is the same class in every part."""
    named = [part for part in setup.parts if part.classes is not None]
    for a, b in combinations(named, 2):
        if a.classes != b.classes:
            only = [f"{a.name} alone has {name}" for name in a.classes if name not in b.classes]
            only += [f"{b.name} alone has {name}" for name in b.classes if name not in a.classes]
            evidence = f"{len(a.classes)} and {len(b.classes)} classes; {listed(only) or 'their order differs'}"
            yield wrong("classes-differ", evidence, a=a.name, b=b.name)


def labels_make_sense(setup: Setup) -> Findings:
    """Labels go from 0 to one less than the number of classes; every class is there, and none is nearly everything."""
    for part in setup.labelled_parts:
        values, counts = part.labels.unique(return_counts=True)
        low, high, most, total = int(values[0]), int(values[-1]), int(counts.max()), len(part.labels)
        classes = part.classes or []
        if low < 0 or (classes and high >= len(classes)):
            known = f"; {len(classes)} classes" if classes else ""
            yield wrong("labels", f"labels of {part.name} go from {low} to {high}{known}")
        elif empty := [name for i, name in enumerate(classes) if not (part.labels == i).any()]:
            evidence = f"{len(empty)} of {len(classes)}: {listed(empty)}"
            yield (suspicious if part.evaluated else wrong)("labels/empty", evidence, part=part.name)
        if low >= 0 and total >= 10 and total > most >= MAJORITY * total:
            top = int(values[counts.argmax()])
            name = classes[top] if top < len(classes) else f"class {top}"
            evidence = f"{most:,} of {total:,} are {name}: always saying so is right in {most / total:.1%}"
            yield suspicious("imbalance", evidence, part=part.name)


def order_is_right(setup: Setup) -> Findings:
    """Training draws a new order in each epoch; validation keeps its order and leaves nothing out."""
    for part in setup.parts:
        size = getattr(part.loader, "batch_size", None) or 1
        if part.evaluated:
            if part.shuffled:
                yield note("shuffled-evaluation", "its sampler is a RandomSampler", part=part.name)
            if (rest := len(part) % size) and part.loader.drop_last:
                yield suspicious("drop-last", f"drop_last leaves out {rest} of {len(part):,} images", part=part.name)
        elif part.shuffled is False and part.labels is not None and size > 1:
            batches = part.labels.split(size)
            single = sum(bool((batch == batch[0]).all()) for batch in batches) / len(batches)
            if len(batches) > 1 and single > 0.5 and len(part.labels.unique()) > 1:
                yield wrong("unshuffled-training", f"{single:.0%} of {len(batches)} batches have one class only")


def parts_share_no_image(setup: Setup) -> Findings:
    """No item is in two parts, and no image: under another name, size or compression, or mirrored."""
    parts = {part.name: part for part in setup.parts if len(part)}
    listable = {name: part for name, part in parts.items() if len(part) <= MOST_LISTED}
    known = {name: dict(part.identity(i) for i in range(len(part))) for name, part in listable.items()}
    shared = {(a, b): known[a].keys() & known[b].keys() for a, b in combinations(known, 2)}
    for (a, b), both in shared.items():
        if both:
            smaller = min(len(known[a]), len(known[b]))
            evidence = f"{len(both):,} of {smaller:,}, such as {known[b][next(iter(both))]}"
            yield wrong("same-item", evidence, a=a, b=b)
    if len(parts) < 2 or any(shared.values()):
        return
    read = {name: signatures for name, part in parts.items() if (signatures := _signatures(part)) is not None}
    pairs = duplicates.find_duplicates(read)
    largest = max(read.values(), key=len, default=())
    near = duplicates.find_duplicates({"": largest}, within=True) if pairs else []
    alike = sum(not pair.exact for pair in near) > ALIKE_BY_NATURE * len(largest)
    for a, b in combinations(read, 2):
        own = [pair for pair in pairs if (pair.first[0], pair.second[0]) == (a, b)]
        if not own:
            continue
        evaluated, other, side = (b, a, "second") if b != "train" else (a, b, "first")
        copies = {getattr(pair, side) for pair in own}
        exact = {getattr(pair, side) for pair in own if pair.exact}
        total = len(read[evaluated])
        examples = [(name, parts[name].compared[position]) for name, position in (own[0].first, own[0].second)]
        names = " and ".join(f"{name} {parts[name].identity(index)[1]}" for name, index in examples)
        evidence = f"{len(exact)} exact and {len(copies - exact)} near copies among {total:,} images of {evaluated} "
        evidence += f"({len(copies) / total:.1%}), such as {names} (correlation {own[0].correlation:.3f})"
        if alike and not exact:
            evidence += "; images within one part are as alike, so near copies prove little"
        sure = len(exact if alike else copies) >= GRAVE * total
        yield (wrong if sure else suspicious)("same-image", evidence, a=a, b=b, other=other)


def _signatures(part: Part) -> duplicates.Signatures | None:
    """Read images, and remember them for the next look at the same data set; None where they cannot be compared."""
    try:
        if len(_read.get(part.dataset, ())) != len(part.compared):
            images = [part.source(index) for index in part.compared]
            if any(image is None for image in images):
                if part.random_transforms:
                    return None  # an image is another one each time
                images = [torch.as_tensor(part.dataset[index][0]) for index in part.compared]
            _read[part.dataset] = duplicates.signatures(images)
        return _read[part.dataset]
    except Exception:  # an image that cannot be read
        return None
