"""Curves of exercise 2: what a warm-up or half a cosine wave shows that isn't the one that was asked for."""

import math
from collections.abc import Callable, Sequence


def half_wave(done: float) -> float:
    """Return the factor of half a cosine wave, of which a part is done."""
    return (1 + math.cos(math.pi * done)) / 2


Rules = dict[str, Callable[[int, int, int], float | None]]
# A mistake -> the factor of step i of a fall of m steps with b batches an epoch; None is any.
WARMUPS: Rules = {
    "A first step at rate zero changes nothing: it starts at one part of `batches`.": lambda i, m, b: None if i else 0,
    "Only the first rate is off: set it before the first `step()`, too.": lambda i, m, b: (i + 1) / b if i else 1,
    "It starts at the full rate: there is no warm-up.": lambda i, m, b: None if i else 1,
    "The warm-up ends after one step; it takes one epoch.": lambda i, m, b: (1 / b, 1)[i] if i < 2 else None,
    "It is one step ahead: was the scheduler stepped where it was built?": lambda i, m, b: min((i + 2) / b, 1),
    "The warm-up ends one step late: the first epoch's last step has the full rate.": lambda i, m, b: (i + 1) / (b + 1),
    "From one part of `batches`, the full rate is `batches - 1` steps away.": lambda i, m, b: (1 + i - i / b) / b,
    "The warm-up grows through all of the training; it has one epoch.": lambda i, m, b: (i + 1) / (m + b),
    "The cosine falls in the warm-up, too; it comes after it.": lambda i, m, b: (i + 1) / b * half_wave(i / (m + b)),
}
AFTER_WARMUPS: Rules = {
    "The wave has run since the first step; it begins after the warm-up.": lambda i, m, b: half_wave((i + b) / (m + b)),
    "The wave is as long as the training; the warm-up isn't part of it.": lambda i, m, b: half_wave(i / (m + b)),
    "It falls once an epoch; it falls with every batch.": lambda i, m, b: half_wave(i // b * b / m),
    "It falls once an epoch, and ends in the last one.": lambda i, m, b: half_wave(i // b * b / max(m - b, 1)),
    "It stays at the full rate after the warm-up.": lambda i, m, b: 1,
}
WAVES: Rules = {
    "The wave ends at the last step; it would end one step later.": lambda i, m, b: half_wave(i / (m - 1)),
    "The wave is one step early: its first step has the full rate.": lambda i, m, b: half_wave((i + 1) / m),
    "The wave is one step late: only its first step has the full rate.": lambda i, m, b: half_wave(max(i - 1, 0) / m),
    "It falls in a straight line, where half a cosine wave is asked for.": lambda i, m, b: 1 - i / m,
    "A whole wave falls and rises again; half of one is asked for.": lambda i, m, b: half_wave(2 * i / m),
    "That is a quarter of a wave; half of one is asked for.": lambda i, m, b: math.cos(math.pi * i / m / 2),
    "The bare cosine falls to -1: add 1, and halve the sum.": lambda i, m, b: math.cos(math.pi * i / m),
    "The sum of 1 and the cosine is not halved.": lambda i, m, b: 2 * half_wave(i / m),
    "pi is missing: the cosine of pi is where half a wave ends.": lambda i, m, b: half_wave(i / m / math.pi),
}


def _named(rules: Rules, found: Sequence[float], m: int, b: int) -> str:
    """Return the mistake whose factors were found, or nothing."""
    for why, rule in rules.items():
        asked = (rule(i, m, b) for i in range(len(found)))
        if all(one is None or abs(seen - one) < 1e-6 for seen, one in zip(found, asked, strict=True)):
            return why
    return ""


def why_warmup(factors: list[list[float]], t: int, batches: int) -> str:
    """Say why the factors of steps and groups are wrong, first at step t."""
    if max(factors[t]) - min(factors[t]) > 1e-4 * max(factors[t]):
        return "The groups do not keep their ratio: is a rate given where a factor of each group's own is meant?"
    found, rest = [own[0] for own in factors], len(factors) - batches
    if t >= batches:
        return _named(AFTER_WARMUPS, found[batches:], rest, batches) or why_wave(found[batches:])
    if max(found[:batches]) < 0.02:
        return "All rates are far too low: is a rate given where a factor is meant, which multiplies the rate?"
    told = f"In the warm-up, the factor of this step is {t + 1} / {batches}; it is {found[t]:.4g}."
    return _named(WARMUPS, found[:batches], rest, batches) or told


def why_wave(found: Sequence[float]) -> str:
    """Say why factors are not those of half a wave from one to zero."""
    m = len(found)
    if why := _named(WAVES, found, m, 1):
        return why
    if abs(found[0] - 1) > 1e-4:
        return f"The wave starts at {found[0]:.3g} times the full rate, and at the full rate is asked for."
    if rises := [i for i in range(1, m) if found[i] > found[i - 1] + 1e-4]:
        return f"At its step {rises[0]} the wave rises, and it is asked to fall."
    if any(one > half_wave(i / m) + 1e-4 for i, one in enumerate(found)):
        return "The rate falls too slowly: is it another curve, or does it end above zero, or long after the last step?"
    return "The rate falls too fast: is it another curve, or does the fall count epochs, where it is stepped by batch?"
