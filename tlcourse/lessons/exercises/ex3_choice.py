"""The last steps of exercise 3: a choice within limits, and whether its accuracy could be luck."""

import math
from typing import Any

from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises.answers import need_function
from tlcourse.lessons.exercises.ex3 import Rows, rows_of, shown

USES = ("phone", "accuracy", "balance")
REFERENCE = "resnet50 25 40 2 80"  # in the tables that have none of their own
CHOICES = {  # table -> the right names, in the order of the uses
    "a 5 18 1 74, b 5.5 12 1 73, c 30 39 0.5 82, d 90 200 5 87": ("a", "d", "c"),
    "a 5 19 2 74, b 5.5 12 1 73, c 30 39 2 82, e 30 35 2 81, k 31 36 1 81": ("b", "c", "e"),
    "a 6 17 3 71, f 6.1 10 1 75, g 6 18 1 71": ("a", "resnet50", "f"),  # a is exactly at both limits
    "h 3 25 1 70, i 8 41 1 79": (None, "resnet50", "h"),  # resnet50 plus its spread is above its own limit
    "l 5 15 9 76, m 5 16 1 75, n 9 50 1 80": ("m", "resnet50", "l"),  # l dominates m, but its spread is too large
    "o 7 45 1 79": (None, "resnet50", None),
    "p 5 10 1 85, q 4 9 1 80": ("p", "p", "p"),  # one network for all
    "r 5 15 1 75, s 5 25 1 77, t 9 50 1 79, resnet50 25 60 2 76": ("s", "t", "t"),  # a slower machine
}


@step("ex3/choose")
def choose(function: Any) -> str:
    """A function of a table: the names for a phone, for accuracy, and for a balance."""
    need_function(function, "a table")
    for others, names in CHOICES.items():
        table = others if "resnet50" in others else f"{others}, {REFERENCE}"
        for rows in (rows_of(table), rows_of(table)[::-1]):
            found = function(rows)
            if not isinstance(found, dict) or set(found) != set(USES):
                raise NotRightError(f"it returns {found!r}. Return a dictionary with {', '.join(map(repr, USES))}.")
            for use, wanted in zip(USES, names, strict=True):
                chosen = found[use].get("model") if isinstance(found[use], dict) else found[use]
                if chosen != wanted:
                    told = f"for {use!r} it chooses {chosen!r}, not {wanted!r}, from {shown(rows)}"
                    raise NotRightError(f"{told}. {_why_choose(rows, use, chosen, wanted)}.")
    return "a rule with limits can be repeated on another machine, and a later user can see why it was this network."


def _why_choose(rows: Rows, use: str, chosen: Any, wanted: str | None) -> str:
    """Say which limit the chosen network breaks, or what the wanted one has over it."""
    networks = {row["model"]: row for row in rows}
    rule = "the limits alone decide, and what is exactly at a limit is within it"
    limit = networks["resnet50"]["latency"]
    most, slowest = {"phone": (6, limit / 2), "accuracy": (math.inf, math.inf), "balance": (math.inf, limit)}[use]
    if chosen is None:
        return f"{wanted} is within the limits; {rule}"
    if not isinstance(chosen, str) or chosen not in networks:
        return "That is no network of this table"
    row = networks[chosen]
    if row["parameters"] > most:
        return f"{chosen} has {row['parameters']:g} million parameters, and the limit is {most}"
    if row["latency"] + row["spread"] > slowest:
        seen = f"{chosen} takes {row['latency']:g} ms with a spread of {row['spread']:g}, which is added"
        return f"{seen}, and the limit is {slowest:g} ms: {'half of ' * (use == 'phone')}resnet50's latency"
    better = "more accurate" if networks[wanted]["accuracy"] > row["accuracy"] else "as accurate and quicker"
    return f"{wanted} is {better}, and within the limits, too; {rule}"


# Accuracies in percent, and the number of images on which both were measured.
ACCURACIES = [(80.0, other, 50_000) for other in (79.0, 79.6, 79.9, 79.7, 79.26)]
ACCURACIES += [(79.4, 80.0, 50_000), (75.0, 75.0, 50_000), (80.0, 79.0, 12_800), (97.0, 94.0, 200), (97.0, 92.0, 200)]
ACCURACIES += [(52.0, 50.0, 5_000), (53.0, 50.0, 2_500), (99.5, 99.0, 3_000), (80.4, 79.6, 50_000), (96.0, 98.0, 600)]


def _apart(first: float, second: float, n: int) -> bool:
    """Whether two accuracies in percent differ by more than two standard errors."""
    p, q = first / 100, second / 100
    return abs(p - q) > 2 * (p * (1 - p) / n + q * (1 - q) / n) ** 0.5


MISTAKES = {
    "The first may be the lower one: take the absolute difference.": lambda p, q, n: p > q and _apart(p, q, n),
    "It answers the other way round.": lambda *case: not _apart(*case),
}


@step("ex3/separated")
def separated(function: Any) -> str:
    """A function of two accuracies in percent and of a number of images: whether these tell the two apart."""
    need_function(function, "two accuracies and a number of images")
    answers = [function(*case) for case in ACCURACIES]
    if other := [answer for answer in answers if answer not in (True, False)]:
        raise NotRightError(f"it returns {other[0]!r}. Return True or False.")
    for (first, second, n), answer in zip(ACCURACIES, answers, strict=True):
        if bool(answer) != _apart(first, second, n):
            error = math.hypot(*((x * (100 - x) / n) ** 0.5 for x in (first, second)))
            seen = f"for {first} % and {second} % on {n} images it says {bool(answer)}"
            points = f"they differ by {abs(first - second):.2f} points, and two standard errors are {2 * error:.2f}"
            same = (why for why, rule in MISTAKES.items() if [rule(*case) for case in ACCURACIES] == answers)
            raise NotRightError(f"{seen}: {points}. {next(same, None) or _why_separated(function)}")
    return "on your own test set, many published differences are invisible. Then choose the cheaper network."


def _reach(rule: Any, p: float, n: int) -> float:
    """Return from how many points below p on a rule tells an accuracy apart from p, found by halving."""
    low, high = 0.0, 40.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if rule(p, p - middle, n) else (middle, high)
    return high


def _why_separated(function: Any) -> str:
    """Say what is wrong with the error, from where the answers change."""
    cases = ((80.0, 20_000), (80.0, 320_000), (50.0, 320_000))
    points = [_reach(function, *case) for case in cases]
    if points[0] > 39:
        return "It says False of all. The error is too large: does n stand below each p (1 - p), and is p a share?"
    if points[0] < 1e-6:
        return "It says True of all: is an error there, and are difference and error both in shares?"
    few, many, other = (2 * found / _reach(_apart, *case) for found, case in zip(points, cases, strict=True))
    if math.isclose(points[0], points[1], rel_tol=0.01):
        return f"It says True from {points[0]:.2g} points on, whatever `n` is."
    if not math.isclose(few, many, rel_tol=0.02):
        return "The error doesn't shrink as the root of n grows: n stands below each p (1 - p), under the root."
    if not math.isclose(many, other, rel_tol=0.02):
        return "The error doesn't follow p (1 - p): compare each part with the formula."
    if math.isclose(many, 8**0.5, rel_tol=0.01):
        return "Add the squared errors, and take the root of the sum."
    if math.isclose(many, 2**0.5, rel_tol=0.01):
        return "Both squared errors count, and the two stands before the root."
    if many < 0.1:
        return "The error is too small: are difference and error both in shares?"
    return f"Two standard errors are asked for, not {round(many, 2):g}."
