"""The steps of the tasks of lessons 3.3 and 3.3b."""

import math
from typing import Any

import torch
from torch import nn

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step


@step("3.3/groups")
def groups(answer: Any) -> str:
    """An optimizer for a ResNet-18: one rate for the head, one for `layer4`, one for everything below."""
    model, optimizer = answer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise NotRightError(f"the answer is a {type(optimizer).__name__}. Give the optimizer.")
    if not isinstance(optimizer, torch.optim.AdamW):
        raise NotRightError(f"it is {type(optimizer).__name__}, and AdamW is asked for.")
    names = {id(p): name for name, p in model.named_parameters()}
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise NotRightError("it holds a parameter that is not one of `resnet18`'s. Use the model of this cell.")
            name = names[id(parameter)]
            if name in rates:
                raise NotRightError(f"{name} is in the optimizer twice: each step would move it twice.")
            if not parameter.requires_grad:
                raise NotRightError(f"{name} is frozen, so its rate is for nothing. Leave it trainable.")
            rates[name] = float(group["lr"])
    if missing := [name for name in names.values() if name not in rates]:
        raise NotRightError(f"{len(missing)} parameters are in no group, such as {missing[0]}: they would not train.")
    for name, rate in rates.items():
        wanted = 1e-3 if name.startswith("fc.") else 1e-4 if name.startswith("layer4.") else 1e-5
        if not math.isclose(rate, wanted, rel_tol=1e-6):
            raise NotRightError(f"{name} has the rate {rate:g}. The task asks for {wanted:g}.")
    return "every parameter has a rate, and one rate. One that is forgotten stays as it is, and no error says so."


@step("3.3/unfreeze")
def unfreeze(function: Any) -> str:
    """A function of a model and its head's optimizer: `layer4` trains, in the same optimizer, at its own rate."""
    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a model and an optimizer.")
    model = models.freeze(models.create("tl_resnet", 2, weights=None))
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-3)
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    moments = optimizer.state[model.fc.bias]["exp_avg"].clone()
    function(model, optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    wanted = {name for name in names.values() if name.startswith(("layer4.", "fc."))}
    train = {name for name, p in model.named_parameters() if p.requires_grad}
    if train != wanted:
        extra, missing = sorted(train - wanted), sorted(wanted - train)
        raise NotRightError(f"{extra[0]} trains, too." if extra else f"{missing[0]} does not train.")
    held: dict[str, float] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.get(id(parameter), "another model's parameter")
            if name in held:
                raise NotRightError(f"{name} is in the optimizer twice.")
            held[name] = float(group["lr"])
    if missing := sorted(wanted - held.keys()):
        raise NotRightError(f"{missing[0]} is not in the optimizer you were given, so it stays as it is.")
    for name in sorted(wanted):
        rate = 1e-4 if name.startswith("layer4.") else 1e-3
        if not math.isclose(held[name], rate, rel_tol=1e-6):
            raise NotRightError(f"{name} has the rate {held[name]:g}, not {rate:g}.")
    if not moments.equal(optimizer.state[model.fc.bias].get("exp_avg", torch.zeros(0))):
        raise NotRightError("the head's moments are gone, or a step was made.")
    return "gradients and optimizer are two things: unfreezing gives the first, a group gives the second."


@step("3.3b/warmup")
def warmup(factor: Any) -> str:
    """A factor by step: up in ten steps, then half a cosine wave down to 0 at step 100."""
    if not callable(factor):
        raise NotRightError(f"the answer is a {type(factor).__name__}. Give a function of the step.")
    for step_number in (*range(101),):
        wanted = (step_number + 1) / 10
        if step_number >= 10:
            wanted = (1 + math.cos(math.pi * (step_number - 10) / 90)) / 2
        found = factor(step_number)
        if found is None or not math.isclose(float(found), wanted, abs_tol=1e-6):
            shown = None if found is None else f"{float(found):.6f}"
            raise NotRightError(f"at step {step_number} it gives {shown}, and {wanted:.6f} is asked for.")
    return (
        "Adam's first steps are as large as the rate allows, and its averages rest on few batches: a warm-up keeps "
        "them small. Whether that helps, measure."
    )


@step("3.3b/length")
def one_cycle_length(function: Any) -> str:
    """A function of an optimizer, epochs and batches: PyTorch's one-cycle for all batches, up to a rate of 0.01."""
    if not callable(function) or isinstance(function, type):
        raise NotRightError("give a function of an optimizer, of epochs and of batches.")
    for epochs, batches in ((5, 7), (3, 20)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5, momentum=0.9)
        scheduler = function(optimizer, epochs, batches)
        if not isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR):
            raise NotRightError(f"it returns a {type(scheduler).__name__}. Return a OneCycleLR of PyTorch.")
        if scheduler.optimizer is not optimizer:
            raise NotRightError("it is built on another optimizer than the one it was given.")
        steps = epochs * batches
        if scheduler.total_steps != steps:
            raise NotRightError(
                f"{epochs} epochs of {batches} batches are {steps} steps; yours has {scheduler.total_steps}."
            )
        highest = optimizer.param_groups[0]["max_lr"]
        if not math.isclose(highest, 0.01):
            raise NotRightError(f"its highest rate is {highest:g}, and 0.01 is asked for.")
    return "a scheduler counts calls: build it for as many as the loop will make."
