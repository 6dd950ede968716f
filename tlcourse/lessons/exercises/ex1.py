"""The steps of exercise 1, "Choose a strategy": what trains, what it costs, and what runs support."""

import math
from typing import Any

from torch import nn

from tlcourse import models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.comparison import Runs
from tlcourse.lessons.exercises.answers import need_function
from tlcourse.table import Table

STRATEGIES = ("features", "last stage", "everything")  # the cheapest first
SCENARIOS = ("radiographs", "landuse", "surfaces")


@step("ex1/trains")
def trains(function: Any) -> str:
    """A function of a network and a strategy: it lets exactly those parameters take gradients that train."""
    need_function(function, "a network and a strategy")
    for before in (True, False):
        for strategy, parts in zip(STRATEGIES, (("fc",), ("layer4", "fc"), ("",)), strict=True):
            model = models.create("tl_resnet", 2, weights=None)
            model.requires_grad_(before)
            made = function(model, strategy)
            model = made if isinstance(made, nn.Module) else model
            found = {name for name, p in model.named_parameters() if p.requires_grad}
            wanted = {name for name, _ in model.named_parameters() if name.startswith(parts)}
            was = f"for {strategy!r}, with a network in which {'everything' if before else 'nothing'} took gradients"
            if missing := sorted(wanted - found):
                raise NotRightError(f"{was}, {missing[0]} takes none afterwards, so it wouldn't train.")
            if extra := sorted(found - wanted):
                raise NotRightError(f"{was}, {extra[0]} takes gradients afterwards, and it is to stay as it is.")
    return (
        "what doesn't train needs no gradients, so a strategy decides what a step costs as well as what it can change."
    )


@step("ex1/passes")
def passes(function: Any) -> str:
    """A function of a budget, images and the share of the work that trains: how many whole passes they allow."""
    need_function(function, "a budget, a number of images and a share")
    for budget, images, share in ((1920, 160, 0.33), (960, 40, 1.0), (960, 40, 0.5), (1000, 70, 0.25), (500, 7, 0.0)):
        wanted, found = int(budget / (images * (1 + 2 * share))), function(budget, images, share)
        if isinstance(found, bool) or (not isinstance(found, int | float) and getattr(found, "shape", None) != ()):
            raise NotRightError(f"it returns {found!r}. Return one whole number.")
        if found != wanted:
            asked = f"a budget of {budget}, {images} images and a share of {share:g} give {float(found):g}"
            raise NotRightError(
                f"{asked}, and {wanted} is asked for. {_why_passes(float(found), budget, images, share)}"
            )
    return (
        "with the same number of epochs, training everything would have cost most, and the comparison would favour it."
    )


def _why_passes(found: float, budget: int, images: int, share: float) -> str:
    exact = budget / (images * (1 + 2 * share))
    if math.isclose(found, exact):
        return "Only whole passes count: round down."
    if found == math.ceil(exact):
        return "The last pass would exceed the budget: round down."
    if found == int(budget / images):
        return "That is without the backward pass."
    if found == int(budget / (images * (1 + share))):
        return "The backward pass costs twice as much as the forward pass of the part that trains."
    if found == int(budget / (images * 3)):
        return "The backward pass goes no deeper than what trains: its cost depends on the share."
    return "One image costs one forward pass, and twice the share for the backward pass."


# Means above the features for (last stage, everything), the noise of a seed, and the strategy to choose.
TABLES = {
    "the three are alike": ((0.01, 0.0), 0.05, "features"),
    "everything is clearly the best": ((0.04, 0.12), 0.01, "everything"),
    "the last stage is better than the features, and everything is no better than the last stage": (
        (0.10, 0.11),
        0.03,
        "last stage",
    ),
    "training anything makes it worse": ((-0.08, -0.12), 0.01, "features"),
    "the last stage is clearly better, and everything worse": ((0.10, -0.05), 0.01, "last stage"),
    "everything is clearly better than the features, and not than the last stage": ((0.04, 0.07), 0.045, "last stage"),
}
NOISE = (0.9, -1.1, 0.3, -0.8, 0.7), (-0.6, 0.8, 1.1, -1.2, -0.1)


def _table(means: tuple[float, float], noise: float, shift: float) -> Runs:
    """Return runs of five seeds whose differences from the features have these means."""
    rows = Table()
    for seed in range(5):
        base = 0.7 + shift * (seed - 2)  # seeds differ far more than strategies
        more = (0.0, *(mean + noise * n[seed] for mean, n in zip(means, NOISE, strict=True)))
        for way, gain in zip(STRATEGIES, more, strict=True):
            row = {"data": "hidden", "way": way, "images": 40, "seed": seed, "accuracy": base + gain}
            rows.append(row | {"loss": 1 - base - gain, "seconds": 1.0})
    return Runs(rows)


