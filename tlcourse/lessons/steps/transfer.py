"""The steps of the tasks of lessons 0, 3.1 and 3.2."""

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.side_effects import no_side_effects


@step("0/set")
def which_set(answer: Any) -> str:
    """The name of the set that accuracies were measured on."""
    words = set(re.findall(r"[a-z]+", str(answer).lower()))
    given = {"valid": "validation", "val": "validation", "train": "training"}
    named = {given.get(word, word) for word in words} & {"training", "validation", "test"}
    if named == {"validation"} and not words & {"not", "no", "cross"}:
        return "what you look at often, you fit to, even without training on it. So the test set waits for the end."
    if named == {"training"}:
        raise NotRightError(
            "a network can learn its training images by heart, so they say little. Look above the claim."
        )
    if named == {"test"}:
        raise NotRightError("the test set is for the end of a project. Look above the claim.")
    raise NotRightError(f"{answer!r} does not name one of the three sets.")


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
    return "with a hook you read any layer of any network, and change none of its code."


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
    return "k = 1 is what most backbones do before their head. A larger k keeps where things are, in more numbers."


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
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with no_side_effects(model):
        scores = model(images)
    if scores.shape[-1] != 5:
        raise NotRightError(f"it gives {scores.shape[-1]} scores for an image. Five classes need five.")
    if scores.min() >= 0 and torch.allclose(scores.sum(-1), torch.ones(8)):
        raise NotRightError(
            "it gives probabilities. `cross_entropy` applies softmax itself: leave the scores as they are."
        )
    low = copy.deepcopy(model)  # random scores may all be positive, so these are made negative
    for layer in [module for module in low.fc.modules() if isinstance(module, nn.Linear)][-1:]:
        layer.weight.data = -layer.weight.data.abs()
        if layer.bias is not None:
            layer.bias.data = layer.bias.data - 1000
    with torch.no_grad():
        if low(images).min() >= 0:
            raise NotRightError("it gives no score below zero. End with the linear layer, without ReLU or sigmoid.")
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
    for stage in ("head", "layer4", "one bias", "all of layer4 but one norm"):
        model = models.create("tl_resnet", 2, weights=None).eval()
        models.unfreeze_from(model, "layer4" if "layer4" in stage else "head")
        model.layer4[0].bn1.requires_grad_(stage == "layer4")
        model.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, 2)).eval()
        model.bn1.bias.requires_grad_(stage == "one bias")
        gradients = [p.requires_grad for p in model.parameters()]
        function(model)
        if [p.requires_grad for p in model.parameters()] != gradients:
            raise NotRightError("the function changes what is frozen. It is to change modes alone.")
        if not model.training:
            raise NotRightError("the model itself is still in evaluation mode. Start with `model.train()`.")
        if not model.fc[0].training:
            raise NotRightError("the head's dropout is switched off: it has no parameters, so nothing of it is frozen.")
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
