"""The later steps of exercise 1, "Choose a strategy": what a way costs, and what the learner's own runs say."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from numbers import Number
from typing import Any

from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.comparison import Runs
from tlcourse.lessons.exercises.answers import need_dictionary, need_function, pair
from tlcourse.lessons.exercises.made_up import COSTS, TABLES, TURNED, WAYS, made_up
from tlcourse.lessons.exercises.measured import FEWEST, need_pairs, runs_on

SCENARIOS = {"radiographs": 20, "landuse": 40, "surfaces": 80}


@step("ex1/passes")
def passes(function: Any) -> str:
    """A function of costs, parts, images and a budget: the whole passes that the budget pays for."""
    need_function(function, "costs, parts, images and a budget")
    for cost, trains, images, budget in COSTS:
        found = function(dict(cost), trains, images, budget)
        whole, trained = sum(cost.values()), sum(cost[name] for name in trains)
        each, like = images * (whole + 2 * trained), sum(cost[n] for n in cost if any(part in n for part in trains))
        wanted = budget // each
        found = found.item() if getattr(found, "shape", None) == () else found  # of NumPy or torch
        if isinstance(found, bool | complex) or not isinstance(found, Number):
            raise NotRightError(f"the function returns a {type(found).__name__}. Return a whole number of passes.")
        if float(found) == wanted:
            continue
        first, once = cost[next(iter(trains))], whole + 2 * trained
        mistakes = {
            images * wanted: "That counts images: a pass goes over all of them.",
            wanted - 1: "The budget pays for one more: it may be used up.",
            each: "That is the cost of a pass: how many of them does the budget pay for?",
            budget // (images * images * once): "The images are counted twice.",
            budget // (images * (2 * whole + trained)): "Twice counts the backward pass, of the parts that train.",
            budget // (images * 2 * (whole + trained)): "The forward pass is counted twice.",
            budget // (images * (whole + 2 * first)): "Only one of the parts that train is counted.",
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
            budget // once: "That is for one image: a pass goes over all of them.",
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
        why = _fault(found, wanted, ways)
        if not wanted:
            a, b = min(combinations(ways, 2), key=lambda two: len(runs.difference(*two).values))
            why = f"{a!r} and {b!r} have fewer than {FEWEST} seeds in common, so nothing is decided."
        if "just" in about:
            why += " The margin is t(0.975, n - 1) times the deviation (that divides by n - 1), over the root of n."
        if TURNED in about:
            why += " Take the difference of two runs with the same seed."
        seen = f"{_differences(runs, ways)}. You return {found}, and {wanted} is asked for. {why}"
        raise NotRightError(f"where {about}: {seen}")
    return (
        "a way stays in as long as nothing shown speaks against it. That is no proof that the tied ways are equal: it "
        "says that these runs do not tell them apart. Memory and effort may decide then."
    )


def _fault(found: list[str], wanted: list[str], ways: Iterable[str]) -> str:
    """Say what is wrong with a list of unbeaten ways."""
    if strange := [name for name in found if name not in ways]:
        return f"{strange[0]!r} is no name in the list of ways."
    if len(set(found)) < len(found):
        return "A name stands there several times."
    if set(found) == set(wanted):
        return "These are the right ways in another order than in `ways`."
    if not found:
        return f"The way with the highest mean is beaten by none: with {FEWEST} seeds in common there is always one."
    if more := set(found) - set(wanted):
        return f"The interval of a way minus {min(more)!r} lies above zero."
    return f"{min(set(wanted) - set(found))!r} is not beaten: no interval of a way minus this one is above zero."


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
    kept = [str(way).strip().lower() for way in kept]
    if sorted(kept) != sorted(wanted):
        seen = f"you name {kept}. In your runs, {_differences(runs, WAYS)}: unbeaten are {wanted}."
        raise NotRightError(f"{seen} {_fault(kept, wanted, WAYS)}")
    tied = " These are tied: the runs do not tell them apart." if len(wanted) > 1 else ""
    return f"in your runs, unbeaten are {', '.join(wanted)}.{tied} {_differences(runs, WAYS)}."


@step("ex1/scenarios")
def scenarios(answer: Any) -> str:
    """Runs of all scenarios, and for each a way that no other beats in them."""
    runs, choices = pair(answer, "the runs and a dictionary of choices")
    choices = need_dictionary(choices, "from a scenario to a way")
    if choices and choices.keys() <= set(WAYS):
        raise NotRightError("the keys are ways. Turn the dictionary round: from a scenario to its way.")
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
    runs = runs_on(runs, name)
    if wrong := {row["images"] for row in runs.rows} - {SCENARIOS[name]}:
        raise NotRightError(f"runs on {name} learned from {min(wrong)} images, and {SCENARIOS[name]} are asked for.")
    need_pairs(runs.rows, tuple(WAYS), on=f"on {name} ", same="they are one way")
    return runs
