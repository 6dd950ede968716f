"""What the steps of exercises do with measured runs: refuse what can't be compared, or what the runs don't support."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from tlcourse.lessons.checks import NotRightError
from tlcourse.lessons.comparison import Difference, Runs
from tlcourse.lessons.exercises.answers import a, pair

CONCLUSIONS = ("better", "worse", "no difference shown")
FEWEST = 5  # seeds
IMAGES = 40  # of a run in a step of gain


def need_runs(runs: Any) -> Runs:
    """Refuse what is no table of runs."""
    if not isinstance(runs, Runs):
        raise NotRightError(f"the first part is {a(runs)}. Give what `tl.experiments.compare` returned.")
    return runs


def runs_on(runs: Any, name: str) -> Runs:
    """Return the runs that were measured on an image set."""
    if name not in (there := {row["data"] for row in need_runs(runs).rows}):
        raise NotRightError(f"there are no runs on {name}: there are runs on {', '.join(sorted(there))}.")
    return runs.only(data=name)


def need_pairs(rows: Iterable[Mapping[str, Any]], ways: Sequence[str], *, on: str = "", same: str) -> None:
    """Refuse runs whose ways can't be compared seed by seed; `on` says which runs, `same` what equal results mean."""
    of: dict[str, dict[int, float]] = {}  # way -> seed -> loss
    for row in rows:
        if row["way"] in ways and row["seed"] in of.setdefault(row["way"], {}):
            raise NotRightError(f"{on}runs were added twice: {row['way']!r} has several of seed {row['seed']}.")
        of.setdefault(row["way"], {})[row["seed"]] = row["loss"]
    for way in ways:
        if way not in of:
            there = ", ".join(sorted(of)) or "none"
            raise NotRightError(f"{on}{way!r} has 0 seeds: there are no runs named {way!r}. There are: {there}.")
    if any(of[way].keys() != of[ways[0]].keys() for way in ways):
        raise NotRightError(f"{on}the ways ran with different seeds, so they cannot be paired.")
    if (n := len(of[ways[0]])) < FEWEST:
        seeds = f"there are {n} seeds" if n > 1 else "there is one seed"
        raise NotRightError(f"{on}{seeds}. Run five or more: one run says nothing about chance.")
    for one, other in combinations(ways, 2):
        if of[one] == of[other]:
            raise NotRightError(f"{on}{one!r} and {other!r} gave the same loss for every seed: {same}.")


def need_conclusion(said: Any, found: Difference, name: str = "the conclusion") -> None:
    """Refuse a conclusion that a paired difference doesn't support."""
    given = str(said).strip(" .").lower()
    given = "no difference shown" if given == "no difference" else given
    if given not in CONCLUSIONS:
        raise NotRightError(f"{name} is {said!r}. Choose among {', '.join(CONCLUSIONS)}.")
    wanted = "no difference shown" if not found.clear else "better" if found.mean > 0 else "worse"
    if given != wanted:
        why = "leaves out zero" if found.clear else "holds zero"
        raise NotRightError(f"{name} is {said!r}, and the runs say {found}. The interval {why}: {wanted!r}.")


def gain(answer: Any, way: str, other: str, same: str) -> str:
    """Judge a pair of runs and conclusion: does `way` gain over `other`?"""
    runs, said = pair(answer, "the runs and your conclusion")
    rows = need_runs(runs).rows
    if others := [row["images"] for row in rows if row["way"] in (way, other) and row["images"] != IMAGES]:
        raise NotRightError(f"there are runs with {others[0]} training images, and {IMAGES} are asked for.")
    need_pairs(rows, (way, other), same=same)
    found = runs.difference(way, other)
    need_conclusion(said, found)
    return f"the conclusion is what your runs support: {found}. More seeds would show smaller differences."
