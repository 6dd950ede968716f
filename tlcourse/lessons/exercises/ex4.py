"""The steps of exercise 4, "Design the augmentation": they look at where a transform takes each part of an image."""

import itertools
import math
from collections import Counter
from typing import Any

import torch
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises import measured, probes
from tlcourse.lessons.exercises.probes import View, draw, middle, slopes, transform_of, view, views
from tlcourse.preprocessing import get_preprocessing

CHANGES = ("mirror", "half turn", "quarter turn", "small turn")
KEEPS = {"faces": {"mirror", "small turn"}, "tiles": set(CHANGES), "letters": {"small turn"}}
LAND = ((60, 105, 50), (140, 160, 115))  # the colours of a dark and a light part of a tile
WHY = {
    ("faces", "mirror"): "a mirrored face smiles as before, and could have been taken that way",
    ("faces", "small turn"): "people tilt their heads a little",
    ("faces", "half turn"): "upright faces don't stand on their heads, so such images don't occur",
    ("faces", "quarter turn"): "upright faces don't lie on their side, so such images don't occur",
    ("tiles", "small turn"): "seen from above, no direction is special, so small turns occur as well",
    ("letters", "small turn"): "handwriting leans a little, and a b that leans is still a b",
    ("letters", "mirror"): "a mirrored b is a d",
    ("letters", "half turn"): "a b that is turned by half a turn is a q",
    ("letters", "quarter turn"): "nobody writes a b on its side",
}


@step("ex4/keeps")
def keeps(answer: Any) -> str:
    """A dictionary: for faces, tiles and letters, the changes that are of use."""
    if not isinstance(answer, dict) or set(answer) != set(KEEPS):
        raise NotRightError(f"the answer is {answer!r}. Give a dictionary with the keys {', '.join(map(repr, KEEPS))}.")
    for kind, wanted in KEEPS.items():
        if isinstance(answer[kind], str | dict) or not hasattr(answer[kind], "__iter__"):
            raise NotRightError(f"for {kind} there is {answer[kind]!r}. Give a set of names.")
        found = {str(name).strip().lower() for name in answer[kind]}
        if unknown := sorted(found - set(CHANGES)):
            raise NotRightError(f"{unknown[0]!r} is none of the changes: they are {', '.join(map(repr, CHANGES))}.")
        for name in CHANGES:
            why = WHY.get((kind, name), "seen from above, no direction is special")
            if name in found - wanted:
                raise NotRightError(f"for {kind} you have {name!r}: {why}.")
            if name in wanted - found:
                raise NotRightError(f"for {kind} {name!r} is missing: {why}.")
    return "what is of use follows from the label and from how the images are made, not from a list of transforms."


def _between_zero_and_one(transform: Any) -> torch.Tensor:
    """Return the mean colours that draws make of grey, after making sure that values have not been scaled otherwise."""
    black = to_pil_image(torch.zeros(3, 64, 96))  # no square
    corners = max(float(draw(transform, black, seed).max()) for seed in range(12))
    found, white = middle(probes.plain(transform, (120, 120, 120))), middle(probes.plain(transform, "white", 20)).max()
    if found.min() < -1e-3:
        raise NotRightError(f"there are negative values, down to {found.min():.2f}. Normalising is not asked for here.")
    if found.max() > 1.01:
        raise NotRightError(f"there are values up to {found.max():.0f}, and between 0 and 1 is asked for.")
    if corners > 1.01:
        raise NotRightError(f"empty corners get {corners:.0f}: after `TO_TENSOR`, white is 1. See `fill`.")
    if white > 1.01:
        raise NotRightError(f"white becomes {white:.3g}, and between 0 and 1 is asked for. Cut it off: see `clamp`.")
    if max(white, found.max()) < 0.02:
        raise NotRightError(f"all values are below {white:.3f}: were they divided by 255 twice?")
    return found


def _turns(seen: list[View], most: int, kind: str) -> None:
    """Refuse turns by more than so many degrees, or by clearly less, or in one direction alone."""
    low, high = min(one.degrees for one in seen), max(one.degrees for one in seen)
    sizes = [abs(one.degrees) for one in seen]
    if max(sizes) > 155 and not any(25 < size < 155 for size in sizes):
        raise NotRightError(f"some {kind} stand on their heads: that is a vertical flip, or half a turn.")
    if high - low < 0.5 < max(sizes):
        told = f"{kind} are turned by {high:.0f} degrees, each time"
        raise NotRightError(f"{told}: the angle has to be drawn anew in each call of the transform.")
    if max(high, -low) > most + 2 or max(high, -low) < 0.75 * most or min(high, -low) < most / 2:
        told = f"{kind} are turned by {round(low)} to {round(high)} degrees"
        raise NotRightError(f"{told}, and up to {most} in both directions is asked for.")


