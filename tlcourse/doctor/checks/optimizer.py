"""Checks of the optimizer: does it hold what trains, at rates that make sense, and do its steps arrive."""

import math
from collections import Counter
from collections.abc import Iterator

import torch

from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.setup import OptimizerEntry, Setup

# Rates from which on training hardly ever works. Adam's steps are as large as its rate whatever the gradients.
HIGHEST = {True: 0.1, False: 2.0}  # a new head alone; by "adaptive"
HIGHEST_BODY = {True: 0.01, False: 0.3}
# Rates from which on a pre-trained body forgets under a new head's first, random gradients.
BOLD_BODY = {True: 5e-4, False: 5e-3}


def trainable_are_held(setup: Setup) -> Iterator[Finding]:
    """What takes gradients must be in an optimizer, or it never moves."""
    if not setup.optimizers:
        return
    lost = [name for name, p in setup.parameters.items() if p.requires_grad and id(p) not in setup.rates]
    if lost:
        yield wrong(
            "not-in-optimizer",
            "Parameters are unfrozen, and in no group of the optimizer: they never move.",
            setup.grouped(lost),
            "Build the optimizer from `tl.models.param_groups(model, lr)` after unfreezing, or freeze them.",
        )


def held_are_the_models(setup: Setup) -> Iterator[Finding]:
    """The optimizer's parameters are this model's, and not those of a head that was replaced."""
    own = {id(p) for p in setup.model.parameters()}
    if isinstance(setup.loss, torch.nn.Module):
        own |= {id(p) for p in setup.loss.parameters()}  # a loss may learn centres, say
    strangers = [held for held in setup.optimizer_entries if id(held.parameter) not in own]
    if not strangers:
        return
    shapes = listed(tuple(held.parameter.shape) for held in strangers)
    lost = [name for name, p in setup.parameters.items() if p.requires_grad and id(p) not in setup.rates]
    finding = wrong if lost else suspicious
    yield finding(
        "foreign-parameters",
        "The optimizer holds parameters that are not in this model.",
        f"{len(strangers)} of {len(setup.optimizer_entries)} tensors, of shapes {shapes}",
        "Build the optimizer last: after the head was replaced, the weights loaded and the model moved.",
    )


def held_once(setup: Setup) -> Iterator[Finding]:
    """A parameter that is held twice is moved twice a step."""
    names = {id(p): name for name, p in setup.parameters.items()}
    places: dict[int, list[OptimizerEntry]] = {}
    for held in setup.optimizer_entries:
        places.setdefault(id(held.parameter), []).append(held)
    twice = {names.get(key, "a parameter of no name"): found for key, found in places.items() if len(found) > 1}
    if not twice:
        return
    same = [name for name, found in twice.items() if len({held.optimizer for held in found}) < len(found)]
    first = next(iter(twice.values()))
    where = " and ".join(
        f"group {h.group}" + f" of optimizer {h.optimizer}" * (len(setup.optimizers) > 1) for h in first
    )
    finding = wrong if same else suspicious
    yield finding(
        "held-twice",
        "Parameters are in the optimizer more than once, and move more than once a step.",
        f"{len(twice)} tensors, such as {listed(twice, 3)} (the first in {where})",
        "Give each parameter to one group of one optimizer; `tl.models.param_groups` does.",
    )


def frozen_are_not_held(setup: Setup) -> Iterator[Finding]:
    """Frozen parameters in the optimizer are harmless as long as they have no gradient."""
    frozen = {name: p for name, p in setup.parameters.items() if not p.requires_grad and id(p) in setup.rates}
    stale = [name for name, p in frozen.items() if p.grad is not None and setup.rates[id(p)] > 0]
    if stale:
        yield wrong(
            "frozen-with-gradient",
            "Frozen parameters are in the optimizer and keep an old gradient: every step still moves them.",
            f"{setup.grouped(stale)}; momentum and weight decay move them even where the gradient is 0",
            "Set their `.grad` to None when you freeze, as `tl.models.freeze` does, or build the optimizer anew.",
        )
    elif frozen:
        yield note(
            "frozen-in-optimizer",
            "Frozen parameters are in the optimizer.",
            setup.grouped(frozen),
            "Harmless: without a gradient they are skipped. They begin to train, at their group's rate, once unfrozen.",
        )


def rates_make_sense(setup: Setup) -> Iterator[Finding]:
    """A rate of zero trains nothing, and one that is far too high destroys what was learnt."""
    training = {name: p for name, p in setup.parameters.items() if p.requires_grad and id(p) in setup.rates}
    if not training:
        return
    odd = [name for name, p in training.items() if not math.isfinite(setup.rates[id(p)])]
    if odd:
        yield wrong("rate", "A learning rate is not a number.", setup.grouped(odd), "Build the optimizer anew.")
        return
    still = [name for name, p in training.items() if setup.rates[id(p)] == 0]
    if still and not setup.schedulers:  # a warm-up starts at 0, and a cosine ends there
        finding = wrong if len(still) == len(training) else note
        advice = "Give the group a rate above 0, or freeze it: it costs a backward pass."
        yield finding("rate", "Parameters train at a rate of 0.", setup.grouped(still), advice)
    head = {id(p) for p in setup.head[1].parameters()} if setup.head else set()
    high = [
        name
        for name, p in training.items()
        if setup.rates[id(p)] > (HIGHEST if id(p) in head else HIGHEST_BODY)[setup.adaptive]
        # From scratch, large rates are usual for SGD.
        and (id(p) in head or setup.adaptive or setup.pretrained)
    ]
    if high:
        top = max(setup.rates[id(training[name])] for name in high)
        kind = type(setup.optimizers[0]).__name__
        advice = "Try a hundredth, or look for the rate with a range test."
        yield suspicious("rate", f"A very high rate for {kind}.", f"up to {top:g} in {setup.grouped(high)}", advice)


