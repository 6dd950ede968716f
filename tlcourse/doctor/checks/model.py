"""Checks of the model alone: what is frozen, in which mode, and what it answers."""

from collections.abc import Iterator

import torch
from torch import nn

from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup
from tlcourse.models import NORMS

DROPPING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
DROPPING_NAMES = ("DropPath", "StochasticDepth", "DropBlock2d", "PatchDropout")
LOGIT_LOSSES = ("CrossEntropyLoss", "cross_entropy")


def values_are_finite(setup: Setup) -> Iterator[Finding]:
    """A weight or statistic that is NaN or infinite makes every output so."""
    tensors = [*setup.parameters.items(), *setup.model.named_buffers()]
    broken = [name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())]
    if broken:
        yield wrong(
            "not-finite",
            "The model holds values that are NaN or infinite.",
            f"{len(broken)} tensors: {listed(broken)}",
            "Load the weights again, and train with a lower rate or with gradient clipping: they do not recover.",
        )


def something_trains(setup: Setup) -> Iterator[Finding]:
    """Somewhere a parameter must take gradients; a new head first of all."""
    if not setup.parameters:
        return
    trainable = [name for name, parameter in setup.parameters.items() if parameter.requires_grad]
    if not trainable:
        finding = wrong if setup.optimizers else note
        yield finding(
            "all-frozen",
            "Every parameter is frozen: training would change nothing.",
            f"0 of {sum(p.numel() for p in setup.parameters.values()):,} values take gradients",
            "Unfreeze the head at least: `tl.models.freeze(model)` freezes all but the head.",
        )
    elif setup.head and not any(p.requires_grad for p in setup.head[1].parameters()):
        finding = wrong if setup.fresh_head else suspicious
        yield finding(
            "head-frozen",
            "The classifier is frozen while parameters below it train.",
            f"{setup.head[0]} takes no gradients; {len(trainable)} other tensors do",
            f"Set `requires_grad_(True)` on {setup.head[0]}: a new head keeps its random values for ever otherwise.",
        )


def head_fits_the_classes(setup: Setup) -> Iterator[Finding]:
    """The classifier has one output a class."""
    if setup.outputs is None or setup.classes is None:
        return
    (count, named), outputs = setup.classes, setup.outputs
    evidence = f"{setup.head[0]} has {outputs:,} outputs; the data has {count:,} classes"
    if outputs == 1 and count == 2:
        if "BCE" not in _loss_name(setup) and "binary" not in _loss_name(setup):
            advice = "Use BCEWithLogitsLoss with it, or give the head two outputs for cross-entropy."
            yield suspicious("head-size", "One output for two classes.", evidence, advice)
    elif outputs < count:
        advice = f"Replace the head: `tl.models.replace_head(model, {count})`, before the optimizer is built."
        yield wrong("head-size", "The classifier has fewer outputs than there are classes.", evidence, advice)
    elif outputs > count:
        # Labels alone do not say that a class is missing.
        finding, what = (wrong, "more outputs than") if named else (note, "more outputs than the labels show")
        advice = f"Replace the head: `tl.models.replace_head(model, {count})`, before the optimizer is built."
        yield finding("head-size", f"The classifier has {what} classes.", evidence, advice)


def frozen_norms_are_still(setup: Setup) -> Iterator[Finding]:
    """Freezing parameters does not freeze a batch norm: in training mode its statistics move."""
    frozen = [norm for norm in setup.norms if norm.frozen]
    moved = [norm.name for norm in frozen if _statistics_moved(setup, norm.name)]
    advice = (
        "Call `tl.models.train_mode(model)` wherever the loop calls `model.train()`; `tl.train.fit` does so. "
        "Put the statistics back by loading the pre-trained weights again."
    )
    if moved:
        sizes = [setup.changes[f"{name}.running_mean"].size for name in moved]
        yield wrong(
            "frozen-statistics-move",
            "Batch-norm statistics moved in stages whose parameters are frozen.",
            f"{len(moved)} of {len(frozen)} frozen batch norms since the last look, their means by up to "
            f"{max(sizes):.1%}: {listed(moved)}",
            advice,
        )
        return
    awake = [norm.name for norm in frozen if norm.module.training]
    if not awake or setup.evaluating:
        return  # in front of a measurement, `nothing_is_left_in_training_mode` says it
    evidence = f"{len(awake)} of {len(frozen)} frozen batch norms are in training mode: {listed(awake)}"
    if setup.stepped:
        what = "Frozen stages were trained in training mode: their batch-norm statistics follow every batch."
        yield wrong("frozen-statistics-move", what, evidence, advice)
    else:
        what = "Frozen stages are in training mode: the next batch would move their batch-norm statistics."
        advice = advice.partition(" Put the")[0]
        yield suspicious("frozen-statistics-move", what, evidence, advice)


