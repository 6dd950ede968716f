"""The steps of exercise 4, "Design the augmentation": they look at where a transform takes each part of an image."""

import math
from collections import Counter
from typing import Any

import torch
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises import measured
from tlcourse.lessons.exercises.answers import need_function
from tlcourse.lessons.exercises.probes import View, colours, draw, views
from tlcourse.preprocessing import get_preprocessing

CHANGES = ("mirror", "half turn", "quarter turn", "small turn")
KEEPS = {"faces": {"mirror", "small turn"}, "tiles": set(CHANGES), "letters": {"small turn"}}
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
        if isinstance(answer[kind], str) or not hasattr(answer[kind], "__iter__"):
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


def _transform(function: Any) -> Any:
    need_function(function, "nothing that returns a transform")
    made = function()
    if not callable(made):
        raise NotRightError(f"the function returns a {type(made).__name__}. Return a transform, not an image.")
    return made


def _between_zero_and_one(transform: Any) -> torch.Tensor:
    """Return the mean colours of draws, after making sure that values have not been scaled otherwise."""
    draw(transform, to_pil_image(torch.zeros(3, 64, 96)), 0)  # images that are no squares
    found = colours(transform)
    if found.min() < -1e-3:
        raise NotRightError(f"there are negative values, down to {found.min():.2f}. Normalising is not asked for here.")
    if found.max() > 1.01:
        raise NotRightError(f"there are values up to {found.max():.0f}, and between 0 and 1 is asked for.")
    if found.max() < 0.02:
        raise NotRightError(f"all values are below {found.max():.3f}: were they divided by 255 twice?")
    return found


def _turns(seen: list[View], most: int, kind: str) -> None:
    """Refuse turns by more than so many degrees, or in one direction alone, or none."""
    if wrong := [one for one in seen if abs(one.degrees) > most + 2]:
        if any(one.mirrored and abs(one.degrees) > 170 for one in wrong):
            raise NotRightError(f"some {kind} stand on their heads: that is a vertical flip.")
        told = f"a draw is turned by {wrong[0].degrees:.0f} degrees"
        raise NotRightError(f"{told}, and {kind} may be turned by up to {most}.")
    low, high = min(one.degrees for one in seen), max(one.degrees for one in seen)
    if high - low < 2:
        raise NotRightError(f"{kind} are not turned: all draws have the same angle.")
    if high < 2 or low > -2:
        raise NotRightError(f"{kind} are turned in one direction only, from {low:.0f} to {high:.0f} degrees.")
    if max(high, -low) < most / 2:
        raise NotRightError(f"{kind} are turned by at most {max(high, -low):.0f} degrees; up to {most} is asked for.")


@step("ex4/faces")
def faces(function: Any) -> str:
    """A transform that mirrors, turns a little and varies the brightness."""
    transform = _transform(function)
    found, seen = _between_zero_and_one(transform), views(transform)
    _turns(seen, 15, "faces")
    mirrored = sum(one.mirrored for one in seen) / len(seen)
    if not 0.2 <= mirrored <= 0.8:
        raise NotRightError(f"{mirrored:.0%} of the draws are mirrored, and half of them is asked for.")
    _share(seen, 2 / 3)
    if found.mean(1).std() < 0.01:
        raise NotRightError("all draws have the same brightness, and it is asked to vary.")
    return (
        "mirrored, tilted and in other light a smile is a smile. Who it is, a mirror may change: no face is symmetric."
    )


def _share(seen: list[View], least: float) -> None:
    share = min(one.share for one in seen)
    if share < 0.95 * least - 0.02:
        raise NotRightError(f"a draw shows {share:.0%} of the image's area, and at least {least:.0%} is asked for.")


