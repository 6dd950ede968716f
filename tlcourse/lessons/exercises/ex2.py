"""The steps of exercise 2, "Schedule the learning rate": each looks at the rates that an optimizer really has."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises import measured
from tlcourse.lessons.exercises.answers import half_wave, need_function, pair, quiet, rates_by_name, scheduler_of

HEAD = ("fc.weight", "fc.bias")
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")  # the stem is conv1 and bn1
# A loss that gets lower, stays for three epochs, gets lower again, twice nearly stays, and then stays for long.
LOSSES = (1.0, 0.9, 0.8, 0.85, 0.8, 0.83, 0.7, 0.75, 0.75, 0.6, 0.5, 0.6, 0.55, *[0.5] * 12)


@step("ex2/plateau")
def plateau(function: Any) -> str:
    """A function of a model: the head alone trains, at a rate that is halved where the validation loss stays."""
    need_function(function, "a model")
    model = models.create("tl_resnet", 2, weights=None)
    optimizer, scheduler = pair(function(model))
    train = {name for name, p in model.named_parameters() if p.requires_grad}
    if extra := [name for name in train if not name.startswith("fc.")]:
        raise NotRightError(f"{len(extra)} of 48 parameters below the head take gradients, such as {min(extra)}.")
    rates = rates_by_name(model, optimizer)
    for name in HEAD:
        if name not in train:
            raise NotRightError(f"{name} takes no gradients, so the head would not learn.")
        if name not in rates:
            raise NotRightError(f"{name} is in no group of the optimizer: it would never move.")
        if not math.isclose(rates[name], 0.01, rel_tol=1e-6):
            raise NotRightError(f"{name} starts with a rate of {rates[name]:g}, and 0.01 is asked for.")
    scheduler = scheduler_of(optimizer, scheduler)
    if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
        raise NotRightError(f"a {type(scheduler).__name__} never looks at the loss. ReduceLROnPlateau does.")
    best, bad, wanted, before = math.inf, 0, 0.01, 0.01
    for epoch, loss in enumerate(LOSSES, 1):
        best, bad = (loss, 0) if loss < best else (best, bad + 1)
        wanted, bad = (wanted / 2, 0) if bad > 2 else (wanted, bad)
        scheduler.step(loss)
        rates = rates_by_name(model, optimizer)
        if off := [name for name in HEAD if not math.isclose(rates[name], wanted, rel_tol=1e-6)]:
            losses = " ".join(f"{value:g}" for value in LOSSES[:epoch])
            seen = f"the rate of {off[0]} is {rates[off[0]]:g} after epoch {epoch}, and {wanted:g} is asked for"
            why = _why_plateau(scheduler, rates[off[0]], wanted, before)
            raise NotRightError(f"{seen}. The validation losses were {losses}. {why}")
        before = wanted
    return (
        "a plateau scheduler needs no number of epochs, but it believes every number that it is given: in the "
        "chapter's loop that is an accuracy that stays at zero, and the rate falls for no reason."
    )


PLATEAU = {"mode": "min", "factor": 0.5, "patience": 2, "cooldown": 0}  # the task's rule, in PyTorch's names


def _why_plateau(scheduler: Any, found: float, wanted: float, before: float) -> str:
    if isinstance(scheduler, ReduceLROnPlateau):
        for name, asked in PLATEAU.items():
            if (given := getattr(scheduler, name)) != asked:
                return f"Look at `{name}`: it is {given!r}, and the task's rule has {asked!r}."
        return (
            "Look at `min_lr` and `eps`, which stop the fall, and at `threshold`: a lower loss is lower by that much."
        )
    if found < before and wanted == before:
        return "It falls too early: two epochs in a row without a new lowest loss are forgiven."
    if found == before:
        return "It stays although three epochs in a row had no new lowest loss."
    return f"It is multiplied by {found / before:g}, and not by 0.5."


@step("ex2/groups")
def groups(function: Any) -> str:
    """A function of a frozen model: groups with all of its parameters, each stage at half the rate of the one above."""
    need_function(function, "a model")
    model = models.freeze(models.create("tl_resnet", 2, weights=None))
    answer = function(model)
    if not hasattr(answer, "__iter__"):
        raise NotRightError(f"the function returns a {type(answer).__name__}. Return a list of groups.")
    given = list(answer)
    if not given or not all(isinstance(group, dict) and "params" in group for group in given):
        raise NotRightError("the function returns no list of groups. A group is a dictionary with `params` and `lr`.")
    if without := [i for i, group in enumerate(given) if "lr" not in group]:
        raise NotRightError(f"group {without[0]} has no `lr`, so it would get the optimizer's default.")
    try:
        optimizer = torch.optim.AdamW([dict(group) for group in given])
    except (ValueError, TypeError) as error:
        raise NotRightError(f"PyTorch refuses these groups: {error}.") from None
    rates = rates_by_name(model, optimizer)
    names = [name for name, _ in model.named_parameters()]
    if missing := [name for name in names if name not in rates]:
        told = f"{len(missing)} of {len(names)} parameters are in no group, such as {missing[0]}"
        raise NotRightError(f"{told}: what is in none never moves, without an error. All layers are asked for.")
    if sum(len(group["params"]) for group in optimizer.param_groups) > len(names):
        raise NotRightError("a parameter is in a group twice: it would be moved twice in each step.")
    if still := [name for name, p in model.named_parameters() if not p.requires_grad]:
        raise NotRightError(f"{still[0]} is in a group and still frozen: it takes no gradients.")
    for name in reversed(names):  # from the head down
        stage = name.split(".")[0].replace("bn1", "conv1")
        wanted = 0.004 / 2 ** (len(STAGES) - 1 - STAGES.index(stage))
        if not math.isclose(rates[name], wanted, rel_tol=1e-6):
            way = " The rates rise towards the stem; they are to fall." * (rates[names[0]] > rates["fc.weight"])
            raise NotRightError(f"{name} has the rate {rates[name]:g}, and {wanted:g} is asked for.{way}")
    return (
        "every parameter is in a group, and has the rate of its stage. The chapter's solution calls this stage "
        "'fine-tune all layers', but its optimizer holds layer4 and fc only."
    )


@step("ex2/warmup")
def warmup(function: Any) -> str:
    """A function of optimizer, epochs and batches: one epoch of warm-up, then half a cosine wave, for every group."""
    need_function(function, "an optimizer, epochs and batches")
    base = (0.004, 0.001, 0.000125)
    for epochs, batches in ((5, 7), (3, 20), (2, 3)):
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in base]
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
        steps = epochs * batches
        with quiet():
            made = function(optimizer, epochs, batches)
            if getattr(made, "interval", "step") == "epoch":
                raise NotRightError("this Schedule says that it is stepped by epoch. The task asks for every batch.")
            scheduler = scheduler_of(optimizer, made)
            if isinstance(scheduler, ReduceLROnPlateau):
                raise NotRightError("ReduceLROnPlateau waits for a loss; this schedule depends on the step alone.")
            factors = []
            for _ in range(steps):
                rates = [float(group["lr"]) for group in optimizer.param_groups]
                if len(rates) != len(base):
                    raise NotRightError(f"the optimizer has {len(rates)} groups now, and it had {len(base)}.")
                factors.append([rate / own for rate, own in zip(rates, base, strict=True)])
                optimizer.step()
                scheduler.step()
        for t, found in enumerate(factors):
            wanted = (t + 1) / batches if t < batches else half_wave((t - batches) / (steps - batches))
            for group, factor in enumerate(found):
                if not math.isclose(factor, wanted, rel_tol=1e-4, abs_tol=1e-6):
                    seen = f"with {epochs} epochs of {batches} batches, group {group} has a rate of "
                    seen += f"{factor * base[group]:.5g} at step {t}, and {wanted * base[group]:.5g} is asked for"
                    raise NotRightError(f"{seen}. {_why_warmup(factors, t, batches)}")
    return (
        "the factor is the same for every group, so discriminative rates keep their ratio. A minimum given as a rate, "
        "or one highest rate for all, would change it."
    )


# A mistake -> the factor of step i of m with b batches an epoch, counted from the start of the part; None is any.
WARMUPS = {
    "A first step at rate zero changes nothing: it starts at one part of `batches`.": lambda i, m, b: None if i else 0,
    "It starts at the full rate: there is no warm-up.": lambda i, m, b: None if i else 1,
    "The warm-up ends one step late: the first epoch's last step has the full rate.": lambda i, m, b: (i + 1) / (b + 1),
    "The warm-up grows through all of the training; it has one epoch.": lambda i, m, b: (i + 1) / (m + b),
}
WAVES = {
    "The wave has run since the first step; it begins after the warm-up.": lambda i, m, b: half_wave((i + b) / (m + b)),
    "The wave is as long as the training; the warm-up isn't part of it.": lambda i, m, b: half_wave(i / (m + b)),
    "The wave ends at the last step; it would end one step later.": lambda i, m, b: half_wave(i / (m - 1)),
    "The wave is one step early: its first step has the full rate.": lambda i, m, b: half_wave((i + 1) / m),
    "The wave is one step late: only its first step has the full rate.": lambda i, m, b: half_wave(max(i - 1, 0) / m),
    "It falls in a straight line, where half a cosine wave is asked for.": lambda i, m, b: 1 - i / m,
    "A whole wave falls and rises again; half of one is asked for.": lambda i, m, b: half_wave(2 * i / m),
    "That is a quarter of a wave; half of one is asked for.": lambda i, m, b: math.cos(math.pi * i / m / 2),
    "The bare cosine falls to -1: add 1, and halve the sum.": lambda i, m, b: math.cos(math.pi * i / m),
    "It falls once an epoch; it falls with every batch.": lambda i, m, b: half_wave(i // b * b / m),
    "It stays at the full rate after the warm-up.": lambda i, m, b: 1,
}


def _why_warmup(factors: list[list[float]], t: int, batches: int) -> str:
    if max(factors[t]) - min(factors[t]) > 1e-4 * max(factors[t]):
        return "The groups do not keep their ratio: is a rate given where a factor of each group's own is meant?"
    rest, factor = len(factors) - batches, factors[t][0]
    rules, part = (WARMUPS, factors[:batches]) if t < batches else (WAVES, factors[batches:])
    for why, rule in rules.items():
        asked = (rule(i, rest, batches) for i in range(len(part)))
        if all(one is None or abs(found[0] - one) < 1e-6 for found, one in zip(part, asked, strict=True)):
            return why
    if t < batches:
        return f"In the warm-up, the factor of this step is {t + 1} / {batches}; it is {factor:.4g}."
    if factor < half_wave((t - batches) / rest):
        return "The rate falls too fast: does the fall count epochs, where it is stepped by batch?"
    return "The rate falls too slowly: does the fall end above zero, or long after the last step?"


@step("ex2/late")
def late(function: Any) -> str:
    """A function of a used optimizer, parameters, rate and steps: they join, and a new cosine moves all groups."""
    need_function(function, "an optimizer, parameters, a rate and steps")
    for used, steps, rate in ((6, 8, 0.002), (10, 12, 0.001)):
        model = models.freeze(models.create("tl_resnet", 2, weights=None))
        optimizer = torch.optim.Adam(model.fc.parameters(), lr=0.01)
        with quiet():
            old = CosineAnnealingLR(optimizer, 10)
            for _ in range(used):
                model.fc(torch.ones(2, model.fc.in_features)).sum().backward()
                optimizer.step()
                old.step()
            moments = optimizer.state[model.fc.bias]["exp_avg"].clone()
            joins = list(model.layer4.parameters())
            scheduler = scheduler_of(optimizer, function(optimizer, joins, rate, steps))
            known, there = len(getattr(scheduler, "base_lrs", [])), len(optimizer.param_groups)
            if known not in (0, there):
                raise NotRightError(f"the scheduler knows {known} of {there} groups: build it when all have joined.")
            names = [n for n, _ in model.named_parameters() if n.startswith(("layer4.", "fc."))]
            if not all(p.requires_grad for p in joins):
                raise NotRightError("parameters of layer4 are still frozen: they take no gradients.")
            if not moments.equal(optimizer.state[model.fc.bias].get("exp_avg", torch.zeros(0))):
                raise NotRightError("the head's moments are gone, or a step was made.")
            for t in range(steps):
                rates = rates_by_name(model, optimizer)
                if missing := [name for name in names if name not in rates]:
                    raise NotRightError(f"{missing[0]} is in no group of the optimizer that the function was given.")
                for name in names:
                    base = 0.01 if name.startswith("fc.") else rate
                    wanted = base * half_wave(t / steps)
                    if not math.isclose(rates[name], wanted, rel_tol=1e-4, abs_tol=1e-9):
                        why = _why_late(t, name, rates[name], wanted, 0.01 * half_wave(used / 10))
                        seen = f"at step {t} of {steps}, {name} has a rate of {rates[name]:.3g}, and {wanted:.3g} "
                        raise NotRightError(f"{seen}is asked for. {why}")
                optimizer.step()
                scheduler.step()
    return (
        "a schedule belongs to the groups that the optimizer has when it is built, and some of PyTorch's start where "
        "the last one stopped, not at the base rate. Look at the rates before you train."
    )


def _why_late(t: int, name: str, found: float, wanted: float, stopped: float) -> str:
    if t == 0 and name.startswith("fc.") and math.isclose(found, stopped, rel_tol=1e-3, abs_tol=1e-9):
        return "There the last schedule stopped. The rate that the head was built with is its group's `initial_lr`."
    if t == 0 and found == 0.01:
        return "That is the head's rate: the parameters need a group of their own, whose `lr` is the given rate."
    if t == 0:
        return "Each group starts from the rate that it was built with: look at `lr` and `initial_lr` of the groups."
    seen = f"The start is right, but the rate falls too {'fast' if found < wanted else 'slowly'}"
    return f"{seen}: half a cosine wave takes all groups to zero in `steps` steps."


@step("ex2/gain")
def gain(answer: Any) -> str:
    """Runs of a constant and a scheduled rate, and the conclusion that their paired difference supports."""
    return measured.gain(answer, "scheduled", "constant", "the schedule did not reach the training")
