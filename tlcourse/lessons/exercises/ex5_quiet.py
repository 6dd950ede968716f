"""The steps of exercise 5 about three failures that are quiet, and the proof that a repair helped."""

from typing import Any

import torch

from tlcourse import data
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises import setups
from tlcourse.lessons.exercises.answers import need_dictionary, pair, rates_by_name
from tlcourse.lessons.exercises.measured import need_conclusion, need_pairs, need_runs, runs_on
from tlcourse.train import fit

MEASURES = {"b own": ("own", "b"), "d own": ("own", "d"), "d fresh": ("fresh", "d")}
# Colours that are others in the order BGR, with ends that stay where they are when colours are changed at random.
LEVELS = ((0, 90, 255), (0, 150, 255), (0, 210, 255))


@step("ex5/case_b")
def case_b(function: Any) -> str:
    """A set-up whose images arrive as the weights want them."""
    splits = setups.painted(LEVELS)
    model, loaders, _, _ = setups.set_up(function, splits, setups.SEEDS[0])
    mean, std = (torch.tensor(v) for v in (splits.preprocessing.mean, splits.preprocessing.std))
    colours = torch.cartesian_prod(*map(torch.tensor, LEVELS)) / 255
    wanted, cifar = (colours - mean) / std, torch.tensor([[0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]])
    centred = colours - colours.mean(1, keepdim=True)
    grey = (colours @ torch.tensor([0.299, 0.587, 0.114]))[:, None].expand(-1, 3)
    ways = {
        (right := "they are nearly what the weights want, and not quite"): wanted,
        "they lie between 0 and 1, so nothing normalises them": colours,
        "they are normalised twice": (wanted - mean) / std,
        "mean and deviation count to 255, and the pixels to 1": (colours - 255 * mean) / (255 * std),
        "the pixels count to 255, and mean and deviation to 1": (255 * colours - mean) / std,
        "they go up to 255, so nothing scales or normalises them": 255 * colours,
        "they are normalised by 0.5": (colours - 0.5) / 0.5,
        "mean and deviation have changed places": (colours - std) / mean,
        "only the mean is subtracted": colours - mean,
        "only the deviation divides them": colours / std,
        "they are divided by the variance": (colours - mean) / std**2,
        "mean and deviation are those of CIFAR-10": (colours - cifar[0]) / cifar[1],
        "they are clamped after they are normalised": wanted.clamp(0, 1),
        "they are scaled after they are normalised": (colours - mean / 255) / std,
        (itself := "each image is normalised by its own mean and deviation"): 0 * colours,
        f"{itself} over all channels": centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6),
        "they have no colours": (grey - mean) / std,
        "black and white have changed places": (1 - colours - mean) / std,
        "they are turned to BGR after they are normalised": wanted.flip(1),
        "the channels are in the order BGR": (colours.flip(1) - mean) / std,
        "mean and deviation are in the order BGR": (colours - mean.flip(0)) / std.flip(0),
    }
    ends = torch.stack([wanted.amin(0), wanted.amax(0)])[:, None]
    for part in ("validation", "training"):
        pixels, _ = setups.shown(model, loaders.val if part == "validation" else loaders.train)
        rows = pixels.median(2).values.nan_to_num(0, 0, 0)
        # If black and white are there and became these, then this mean and this deviation were used.
        std_used = 1 / (rows.amax(0) - rows.amin(0)).clamp(min=1e-6)
        mean_used, (low, high) = -rows.amin(0) * std_used, rows.aminmax()
        used = "mean {:.3f}, {:.3f}, {:.3f} and deviation {:.3f}, {:.3f}, {:.3f} are used".format(*mean_used, *std_used)
        cut, near = f"they are cut off at {low:.2f} and {high:.2f}", {}
        for why, way in (ways | {used: (colours - mean_used) / std_used, cut: wanted.clamp(low, high)}).items():
            distance, found = setups.apart(rows, way)
            near[why] = float(distance.mean()) + (len(found.unique()) < min(2, len(way.unique(dim=0))))
        near[cut] += float(high - low < 0.5)
        near[used] += 0.003 + float(std_used.max() > 4 * std_used.min())  # a mistake with a name comes first
        why = min(near, key=near.get)
        # Colours that are changed at random lie anywhere, but black and white still arrive, and nothing beyond them.
        there = ((pixels - ends[..., None]).abs() <= 0.25).float().mean(3).amax(1) >= 0.05
        inside = there.all() and (rows >= ends[0] - 0.05).all() and (rows <= ends[1] + 0.05).all()
        if near[right] <= 0.02 or (part == "training" and inside and not (near[why] <= 0.1 and "BGR" in why)):
            continue
        seen, asked = (", ".join(f"{c.min():.2f} to {c.max():.2f}" for c in found.T) for found in (rows, wanted))
        far, why = near[why], f"{right}: {used}" if why == used and near[right] <= 0.1 else why
        raise NotRightError(
            f"the {part} images reach the network with values from {seen} in red, green, blue"
            f"{f': {why}' if far <= 0.1 else ''}. The weights were trained with {asked} for these colours."
        )
    setups.need_parts(setups.need_images(function, 40))
    return (
        "training and validation images arrive as the weights want them. No error says it when they do not: compare "
        "the mean and deviation of a batch with those of the weights, or ask the doctor."
    )


