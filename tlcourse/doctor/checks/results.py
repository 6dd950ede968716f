"""Checks of what came out: losses, and answers on labelled images."""

import math
from collections.abc import Iterator

import torch

from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

FLAT = 1e-4  # relative range of a loss over epochs that counts as no movement
SEEN_OFTEN = 5  # labels of a class from which on it is odd that it is never answered
GAP = 0.2  # training accuracy above validation accuracy


def losses_are_numbers(setup: Setup) -> Iterator[Finding]:
    """A loss that is NaN or infinite stays so."""
    broken = [i for i, loss in enumerate(setup.losses, start=1) if not math.isfinite(loss)]
    if broken:
        before = f"; the last number before was {setup.losses[broken[0] - 2]:.4g}" if broken[0] > 1 else ""
        yield wrong(
            "loss-not-finite",
            "The training loss is not a number.",
            f"first at entry {broken[0]} of {len(setup.losses)}{before}",
            "Start again from the weights before, with a tenth of the rate; clip gradients; look at that batch.",
        )


def losses_move(setup: Setup) -> Iterator[Finding]:
    """A training loss falls, at first at least."""
    losses = setup.losses
    if len(losses) < 3 or not all(map(math.isfinite, losses)):
        return
    low, high, first, last = min(losses), max(losses), losses[0], losses[-1]
    evidence = f"{first:.4g} at first, {last:.4g} at last, over {len(losses)} entries"
    if high - low <= FLAT * max(abs(high), 1e-12) and high > 1e-3:  # a loss near 0 has arrived
        chance = setup.outputs and math.isclose(first, math.log(setup.outputs), rel_tol=0.01)
        yield wrong(
            "loss-constant",
            "The training loss does not move.",
            evidence + (f"; chance on {setup.outputs} classes is {math.log(setup.outputs):.4g}" if chance else ""),
            "Nothing trains: see whether the optimizer holds the trainable parameters, at a rate above 0.",
        )
    elif last > 1.5 * first:
        advice = "Lower the rate, warm up, clip gradients."
        yield suspicious("loss-rises", "The training loss rises.", evidence, advice)


def training_and_validation_agree(setup: Setup) -> Iterator[Finding]:
    """A model that knows its training images by heart does worse on others."""
    if setup.history is None or not setup.history.epochs:
        return
    best = setup.history.best or setup.history.epochs[-1]
    if best.train_accuracy - best.val_accuracy > GAP:
        yield note(
            "overfitting",
            "The model does far better on the images that it trains on.",
            f"accuracy {best.train_accuracy:.3f} in training, {best.val_accuracy:.3f} on validation",
            "More images, stronger augmentation, fewer unfrozen stages, weight decay, or fewer epochs.",
        )


def every_class_is_answered(setup: Setup) -> Iterator[Finding]:
    """Each class that the labels have is predicted now and then."""
    if setup.evaluation is None or not setup.evaluation.n:
        return
    outputs = setup.evaluation.logits.shape[1]
    counts = torch.bincount(setup.evaluation.labels, minlength=outputs)
    answers = torch.bincount(setup.evaluation.predicted, minlength=outputs)
    never = ((counts >= SEEN_OFTEN) & (answers[: len(counts)] == 0)).nonzero().flatten().tolist()
    if not never:
        return
    names = next((part.classes for part in setup.parts if part.classes), None) or [f"class {i}" for i in range(outputs)]
    collapsed = int((answers > 0).sum()) == 1
    finding = wrong if collapsed else suspicious
    what = "The model gives one answer only." if collapsed else "There are classes that the model never predicts."
    told = (
        f"never {listed(names[i] for i in never)}, with {int(counts[never].sum()):,} images of {setup.evaluation.n:,}"
    )
    yield finding(
        "class-never-predicted",
        what,
        f"always {names[int(answers.argmax())]}; {told}" if collapsed else told,
        "See whether these classes have enough training images, whether labels mean the same in every part, and "
        "whether the rate was so high that the network died.",
    )


def accuracy_beats_always_the_same(setup: Setup) -> Iterator[Finding]:
    """An accuracy means something above the share of the largest class."""
    if setup.evaluation is None or setup.evaluation.n < 20:
        return
    counts = torch.bincount(setup.evaluation.labels)
    share = counts.max().item() / setup.evaluation.n
    low, high = setup.evaluation.interval
    if low <= share and len(counts) > 1:
        yield suspicious(
            "no-better-than-majority",
            "The accuracy is not shown to be better than always saying the largest class.",
            f"accuracy {setup.evaluation.accuracy:.3f}, 95 % interval {low:.3f} to {high:.3f}; the largest class is "
            f"{share:.3f} of the images",
            "Look at recall by class; train longer or with more images; measure on more images.",
        )


CHECKS = (
    losses_are_numbers,
    losses_move,
    training_and_validation_agree,
    every_class_is_answered,
    accuracy_beats_always_the_same,
)
