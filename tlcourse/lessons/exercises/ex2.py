"""The steps of exercise 2, "Schedule the learning rate": each looks at the rates that an optimizer really has."""

import itertools
import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises import measured
from tlcourse.lessons.exercises.answers import a, need_function, pair, quiet, rates_by_name, scheduler_of
from tlcourse.lessons.exercises.ex2_waves import half_wave, why_warmup, why_wave

HEAD = ("fc.weight", "fc.bias")
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")  # the stem is conv1 and bn1
# A loss that gets lower, stays for three epochs, gets lower again, twice nearly stays, stays for long, and gets a
# little lower.
LOSSES = (1.0, 0.9, 0.8, 0.85, 0.8, 0.83, 0.7, 0.75, 0.75, 0.6, 0.5, 0.6, 0.55, *[0.5] * 12, 0.499, 0.498, 0.497)


@step("ex2/plateau")
def plateau(function: Any) -> str:
    """A function of a model: the head alone trains, at a rate that is halved where the validation loss stays."""
    need_function(function, "a model")
    model = models.create("tl_resnet", 2, weights=None)
    optimizer, scheduler = pair(function(model))
    train = {name for name, p in model.named_parameters() if p.requires_grad}
    if extra := [name for name in train if not name.startswith("fc.")]:
        raise NotRightError(f"{len(extra)} of 48 parameters below the head take gradients, such as {min(extra)}.")
    rates, scheduler = rates_by_name(model, optimizer), scheduler_of(optimizer, scheduler)
    if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
        raise NotRightError(f"{a(scheduler)} never looks at the loss. ReduceLROnPlateau does.")
    if isinstance(scheduler, ReduceLROnPlateau) and scheduler.last_epoch > 0:
        raise NotRightError("the function has stepped the scheduler, and no epoch has been trained.")
    for name in HEAD:
        if name not in train:
            raise NotRightError(f"{name} takes no gradients, so the head would not learn.")
        if name not in rates:
            raise NotRightError(f"{name} is in no group of the optimizer: it would never move.")
        if not math.isclose(rates[name], 0.01, rel_tol=1e-6):
            raise NotRightError(f"{name} starts with a rate of {rates[name]:g}, and 0.01 is asked for.")
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
        if found < wanted:
            return f"Look at `threshold`, {scheduler.threshold:g}: a loss that is lower by less counts as no lower one."
        return "Look at `min_lr` and `eps`, which stop the fall."
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
        raise NotRightError(f"the function returns {a(answer)}. Return a list of groups.")
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
            seen = f"{name} has the rate {rates[name]:g}, and {wanted:g} is asked for"
            if rates[names[0]] > rates["fc.weight"]:
                raise NotRightError(f"{seen}. The rates rise towards the stem; they are to fall.")
            way = f" It is {rates[name] / wanted / 2:.3g} of the rate of the stage above, and half of it is asked for."
            way = " conv1 and bn1 are one stage, the stem." if stage == "conv1" else way * (stage != "fc")
            raise NotRightError(f"{seen}.{way}")
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
                    raise NotRightError(f"{seen}. {why_warmup(factors, t, batches)}")
    return (
        "the factor is the same for every group, so discriminative rates keep their ratio. A minimum given as a rate, "
        "or one highest rate for all, would change it."
    )


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
            found = []
            for _ in range(steps):
                found.append(rates_by_name(model, optimizer))
                optimizer.step()
                scheduler.step()
        if missing := [name for name in names if name not in found[0]]:
            raise NotRightError(f"{missing[0]} is in no group of the optimizer that the function was given.")
        for t, name in itertools.product(range(steps), names):
            base = 0.01 if name.startswith("fc.") else rate
            seen, wanted = found[t][name], base * half_wave(t / steps)
            if not math.isclose(seen, wanted, rel_tol=1e-4, abs_tol=1e-9):
                told = f"at step {t} of {steps}, {name} has a rate of {seen:.3g}, and {wanted:.3g} is asked for"
                why = _why_start(name, seen, 0.01 * half_wave(used / 10))
                raise NotRightError(f"{told}. {why_wave([one[name] / base for one in found]) if t else why}")
    return (
        "a schedule belongs to the groups that the optimizer has when it is built, and some of PyTorch's start where "
        "the last one stopped, not at the base rate. Look at the rates before you train."
    )


def _why_start(name: str, found: float, stopped: float) -> str:
    if name.startswith("fc.") and math.isclose(found, stopped, rel_tol=1e-3, abs_tol=1e-9):
        return "There the last schedule stopped. The rate that the head was built with is its group's `initial_lr`."
    if found == 0.01:
        return "That is the head's rate: the parameters need a group of their own, whose `lr` is the given rate."
    return "Each group starts from the rate that it was built with: look at `lr` and `initial_lr` of the groups."


@step("ex2/gain")
def gain(answer: Any) -> str:
    """Runs of a constant and a scheduled rate, and the conclusion that their paired difference supports."""
    return measured.gain(answer, "scheduled", "constant", "the schedule did not reach the training")
