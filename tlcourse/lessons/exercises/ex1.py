"""The steps of exercise 1, "Choose a strategy": what trains, what it costs, and what the learner's own runs say."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.comparison import Runs
from tlcourse.lessons.exercises.answers import need_function, pair
from tlcourse.lessons.exercises.made_up import COSTS, TABLES, TURNED, WAYS, made_up
from tlcourse.lessons.exercises.measured import FEWEST, need_pairs, need_runs

SCENARIOS = {"radiographs": 20, "landuse": 40, "surfaces": 80}
PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")


@step("ex1/train")
def train(function: Any) -> str:
    """A function of a model, parts, batches and a rate: these parts train, and nothing else of the model changes."""
    need_function(function, "a model, parts, batches and a rate")
    for trains, arrives_frozen in ((("fc",), False), (("layer4", "fc"), True), (PARTS, True), (PARTS[-3:], False)):
        _part_trains(function, trains, arrives_frozen)
    moved = _moves(function, 1e-9)
    if moved > 1e-6:
        raise NotRightError(f"with `lr=1e-9`, values of fc.weight move by {moved:.2g}. Does `lr` reach the optimizer?")
    return (
        "the optimizer decides what moves, `requires_grad` what is paid for, and the mode whether a batch norm keeps "
        "its statistics. A frozen part needs all three."
    )


def _part_trains(function: Any, trains: tuple[str, ...], arrives_frozen: bool) -> None:
    """Train on three batches, and hold everything that may change against what is to change."""
    torch.manual_seed(0)
    model = models.create("tl_resnet", 2).train(not arrives_frozen).requires_grad_(not arrives_frozen)
    batches = [(torch.randn(6, 3, 32, 32), torch.arange(6) % 2) for _ in range(3)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen, new, summed, paid, heads = [], [], [], [], []
    model.fc.register_forward_pre_hook(lambda fc, inputs: heads.append(fc.weight.square().sum().item()))
    model.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    if not arrives_frozen:
        model.conv1.weight.register_hook(lambda gradient: paid.append("conv1.weight"))
        model.fc.bias.register_hook(lambda gradient: new.append(gradient.clone()))
        model.fc.bias.register_post_accumulate_grad_hook(lambda bias: summed.append(bias.grad.clone()))
    function(model, trains, iter(batches) if arrives_frozen else batches, 0.01)
    after, own = model.state_dict(), dict(model.named_parameters())
    moved = {name for name, old in before.items() if not old.equal(after[name])}
    where = f"with `trains={trains}`, "
    if not moved:
        raise NotRightError(f"{where}nothing of the model changed. Has the optimizer parameters of the model given?")
    for name in own:
        part = name.split(".")[0]
        if part in trains and name not in moved:
            why = "No optimizer moved it." if own[name].requires_grad else "It takes no gradients: it is still frozen."
            raise NotRightError(f"{where}{name} did not move. {why}")
        if part not in trains and name in moved:
            raise NotRightError(f"{where}{name} moved, and {part} does not train. Which parameters has the optimizer?")
    for name in sorted(before.keys() - own.keys(), key=lambda name: ("tracked" in name, name)):
        part = name.split(".")[0]
        if part not in trains and name in moved:
            raise NotRightError(f"{where}{name} moved, and {part} is frozen. `eval()` keeps a batch norm still.")
        if part in trains and name not in moved:
            raise NotRightError(f"{where}{name} stayed, and {part} trains: its batch norms are to follow the batches.")
    paid += [n for n, p in own.items() if n.split(".")[0] not in trains and p.grad is not None]
    if paid:
        why = "given a gradient that nothing uses, and that costs a backward pass"
        raise NotRightError(f"{where}{paid[0]} was {why}. Set `requires_grad` to False where nothing trains.")
    if sum(seen) != 18:
        raise NotRightError(f"{where}{sum(seen)} images went through the model, and `batches` held 18. Use each once.")
    if len(set(heads)) < len(heads):
        raise NotRightError(f"{where}a batch met the same weights as the one before. Make a step after every batch.")
    if len(summed) > 1 and not torch.allclose(new[1], summed[1]):
        raise NotRightError(f"{where}the second batch's gradient was added to the first's. Set it to zero in between.")


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
    if not last < first:
        raise NotRightError("after three steps on one batch, its loss is not lower. Does it go down the gradient?")
    wanted = ((heads[0][1].softmax(1) - torch.nn.functional.one_hot(labels)).T @ heads[0][0].float()).flatten()
    if gradients and torch.cosine_similarity(gradients[0], wanted, 0) < 0.98:
        raise NotRightError("the head's gradient is not that of the cross-entropy of the model's outputs.")
    return found[-1]


@step("ex1/passes")
def passes(function: Any) -> str:
    """A function of costs, parts, images and a budget: the whole passes that the budget pays for."""
    need_function(function, "costs, parts, images and a budget")
    for cost, trains, images, budget in COSTS:
        found = function(dict(cost), trains, images, budget)
        whole, trained = sum(cost.values()), sum(cost[name] for name in trains)
        each, like = images * (whole + 2 * trained), sum(cost[n] for n in cost if any(part in n for part in trains))
        wanted = budget // each
        if isinstance(found, bool | str) or not isinstance(found, int | float | np.number | torch.Tensor):
            raise NotRightError(f"the function returns a {type(found).__name__}. Return a whole number of passes.")
        if float(found) == wanted:
            continue
        mistakes = {
            budget / each: "That is no whole number of passes.",
            -(-budget // each): "That costs more than the budget: round down.",
            max(1, wanted): "That costs more than the budget: the answer may be zero.",
            budget // (images * (whole + 2 * like)): "A name in another is no part that trains: layer10 is not layer1.",
            budget // (images * 3 * whole): "Does the backward pass go through parts that do not train?",
            budget // (images * 3 * max(trained, 1)): "The forward pass goes through the frozen parts, too.",
            budget // (images * (whole + trained)): "A backward pass costs twice the forward pass of its parts.",
            budget // (images * (whole + 3 * trained)): "A backward pass costs twice the forward one, not three times.",
            budget // (images * (3 * whole - 2 * trained)): "That is the backward pass of the frozen parts.",
            budget // (images * whole): "The backward pass is not counted.",
            budget // (whole + 2 * trained): "That is for one image: a pass goes over all of them.",
        }
        why = mistakes.get(float(found), "Count forward through all parts, and twice that of the parts that train.")
        seen = f"with cost {cost}, trains {trains}, {images} images and a budget of {budget:,} you return {found}, and "
        raise NotRightError(f"{seen}{wanted} is asked for: one pass costs {each:,}. {why}")
    return (
        "training fewer parts saves part of the backward pass and nothing of the forward pass. Seconds need not follow "
        "the multiply-adds: measure those as well where time is what you pay for."
    )


@step("ex1/unbeaten")
def unbeaten(function: Any) -> str:
    """A function of runs and ways: the ways that no other clearly beats, or none where there are too few seeds."""
    need_function(function, "runs and ways")
    for about, names, accuracies in TABLES:
        runs, ways = made_up(names, accuracies, TURNED in about), tuple(name for name in names if name != "scratch")
        found, wanted = function(runs, ways), _unbeaten(runs, ways)
        if isinstance(found, str | set | Mapping) or not hasattr(found, "__iter__"):
            raise NotRightError(f"where {about}, you return {found!r}. Return a list, also of one way or of none.")
        found = list(map(str, found))
        if found == wanted:
            continue
        why = "Go through all other ways in `ways`: one that clearly beats it is enough."
        if not wanted:
            a, b = min(combinations(ways, 2), key=lambda two: len(runs.difference(*two).values))
            why = f"{a!r} and {b!r} have fewer than {FEWEST} seeds in common, so nothing is decided."
        elif sorted(found) == sorted(wanted):
            why = "These are the right ways in another order than in `ways`."
        elif not found:
            why = f"The way with the highest mean is beaten by none: with {FEWEST} seeds in common there is always one."
        elif set(wanted) < set(found):
            why = f"The interval of a way minus {min(set(found) - set(wanted))!r} lies above zero."
        elif set(found) < set(wanted):
            why = f"{min(set(wanted) - set(found))!r} is not beaten: no interval of a way minus this one is above zero."
        if "just" in about:
            why += " The margin is t(0.975, n - 1) times the deviation (that divides by n - 1), over the root of n."
        seen = f"{_differences(runs, ways)}. You return {found}, and {wanted} is asked for. {why}"
        raise NotRightError(f"where {about}: {seen}")
    return (
        "a way stays in as long as nothing shown speaks against it. That is no proof that the tied ways are equal: it "
        "says that these runs do not tell them apart. Memory and effort may decide then."
    )


def _unbeaten(runs: Runs, ways: Iterable[str]) -> list[str]:
    """Return the ways that no other clearly beats; none if two of them have too few seeds in common."""
    leads = {(a, b): runs.difference(a, b) for a in ways for b in ways if a != b}
    if any(len(lead.values) < FEWEST for lead in leads.values()):
        return []
    return [way for way in ways if not any(b == way and d.clear and d.mean > 0 for (_, b), d in leads.items())]


def _differences(runs: Runs, ways: Iterable[str]) -> str:
    return "; ".join(f"{b} minus {a} {runs.difference(b, a)}" for a, b in combinations(ways, 2))


@step("ex1/radiographs")
def radiographs(answer: Any) -> str:
    """Runs of the three ways on radiographs, and the ways that no other beats in them."""
    runs, kept = pair(answer, "the runs and the list of unbeaten ways")
    runs = _need_runs(runs, "radiographs")
    wanted = _unbeaten(runs, WAYS)
    if isinstance(kept, str | Mapping) or not hasattr(kept, "__iter__"):
        raise NotRightError(f"the second part is {kept!r}. Give a list of ways, also where there is only one.")
    kept = list(map(str, kept))
    if sorted(kept) != sorted(wanted):
        raise NotRightError(f"you name {kept}. In your runs, {_differences(runs, WAYS)}: unbeaten are {wanted}.")
    tied = " These are tied: the runs do not tell them apart." if len(wanted) > 1 else ""
    return f"in your runs, unbeaten are {', '.join(wanted)}.{tied} {_differences(runs, WAYS)}."


@step("ex1/scenarios")
def scenarios(answer: Any) -> str:
    """Runs of all scenarios, and for each a way that no other beats in them."""
    runs, choices = pair(answer, "the runs and a dictionary of choices")
    if not isinstance(choices, Mapping):
        raise NotRightError(f"the second part is a {type(choices).__name__}. Give a dictionary: scenario -> way.")
    if missing := [name for name in SCENARIOS if name not in choices]:
        raise NotRightError(f"the dictionary has no choice for {missing[0]!r}.")
    ties = []
    for name in SCENARIOS:
        own = _need_runs(runs, name)
        kept, given = _unbeaten(own, WAYS), choices[name]
        named = [given] if isinstance(given, str) or not hasattr(given, "__iter__") else given
        named = [str(way).strip().lower() for way in named]
        if not named or not set(named) <= set(WAYS):
            raise NotRightError(f"for {name} you choose {given!r}. Choose among {', '.join(WAYS)}.")
        if beaten := [way for way in named if way not in kept]:
            seen = f"for {name} you choose {beaten[0]!r}. In your runs, {_differences(own, WAYS)}"
            raise NotRightError(f"{seen}: another way clearly beats it. Unbeaten are {kept}.")
        if len(kept) > 1:
            ties.append(name)
    tied = f" On {', '.join(ties)} several ways are unbeaten: what trains least is a good choice." if ties else ""
    return f"no other way beats your choices, in your own runs.{tied} With another budget the choices may be others."


def _need_runs(runs: Any, name: str) -> Runs:
    """Return a scenario's runs, after making sure that its three ways can be compared."""
    if name not in (there := {row["data"] for row in need_runs(runs).rows}):
        raise NotRightError(f"there are no runs on {name}: there are runs on {', '.join(sorted(there))}.")
    runs = runs.only(data=name)
    if wrong := {row["images"] for row in runs.rows} - {SCENARIOS[name]}:
        raise NotRightError(f"runs on {name} learned from {min(wrong)} images, and {SCENARIOS[name]} are asked for.")
    need_pairs(runs.rows, tuple(WAYS), on=f"on {name} ", same="they are one way")
    return runs
