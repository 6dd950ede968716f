"""Choose images at random, so that the same images and the same seed give the same choice on every system."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tlcourse.data.images import ImageSet


def _hash(*values: Any) -> bytes:
    return hashlib.sha256("/".join(map(str, values)).encode(errors="surrogateescape")).digest()


def shuffled(keys: Iterable[Any], seed: int | str) -> list[int]:
    """Return the positions of `keys` in a random order that only the keys and the seed decide.

    Sorting by a digest gives the same order on every system and version, and a new image does not move the others.
    """
    digests = sorted((_hash(seed, key), position) for position, key in enumerate(keys))
    return [position for _, position in digests]


def stratify(keys: Sequence[Any], labels: Sequence[int], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Split positions into `len(shares) + 1` parts, with the same shares of each class; the first part gets the rest.

    Every part has at least one image of each class. The positions in each part are sorted.

    Raises:
        ValueError: a class has fewer images than there are parts; the message gives its label.
    """
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    members_of: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        members_of[label].append(position)
    for label, members in sorted(members_of.items()):
        if len(members) < len(parts):
            raise ValueError(f"class {label} has {len(members)} images for {len(parts)} parts")
        order = [members[i] for i in shuffled([keys[position] for position in members], seed)]
        for part, share in enumerate(shares, start=1):
            room = len(order) - (len(parts) - part)  # leaves one image for the first part and each later one
            count = min(max(1, round(share * len(members))), room)
            parts[part] += order[:count]
            order = order[count:]
        parts[0] += order
    return [sorted(part) for part in parts]


def _class_by_class(images: ImageSet, seed: int | str) -> list[int]:
    """Return all positions, shuffled: the first image of each class, then the second of each, and so on."""
    labels = images.labels.tolist()
    seen = [0] * len(images.classes)
    turns = []
    for position in shuffled(range(len(images)), seed):
        label = labels[position]
        turns.append((seen[label], label, position))
        seen[label] += 1
    return [position for *_, position in sorted(turns)]


def take(images: ImageSet, count: int, part: str, seed: int) -> ImageSet:
    """Return `count` images, see `Splits.take`; `part` names the images in messages."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError(f"{part}={count!r}: give a whole number of images.")
    if count > len(images):
        raise ValueError(f"{part}={count}: the {part} part has only {len(images)} images. Ask for at most that many.")
    if count < len(images.classes):
        raise ValueError(f"{part}={count}: there are {len(images.classes)} classes. Ask for at least one image each.")
    return images.subset(sorted(_class_by_class(images, seed)[:count]))


def mislabel(images: ImageSet, fraction: float, seed: int) -> ImageSet:
    """Give a fraction of the images another label, see `Splits.with_label_noise`."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction!r}: give a number from 0 (every label right) to 1 (every label wrong).")
    if len(images.classes) < 2:
        raise ValueError(f"With the one class {images.classes[0]} there is no wrong label to give.")
    if len(images.wrong):
        raise ValueError(f"{len(images.wrong)} labels are wrong already. Start from the splits without label noise.")
    labels = images.labels.clone()
    # The order differs from that of `take`: otherwise the first images taken would be exactly the mislabelled ones.
    for position in _class_by_class(images, f"noise/{seed}")[: round(fraction * len(images))]:
        # Seed and position alone decide which wrong label an image gets, so that a larger fraction does not change it.
        shift = int.from_bytes(_hash(seed, "shift", position)[:8], "big") % (len(images.classes) - 1)
        labels[position] = (labels[position] + 1 + shift) % len(images.classes)
    return images.relabelled(labels)


def rebalance(images: ImageSet, shares: Mapping[str, float], total: int | None, seed: int) -> ImageSet:
    """Return images of each class in the given shares, see `Splits.with_class_balance`."""
    if set(shares) != set(images.classes):
        raise ValueError(f"shares={dict(shares)!r}: give one for each of {', '.join(images.classes)}, and no other.")
    if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares={dict(shares)!r}: give positive shares that add up to 1.")
    have = dict(zip(images.classes, images.counts(), strict=True))
    if total is None:
        total = int(min(have[name] / share for name, share in shares.items()) + 1e-9)
    counts = {name: int(share * total + 1e-9) for name, share in shares.items()}
    by_remainder = sorted(images.classes, key=lambda name: counts[name] - shares[name] * total)
    for name in by_remainder[: total - sum(counts.values())]:  # the largest remainders are rounded up
        counts[name] += 1
    kept: list[int] = []
    for label, name in enumerate(images.classes):
        count = counts[name]
        if not 1 <= count <= have[name]:
            raise ValueError(
                f"{total} images in these shares are {count} of {name}, and there are {have[name]}. "
                "Each class needs at least one: give other shares, or another total."
            )
        members = (images.labels == label).nonzero().flatten().tolist()
        kept += [members[i] for i in shuffled(members, seed)[:count]]
    return images.subset(sorted(kept))
