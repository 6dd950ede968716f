"""Checks of what came out: losses, and answers on labelled images."""

import math

import torch

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

FLAT = 1e-4  # relative range of a loss over epochs that counts as no movement
SEEN_OFTEN = 5  # labels of a class from which on it is odd that it is never answered
ENOUGH = 20  # images from which on an accuracy is compared with the largest class
GAP = 0.2  # training accuracy above validation accuracy


def losses_fall(setup: Setup) -> Findings:
    """A training loss is a number, and falls, at first at least; one that is NaN or infinite stays so."""
    losses = setup.losses
    broken = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if broken is not None:
        before = f"; the last number before was {losses[broken - 1]:.4g}" if broken else ""
        yield wrong("loss-not-finite", f"first at entry {broken + 1} of {len(losses)}{before}")
    if len(losses) < 3 or broken is not None:
        return
    low, high, first, last = min(losses), max(losses), losses[0], losses[-1]
    evidence = f"{first:.4g} at first, {last:.4g} at last, over {len(losses)} entries"
    if high - low <= FLAT * max(abs(high), 1e-12) and high > 1e-3:  # a loss near 0 has arrived
        chance = math.log(setup.outputs) if setup.outputs else math.nan
        if math.isclose(first, chance, rel_tol=0.01):
            evidence += f"; chance on {setup.outputs} classes is {chance:.4g}"
        yield wrong("loss-constant", evidence)
    elif last > 1.5 * first:
        yield suspicious("loss-rises", evidence)


def training_and_validation_agree(setup: Setup) -> Findings:
    """A model that knows its training images by heart does worse on others."""
    epochs = setup.history.epochs if setup.history is not None else []
    if epochs:
        best = setup.history.best or epochs[-1]
        if best.train_accuracy - best.val_accuracy > GAP:
            evidence = f"accuracy {best.train_accuracy:.3f} in training, {best.val_accuracy:.3f} on validation"
            yield note("overfitting", evidence)


def predictions_make_sense(setup: Setup) -> Findings:
    """Each class is predicted now and then, and more images are right than if all were put into the largest class."""
    evaluation = setup.evaluation
    if evaluation is None or not evaluation.n:
        return
    total, outputs = evaluation.n, evaluation.logits.shape[1]
    counts = torch.bincount(evaluation.labels, minlength=outputs)
    answers = torch.bincount(evaluation.predicted, minlength=len(counts))
    if never := ((counts >= SEEN_OFTEN) & (answers[: len(counts)] == 0)).nonzero().flatten().tolist():
        names = next((part.classes for part in setup.parts if part.classes), None)
        names = names or [f"class {i}" for i in range(len(answers))]
        images = f"{int(counts[never].sum()):,} images of {total:,}"
        evidence = f"never {listed(names[i] for i in never)}, with {images}"
        if (answers > 0).sum() == 1:
            yield wrong("class-never-predicted/one-answer", f"always {names[int(answers.argmax())]}; {evidence}")
        else:
            yield suspicious("class-never-predicted", evidence)
    share, (low, high) = counts.max().item() / total, evaluation.interval
    if total >= ENOUGH and low <= share < 1:
        accuracy = f"accuracy {evaluation.accuracy:.3f}, 95 % interval {low:.3f} to {high:.3f}"
        yield suspicious("no-better-than-majority", f"{accuracy}; the largest class is {share:.3f} of the images")
