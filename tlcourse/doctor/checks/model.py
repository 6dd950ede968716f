"""Checks of the model and its optimizer: what is frozen, what trains at which rates, and what the model answers."""

import math
import re
from collections import Counter, defaultdict

import torch
from torch import nn

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup
from tlcourse.models import NORMS

DROPOUTS = re.compile(r"(Feature)?(Alpha)?Dropout[123]?d?|DropPath|StochasticDepth|DropBlock2d|PatchDropout")
LOGIT_LOSSES = ("CrossEntropyLoss", "cross_entropy")
# Learning rates from which on training hardly ever works. Adam's steps are as large as its rate whatever the gradients.
HIGHEST = {True: 0.1, False: 2.0}  # a new head alone; by "adaptive"
HIGHEST_BACKBONE = {True: 0.01, False: 0.3}
# Learning rates from which on a pre-trained backbone forgets under a new head's first, random gradients.
BOLD_BACKBONE = {True: 5e-4, False: 5e-3}
SMALL_PART = 0.2  # share of a stage's matrices and kernels: adapters are less, and a block of a stage is more


def values_are_finite(setup: Setup) -> Findings:
    """A weight or statistic that is NaN or infinite makes every output so."""
    tensors = [*setup.parameters.items(), *setup.model.named_buffers()]
    if broken := [name for name, tensor in tensors if not tensor.isfinite().all()]:
        yield wrong("not-finite", f"{len(broken)} tensors: {listed(broken)}")


def something_trains(setup: Setup) -> Findings:
    """At least one parameter must be trainable, and a new head first of all."""
    if setup.parameters and not setup.trainable:
        evidence = f"0 of {sum(p.numel() for p in setup.parameters.values()):,} values take gradients"
        yield (wrong if setup.optimizers else note)("all-frozen", evidence)
    elif setup.head and not any(p.requires_grad for p in setup.head[1].parameters()):
        name = setup.head[0]
        evidence = f"{name} takes no gradients; {len(setup.trainable)} other tensors do"
        yield (wrong if setup.fresh_head else suspicious)("head-frozen", evidence, head=name)


def what_is_frozen_has_learnt(setup: Setup) -> Findings:
    """Random weights that are frozen stay random: those of a whole network, or of single layers."""
    frozen = {name: p for name, p in setup.parameters.items() if not (p.requires_grad or name in setup.head_parameters)}
    vectors = [p for p in frozen.values() if p.ndim == 1 and len(p) > 1]
    drawn = [n for n, p in frozen.items() if _drawn_uniformly(setup.model.get_submodule(n.rpartition(".")[0]), p)]
    if setup.trainable and 0 < len(vectors) < len(frozen) and all(p.max() - p.min() < 1e-4 for p in vectors):
        yield suspicious("frozen-random", f"{setup.by_stage(frozen)}: in each norm and bias all values are still equal")
    elif setup.trainable and drawn:
        yield suspicious("frozen-random/layers", f"{setup.by_stage(drawn)}: spread evenly, as new weights are")


def head_fits_the_classes(setup: Setup) -> Findings:
    """The classifier has one output per class."""
    named = [len(part.classes) for part in setup.parts if part.classes is not None]
    counts = named[:1] or [int(part.labels.max()) + 1 for part in setup.labelled_parts]
    if setup.outputs is None or not counts:
        return
    count, outputs = max(counts), setup.outputs
    evidence = f"{setup.head[0]} has {outputs:,} outputs; the data has {count:,} classes"
    if outputs == 1 and count == 2:
        if setup.loss_name in (*LOGIT_LOSSES, ""):
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


def evaluation_is_not_in_training_mode(setup: Setup) -> Findings:
    """A model that is measured is in evaluation mode."""
    modules = [(name, module) for name, module in setup.model.named_modules() if module.training]
    norms = [name for name, module in modules if isinstance(module, NORMS)]
    # A learner's subclass too.
    drops = [(name, m) for name, m in modules if any(DROPOUTS.fullmatch(kind.__name__) for kind in type(m).__mro__)]
    dropouts = [name for name, m in drops if getattr(m, "p", 1) > 0]
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