def _mirrored(share: float) -> None:
    if not 0.4 <= share <= 0.6:
        raise NotRightError(f"{share:.0%} of the draws are mirrored, and half of them is asked for.")


@step("ex4/faces")
def faces(function: Any) -> str:
    """A transform that mirrors, turns a little and varies the brightness."""
    transform = transform_of(function)
    found, seen = _between_zero_and_one(transform), views(transform)
    _turns(seen, 15, "faces")
    for mirrored, kind in ((False, "faces that aren't mirrored"), (True, "mirrored faces")):
        if some := [one for one in seen if one.mirrored == mirrored]:
            _turns(some, 15, kind)
    _mirrored(float((slopes(transform)[:, 0] < 0).float().mean()))
    _share(seen, 2 / 3)
    if found.mean(1).std() < 0.01:
        raise NotRightError("all draws have the same brightness, and it is asked to vary.")
    return (
        "mirrored, tilted and in other light a smile is a smile. Who it is, a mirror may change: no face is symmetric."
    )


def _share(seen: list[View], least: float) -> None:
    share = min(one.share for one in seen)
    if share < 0.945 * least:  # what interpolation and jitter leave uncertain
        raise NotRightError(f"a draw shows {share:.0%} of the image's area, and at least {least:.0%} is asked for.")