def decision(runs: Runs) -> str:
    """Return the cheapest strategy that no dearer one clearly beats."""
    for i, way in enumerate(STRATEGIES):
        better = (runs.difference(other, way) for other in STRATEGIES[i + 1 :])
        if not any(one.clear and one.mean > 0 for one in better):
            return way
    raise AssertionError("nothing is dearer than the last")


@step("ex1/decide")
def decide(function: Any) -> str:
    """A function of runs: the cheapest strategy that no dearer one clearly beats."""
    need_function(function, "runs")
    for what, (means, noise, wanted) in TABLES.items():
        for shift in (0.0, 0.06):
            runs = _table(means, noise, shift)
            if decision(runs) != wanted:
                raise AssertionError(what)
            found = str(function(runs)).strip().lower()
            if found not in STRATEGIES:
                raise NotRightError(f"it returns {found!r}. Return one of {', '.join(map(repr, STRATEGIES))}.")
            if found != wanted:
                seen = {f"{a} minus {b}": runs.difference(a, b) for a, b in _pairs()}
                shown = "; ".join(f"{name} {one.mean:+.3f} ± {one.margin:.3f}" for name, one in seen.items())
                raise NotRightError(f"it chooses {found!r} where {what}, and {wanted!r} is asked for: {shown}.")
    return "a dearer strategy has to show that it is better; a tie goes to the cheaper one."


def _pairs() -> list[tuple[str, str]]:
    cheap, middle, dear = STRATEGIES
    return [(middle, cheap), (dear, cheap), (dear, middle)]


@step("ex1/agree")
def agree(answer: Any) -> str:
    """Live runs of two seeds or more, of the small scenario with all three strategies."""
    from tlcourse.lessons.experiments import stored

    if not isinstance(answer, Runs):
        raise NotRightError(f"the answer is a {type(answer).__name__}. Give what `tl.experiments.compare` returned.")
    ways = {row["way"] for row in answer.rows}
    if missing := set(STRATEGIES) - ways:
        raise NotRightError(f"there are no runs named {min(missing)!r}: there are {', '.join(sorted(ways))}.")
    if {(row["data"], row["images"]) for row in answer.rows} != {("radiographs", 40)}:
        raise NotRightError("the runs are not of 40 radiographs alone.")
    seeds = {row["seed"] for row in answer.rows}
    if len(seeds) < 2 or len(answer.rows) != len(seeds) * len(ways):
        raise NotRightError(
            f"there are {len(answer.rows)} runs of {len(seeds)} seeds. Run two seeds or more of each way."
        )
    for way in STRATEGIES:
        old, new = (runs.accuracies(way).values() for runs in (stored("strategies").only(data="radiographs"), answer))
        spread = max(old) - min(old)
        if not min(old) - spread - 0.05 <= sum(new) / len(new) <= max(old) + spread + 0.05:
            told = f"{way!r} has a mean accuracy of {sum(new) / len(new):.3f}, and the stored runs lie between"
            raise NotRightError(f"{told} {min(old):.3f} and {max(old):.3f}. Is something else trained?")
    return "your runs and the stored ones agree, so you may conclude from those, which are more."


@step("ex1/scenarios")
def scenarios(answer: Any) -> str:
    """A dictionary: for each scenario, the decision that the stored runs support."""
    from tlcourse.lessons.experiments import stored

    if not isinstance(answer, dict) or set(answer) != set(SCENARIOS):
        raise NotRightError(f"the answer is {answer!r}. Give a dictionary with {', '.join(map(repr, SCENARIOS))}.")
    for name in SCENARIOS:
        runs, said = stored("strategies").only(data=name), str(answer[name]).strip().lower()
        if said not in STRATEGIES:
            raise NotRightError(f"for {name} there is {said!r}. Choose among {', '.join(map(repr, STRATEGIES))}.")
        dearer = STRATEGIES[STRATEGIES.index(said) + 1 :]
        for other in dearer:
            found = runs.difference(other, said)
            if found.clear and found.mean > 0:
                raise NotRightError(f"for {name} you choose {said!r}, and {other!r} is clearly better: {found}.")
        if said != (cheaper := decision(runs)):
            found = runs.difference(said, cheaper)
            raise NotRightError(f"for {name}, {said!r} minus {cheaper!r}, which is cheaper, is {found}.")
    return "the number of images did not decide this, nor did a rule of thumb: the runs did."
