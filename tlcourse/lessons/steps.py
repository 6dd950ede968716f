"""The steps of the lessons' tasks: each looks at what an answer does, and says what is right or wrong with it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tlcourse import models
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
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    spy = model.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output.mean((2, 3))))
    with torch.no_grad():
        model(images)
    spy.remove()
    before = [len(module._forward_hooks) for module in model.modules()]
    found = function(model, images)
    if not isinstance(found, torch.Tensor):
        raise NotRightError(f"the function returns a {type(found).__name__}. Return the tensor itself.")
    if found.shape != seen[0].shape:
        raise NotRightError(f"it returns {tuple(found.shape)} for 4 images, and {tuple(seen[0].shape)} is asked for.")
    if not torch.allclose(found.detach().cpu(), seen[0], atol=1e-4):
        raise NotRightError(
            "the shape is right and the numbers are not. Is it layer2's output, averaged over positions?"
        )
    if [len(module._forward_hooks) for module in model.modules()] != before:
        raise NotRightError("a hook is left in the model: it would run in every later pass. Call `hook.remove()`.")
    return "with a hook you read any layer of any network, also for Grad-CAM, and change none of its code."


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
    names = {id(p): name for name, p in model.named_parameters()}
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise NotRightError("it holds a parameter that is not one of `resnet18`'s. Use the model of this cell.")
            rates[names[id(parameter)]] = float(group["lr"])
    if missing := [name for name in names.values() if name not in rates]:
        raise NotRightError(f"{len(missing)} parameters are in no group, such as {missing[0]}: they would not train.")
    for name, rate in rates.items():
        wanted = 1e-3 if name.startswith("fc.") else 1e-4 if name.startswith("layer4.") else 1e-5
        if not math.isclose(rate, wanted, rel_tol=1e-6):
            raise NotRightError(f"{name} has the rate {rate:g}. The task asks for {wanted:g}.")
    return "every parameter has a rate, and one rate. One that is forgotten stays as it is, and no error says so."


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
        if not isinstance(found, int | float) or not math.isclose(found, wanted, abs_tol=1e-6):
            shown = f"{found:.4g}" if isinstance(found, int | float) else repr(found)
            raise NotRightError(f"at step {step_number} it gives {shown}, and {wanted:.4g} is asked for.")
    return "the head is random at first: while the rate rises, its large gradients do less harm to the backbone."


@step("3.7/low-rank")
def low_rank(function: Any) -> str:
    """A function of a layer and a rank: how many values a low-rank change of its weight trains."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a layer and a rank.")
    for layer in (nn.Linear(30, 7), nn.Conv2d(16, 24, 1), nn.Conv2d(8, 20, 3), nn.Conv2d(12, 12, 5, groups=4)):
        for rank in (1, 6):
            rows, columns = layer.weight.flatten(1).shape
            found, wanted = function(layer, rank), rank * (rows + columns)
            if found != wanted:
                raise NotRightError(f"for {layer} and rank {rank} it gives {found}, and {wanted} is asked for.")
    return "a change of high rank can have more values than the weight itself, so compare the two before you train."


@step("3.7/mean")
def mean_of_states(function: Any) -> str:
    """A function of two state dictionaries that gives their mean, and leaves both as they were."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of two state dictionaries.")
    states = [models.create("tl_resnet", 2, weights=None).state_dict() for _ in range(2)]
    states[1]["bn1.num_batches_tracked"] += 4
    states[1]["bn1.running_mean"] += 1
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    found = function(*states)
    if any(
        not tensor.equal(old[name]) for state, old in zip(states, before, strict=True) for name, tensor in state.items()
    ):
        raise NotRightError("a tensor of the first or second state has changed. Make new tensors.")
    if not hasattr(found, "keys") or found.keys() != states[0].keys():
        raise NotRightError("the result has other names than the two states. Give a dictionary with all of them.")
    for name, (a, b) in {name: (states[0][name], states[1][name]) for name in found}.items():
        if found[name].dtype != a.dtype:
            raise NotRightError(f"{name} is {found[name].dtype} and was {a.dtype}: give it the type that it had.")
        if a.is_floating_point() and not torch.allclose(found[name], (a + b) / 2, atol=1e-6):
            raise NotRightError(f"{name} is not the mean of the two. Statistics of batch norms are averaged, too.")
    return "the mean costs nothing when the model is used: it is one network, with one pass for an image."


STEPS_OF_LESSONS = tuple(STEPS)
