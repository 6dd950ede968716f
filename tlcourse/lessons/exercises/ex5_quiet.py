"""The steps of exercise 5 about three failures that are quiet, and the proof that a repair helped."""

from collections.abc import Mapping
from typing import Any

import torch

from tlcourse import data
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises.answers import pair, rates_by_name
from tlcourse.lessons.exercises.measured import need_conclusion, need_pairs, need_runs
from tlcourse.lessons.exercises.setups import SEEDS, apart, painted, pets_for_checks, set_up, shown
from tlcourse.train import fit

MEASURES = {"b own": ("own", "b"), "d own": ("own", "d"), "d fresh": ("fresh", "d")}


@step("ex5/case_b")
def case_b(function: Any) -> str:
    """A set-up whose images arrive as the weights want them."""
    splits = painted((20, 220))
    _, loaders, _, _ = set_up(function, splits, SEEDS[0])
    mean, std = (torch.tensor(v) for v in (splits.preprocessing.mean, splits.preprocessing.std))
    ways = {
        "they lie between 0 and 1, so nothing normalises them": lambda c: c,
        "they are normalised twice": lambda c: ((c - mean) / std - mean) / std,
        "mean and deviation count to 255, and the pixels to 1": lambda c: (c - 255 * mean) / (255 * std),
        "the pixels count to 255, and mean and deviation to 1": lambda c: (255 * c - mean) / std,
        "they go up to 255, so nothing scales or normalises them": lambda c: 255 * c,
        "they are normalised by 0.5": lambda c: (c - 0.5) / 0.5,
        "mean and deviation have changed places": lambda c: (c - std) / mean,
    }
    for part, reach in (("validation", 0.03), ("training", 0.5)):
        rows, _, colours = shown(loaders.val if part == "validation" else loaders.train, splits)
        wanted = (colours - mean) / std
        distance, _ = apart(rows, wanted)
        if distance.median() <= reach and (part == "training" or distance.max() <= reach):
            continue
        # A colour's jitter moves training images a little; the mistakes below move all of them far.
        near = {why: float(apart(rows, way(colours))[0].median()) for why, way in ways.items()}
        why = min(near, key=near.get)
        texts = [f"{r.min():.2f} to {r.max():.2f}" for r in (rows, wanted)]
        reason = f": {why}" if near[why] <= 0.05 else ""
        raise NotRightError(
            f"the {part} images reach the network with values from {texts[0]}{reason}. The weights were trained with "
            f"{texts[1]} for these colours."
        )
    return (
        "training and validation images arrive as the weights want them. No error says it when they do not: compare "
        "the mean and deviation of a batch with those of the weights, or ask the doctor."
    )


@step("ex5/case_d")
def case_d(function: Any) -> str:
    """A set-up whose training and validation images come from different originals."""
    splits = painted((20, 60, 100, 140, 180, 220))
    _, loaders, _, _ = set_up(function, splits, SEEDS[0])
    mean, std = (torch.tensor(v) for v in (splits.preprocessing.mean, splits.preprocessing.std))
    originals: dict[str, set[int]] = {}
    for part in ("train", "val"):
        rows, labels, colours = shown(getattr(loaders, part), splits)
        distance, found = apart(rows * std + mean, colours)
        known = distance <= 0.02
        if part == "val" and not known.all():
            raise NotRightError(
                f"{int((~known).sum())} validation images have colours that none of the given images has."
            )
        true = [*splits.train.labels.tolist(), *splits.val.labels.tolist()]
        pairs = [(i, label) for i, label, ok in zip(found.tolist(), labels, known.tolist(), strict=True) if ok]
        if wrong := [i for i, label in pairs if label != true[i]]:
            raise NotRightError(f"{len(wrong)} {part} images have another label than their original.")
        if len(set(labels)) < 2:
            raise NotRightError(f"all {part} images are of one class.")
        originals[part] = {i for i, _ in pairs}
    if shared := sorted(originals["train"] & originals["val"]):
        place = f"number {shared[0]} of the training images that your function was given"
        raise NotRightError(
            f"of the {len(originals['val'])} originals that the validation images show, {len(shared)} are in the "
            f"training set as well, as they are or as another view; for example {place}. What is decided first: who "
            "goes where, or which views are made?"
        )
    for part, least in (("train", 15), ("val", 6)):
        if len(originals[part]) < least:
            raise NotRightError(f"the {part} images show {len(originals[part])} originals. Keep {least} or more.")
    return (
        "no original is on both sides. Split first, and make views afterwards: the same holds for frames of one film, "
        "slices of one patient, and images that are drawn more often."
    )