def entries_are_the_models(setup: Setup) -> Findings:
    """What trains is in an optimizer, or it never moves; nothing else is there, such as a head that was replaced."""
    lost = [name for name in setup.trainable if name not in setup.rates] if setup.optimizers else []
    if lost:
        yield wrong("not-in-optimizer", setup.by_stage(lost))
    known = {id(p) for p in setup.model.parameters()}
    if isinstance(setup.loss, nn.Module):
        known |= {id(p) for p in setup.loss.parameters()}  # a loss may learn centres, say
    held = [p for group in setup.groups for p in group["params"]]
    if foreign := [p for p in held if id(p) not in known]:
        evidence = f"{len(foreign)} of {len(held)} tensors, of shapes {listed(tuple(p.shape) for p in foreign)}"
        yield (wrong if lost else suspicious)("foreign-parameters", evidence)


def entries_are_there_once(setup: Setup) -> Findings:
    """A parameter that is in an optimizer twice is moved twice per step."""
    names, places = {id(p): name for name, p in setup.parameters.items()}, defaultdict(list)
    for number, optimizer in enumerate(setup.optimizers):
        for position, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                name = names.get(id(p), f"a parameter of shape {tuple(p.shape)}")
                places[id(p), name].append((number, position))
    twice = {name: found for (_, name), found in places.items() if len(found) > 1}
    if twice:
        first = " and ".join(f"group {group} of optimizer {number}" for number, group in next(iter(twice.values())))
        same = any(len({number for number, _ in found}) < len(found) for found in twice.values())
        evidence = f"{len(twice)} tensors, such as {listed(twice, 3)} (the first in {first})"
        yield (wrong if same else suspicious)("in-optimizer-twice", evidence)


def frozen_have_no_gradient(setup: Setup) -> Findings:
    """Frozen parameters in the optimizer are harmless as long as they have no gradient."""
    frozen = [name for name in setup.rates if name not in setup.trainable]
    stale = [name for name in frozen if setup.parameters[name].grad is not None and setup.rates[name] > 0]
    if stale:
        evidence = "momentum and weight decay move them even where the gradient is 0"
        yield wrong("frozen-with-gradient", f"{setup.by_stage(stale)}; {evidence}")
    elif frozen:
        yield note("frozen-in-optimizer", setup.by_stage(frozen))


def rates_make_sense(setup: Setup) -> Findings:
    """A learning rate of zero trains nothing, and one that is far too high destroys what was learnt."""
    rates = {name: rate for name, rate in setup.rates.items() if name in setup.trainable}
    if setup.rates_by_optimizer:
        return
    if odd := [name for name, rate in rates.items() if not math.isfinite(rate)]:
        yield wrong("rate/not-a-number", setup.by_stage(odd))
        return
    zero = [name for name, rate in rates.items() if rate == 0]
    if zero and not setup.schedulers:  # a warm-up starts at 0, and a cosine ends there
        yield (wrong if len(zero) == len(rates) else note)("rate/zero", setup.by_stage(zero))
    head, backbone = HIGHEST[setup.adaptive], HIGHEST_BACKBONE[setup.adaptive]
    if not (setup.adaptive or setup.pretrained):  # from scratch, large rates are usual for SGD
        backbone = math.inf
    high = {name: rate for name, rate in rates.items() if rate > (head if name in setup.head_parameters else backbone)}
    if high:
        kind = type(setup.optimizers[0]).__name__
        yield suspicious("rate/high", f"up to {max(high.values()):g} in {setup.by_stage(high)}", kind=kind)


