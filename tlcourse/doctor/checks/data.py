"""Checks of the data: sizes and colours of the images, labels, order, and images that are in two parts."""

from itertools import combinations
from math import exp
from weakref import WeakKeyDictionary

import torch

from tlcourse.data import duplicates
from tlcourse.doctor.parts import Part
from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

MISMATCH = 1.4  # a median factor of four in variance at the first batch norm; images differ by less, units by more
DRAWS = 6  # times that the same image is drawn
COARSE_STEP = 0.02  # means and deviations that differ by less are the same, rounded
MAJORITY = 0.8  # share of one class from which on accuracy says little
MOST_LISTED = 200_000  # items whose origin is looked up
GRAVE = 0.005  # share of a part: fewer copies than that move an accuracy by less than half a point
ALIKE_BY_NATURE = 0.01  # share of images with a near copy within their own part, from which on it proves little

_read: WeakKeyDictionary[object, duplicates.Signatures] = WeakKeyDictionary()


def items_can_be_read(setup: Setup) -> Findings:
    """Every item that is looked at can be read, makes a batch with the others, and has floating-point values."""
    for part in setup.parts:
        images = part.sample[0] if part.sample is not None else None  # reading fills in the faults
        if part.faults:
            yield wrong("unreadable", f"{len(part.faults)} faults, such as {listed(part.faults, 2)}", part=part.name)
        if images is not None and not images.is_floating_point():
            evidence = f"{images.dtype}, {images.min()} to {images.max()}"
            yield suspicious("not-normalised/whole-numbers", evidence, part=part.name)
        elif images is not None and (broken := [i for i, image in enumerate(images) if not image.isfinite().all()]):
            which = f", such as item {part.read[broken[0]]}" if len(images) == len(part.read) else ""
            evidence = f"{len(broken)} of {len(images)} images looked at{which}"
            yield wrong("not-finite/images", evidence, part=part.name)


def images_are_normalised(setup: Setup) -> Findings:
    """A pre-trained backbone wants the mean and deviation that it was trained with."""
    part, wanted = setup.sample_part, setup.preprocessing
    if part is None or wanted is None or (setup.pretrained is False and not setup.norms):
        return
    images = part.sample[0]
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        return
    fault, sure = _wrong_colours(part, images, wanted.mean, wanted.std)
    if not fault:
        return
    found = _described(images.mean((0, 2, 3)), images.std((0, 2, 3)))
    evidence = f"{fault}; {len(images)} images of the {part.name} part have {found}, from {images.min():.3g} to "
    evidence += f"{images.max():.3g}; the model's weights want {_described(wanted.mean, wanted.std)}"
    mismatch, random = setup.answers.bn_mismatch, not setup.pretrained
    if mismatch is not None:
        first = setup.norms[0].module  # one that has seen nothing yet holds zeros and ones
        random = setup.pretrained is not None and not first.running_mean.any() and bool((first.running_var == 1).all())
        sure = sure and mismatch > MISMATCH
        if not random:
            evidence += f"; the first batch norm sees values a factor of {exp(mismatch):.1f} from what it remembers"
    if random:
        yield note("not-normalised/random-weights", evidence)
    else:
        yield (wrong if sure else suspicious)("not-normalised", evidence)


def images_have_the_size(setup: Setup) -> Findings:
    """A network that was trained at one size sees other scales at another."""
    if setup.sample_part is None or setup.preprocessing is None or not setup.pretrained:
        return
    images, size = setup.sample_part.sample[0], setup.preprocessing.size
    height, width = images.shape[-2:] if images.ndim == 4 else (size, size)
    factor = max(size / min(height, width), max(height, width) / size)
    if factor > 1:
        evidence = f"{height} x {width} instead of {size} x {size} pixels"
        yield (suspicious if factor >= 2 else note)("input-size", evidence, size=size)


def evaluation_images_stay_the_same(setup: Setup) -> Findings:
    """Validation and test images are the same each time: no augmentation."""
    for part in (part for part in setup.parts if part.evaluated):
        names = listed(part.random_transforms)
        changing = next((index for index in part.spread(4) if _changes(part, index)), None)
        if changing is not None:
            evidence = f"item {changing} was drawn {DRAWS} times and came out differently"
            evidence += f"; its transform has {names}" if names else ""
            yield wrong("augmented-evaluation", evidence, part=f"The {part.name} part")
        elif names and len(part):
            evidence = f"{names}; {DRAWS} draws of {len(part.spread(4))} items were the same"
            yield suspicious("augmented-evaluation/no-effect", evidence, part=part.name)


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
            evidence = f"{len(both):,} of {smaller:,}, such as {known[b][next(key for key in known[a] if key in both)]}"
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


def _changes(part: Part, index: int) -> bool:
    try:
        first, *others = (part.dataset[index][0] for _ in range(DRAWS))
        return isinstance(first, torch.Tensor) and not all(
            torch.equal(first.nan_to_num(), other.nan_to_num()) for other in others
        )
    except Exception:  # `items_can_be_read` reports it
        return False


def _wrong_colours(part: Part, images: torch.Tensor, mean: tuple, std: tuple) -> tuple[str, bool]:
    """Say in which way images are not normalised by `mean` and `std`, or "", and whether that is sure."""
    given = [(step.mean, step.std) for step in part.transforms if hasattr(step, "mean") and hasattr(step, "std")]
    if given and given[-1][0] is not None:
        own = [torch.as_tensor(values, dtype=torch.float).flatten() for values in given[-1]]
        if any((a - torch.tensor(b)).abs().max() > COARSE_STEP for a, b in zip(own, (mean, std), strict=True)):
            return f"the transform normalises by {_described(*own)}", True
        return (f"the transform normalises {len(given)} times", True) if len(given) > 1 else ("", False)
    low, high = images.min().item(), images.max().item()
    if high > 20:
        return "values go up to 255 where 2.6 is usual", True
    if low >= 0 and high <= 1 and min(mean) > 0.1:
        return "values lie between 0 and 1, as they come from ToTensor", True
    if min(std) < 0.4 and -1.001 < low < -0.95 and 0.95 < high < 1.001:
        # A set of images with little contrast could look like that.
        return "values fill -1 to 1, as after normalising by mean 0.5 and deviation 0.5", False
    colours = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    outside = ((colours < -0.1) | (colours > 1.1)).float().mean().item()
    if outside > 0.01 and not part.random_transforms:  # noise and erased patches may leave the range
        return f"{outside:.0%} of the values are no colours", True
    return "", False


def _described(mean: object, std: object) -> str:
    texts = [", ".join(f"{value:.3g}" for value in torch.as_tensor(values).tolist()) for values in (mean, std)]
    return f"mean ({texts[0]}) and deviation ({texts[1]})"


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
