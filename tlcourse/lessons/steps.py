"""The steps of the lessons' tasks: each looks at what an answer does, and says what is right or wrong with it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tlcourse import models
from tlcourse.lessons import steps_beyond  # noqa: F401  (registers its steps)
from tlcourse.lessons.checks import STEPS, NotRightError, step


@step("0/set")
def which_set(answer: Any) -> str:
    """The name of the set that accuracies were measured on."""
    given = str(answer).strip().lower().removesuffix(" set")
    if given in ("val", "validation"):
        return "what you look at often, you fit to, even without training on it. So the test set waits for the end."
    if given in ("train", "training"):
        raise NotRightError(
            "a network can learn its training images by heart, so they say little. Look above the claim."
        )
    if given == "test":
        raise NotRightError("the test set is for the end of a project. Look above the claim.")
    raise NotRightError(f"{answer!r} is none of the three sets.")


@step("3.1/hook")
def layer2_means(function: Any) -> str:
    """A function of a model and images: the mean output of `layer2`, read by a hook that is gone afterwards."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a model and images.")
    model = models.create("tl_resnet", 2, weights=None).eval()
    generator = torch.Generator().manual_seed(0)
    before = _hooks_and_modes(model)
    for call in ("first", "second"):
        images = torch.randn(4, 3, 64, 64, generator=generator)
        seen: list[torch.Tensor] = []
        spy = model.layer2.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        with torch.no_grad():
            model(images)
        spy.remove()
        wanted = seen[0].mean((2, 3))
        found = function(model, images)
        if not isinstance(found, torch.Tensor):
            raise NotRightError(f"the function returns a {type(found).__name__}. Return the tensor itself.")
        if found.shape != wanted.shape:
            raise NotRightError(
                f"it returns {tuple(found.shape)} for 4 images, and {tuple(wanted.shape)} is asked for."
            )
        if not torch.allclose(found.detach().cpu(), wanted, atol=1e-4):
            raise NotRightError(
                f"in its {call} call, the shape is right and the numbers are not. Is it layer2's output for these "
                "images, averaged over positions?"
            )
        after = _hooks_and_modes(model)
        if after[0] != before[0]:
            raise NotRightError("a hook is left in the model: it would run in every later pass. Call `hook.remove()`.")
        if after != before:
            raise NotRightError("the model's mode, or what of it trains, is changed. Leave the model as it was.")
    return "with a hook you read any layer of any network, also for Grad-CAM, and change none of its code."