@step("ex4/tiles")
def tiles(function: Any) -> str:
    """A transform with all eight orientations, and the colours as they are."""
    transform = _transform(function)
    found, seen = _between_zero_and_one(transform), views(transform, 80)
    for one in seen:
        if abs(one.degrees / 90 - round(one.degrees / 90)) > 0.03:
            raise NotRightError(f"a draw is turned by {one.degrees:.0f} degrees: its corners are empty.")
    kinds = Counter((round(one.degrees / 90) % 4, one.mirrored) for one in seen)
    mirrored = sum(one.mirrored for one in seen) / len(seen)
    if not 0.3 <= mirrored <= 0.7 and 0 < mirrored < 1:
        raise NotRightError(f"{mirrored:.0%} of the draws are mirrored, and half of them is asked for.")
    for turns in range(4):
        share = sum(kinds[turns, mirror] for mirror in (False, True)) / len(seen)
        if not 0.06 <= share <= 0.45 and share:
            raise NotRightError(f"{share:.0%} of the draws are turned by {90 * turns} degrees: a quarter is asked for.")
    for mirror in (False, True):
        for turns in range(4):
            if not kinds[turns, mirror]:
                what = f"a turn by {90 * turns} degrees{', mirrored' if mirror else ''}"
                raise NotRightError(
                    f"in {len(seen)} draws, {len(kinds)} of eight orientations occur: {what}, is missing."
                )
    _share(seen, 0.5)
    plain = torch.tensor([150, 110, 90]) / 255
    if (found - plain).abs().max() > 0.02:
        raise NotRightError("the colours change, and they are what tells forest from water here.")
    return "each tile now stands for eight, and each of them could have been flown over."


@step("ex4/letters")
def letters(function: Any) -> str:
    """A transform that turns and moves a little, and never mirrors."""
    transform = _transform(function)
    _between_zero_and_one(transform)
    seen = views(transform)
    if any(one.mirrored for one in seen):
        mirrored = sum(one.mirrored for one in seen)
        raise NotRightError(f"{mirrored} of {len(seen)} draws are mirrored: their b is a d, and their label is wrong.")
    _turns(seen, 10, "letters")
    if wrong := [one for one in seen if not 0.75 <= one.share <= 1.25]:
        raise NotRightError(f"a draw shows {wrong[0].share:.0%} of the area: the size of the letter changes.")
    for axis, what in (("x", "left and right"), ("y", "up and down")):
        moves = [getattr(one, axis) / 2 for one in seen]  # as a share of the side
        if max(map(abs, moves)) > 0.13:
            raise NotRightError(f"a draw is moved {what} by {max(map(abs, moves)):.0%} of the side: more than a tenth.")
        if max(moves) < 0.03 or min(moves) > -0.03:
            raise NotRightError(f"letters are not moved {what}, in both directions.")
    corners = torch.stack([_white(transform, seed) for seed in range(20)])
    if corners.min() < 0.6:
        raise NotRightError(
            f"a white image gets values of {corners.min():.2f}: empty corners aren't white. See `fill`."
        )
    return "it moves as a hand does, and a b stays a b."


def _white(transform: Any, seed: int) -> torch.Tensor:
    return draw(transform, to_pil_image(torch.ones(3, 128, 128)), seed)


@step("ex4/evaluation")
def evaluation(function: Any) -> str:
    """A transform without chance, which prepares images as tl_resnet wants them."""
    transform = _transform(function)
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
        for what, other in (
            ("the values are not normalised: they lie between 0 and 1", raw),
            ("the values are scaled by 255: normalising expects floats between 0 and 1", (raw * 255 - mean) / std),
            ("the mean is not subtracted", raw / std),
            ("the values are normalised with 0.5 and 0.5, not with MEAN and STD", (raw - 0.5) / 0.5),
            ("the values are normalised twice", (wanted - mean) / std),
            ("the colours are in another order", (raw.flip(0) - mean) / std),
        ):
            if _near(found, other):
                raise NotRightError(f"{what}.")
        shape = f"an image of {size[1]} x {size[0]} pixels"
        squashed = (pil_to_tensor(image.resize((64, 64))) / 255 - mean) / std
        if _near(found, squashed):
            raise NotRightError(f"{shape} is squashed into a square: give `Resize` one number, then crop the middle.")
        gap = (found - wanted).abs().mean()
        raise NotRightError(f"{shape} differs from what is asked for by {gap:.2f} on average: is the middle cropped?")
    return "what is measured with chance differs each time, and a model sees in use what it saw at evaluation."


def _near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return math.isfinite(float(found.sum())) and bool((found - wanted).abs().mean() < 0.06 * wanted.std())


@step("ex4/gain")
def gain(answer: Any) -> str:
    """Runs without and with augmentation, and the conclusion that their paired difference supports."""
    return measured.gain(answer, "augmented", "plain", "the augmentation did not reach the training")