@step("ex5/case_f")
def case_f(function: Any) -> str:
    """A set-up in which layer3, layer4 and the head move, and nothing else."""
    model, loaders, optimizer, options = set_up(function, pets_for_checks()[0], SEEDS[0])
    rates, parameters = rates_by_name(model, optimizer), dict(model.named_parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    few = loaders.train
    fit(model, data.Loaders(few, few, few), optimizer, **options | {"epochs": 1})
    moved = [name for name, value in model.state_dict().items() if not value.equal(before[name])]
    plan = ("layer3", "layer4", "fc")
    for name, parameter in parameters.items():
        layer = name.split(".")[0]
        if layer not in plan:
            continue
        if not parameter.requires_grad:
            held = "in no group" if name not in rates else "in a group"
            raise NotRightError(f"{name} takes no gradients, and is {held}. The docstring wants {layer} to train.")
        if name not in rates:
            raise NotRightError(f"{name} takes gradients, and is in no group of the optimizer: it never moves.")
        # Of a layer that trains, one tensor may get steps that are too small for its values.
        if name not in moved and (not rates[name] or not any(other.startswith(f"{layer}.") for other in moved)):
            raise NotRightError(
                f"{name} is what it was after one epoch. Its rate is {rates[name]:g}: does a gradient reach it?"
            )
    if extra := [name for name in moved if name.split(".")[0] not in plan]:
        raise NotRightError(
            f"after one epoch {extra[0]} and {len(extra) - 1} other tensors have moved. The docstring wants all below "
            "layer3 to stay frozen."
        )
    return (
        "all that the docstring names has moved, and nothing else. The doctor called nothing wrong, because a frozen "
        "layer in no group can be meant: only you know the plan. Compare it with the doctor's table."
    )


@step("ex5/proof")
def proof(answer: Any) -> str:
    """Runs of cases b and d, broken and repaired, and what the paired differences support."""
    runs, conclusions = pair(answer, "the runs and your conclusions")
    rows = need_runs(runs).rows
    if not isinstance(conclusions, Mapping):
        raise NotRightError(f"the conclusions are a {type(conclusions).__name__}. Give a dictionary.")
    given = {str(key).strip().lower(): value for key, value in conclusions.items()}
    if missing := [name for name in MEASURES if name not in given]:
        keys = ", ".join(map(repr, conclusions)) or "none"
        raise NotRightError(f"the conclusions have no key {missing[0]!r}. Their keys are {keys}.")
    if other := {row["images"] for row in rows} - {40}:
        raise NotRightError(f"there are runs with {min(other)} images, and `sizes=[40]` is asked for.")
    texts = []
    for name, (images, case) in MEASURES.items():
        own, ways = [row for row in rows if row["data"] == images], (f"{case} repaired", case)
        need_pairs(own, ways, on=f"measured on {images!r} images: ", same="is it the same function twice?")
        found = runs.only(data=images).difference(*ways)
        need_conclusion(given.get(name), found, f"the conclusion for {name!r}")
        texts.append(f"{name}: {found}")
    return (
        f"your runs support all three. Repaired minus broken, {'; '.join(texts)}. A repair is judged on images "
        "that neither set-up trained on, not by whether its own number went up."
    )
