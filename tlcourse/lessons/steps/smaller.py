"""The steps of the tasks of lesson 3.6b."""

import copy
from typing import Any

import torch
from torch import nn

from tlcourse.lessons.checks import NotRightError, step


@step("3.6b/one-limit")
def one_limit(function: Any) -> str:
    """A function that sets the smallest weights of all layers together to zero, in place."""
    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a model and a share.")
    torch.manual_seed(0)
    for share in (0.5, 0.8):
        model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.Flatten(), nn.Linear(20, 4))
        with torch.no_grad():
            model[3].weight.mul_(3)
            model[1].weight.mul_(0.001)
        before = copy.deepcopy(model)
        function(model, share)
        new = dict(model.named_parameters())  # by name: some ways to prune put them into another order
        if missing := [name for name, _ in before.named_parameters() if name not in new]:
            raise NotRightError(f"{missing[0]} is gone. Make the zeros permanent, with `prune.remove` for example.")
        pairs = [(p.detach(), new[name].detach()) for name, p in before.named_parameters()]
        if any(not torch.equal(old, new) for old, new in pairs if old.dim() < 2):
            raise NotRightError("biases or batch norms changed. Take tensors with two or more dimensions.")
        old, new = (torch.cat([pair[i].flatten() for pair in pairs if pair[0].dim() > 1]) for i in (0, 1))
        zeros = (new == 0).float().mean().item()
        if zeros == 0:
            raise NotRightError("the model that it was given has no zeros. Change the weights in place.")
        if abs(zeros - share) > 0.005:
            raise NotRightError(f"with share {share}, {zeros:.3f} of all weights are zero.")
        if not torch.equal(new[new != 0], old[new != 0]):
            raise NotRightError("weights that stay have changed.")
        if old[new == 0].abs().max() > old[new != 0].abs().min():
            raise NotRightError("a weight is zero that is larger than one that stays. Take one limit for all layers.")
    return "layers differ in how much they can lose. One limit finds that out; a share for each layer assumes it."


@step("3.6b/any-batch")
def any_batch(answer: Any) -> str:
    """An exported program that takes any number of images, in evaluation mode."""
    model, program = answer
    if not isinstance(program, torch.export.ExportedProgram):
        raise NotRightError(f"the answer is a {type(program).__name__}. Give what `torch.export.export` returns.")
    size = model.preprocessing.size
    images = torch.randn(65, 3, size, size, generator=torch.Generator().manual_seed(0))
    run = program.module()
    for count in (1, 2, 65):
        with torch.no_grad():
            try:
                found = run(images[:count])
            except (AssertionError, RuntimeError) as error:
                first = str(error).split("\n")[0][:120]
                raise NotRightError(
                    f"it refuses {count} images ({first}). Name dimension 0 as dynamic, without a limit."
                ) from error
            wanted = copy.deepcopy(model).eval()(images[:count])
        if not torch.allclose(found, wanted, atol=1e-3):
            raise NotRightError("it answers otherwise than the model in evaluation mode. Call `model.eval()` before.")
    return "one file now serves a single image and a folder. Only what you name may vary: height and width are fixed."