def body_is_slower_than_a_new_head(setup: Setup) -> Iterator[Finding]:
    """A new head's first gradients are random: a pre-trained body must not follow them at full rate."""
    if not (setup.optimizers and setup.pretrained and setup.fresh_head):
        return
    own = {id(p) for p in setup.head[1].parameters()}
    head = max((setup.rates[id(p)] for p in setup.head[1].parameters() if id(p) in setup.rates), default=0)
    body = {
        n: setup.rates[id(p)]
        for n, p in setup.parameters.items()
        if p.requires_grad and id(p) in setup.rates and id(p) not in own
    }
    fast = {name: rate for name, rate in body.items() if rate >= head > 0}
    if not fast:
        return
    bold = max(fast.values()) >= BOLD_BODY[setup.adaptive]
    finding = suspicious if bold else note
    yield finding(
        "body-as-fast-as-head",
        "The pre-trained body trains at the rate of the new head, or faster.",
        f"head {head:g}; {setup.grouped(fast)} at up to {max(fast.values()):g}",
        "Lower the body's rates, `tl.models.param_groups(model, lr, decay=0.5)`, or train the head alone first.",
    )


def gradients_arrive(setup: Setup) -> Iterator[Finding]:
    """After a backward pass, everything that trains has a gradient, and a finite one."""
    training = {name: p for name, p in setup.parameters.items() if p.requires_grad}
    given = {name: p.grad for name, p in training.items() if p.grad is not None}
    broken = [name for name, grad in given.items() if not bool(torch.isfinite(grad).all())]
    if broken:
        advice = "Do not step: lower the rate, clip the gradients, and look at the batch that made them."
        yield wrong("gradient", "Gradients are NaN or infinite.", setup.grouped(broken), advice)
    missing = [name for name in training if name not in given]
    if given and missing:  # without any gradient there was no backward pass, or it was zeroed
        # What was unfrozen after the last pass is not known from what no pass reaches.
        moments = {id(p) for optimizer in setup.optimizers for p in optimizer.state}
        new = moments and not any(id(training[name]) in moments for name in missing)
        finding = note if new else suspicious
        yield finding(
            "gradient",
            "Parameters got no gradient in a backward pass that reached others.",
            setup.grouped(missing),
            "See whether they were unfrozen after that pass, run under `no_grad`, or play no part in the output.",
        )


def weights_move_where_they_should(setup: Setup) -> Iterator[Finding]:
    """Between two looks, what trains moves, and what is frozen does not."""
    changes = setup.changes or {}
    moved = {name for name in setup.parameters if name in changes and changes[name].size > 0}
    frozen = [name for name in moved if changes[name].frozen]
    if frozen and len(frozen) < len(setup.parameters):
        yield suspicious(
            "frozen-moved",
            "Parameters moved though they were frozen now and at the last look.",
            setup.grouped(frozen),
            "Right if you loaded weights in between. Otherwise an old gradient or a second optimizer moves them.",
        )
    rates, trainable = setup.rates, setup.parameters
    still = [
        name
        for name, p in trainable.items()
        if p.requires_grad and rates.get(id(p), 0) > 0 and name in changes and changes[name].size == 0
    ]
    if still and moved - set(frozen):
        yield suspicious(
            "did-not-move",
            "Parameters train, and did not move since the last look, while others did.",
            setup.grouped(still),
            "See whether gradients reach them (a `detach`, `no_grad`, an unused module), or their rate is tiny.",
        )


def decay_spares_norms(setup: Setup) -> Iterator[Finding]:
    """Weight decay on a norm's scale pulls it to zero for no gain: usual practice leaves norms and biases out."""
    if not setup.optimizers:
        return
    decay = {id(p): g.get("weight_decay", 0) for o in setup.optimizers for g in o.param_groups for p in g["params"]}
    flat = {name: decay.get(id(p), 0) for name, p in setup.parameters.items() if p.requires_grad and p.ndim <= 1}
    strong = {name: value for name, value in flat.items() if value >= 0.01}
    body = Counter(name.rpartition(".")[2] for name in strong)
    if len(strong) > 2:  # more than a head's bias
        yield note(
            "decay-on-norms",
            "Norms and biases have weight decay.",
            f"{len(strong)} tensors ({listed(f'{n} {kind}' for kind, n in body.items())}), {max(strong.values()):g}",
            "Put them into a group with weight_decay=0, as most recipes for fine-tuning do.",
        )


CHECKS = (
    trainable_are_held,
    held_are_the_models,
    held_once,
    frozen_are_not_held,
    rates_make_sense,
    body_is_slower_than_a_new_head,
    gradients_arrive,
    weights_move_where_they_should,
    decay_spares_norms,
)
