"""The steps of exercise 5, "Diagnose failures": the causes, and the repairs of three that fail loudly."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from tlcourse import data, models
from tlcourse.lessons.checks import NotRightError, step
from tlcourse.lessons.exercises import setups
from tlcourse.lessons.exercises.answers import need_dictionary
from tlcourse.lessons.exercises.setups import SEEDS, Seen, pets_for_checks, train_with_seeds

GUESSING = math.log(2)  # the loss of someone who gives both classes the same probability
TRUE = {"a": "rate too high", "b": "wrong normalisation", "c": "learned by heart", "d": "shared images"}
TRUE |= {"e": "random backbone", "f": "forgotten layer"}
SIGNS = {  # what a cause shows, whoever has it
    "rate too high": "training losses that jump far above guessing",
    "rate too low": "a rate far below those of the other cases, and a loss that falls by very little in each epoch",
    "wrong normalisation": "a finding of the doctor about the images' mean and deviation",
    "learned by heart": "a training loss close to zero, while the validation loss climbs far above where it began",
    "shared images": "a finding of the doctor about the images of two parts",
    "random backbone": "a frozen network whose weights were never loaded: look at the line that creates it",
    "forgotten layer": "a layer that the docstring wants to train, and the doctor's table shows as frozen",
    "moving statistics": "a batch norm that moved while it was frozen; `tl.train.fit` keeps frozen ones still",
}


@step("ex5/causes")
def causes(answer: Any) -> str:
    """A cause for each of the six cases."""
    if isinstance(answer, list | tuple) and len(answer) == len(TRUE) and all(isinstance(part, str) for part in answer):
        answer = dict(zip(TRUE, answer, strict=True))
    answer = need_dictionary(answer, "from each letter to a cause")
    given = {key.removeprefix("case").strip(): value for key, value in answer.items()}
    if given and given.keys().isdisjoint(TRUE) and not given.keys() <= SIGNS.keys():
        raise NotRightError(f"the keys are {', '.join(given)}. Take the letters of the cases: {', '.join(TRUE)}.")
    if given and given.keys() <= SIGNS.keys():
        raise NotRightError("the keys are causes. Turn the dictionary round: from a letter to its cause.")
    for case, true in TRUE.items():
        if given.get(case) in (None, ..., ""):
            raise NotRightError(f"case {case} has no cause yet.")
        one = [*given[case]] if isinstance(given[case], list | tuple | set) else []
        found = str(one[0] if len(one) == 1 else given[case]).strip(" .").lower()
        found = found.replace("_", " ").replace("-", " ").replace("ization", "isation")
        if found not in SIGNS:
            raise NotRightError(f"case {case} has the cause {found!r}, which is not in the list of causes.")
        if found != true:
            raise NotRightError(
                f"case {case} is not explained yet. {found!r} would show as {SIGNS[found]}. Case {case} does not show "
                "that. Read its code, its curves, and what the doctor says of it."
            )
    return (
        "two of the six have the same flat curve for different reasons: a curve is a symptom. Causes are in the set-up."
    )


def _learned(seen: list[Seen]) -> float:
    """Return the mean accuracy, and refuse one that is not above guessing by more than two standard errors."""
    accuracy, n = float(np.mean([run.accuracy for run in seen])), len(seen) * len(pets_for_checks()[1].dataset)
    if accuracy - 2 * (accuracy * (1 - accuracy) / n) ** 0.5 <= 0.5:
        raise NotRightError(
            f"on images that the set-up never saw, the accuracy is {accuracy:.2f} over {len(seen)} seeds, and guessing "
            "has 0.50. The network has learned nothing that helps there. Does it train, and on useful features?"
        )
    return accuracy


@step("ex5/case_a")
def case_a(function: Any) -> str:
    """A set-up whose losses stay near guessing or below in every epoch, and fall."""
    seen = train_with_seeds(function, 40)
    setups.need_parts(setups.need_images(function, 40))
    for seed, run in zip(SEEDS, seen, strict=True):
        worst = max(run.train)
        if not worst <= 2 * GUESSING:
            raise NotRightError(
                f"with seed {seed} the training loss is {worst:.3g} in epoch {run.train.index(worst) + 1}, and "
                f"guessing has {GUESSING:.2f}. The highest rate is {run.rate:g}. The steps are still too long: a lower "
                "rate, or gradients clipped to a small norm, shorten them."
            )
        if run.train[-1] > 0.9 * GUESSING:
            raise NotRightError(
                f"with seed {seed} the training loss ends at {run.train[-1]:.2f}, and guessing has {GUESSING:.2f}. "
                f"Little is learned. The highest rate is {run.rate:g}: are the steps too short now?"
            )
    accuracy = _learned(seen)
    ends = " ".join(f"{run.train[-1]:.2f}" for run in seen)
    return (
        f"in three seeds no epoch is above twice guessing, and the training loss ends at {ends}; accuracy on new "
        f"images is {accuracy:.2f}. An accuracy can look usual while losses explode: look at both."
    )


@step("ex5/case_e")
def case_e(function: Any) -> str:
    """A set-up whose training loss leaves the plateau, and that is better than guessing on new images."""
    seen = train_with_seeds(function, 40)
    setups.need_parts(setups.need_images(function, 40))
    for seed, run in zip(SEEDS, seen, strict=True):
        if not run.train[-1] <= 0.75 * GUESSING:
            raise NotRightError(
                f"with seed {seed} the training loss ends at {run.train[-1]:.2f}, and guessing has {GUESSING:.2f}. "
                f"It is still on the plateau. The highest rate is {run.rate:g}: is it high enough for what trains?"
            )
    accuracy = _learned(seen)
    return (
        f"the training loss leaves the plateau in three seeds, and accuracy on new images is {accuracy:.2f}. A "
        "stronger head or a higher rate cannot find in the features what is not there: look at the features first."
    )


def _as_given(splits: data.Splits, seed: int) -> tuple[nn.Module, data.Loaders, Any, dict[str, Any]]:
    """Case c, as the notebook gives it."""
    few = splits.plain().take(train=30, val=40, seed=seed)
    model = models.create("tl_resnet", 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 6}


@lru_cache
def _before() -> list[Seen]:
    return train_with_seeds(_as_given, 30)


@step("ex5/case_c")
def case_c(function: Any) -> str:
    """A set-up with a smaller gap between the losses than case c, in each seed, that is no worse on validation."""
    seen, before = train_with_seeds(function, 30), _before()
    setups.need_images(function, 30)
    gaps, old = ([run.val[-1] - run.train[-1] for run in runs] for runs in (seen, before))
    for seed, gap, was in zip(SEEDS, gaps, old, strict=True):
        if not gap < was:
            raise NotRightError(
                f"with seed {seed} the validation loss ends {gap:.2f} above the training loss; in case c as given it "
                f"is {was:.2f}. The gap has not shrunk."
            )
    accuracy, was = _learned(seen), float(np.mean([run.accuracy for run in before]))
    losses, old_losses = (float(np.mean([run.val[-1] for run in runs])) for runs in (seen, before))
    if losses > old_losses:
        raise NotRightError(
            f"the gap shrank, but the validation loss ends at {losses:.2f}, before at {old_losses:.2f}."
        )
    rise = float(np.mean([run.val[-1] - min(run.val) for run in seen]))
    if rise > 0.15:
        raise NotRightError(
            f"the gap shrank to {np.mean(gaps):.2f}, but in the last epoch the validation loss is {rise:.2f} above its "
            "lowest, in the mean of three seeds. It still rises while the training loss falls: fewer epochs, a lower "
            "rate or fewer layers that train?"
        )
    if accuracy < was - 0.08:
        raise NotRightError(
            f"the gap shrank, and accuracy on new images fell from {was:.2f} to {accuracy:.2f}. Part of the gap is "
            "gone because the network learns less: was the repair too strong?"
        )
    return (
        f"in the mean of three seeds the gap went from {np.mean(old):.2f} to {np.mean(gaps):.2f}, the validation loss "
        f"from {old_losses:.2f} to {losses:.2f}, accuracy on new images from {was:.2f} to {accuracy:.2f}. Look at all "
        "three: a gap also shrinks when a network learns nothing."
    )