@step("3.1/grid")
def grid_means(function: Any) -> str:
    """A function of outputs and a number: the means in so many cells per side, as one row for each image."""
    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of an output and k.")
    for k, side in ((1, 8), (2, 8), (4, 8), (2, 6)):
        output = torch.randn(3, 5, side, side, generator=torch.Generator().manual_seed(k))
        wanted = output.unfold(2, side // k, side // k).unfold(3, side // k, side // k).mean((4, 5)).flatten(1)
        found = function(output.clone(), k)
        if not isinstance(found, torch.Tensor):
            raise NotRightError(f"the function returns a {type(found).__name__}. Return a tensor.")
        if found.shape != wanted.shape:
            raise NotRightError(
                f"{tuple(output.shape)} and k = {k} give {tuple(found.shape)}; {tuple(wanted.shape)} is asked for."
            )
        if not torch.allclose(found, wanted, atol=1e-5):
            raise NotRightError(f"with k = {k} the shape is right and the numbers are not: take the mean in each cell.")
    return (
        "k = 1 is what most backbones do before their head. A larger k keeps where things are, and needs more images."
    )


def _hooks_and_modes(model: nn.Module) -> tuple[list[int], list[bool], list[bool]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [sum(len(getattr(module, kind)) for kind in kinds) for module in model.modules()]
    return hooks, [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


@step("3.2/freeze")
def freeze(model: Any) -> str:
    """A ResNet-18 with five classes, of which the head alone trains."""
    if not isinstance(model, nn.Module) or not hasattr(model, "layer4"):
        raise NotRightError(f"the answer is a {type(model).__name__}. Give the ResNet-18 itself.")
    layers = [len(getattr(model, f"layer{i}")) for i in range(1, 5)]
    if layers != [2, 2, 2, 2]:
        raise NotRightError(f"its four groups have {layers} blocks; a ResNet-18 has two in each.")
    with torch.no_grad():
        outputs = model.eval()(torch.zeros(1, 3, 64, 64)).shape[-1]
    if outputs != 5:
        raise NotRightError(f"it gives {outputs} scores for an image. Five classes need five.")
    train = {name for name, p in model.named_parameters() if p.requires_grad}
    below = sorted(name for name in train if not name.startswith("fc."))
    if below:
        raise NotRightError(f"{len(below)} parameters below the head still train, such as {below[0]}.")
    still = sorted(name for name, p in model.fc.named_parameters() if not p.requires_grad)
    if still:
        raise NotRightError(f"fc.{still[0]} is frozen: freeze first, then put the new head in.")
    count = sum(p.numel() for p in model.fc.parameters())
    return f"{count:,} parameters train. A new layer trains by default, so the order matters: freeze, then replace."


@step("3.2/training-mode")
def training_mode(function: Callable[[nn.Module], Any]) -> str:
    """A function like `train_mode`, tried on a model whose head trains and on one whose last stage does, too."""
    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function that takes a model.")
    for stage in ("head", "layer4", "one bias"):
        model = models.create("tl_resnet", 2, weights=None).eval()
        models.unfreeze_from(model, "layer4" if stage == "layer4" else "head")
        model.bn1.bias.requires_grad_(stage == "one bias")
        gradients = [p.requires_grad for p in model.parameters()]
        function(model)
        if [p.requires_grad for p in model.parameters()] != gradients:
            raise NotRightError("the function changes what is frozen. It is to change modes alone.")
        if not model.training:
            raise NotRightError("the model itself is still in evaluation mode. Start with `model.train()`.")
        for name, module in model.named_modules():
            if isinstance(module, models.NORMS):
                frozen = not any(p.requires_grad for p in module.parameters())
                if frozen and module.training:
                    raise NotRightError(
                        f"where {stage} trains, {name} is frozen and would still update its statistics."
                    )
                if not frozen and not module.training:
                    raise NotRightError(f"where {stage} trains, {name} trains too, and is in evaluation mode.")
    return "whatever you freeze, later or in another model, its statistics stay: nothing has to be listed by name."


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


@step("3.4/multiply-adds")
def convolution_work(function: Any) -> str:
    """A function of a convolution, and of its output's height and width, that counts multiply-adds."""
    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of conv, height and width.")
    for what, conv, height, width in (
        ("a kernel of 3 x 3", nn.Conv2d(8, 16, 3), 10, 20),
        ("a kernel of 1 x 1", nn.Conv2d(8, 16, 1, bias=False), 7, 7),
        ("stride 2", nn.Conv2d(3, 64, 7, stride=2, padding=3), 112, 112),
        ("groups", nn.Conv2d(32, 32, 3, padding=1, groups=32), 14, 14),
        ("a kernel of 1 x 5", nn.Conv2d(4, 6, (1, 5)), 9, 3),
    ):
        wanted = conv.weight.numel() * height * width  # each weight is used once for each position
        found = function(conv, height, width)
        if found is None or float(found) != wanted:
            shown = f"{found:,}" if isinstance(found, int | float) else repr(found)
            raise NotRightError(f"with {what}, {conv} and {height} x {width} give {shown}, not {wanted:,}.")
    return "groups of one channel divide the work by the number of channels; that's how small networks stay small."


@step("3.4/choose")
def choose(function: Any) -> str:
    """A function of a table and two limits: the name of the most accurate network within both, or None."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a table and two limits.")
    columns = ("parameters", "multiply-adds", "accuracy")
    rows = {"a": (5e6, 0.2, 70.0), "b": (4e6, 0.4, 75.0), "c": (30e6, 0.3, 80.0), "d": (6e6, 9.0, 82.0)}
    table = {name: dict(zip(columns, row, strict=True)) for name, row in rows.items()}
    for limits, wanted, why in (
        ((10e6, 1.0), "b", "it is the most accurate within both limits"),
        ((4e6, 0.4), "b", "exactly at a limit is within it"),
        ((50e6, 1.0), "c", "few multiply-adds are allowed, and many parameters"),
        ((10e6, 10.0), "d", "many multiply-adds are allowed, and few parameters"),
        ((1e6, 0.1), None, "nothing is within these limits"),
    ):
        found = function({name: dict(row) for name, row in table.items()}, *limits)
        if found != wanted:
            raise NotRightError(
                f"with at most {limits[0]:,.0f} parameters and {limits[1]} G it gives {found!r}, not {wanted!r}: {why}."
            )
    return "limits come first, accuracy second. Then measure the candidates on your machine and your images."


STEPS_OF_LESSONS = tuple(STEPS)