def backbone_is_slower_than_a_new_head(setup: Setup) -> Findings:
    """A new head's first gradients are random: a pre-trained backbone must not follow them at full rate."""
    if not (setup.optimizers and setup.pretrained and setup.fresh_head):
        return
    rates = {name: rate for name, rate in setup.rates.items() if name in setup.trainable}
    head = max((rate for name, rate in rates.items() if name in setup.head_parameters), default=0.0)
    fast = {name: rate for name, rate in rates.items() if name not in setup.head_parameters and rate >= head > 0}
    for stage in setup.stages:  # adapters, prompts, norms and biases train at the head's rate by design
        sizes = {name: p.numel() for name, p in stage.parameters.items() if p.ndim > 1}
        if sum(size for name, size in sizes.items() if name in fast) <= SMALL_PART * sum(sizes.values()):
            fast = {name: rate for name, rate in fast.items() if name not in stage.parameters}
    if fast:
        highest = max(fast.values())
        evidence = f"head {head:g}; {setup.by_stage(fast)} at up to {highest:g}"
        yield (suspicious if highest >= BOLD_BACKBONE[setup.adaptive] else note)("backbone-as-fast-as-head", evidence)


def gradients_arrive(setup: Setup) -> Findings:
    """After a backward pass, everything that trains has a gradient, and a finite one."""
    given = {name: p.grad for name, p in setup.trainable.items() if p.grad is not None}
    if broken := [name for name, grad in given.items() if not grad.isfinite().all()]:
        yield wrong("gradient/not-finite", setup.by_stage(broken))
    missing = {name: p for name, p in setup.trainable.items() if name not in given and name not in setup.unfrozen}
    if given and missing:  # without any gradient there was no backward pass, or it was zeroed
        # What was unfrozen after the last pass is not known from what no pass reaches.
        moments = {id(p) for optimizer in setup.optimizers for p in optimizer.state}
        new = moments and not any(id(p) in moments for p in missing.values())
        yield (note if new else suspicious)("gradient/missing", setup.by_stage(missing))


def weights_move_where_they_should(setup: Setup) -> Findings:
    """Between two looks, what trains moves, and what is frozen does not."""
    changes = {name: change for name, change in (setup.changes or {}).items() if name in setup.parameters}
    moved = [name for name, change in changes.items() if change.size > 0]
    frozen = [name for name in moved if changes[name].frozen]
    if frozen and len(frozen) < len(setup.parameters):
        yield suspicious("frozen-moved", setup.by_stage(frozen))
    training = [name for name in setup.trainable if setup.rates.get(name, 0) > 0 and name not in setup.unfrozen]
    still = [name for name in training if name in changes and changes[name].size == 0]
    if still and len(moved) > len(frozen):
        yield suspicious("did-not-move", setup.by_stage(still))


def decay_spares_norms(setup: Setup) -> Findings:
    """Weight decay on a norm's scale pulls it to zero for no gain: usual practice leaves norms and biases out."""
    decay = {id(p): group.get("weight_decay", 0) for group in setup.groups for p in group["params"]}
    flat = {name: decay.get(id(p), 0) for name, p in setup.trainable.items() if p.ndim <= 1}
    strong = {name: value for name, value in flat.items() if value >= 0.01}
    if len(strong) > 2:  # more than a head's bias
        kinds = Counter(name.rpartition(".")[2] for name in strong)
        counts = listed(f"{n} {kind}" for kind, n in kinds.items())
        yield note("decay-on-norms", f"{len(strong)} tensors ({counts}), {max(strong.values()):g}")


def _drawn_uniformly(layer: nn.Module, values: torch.Tensor) -> bool:
    """Whether the largest value is as many deviations away as in an even spread, sqrt(3); training makes it more."""
    weights = isinstance(layer, nn.Linear | nn.Conv2d) and values.ndim > 1 and values.numel() > 500
    return weights and 1.6 < (values.abs().max() / values.float().std()).item() < 1.85


def _statistics_moved(setup: Setup, norm: str) -> float:
    """Return by how much running means moved between two looks at which they were frozen and the weights still."""
    changes = setup.changes or {}
    own = [changes[name] for name in (f"{norm}.weight", f"{norm}.bias") if name in changes]
    # Where the weights changed too, other weights were loaded.
    still = f"{norm}.running_mean" in changes and all(change.frozen and change.size == 0 for change in own)
    return changes[f"{norm}.running_mean"].size if still else 0.0