def nothing_is_left_in_training_mode(setup: Setup) -> Iterator[Finding]:
    """A model that is measured is in evaluation mode."""
    if not setup.evaluating:
        return
    modules = [(name, module) for name, module in setup.model.named_modules() if module.training]
    norms = [name for name, module in modules if isinstance(module, NORMS)]
    dropping = [
        name
        for name, module in modules
        if (isinstance(module, DROPPING) and module.p > 0) or type(module).__name__ in DROPPING_NAMES
    ]
    if norms or dropping:
        yield wrong(
            "training-mode",
            "The model is about to be measured in training mode.",
            f"{len(norms)} batch norms normalise by the batch and {len(dropping)} dropouts drop: "
            f"{listed([*norms, *dropping])}",
            "Call `model.eval()` first, or measure with `tl.evaluation.evaluate`, which does.",
        )
    elif modules:
        what = "The model is in training mode, without a module that cares."
        yield note("training-mode", what, f"{len(modules)} modules", "Call `model.eval()` all the same.")


def model_takes_the_images(setup: Setup) -> Iterator[Finding]:
    """A batch of the data goes through the model."""
    if setup.answers is not None and setup.answers.error:
        images = setup.sample_part.sample[0]
        yield wrong(
            "forward-fails",
            "The model cannot take the data's images.",
            f"a batch {tuple(images.shape)} of the {setup.sample_part.name} part gives {setup.answers.error}",
            "Prepare the images as the model wants them: `data.for_model(model)`, or its weights' transforms.",
        )


def outputs_are_logits(setup: Setup) -> Iterator[Finding]:
    """Cross-entropy applies softmax itself: the model must not."""
    if setup.answers is None or setup.answers.outputs is None or setup.answers.outputs.shape[1] < 2:
        return
    outputs, loss = setup.answers.outputs, _loss_name(setup)
    sums = outputs.sum(1)
    evidence = f"rows of {len(outputs)} outputs sum to {sums.min():.3f} to {sums.max():.3f}"
    probabilities = bool((outputs >= 0).all() and ((sums - 1).abs() < 1e-3).all())
    logs = bool((outputs.logsumexp(1).abs() < 1e-3).all() and (outputs <= 0).all())
    if probabilities and loss in (*LOGIT_LOSSES, ""):
        finding = wrong if loss else suspicious
        yield finding(
            "softmax-before-cross-entropy",
            "The model ends in softmax, and cross-entropy applies it again: gradients get small and stay small.",
            f"{evidence}, none below 0" + ("" if loss else "; the loss was not given, cross-entropy is assumed"),
            "Take the softmax out of the model and apply it where you show probabilities.",
        )
    elif logs and loss in LOGIT_LOSSES:
        what = "The model ends in log-softmax, which cross-entropy applies once more: it changes nothing."
        yield note(
            "softmax-before-cross-entropy", what, "rows of exponentials sum to 1", "Use NLLLoss, or take it out."
        )
    elif not logs and loss in ("NLLLoss", "nll_loss"):
        yield wrong(
            "loss-wants-log-probabilities",
            "NLLLoss wants log-probabilities, and the model gives something else: the loss has no lower bound.",
            f"{evidence}; their exponentials do not sum to 1",
            "Use CrossEntropyLoss with logits, or end the model in log-softmax.",
        )


def _loss_name(setup: Setup) -> str:
    if setup.loss is None:
        return ""
    return getattr(setup.loss, "__name__", type(setup.loss).__name__)


def _statistics_moved(setup: Setup, norm: str) -> bool:
    """Whether running statistics moved between two looks at which they were frozen, and the weights did not."""
    changes = setup.changes or {}
    statistics = changes.get(f"{norm}.running_mean")
    own = [changes[name] for name in (f"{norm}.weight", f"{norm}.bias") if name in changes]
    # Where the weights changed too, other weights were loaded.
    return statistics is not None and statistics.size > 0 and all(c.frozen and c.size == 0 for c in own)


CHECKS = (
    values_are_finite,
    something_trains,
    head_fits_the_classes,
    frozen_norms_are_still,
    nothing_is_left_in_training_mode,
    model_takes_the_images,
    outputs_are_logits,
)
