"""Checks of the model alone: what is frozen, in which mode, and what it answers."""

import re

from torch import nn

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup
from tlcourse.models import NORMS

DROPOUTS = re.compile(r"(Feature)?(Alpha)?Dropout[123]?d?|DropPath|StochasticDepth|DropBlock2d|PatchDropout")
LOGIT_LOSSES = ("CrossEntropyLoss", "cross_entropy")


def values_are_finite(setup: Setup) -> Findings:
    """A weight or statistic that is NaN or infinite makes every output so."""
    tensors = [*setup.parameters.items(), *setup.model.named_buffers()]
    if broken := [name for name, tensor in tensors if not tensor.isfinite().all()]:
        yield wrong("not-finite", f"{len(broken)} tensors: {listed(broken)}")


def something_trains(setup: Setup) -> Findings:
    """At least one parameter must be trainable, and a new head first of all."""
    trainable = [name for name, parameter in setup.parameters.items() if parameter.requires_grad]
    if setup.parameters and not trainable:
        evidence = f"0 of {sum(p.numel() for p in setup.parameters.values()):,} values take gradients"
        yield (wrong if setup.optimizers else note)("all-frozen", evidence)
    elif setup.head and not any(p.requires_grad for p in setup.head[1].parameters()):
        name = setup.head[0]
        evidence = f"{name} takes no gradients; {len(trainable)} other tensors do"
        yield (wrong if setup.fresh_head else suspicious)("head-frozen", evidence, head=name)


def head_fits_the_classes(setup: Setup) -> Findings:
    """The classifier has one output per class."""
    if setup.outputs is None or setup.classes is None:
        return
    (count, named), outputs = setup.classes, setup.outputs
    evidence = f"{setup.head[0]} has {outputs:,} outputs; the data has {count:,} classes"
    if outputs == 1 and count == 2:
        if "BCE" not in setup.loss_name and "binary" not in setup.loss_name:
            yield suspicious("head-size/one-output", evidence)
    elif outputs < count:
        yield wrong("head-size", evidence, count=count)
    elif outputs > count:
        # Labels alone do not say that a class is missing.
        yield (wrong if named else note)("head-size/too-many", evidence, count=count)


def frozen_norms_stay_still(setup: Setup) -> Findings:
    """Freezing parameters does not freeze a batch norm: in training mode its statistics move."""
    frozen = [norm for norm in setup.norms if norm.frozen]
    moved = {norm.name: size for norm in frozen if (size := _statistics_moved(setup, norm.name))}
    training = [norm.name for norm in frozen if norm.module.training]
    if moved:
        evidence = f"{len(moved)} of {len(frozen)} frozen batch norms since the last look, their means by up to "
        yield wrong("frozen-statistics-move", evidence + f"{max(moved.values()):.1%}: {listed(moved)}")
    elif training and not setup.evaluating:  # `evaluation_is_not_in_training_mode` says it otherwise
        evidence = f"{len(training)} of {len(frozen)} frozen batch norms are in training mode: {listed(training)}"
        # SGD without momentum keeps no state, but under a scheduler torch notes that it has stepped.
        stepped = any(optimizer.state or getattr(optimizer, "_opt_called", False) for optimizer in setup.optimizers)
        yield (wrong if stepped else suspicious)("frozen-statistics-move/training-mode", evidence)


def _drops(module: nn.Module) -> bool:
    return any(DROPOUTS.fullmatch(kind.__name__) for kind in type(module).__mro__)  # a learner's subclass too


def evaluation_is_not_in_training_mode(setup: Setup) -> Findings:
    """A model that is measured is in evaluation mode."""
    modules = [(name, module) for name, module in setup.model.named_modules() if module.training]
    norms = [name for name, module in modules if isinstance(module, NORMS)]
    dropouts = [name for name, m in modules if _drops(m) and getattr(m, "p", 1) > 0]
    if setup.evaluating and (norms or dropouts):
        names = listed([*norms, *dropouts])
        evidence = f"{len(norms)} batch norms normalise by the batch and {len(dropouts)} dropouts drop: {names}"
        yield wrong("training-mode", evidence)
    elif setup.evaluating and modules:
        yield note("training-mode/harmless", f"{len(modules)} modules")


def outputs_are_logits(setup: Setup) -> Findings:
    """A batch of the data goes through the model, without a softmax that cross-entropy applies itself."""
    outputs, error, _ = setup.answers
    if error:
        part = setup.sample_part
        yield wrong("forward-fails", f"a batch {tuple(part.sample[0].shape)} of the {part.name} part gives {error}")
    if outputs is None or outputs.shape[1] < 2:
        return
    sums, loss = outputs.sum(1), setup.loss_name
    evidence = f"rows of {len(outputs)} outputs sum to {sums.min():.3f} to {sums.max():.3f}"
    probabilities = bool((outputs >= 0).all() and ((sums - 1).abs() < 1e-3).all())
    logs = bool((outputs.logsumexp(1).abs() < 1e-3).all() and (outputs <= 0).all())
    if probabilities and loss in (*LOGIT_LOSSES, ""):
        evidence += ", none below 0" + ("" if loss else "; the loss was not given, cross-entropy is assumed")
        yield (wrong if loss else suspicious)("softmax-before-cross-entropy", evidence)
    elif logs and loss in LOGIT_LOSSES:
        yield note("softmax-before-cross-entropy/log", "rows of exponentials sum to 1")
    elif not logs and loss in ("NLLLoss", "nll_loss"):
        yield wrong("loss-wants-log-probabilities", f"{evidence}; their exponentials do not sum to 1")


def _statistics_moved(setup: Setup, norm: str) -> float:
    """Return by how much running means moved between two looks at which they were frozen and the weights still."""
    changes = setup.changes or {}
    own = [changes[name] for name in (f"{norm}.weight", f"{norm}.bias") if name in changes]
    # Where the weights changed too, other weights were loaded.
    still = f"{norm}.running_mean" in changes and all(change.frozen and change.size == 0 for change in own)
    return changes[f"{norm}.running_mean"].size if still else 0.0