def _orientation(right: float, down: float) -> tuple[int, bool]:
    """Return quarter turns, and whether a mirror was there, from slopes: the image gets brighter at atan(1/2)."""
    angle = math.degrees(math.atan2(down, right)) % 360
    mirrored = angle % 90 > 45
    return int(mirrored - angle // 90) % 4, mirrored


@step("ex4/tiles")
def tiles(function: Any) -> str:
    """A transform with all eight orientations, and the colours as they are."""
    transform = transform_of(function)
    _between_zero_and_one(transform)
    drawn, wanted = probes.plain(transform, LAND[1]), torch.tensor(LAND) / 255
    colours = drawn.flatten(2).median(2).values
    empty = probes.spread((drawn - colours[:, :, None, None]).abs()).max() > 0.1
    off = [(colours - wanted[1]).abs().max()]
    off += [] if empty else [(probes.two_colours(transform, *LAND) - wanted).abs().max()]
    if max(off) > 0.03:
        raise NotRightError("the colours change, and they are what tells forest from water here.")
    seen = views(transform)
    for one in seen:
        if abs(one.degrees / 90 - round(one.degrees / 90)) > 0.03:
            raise NotRightError(f"a draw is turned or slanted by {one.degrees:.0f} degrees: its corners are empty.")
    if empty:
        raise NotRightError("an image of one colour gets other values in places: something is left empty, or erased.")
    kinds = Counter(_orientation(*pair) for pair in slopes(transform).tolist())
    draws = sum(kinds.values())
    for turns, mirror in itertools.product(range(4), (False, True)):
        if not kinds[turns, mirror]:
            what = f"a turn by {90 * turns} degrees{', mirrored,' * mirror}"
            raise NotRightError(f"in {draws} draws, {len(kinds)} of eight orientations occur: {what} is missing.")
    _mirrored(sum(kinds[turns, True] for turns in range(4)) / draws)
    for turns in range(4):
        if not 0.165 <= (share := (kinds[turns, False] + kinds[turns, True]) / draws) <= 0.335:
            raise NotRightError(f"{share:.0%} of the draws are turned by {90 * turns} degrees: a quarter is asked for.")
    _share(seen, 0.5)
    return "each tile now stands for eight, and each of them could have been flown over."


@step("ex4/letters")
def letters(function: Any) -> str:
    """A transform that turns and moves a little, and never mirrors."""
    transform = transform_of(function)
    _between_zero_and_one(transform)
    white = probes.plain(transform, "white", 20)
    least, gaps = middle(white).min(), probes.spread(middle(white)[:, :, None, None] - white)
    if least < 0.5:
        raise NotRightError(f"a white image gets values of {least:.2f} in its middle: paper stays white.")
    if gaps.max() > 0.03:
        told = f"a white image gets values of {white.min():.2f}"
        raise NotRightError(f"{told}: empty corners aren't as white as the paper. See `fill`.")
    seen = views(transform)
    if mirrored := sum(one.mirrored for one in seen):
        raise NotRightError(f"{mirrored} of {len(seen)} draws are mirrored: their b is another letter.")
    if any(one.squeezed < 0.93 for one in seen):
        raise NotRightError("a draw is slanted or squeezed: the shape of the letter changes.")
    _turns(seen, 10, "letters")
    if wrong := [one for one in seen if not 0.91 <= one.share <= 1.08]:
        raise NotRightError(f"a draw shows {wrong[0].share:.0%} of the area: the size of the letter changes.")
    for axis, what in (("x", "left and right"), ("y", "up and down")):
        moves = [getattr(one, axis) / 2 for one in seen]  # as a share of the side
        low, high = min(moves), max(moves)
        if max(high, -low) > 0.13 or max(high, -low) < 0.07 or min(high, -low) < 0.04:
            told = f"letters are moved {what} by {round(100 * low)} to {round(100 * high)} % of the side"
            raise NotRightError(f"{told}, and up to a tenth in both directions is asked for.")
    ties = torch.corrcoef(torch.tensor([[one.degrees, one.x, one.y] for one in seen]).T).abs()
    for one, other in itertools.combinations(range(3), 2):
        if ties[one, other] > 0.7:  # of 48 draws that have nothing to do with each other, none comes near
            names = ("the turn", "the move left and right", "the move up and down")
            raise NotRightError(f"{names[other]} follows {names[one]}: draw each of the three on its own.")
    return "it moves as a hand does, and a b stays a b."


@step("ex4/evaluation")
def evaluation(function: Any) -> str:
    """A transform without chance, which prepares images as tl_resnet wants them."""
    transform = transform_of(function)
    preprocessing = get_preprocessing(models.create("tl_resnet", 2, weights=None))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    for size in ((90, 150), (200, 120)):
        image = to_pil_image(torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].clamp(0, 1))
        found, wanted = draw(transform, image, 0), preprocessing.evaluation()(image)
        if any(not draw(transform, image, seed).equal(found) for seed in range(1, 6)):
            raise NotRightError("the same image gives different tensors: something is drawn at random.")
        if _near(found, wanted):
            continue
        raw = wanted * std + mean
        if found.std() < 1e-3:
            raise NotRightError("all values are the same: nothing of the image is left.")
        if ((back := found * std + mean) - back[:1]).abs().max() < 0.01 < back.std():
            raise NotRightError("the colours are gone: all three channels have the same values.")
        for what, other in (
            ("the values are not normalised: they lie between 0 and 1", raw),
            ("the values are scaled by 255: normalising expects floats between 0 and 1", (raw * 255 - mean) / std),
            ("the mean is not subtracted", raw / std),
            ("the values are normalised with 0.5 and 0.5, not with MEAN and STD", (raw - 0.5) / 0.5),
            ("the values are normalised twice", (wanted - mean) / std),
            ("the colours are in another order", (raw.flip(0) - mean) / std),
            ("the values are not divided by STD", raw - mean),
            ("the values are normalised the other way round: times STD, plus MEAN", raw * std + mean),
            ("MEAN and STD have changed places", (raw - std) / mean),
            ("the values are divided by 255 twice", (raw / 255 - mean) / std),
            ("normalised values are cut off: below zero or above one there are none", wanted.clamp(0, 1)),
            ("the image is mirrored", wanted.flip(2)),
            ("the image stands on its head", wanted.flip(1)),
            ("rows and columns have changed places", wanted.mT),
        ):
            if _near(found, other):
                raise NotRightError(f"{what}.")
        shape = f"an image of {size[1]} x {size[0]} pixels"
        squashed = (pil_to_tensor(image.resize((64, 64))) / 255 - mean) / std
        if _near(found, squashed):
            raise NotRightError(f"{shape} is squashed into a square: give `Resize` one number, then crop the middle.")
        if all(torch.corrcoef(torch.stack(two).flatten(1))[0, 1] > 0.995 for two in zip(found, raw, strict=True)):
            told = "the values are normalised in another way"
            raise NotRightError(f"{told}: from values between 0 and 1, subtract MEAN, and divide by STD.")
        square = view(transform, 0)
        if square.share < 0.95:
            told = f"of a square image of 128 pixels {square.share:.0%} of the area is seen"
            raise NotRightError(f"{told}: the shorter side becomes 64 pixels, and the middle is kept.")
        told = f"of {shape} another part is seen, or in another size"
        raise NotRightError(f"{told}: the shorter side becomes 64 pixels, and the middle is kept.")
    return "what is measured with chance differs each time, and a model sees in use what it saw at evaluation."


def _near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return math.isfinite(float(found.sum())) and bool((found - wanted).abs().mean() < 0.06 * wanted.std())


@step("ex4/gain")
def gain(answer: Any) -> str:
    """Runs without and with augmentation, and the conclusion that their paired difference supports."""
    return measured.gain(answer, "augmented", "plain", "the augmentation did not reach the training")
