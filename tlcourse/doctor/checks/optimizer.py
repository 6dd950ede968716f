"""Checks of the optimizer: does it hold what trains, at learning rates that make sense, and do its steps arrive."""

import math
from collections import Counter, defaultdict

from torch import nn

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

# Learning rates from which on training hardly ever works. Adam's steps are as large as its rate whatever the gradients.
HIGHEST = {True: 0.1, False: 2.0}  # a new head alone; by "adaptive"
HIGHEST_BACKBONE = {True: 0.01, False: 0.3}
# Learning rates from which on a pre-trained backbone forgets under a new head's first, random gradients.
BOLD_BACKBONE = {True: 5e-4, False: 5e-3}


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
    if odd := [name for name, rate in rates.items() if not math.isfinite(rate)]:
        yield wrong("rate/not-a-number", setup.by_stage(odd))
        return
    zero = [name for name, rate in rates.items() if rate == 0]
    if zero and not setup.schedulers:  # a warm-up starts at 0, and a cosine ends there
        yield (wrong if len(zero) == len(rates) else note)("rate/zero", setup.by_stage(zero))
    adaptive, high = setup.adaptive, {}
    for name, rate in rates.items():
        if name in setup.head_parameters:
            highest = HIGHEST[adaptive]
        else:  # from scratch, large rates are usual for SGD
            highest = HIGHEST_BACKBONE[adaptive] if adaptive or setup.pretrained else math.inf
        if rate > highest:
            high[name] = rate
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
    if fast:
        highest = max(fast.values())
        evidence = f"head {head:g}; {setup.by_stage(fast)} at up to {highest:g}"
        yield (suspicious if highest >= BOLD_BACKBONE[setup.adaptive] else note)("backbone-as-fast-as-head", evidence)


def gradients_arrive(setup: Setup) -> Findings:
    """After a backward pass, everything that trains has a gradient, and a finite one."""
    given = {name: p.grad for name, p in setup.trainable.items() if p.grad is not None}
    if broken := [name for name, grad in given.items() if not grad.isfinite().all()]:
        yield wrong("gradient/not-finite", setup.by_stage(broken))
    missing = {name: p for name, p in setup.trainable.items() if name not in given}
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
    training = [name for name in setup.trainable if setup.rates.get(name, 0) > 0 and name in changes]
    still = [name for name in training if changes[name].size == 0]
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
