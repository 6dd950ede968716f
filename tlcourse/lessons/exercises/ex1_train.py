"""The first step of exercise 1, "Choose a strategy": the parts that are named train, and nothing else changes."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises.answers import need_function

PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


@step("ex1/train")
def train(function: Any) -> str:
    """A function of a model, parts, batches and a rate: these parts train, and nothing else of the model changes."""
    need_function(function, "a model, parts, batches and a rate")
    for trains, arrives_frozen in ((("fc",), False), (("layer4", "fc"), True), (PARTS, True), (PARTS[-3:], False)):
        _part_trains(function, trains, arrives_frozen)
    _need_whole_names(function)
    moved = _moves(function, 1e-9)
    if moved > 1e-6:
        raise NotRightError(f"with `lr=1e-9`, values of fc.weight move by {moved:.2g}. Does `lr` reach the optimizer?")
    return (
        "the optimizer decides what moves, `requires_grad` what is paid for, and the mode whether a batch norm keeps "
        "its statistics. A frozen part needs all three."
    )


@contextmanager
def _steps() -> Iterator[list[tuple[Any, float, int, bool]]]:
    """Note optimizer, rate, id, and whether there is a gradient, of each parameter in each step."""
    steps: list[tuple[Any, float, int, bool]] = []

    def note(optimizer: Any, *_: object) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                steps.append((optimizer, float(group["lr"]), id(p), p.grad is not None and bool(p.grad.any())))

    hook = register_optimizer_step_pre_hook(note)
    try:
        yield steps
    finally:
        hook.remove()


def _part_trains(function: Any, trains: tuple[str, ...], arrives_frozen: bool) -> None:
    """Train on three batches, and hold everything that may change against what is to change."""
    torch.manual_seed(0)
    model = models.create("tl_resnet", 2).train(not arrives_frozen).requires_grad_(not arrives_frozen)
    batches = [(torch.randn(6, 3, 32, 32), torch.arange(6) % 2) for _ in range(3)]
    before, own = {n: value.clone() for n, value in model.state_dict().items()}, dict(model.named_parameters())
    still = [name for name in before if name.split(".")[0] not in trains]
    seen, new, summed, paid, heads, awake, head = [], [], [], [], [], [], model.fc
    head.register_forward_pre_hook(lambda fc, inputs: heads.append(fc.weight.square().sum().item()))
    model.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" in still:
            module.register_forward_pre_hook(lambda norm, _, name=name: awake.extend([name] * norm.training))
    if not arrives_frozen:
        for name in own.keys() & set(still):
            own[name].register_hook(lambda gradient, name=name: paid.append(name))
        head.bias.register_hook(lambda gradient: new.append(gradient.clone()))
        head.bias.register_post_accumulate_grad_hook(lambda bias: summed.append(bias.grad.clone()))
    with _steps() as steps:
        function(model, trains, iter(batches) if arrives_frozen else batches, 0.01)
    after = model.state_dict()
    moved = {name for name, old in before.items() if not old.equal(after[name])}
    where = f"with `trains={trains}`, "
    if model.fc is not head:
        raise NotRightError(f"{where}the model has another head than before. Train the one that it came with.")
    if not moved:
        why = "Has the optimizer parameters of the model given?" if steps else "No optimizer made a step."
        if steps and not any(slope for *_, slope in steps):
            why = "Its optimizer found no gradients: is `backward` called, and `zero_grad` before that?"
        raise NotRightError(f"{where}nothing of the model changed. {why}")
    for name in own:
        part = name.split(".")[0]
        if name not in still and name not in moved:
            why = "No optimizer moved it." if own[name].requires_grad else "It takes no gradients: it is still frozen."
            raise NotRightError(f"{where}{name} did not move. {why}")
        if name in still and name in moved:
            raise NotRightError(f"{where}{name} moved, and {part} does not train. Which parameters has the optimizer?")
    for name in sorted(before.keys() - own.keys(), key=lambda name: ("tracked" in name, name)):
        part = name.split(".")[0]
        if name in still and name in moved:
            raise NotRightError(f"{where}{name} moved, and {part} is frozen. `eval()` keeps a batch norm still.")
        if name not in still and name not in moved:
            raise NotRightError(f"{where}{name} stayed, and {part} trains: its batch norms are to follow the batches.")
    if awake:
        why = "`eval()` makes it use its own"
        raise NotRightError(f"{where}{awake[0]} is frozen, and normalises by the statistics of the batch: {why}.")
    paid += [name for name in own if name in still and own[name].grad is not None]
    if paid:
        why = "given a gradient that nothing uses, and that costs a backward pass"
        raise NotRightError(f"{where}{paid[0]} was {why}. Set `requires_grad` to False where nothing trains.")
    if sum(seen) != 18:
        raise NotRightError(f"{where}{sum(seen)} images went through the model, and `batches` held 18. Use each once.")
    if seen != [6, 6, 6]:
        raise NotRightError(f"{where}{seen[0]} images went through the model at once. Take each batch, of 6, whole.")
    if (most := max(Counter(p for *_, p, _ in steps).values(), default=0)) > 3:
        raise NotRightError(f"{where}a parameter made {most} steps for 3 batches. Make one step for each.")
    if len(set(heads)) < len(heads):
        raise NotRightError(f"{where}a batch met the same weights as the one before. Make a step after every batch.")
    if len(summed) > 1 and not torch.allclose(new[1], summed[1]):
        raise NotRightError(f"{where}the second batch's gradient was added to the first's. Set it to zero in between.")
    if wrong := [rate for _, rate, *_ in steps if not math.isclose(rate, 0.01, rel_tol=1e-6)]:
        raise NotRightError(f"{where}parameters move at the rate {wrong[0]:g}, and `lr` is 0.01. Use `lr` for all.")
    if len({(id(by), p) for by, _, p, _ in steps}) > len({p for *_, p, _ in steps}):
        raise NotRightError(f"{where}a parameter was in several optimizers. Build one before the loop: it remembers.")


def _moves(function: Any, lr: float) -> float:
    """Return how far the head's weights move at a rate, after making sure that at a larger one it learns a batch."""
    torch.manual_seed(1)
    inputs, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 1, 0, 1, 1])
    found, heads, gradients = [], [], []
    for rate in (0.01, lr):
        torch.manual_seed(2)
        model = models.create("tl_resnet", 2, weights=None).eval()
        model.fc.weight.data *= 20  # the head is now surer of some images than of others
        model.fc.weight.register_hook(lambda gradient: gradients.append(gradient.flatten()))
        model.fc.register_forward_hook(lambda fc, given, out: heads.append((given[0].detach(), out.detach().float())))
        old = model.fc.weight.detach().clone()
        function(model, ("fc",), [(inputs, labels)] * 4, rate)
        found.append((model.fc.weight - old).abs().max().item())
    first, *_, last = [torch.nn.functional.cross_entropy(out, labels).item() for _, out in heads[:4]]
    wanted = ((heads[0][1].softmax(1) - torch.nn.functional.one_hot(labels)).T @ heads[0][0].float()).flatten()
    if gradients and abs(torch.cosine_similarity(gradients[0], wanted, 0)) < 0.98:  # the other way is told below
        raise NotRightError("the head's gradient is not that of the cross-entropy of the model's outputs.")
    if not last < first:
        raise NotRightError("after three steps on one batch, its loss is not lower. Does it go down the gradient?")
    return found[-1]


def _need_whole_names(function: Any) -> None:
    """Refuse what takes `layer1.0.bn1` for a part of `bn1`; other troubles with a lone batch norm don't matter."""
    model = models.create("tl_resnet", 2, weights=None).eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with suppress(Exception):
        function(model, ("bn1", "fc"), [(torch.randn(6, 3, 32, 32), torch.arange(6) % 2)], 0.01)
    moved = [name for name, p in model.named_parameters() if not p.equal(before[name])]
    inside = [name for name in moved if "bn1" in name and name[:3] != "bn1"]
    if inside and all("bn1" in name or "fc" in name for name in moved):
        seen = f"with `trains=('bn1', 'fc')`, {inside[0]} moved, and layer1 does not train"
        raise NotRightError(f"{seen}. It has 'bn1' in its name: compare what stands before the first dot.")
