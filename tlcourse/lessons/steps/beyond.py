"""The steps of the tasks in lesson 3.7."""

from typing import Any

import torch
from torch import nn

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step


@step("3.7/low-rank")
def low_rank(function: Any) -> str:
    """A function of a layer and a rank: how many values a low-rank change of its weight trains."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a layer and a rank.")
    layers = nn.Linear(30, 7), nn.Conv2d(16, 24, 1), nn.Conv2d(8, 20, (1, 3)), nn.Conv2d(12, 12, 5, groups=4)
    for layer in layers:
        for rank in (1, 6, 9):
            rows, columns = layer.weight.flatten(1).shape
            found, wanted = function(layer, rank), rank * (rows + columns)
            if isinstance(found, str):
                raise NotRightError("it returns a text. Return a number.")
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
        if found[name].shape != a.shape:
            raise NotRightError(f"{name} is {tuple(found[name].shape)} and was {tuple(a.shape)}.")
        if not a.is_floating_point() and not torch.minimum(a, b) <= found[name] <= torch.maximum(a, b):
            raise NotRightError(f"{name} is {found[name].item()}, and it counts batches: {a.item()} and {b.item()}.")
        if found[name].dtype != a.dtype:
            raise NotRightError(f"{name} is {found[name].dtype} and was {a.dtype}: give it the type that it had.")
        if a.is_floating_point() and not torch.allclose(found[name], (a + b) / 2, atol=1e-6):
            raise NotRightError(f"{name} is not the mean of the two. Statistics of batch norms are averaged, too.")
    return "the mean costs nothing when the model is used: it is one network, with one pass for an image."