@step("ex5/case_d")
def case_d(function: Any) -> str:
    """A set-up whose training and validation images come from different originals."""
    splits, (made, seen) = setups.painted(), setups.need_given(function)
    true = [label for part in (splits.train, splits.val) for label in part.labels.tolist()]
    for part, (found, labels) in seen.items():
        if wrong := sum(i >= 0 and label != true[i] for i, label in zip(found, labels, strict=True)):
            raise NotRightError(f"{wrong} {part} images have another label than their original.")
        if len(set(labels)) < 2:
            raise NotRightError(f"all {part} images are of one class.")
    train, val = ({*found} - {-1} for found, _ in seen.values())
    if shared := sorted(train & val):
        place = f"number {shared[0]} of the training images that your function was given"
        raise NotRightError(
            f"of the {len(val)} originals that the validation images show, {len(shared)} "
            f"{'are' if len(shared) > 1 else 'is'} in the training set as well, unchanged or as another view; for "
            f"example {place}. What is decided first: who goes where, or which views are made?"
        )
    for part, count, least, most in (("training", len(train), 15, 45), ("validation", len(val), 6, 160)):
        if not least <= count <= most:
            raise NotRightError(
                f"the {part} images show {count} originals. Keep {least} or more, and not many more than in case d."
            )
    setups.need_parts(made)
    return (
        "no original is on both sides. Split first, and make views afterwards: the same holds for frames of one film, "
        "slices of one patient, and images that are drawn more often."
    )


@step("ex5/case_f")
def case_f(function: Any) -> str:
    """A set-up in which layer3, layer4 and the head move, and nothing else."""
    model, loaders, optimizer, options = setups.set_up(function, setups.pets_for_checks()[0], setups.SEEDS[0])
    rates, parameters = rates_by_name(model, optimizer), dict(model.named_parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    few = loaders.train
    fit(model, data.Loaders(few, few, few), optimizer, **options | {"epochs": 1})
    moved = [name for name, value in model.state_dict().items() if not value.equal(before[name])]
    plan = ("layer3", "layer4", "fc")
    # Of a layer that trains, some tensors may get steps that are too small for their values.
    share = {layer: [name in moved for name in parameters if name.startswith(f"{layer}.")] for layer in plan}
    for name, parameter in parameters.items():
        layer = name.split(".")[0]
        if layer not in plan:
            continue
        if not parameter.requires_grad:
            held = "in no group" if name not in rates else "in a group"
            raise NotRightError(f"{name} takes no gradients, and is {held}. The docstring wants {layer} to train.")
        if name not in rates:
            raise NotRightError(f"{name} takes gradients, and is in no group of the optimizer: it never moves.")
        if name not in moved and (not rates[name] or sum(share[layer]) < len(share[layer]) / 2):
            raise NotRightError(
                f"{name} is what it was after one epoch. Its rate is {rates[name]:g}: does a gradient reach it?"
            )
    setups.need_parts(setups.need_images(function), plan)
    return (
        "all that the docstring names has moved, and nothing else. The doctor called nothing wrong, because a frozen "
        "layer in no group can be meant: only you know the plan. Compare it with the doctor's table."
    )


@step("ex5/proof")
def proof(answer: Any) -> str:
    """Runs of cases b and d, broken and repaired, and what the paired differences support."""
    runs, conclusions = pair(answer, "the runs and your conclusions")
    rows, given = need_runs(runs).rows, need_dictionary(conclusions, "from each measure to a conclusion")
    if missing := [name for name in MEASURES if name not in given]:
        keys = ", ".join(given) or "none"
        raise NotRightError(f"the conclusions have no key {missing[0]!r}. Their keys are {keys}.")
    if other := {row["images"] for row in rows} - {40}:
        raise NotRightError(f"there are runs with {min(other)} images, and `sizes=[40]` is asked for.")
    texts = []
    for name, (images, case) in MEASURES.items():
        own, ways = runs_on(runs, images), (f"{case} repaired", case)
        need_pairs(own.rows, ways, on=f"measured on {images!r} images: ", same="this is the same function twice")
        found = own.difference(*ways)
        need_conclusion(given.get(name), found, f"the conclusion for {name!r}")
        texts.append(f"{name}: {found}")
    return (
        f"your runs support all three. Repaired minus broken, {'; '.join(texts)}. A repair is judged on images "
        "that neither set-up trained on, not by whether its own number went up."
    )
