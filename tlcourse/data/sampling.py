"""Choosing images so that only the images and a seed decide, on every system and version."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tlcourse.data.images import ImageSet


def shuffled(keys: Iterable[Any], seed: int | str) -> list[int]:
    """Return the positions of `keys` in a random order that only the keys and the seed decide.

    Sorting by a digest gives the same order on every system and version, and a new image does not move the others.
    """
    digests = [(hashlib.sha256(f"{seed}/{key}".encode()).digest(), position) for position, key in enumerate(keys)]
    return [position for _, position in sorted(digests)]


def stratify(keys: Sequence[Any], labels: Sequence[int], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Split positions into `len(shares) + 1` parts, each class in the same shares; the first part gets the rest.

    Every part has at least one image of each class. Positions come sorted.

    Raises:
        ValueError: a class with fewer images than parts; the message gives its label.
    """
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    members_of: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members_of.setdefault(label, []).append(position)
    for label, members in sorted(members_of.items()):
        if len(members) < len(parts):
            raise ValueError(f"class {label} has {len(members)} images for {len(parts)} parts")
        order = [members[i] for i in shuffled([keys[position] for position in members], seed)]
        # Leave one image for each part that is still to come.
        for part, share in enumerate(shares, start=1):
            room = len(order) - (len(parts) - part)
            count = min(max(1, round(share * len(members))), room)
            parts[part] += order[:count]
            order = order[count:]
        parts[0] += order
    return [sorted(part) for part in parts]


def _in_turns(images: ImageSet, seed: int | str) -> list[int]:
    """Return all positions, shuffled: the first of each class, then the second of each, and so on."""
    rank = [0] * len(images.classes)
    turns = []
    labels = images.labels.tolist()
    for position in shuffled(range(len(images)), seed):
        turns.append((rank[labels[position]], labels[position], position))
        rank[labels[position]] += 1
    return [position for *_, position in sorted(turns)]


def take(images: ImageSet, count: int, part: str, seed: int) -> ImageSet:
    """Return `count` images, as balanced over the classes as their sizes allow; for one seed the choices are nested.

    Raises:
        ValueError: more images than there are, or fewer than classes; `part` names the images.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError(f"{part}={count!r}: give a whole number of images.")
    if count > len(images):
        raise ValueError(f"{part}={count}: the {part} part has only {len(images)} images. Ask for at most that many.")
    if count < len(images.classes):
        raise ValueError(
            f"{part}={count}: there are {len(images.classes)} classes. Ask for at least one image of each."
        )
    return images.subset(sorted(_in_turns(images, seed)[:count]))


def mislabel(images: ImageSet, share: float, seed: int) -> ImageSet:
    """Give a share of the images another label, the same share of every class; for one seed the choices are nested.

    Raises:
        ValueError: the share is no number from 0 to 1, there is one class only, or there is label noise already.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"share={share!r}: give a number from 0 (every label right) to 1 (every label wrong).")
    if len(images.classes) < 2:
        raise ValueError(f"With the one class {images.classes[0]} there is no wrong label to give.")
    if len(images.wrong):
        raise ValueError(f"{len(images.wrong)} labels are wrong already. Start from the splits without label noise.")
    labels, others = images.labels.clone(), len(images.classes) - 1
    # Which wrong label an image gets, its position and the seed decide, not the share.
    shift = [
        int.from_bytes(hashlib.sha256(f"{seed}/shift/{i}".encode()).digest()[:8], "big") for i in range(len(labels))
    ]
    # An order of its own: in that of `take`, a small part of the images would be all the wrong ones.
    for position in _in_turns(images, f"noise/{seed}")[: round(share * len(images))]:
        labels[position] = (labels[position] + 1 + shift[position] % others) % (others + 1)
    return images.relabelled(labels)


def rebalance(images: ImageSet, shares: Mapping[str, float], total: int | None, seed: int) -> ImageSet:
    """Return images of each class in the given shares; for one seed, a class's images are nested as its count grows.

    Without `total`, as many images as the shares allow.

    Raises:
        ValueError: the shares miss a class, name one that is not there, are not positive, or do not add up to 1; or a
            class has too few images, or would get none.
    """
    if set(shares) != set(images.classes):
        raise ValueError(f"shares={dict(shares)!r}: give one for each of {', '.join(images.classes)}, and no other.")
    if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares={dict(shares)!r}: give positive shares that add up to 1.")
    have = dict(zip(images.classes, images.counts(), strict=True))
    if total is None:
        total = int(min(have[name] / share for name, share in shares.items()) + 1e-9)
    counts = {name: int(share * total + 1e-9) for name, share in shares.items()}
    by_rest = sorted(images.classes, key=lambda name: counts[name] - shares[name] * total)
    for name in by_rest[: total - sum(counts.values())]:  # the largest remainders are rounded up
        counts[name] += 1
    for name, count in counts.items():
        if not 1 <= count <= have[name]:
            raise ValueError(
                f"{total} images in these shares are {count} of {name}, and there are {have[name]}. "
                "Each class needs at least one: give other shares, or another total."
            )
    kept: list[int] = []
    labels: Tensor = images.labels
    for label, name in enumerate(images.classes):
        members = torch.nonzero(labels == label).flatten().tolist()
        kept += [members[i] for i in shuffled(members, seed)[: counts[name]]]
    return images.subset(sorted(kept))
