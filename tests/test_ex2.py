"""Exercise 2: right answers in any spelling are right; each usual mistake is refused, and named."""

import math
from functools import partial

import judges
import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, lr_scheduler

import tlcourse as tl
from tlcourse.lessons.comparison import Runs
from tlcourse.table import Table
from tlcourse.train import schedules

ORDER = ("fc", "layer4", "layer3", "layer2", "layer1", "stem")


def plateau(model, *, lr=0.01, keep=("fc",), optimizer=AdamW, params=None, frozen=False, **options):
    model.requires_grad_(False)
    for name in keep:
        getattr(model, name).requires_grad_(not frozen)
    made = optimizer(params(model) if params else model.fc.parameters(), lr=lr)
    return made, lr_scheduler.ReduceLROnPlateau(made, **({"factor": 0.5, "patience": 2} | options))


class ByHand:
    """A plateau scheduler of the learner's own."""

    def __init__(self, optimizer, most=3, factor=0.5):
        self.optimizer, self.best, self.bad, self.most, self.factor = optimizer, math.inf, 0, most, factor

    def step(self, loss):
        self.bad = 0 if loss < self.best else self.bad + 1
        self.best = min(self.best, loss)
        if self.bad == self.most:
            self.bad = 0
            for group in self.optimizer.param_groups:
                group["lr"] *= self.factor


def plateau_by_hand_of(*rule):
    return lambda model: (made := plateau_by_hand(model)[0], ByHand(made, *rule))


def plateau_by_hand(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in ("fc.weight", "fc.bias")
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    return optimizer, ByHand(optimizer)


def plateau_by_package(model):
    tl.models.freeze(model)
    optimizer = Adam(tl.models.param_groups(model, 0.01))
    return optimizer, tl.train.schedules.plateau(optimizer, factor=0.5, patience=2)


def another_head(model):
    _, scheduler = plateau(model)
    return AdamW(nn.Linear(256, 2).parameters(), lr=0.01), scheduler


def plateau_stepped(model):
    optimizer, scheduler = plateau(model)
    scheduler.step(1.0)
    return optimizer, scheduler


def on_another_optimizer(model):
    return plateau(model)[0], plateau(model)[1]


def head_in_two_groups(model, bias=0.01, **options):
    plateau(model)
    made = AdamW([{"params": [model.fc.weight]}, {"params": [model.fc.bias], "lr": bias}], lr=0.01)
    return made, lr_scheduler.ReduceLROnPlateau(made, factor=0.5, patience=2, **options)


def with_a_new_head(model):
    model.fc = nn.Linear(model.fc.in_features, 2)
    return plateau(model)


class SinceTheEpochBefore(ByHand):
    """Compares with the epoch before, not with the best."""

    def step(self, loss):
        super().step(loss)
        self.best = loss


def cosine_instead(model):
    optimizer, _ = plateau(model)
    return optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 20)


def groups(model, *, top=0.004, factor=0.5, leave=(), order=ORDER, frozen=(), twice=False):
    model.requires_grad_(True)
    found = []
    for i, stage in enumerate(order):
        names = ("conv1", "bn1") if stage == "stem" else (stage,)
        params = [p for name in names if name not in leave for p in getattr(model, name).parameters()]
        if params:
            found.append({"params": params, "lr": top * factor**i})
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    if twice:
        found[0]["params"].append(found[1]["params"][0])
    return found


def one_group_per_tensor(model):
    for p in model.parameters():
        p.requires_grad_(True)
    depth = {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1, "fc": 0}
    return [{"params": [p], "lr": 0.004 / 2 ** depth[n.split(".")[0]]} for n, p in model.named_parameters()]


def groups_by_package(model):
    model.requires_grad_(True)
    return tl.models.param_groups(model, 0.004, layer_decay=0.5)


def the_chapters(model):
    model.layer4.requires_grad_(True)
    model.fc.requires_grad_(True)
    return [{"params": model.layer4.parameters(), "lr": 0.002}, {"params": model.fc.parameters(), "lr": 0.004}]


def without_rates(model):
    return [{"params": group["params"]} for group in groups(model)]


def bn_forgotten(model):
    found = groups(model)
    for group in found:
        group["params"] = [p for p in group["params"] if p.ndim > 1]
    return found


def one_a_child(model, all_children):
    """Halve the rate at every child, or at every child with parameters: the stem is then two stages."""
    model.requires_grad_(True)
    children = [child for child in model.children() if all_children or list(child.parameters())][::-1]
    groups = [{"params": list(child.parameters()), "lr": 0.004 / 2**i} for i, child in enumerate(children)]
    return [group for group in groups if group["params"]]


def stem_by_names(model):
    """Take every conv1 and bn1 into the stem, those of the blocks, too."""
    found = groups(model)
    found[-1]["params"] = [p for name, p in model.named_parameters() if "conv1" in name or "bn1" in name]
    return found


def one_twice(model):
    found = groups(model)
    found[-1]["params"] += found[-1]["params"][:1]
    return found


def by_yielding(model):
    yield from groups(model)


def of_another_model(model):
    return groups(tl.models.create("tl_resnet", 2, weights=None))


def half_wave(done):
    return (1 + math.cos(math.pi * done)) / 2


def by_lambda(optimizer, epochs, batches, *, warm=None, start=1, total=None, bottom=0.0, shift=0):
    warm, total = batches if warm is None else warm, epochs * batches if total is None else total

    def factor(t):
        if t < warm:
            return (t + start) / warm
        return bottom + (1 - bottom) * half_wave(min((t + shift - warm) / (total - warm), 1))

    return lr_scheduler.LambdaLR(optimizer, factor)


def in_a_row(optimizer, epochs, batches, *, milestone=0, minimum=0.0, length=None, start=None, late=0):
    fall = length or epochs * batches - batches
    warm = lr_scheduler.LinearLR(optimizer, start or 1 / batches, total_iters=batches - 1 + late)
    down = lr_scheduler.CosineAnnealingLR(optimizer, fall, eta_min=minimum)
    return lr_scheduler.SequentialLR(optimizer, [warm, down], milestones=[batches + milestone])


def wave_from_the_start(optimizer, epochs, batches):
    return lr_scheduler.LambdaLR(
        optimizer, lambda t: (t + 1) / batches if t < batches else half_wave(t / (epochs * batches))
    )


def fall_of(part):
    """Return an answer whose fall is a function of the step in it, of its steps and of the batches of an epoch."""
    return lambda optimizer, epochs, batches: lr_scheduler.LambdaLR(
        optimizer,
        lambda t: (t + 1) / batches if t < batches else part(t - batches, epochs * batches - batches, batches),
    )


def from_a_table(optimizer, epochs, batches):
    fall = epochs * batches - batches
    table = [*((np.arange(batches) + 1) / batches), *((1 + np.cos(np.pi * np.arange(fall + 1) / fall)) / 2)]
    return lr_scheduler.LambdaLR(optimizer, [table.__getitem__] * len(optimizer.param_groups))


def straight_line(optimizer, epochs, batches):
    fall = epochs * batches - batches
    return lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) / batches if t < batches else 1 - (t - batches) / fall)


class OwnScheduler:
    """Neither PyTorch's nor the package's."""

    def __init__(self, optimizer, epochs, batches):
        self.optimizer, self.base = optimizer, [g["lr"] for g in optimizer.param_groups]
        self.t, self.batches, self.total = -1, batches, epochs * batches
        self.step()

    def step(self):
        self.t += 1
        b = self.batches
        factor = (self.t + 1) / b if self.t < b else half_wave((self.t - b) / (self.total - b))
        for group, rate in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = rate * factor


class OneLate(OwnScheduler):
    """Sets no rate before its first step."""

    def __init__(self, optimizer, epochs, batches):
        super().__init__(optimizer, epochs, batches)
        for group, rate in zip(optimizer.param_groups, self.base, strict=True):
            group["lr"] = rate


def warmed_by_epoch(optimizer, epochs, batches):
    fall = epochs * batches - 1
    return lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) / batches if t < 1 else half_wave((t - 1) / fall))


def stepped_at_once(*given):
    scheduler = by_lambda(*given)
    scheduler.step()
    return scheduler


def chained(optimizer, epochs, batches):
    warm = lr_scheduler.LinearLR(optimizer, 1 / batches, total_iters=batches - 1)
    return lr_scheduler.ChainedScheduler([warm, lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)])


def own_scheduler(optimizer, epochs, batches):
    return OwnScheduler(optimizer, epochs, batches)


def as_a_schedule(optimizer, epochs, batches, interval="step"):
    return tl.train.Schedule(by_lambda(optimizer, epochs, batches), interval)


def product(optimizer, epochs, batches):
    """Step from each factor to the next one: MultiplicativeLR multiplies what is there."""
    factor = by_lambda(SGD([torch.zeros(1)], lr=1.0), epochs, batches).lr_lambdas[0]
    for group in optimizer.param_groups:
        group["lr"] *= factor(0)
    return lr_scheduler.MultiplicativeLR(optimizer, lambda t: factor(t) / factor(t - 1) if factor(t - 1) else 0.0)


def with_restarts(optimizer, epochs, batches):
    warm = lr_scheduler.LambdaLR(optimizer, lambda t: (t + 1) / batches)
    fall = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, epochs * batches - batches)
    return lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[batches])


def one_rate_for_all(optimizer, epochs, batches):
    for group in optimizer.param_groups:
        group["lr"] = 0.004
    return by_lambda(optimizer, epochs, batches)


def one_cycle(optimizer, epochs, batches):
    return lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=epochs * batches)


def elsewhere(optimizer, epochs, batches):
    return by_lambda(SGD([torch.zeros(1)], lr=0.1), epochs, batches)


def late(optimizer, parameters, rate, steps, *, reset=True, unfreeze=True, join=True, length=None, minimum=0.0):
    for parameter in parameters:
        parameter.requires_grad_(unfreeze)
    if join:
        optimizer.add_param_group({"params": parameters, "lr": rate})
    for group in optimizer.param_groups:
        if reset:
            group["lr"] = group.setdefault("initial_lr", group["lr"])
    return lr_scheduler.CosineAnnealingLR(optimizer, length or steps, eta_min=minimum)


def late_by_lambda(optimizer, parameters, rate, steps):
    for p in parameters:
        p.requires_grad = True
        optimizer.add_param_group({"params": [p], "lr": rate})
    return lr_scheduler.LambdaLR(optimizer, lambda t: half_wave(t / steps))


def late_by_package(optimizer, parameters, rate, steps):
    [p.requires_grad_(True) for p in parameters]
    optimizer.add_param_group({"params": parameters, "lr": rate})
    return schedules.cosine(optimizer, steps)


def late_rates_written(optimizer, parameters, rate, steps):
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.add_param_group({"params": parameters, "lr": rate, "initial_lr": rate})
    return lr_scheduler.CosineAnnealingLR(optimizer, steps)


def late_scheduler_first(optimizer, parameters, rate, steps):
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda t: half_wave(t / steps))
    late(optimizer, parameters, rate, steps, reset=False)
    return scheduler


def late_forgets(optimizer, *given):
    optimizer.state.clear()
    return late(optimizer, *given)


def late_in_a_new_one(optimizer, parameters, rate, steps):
    new = Adam([{"params": optimizer.param_groups[0]["params"], "lr": 0.01}], lr=0.01)
    return late(new, parameters, rate, steps)


def late_one_rate(optimizer, parameters, rate, steps):
    return late_by_lambda(optimizer, parameters, 0.01, steps)


def late_in_the_heads_group(optimizer, parameters, rate, steps):
    optimizer.param_groups[0]["params"] += parameters
    return late(optimizer, parameters, rate, steps, join=False)


def late_with_initial_rates_overwritten(optimizer, parameters, rate, steps):
    late(optimizer, parameters, rate, steps, reset=False)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return lr_scheduler.CosineAnnealingLR(optimizer, steps)


def late_with_restarts(optimizer, parameters, rate, steps):
    late(optimizer, parameters, rate, steps)
    return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, steps)


def late_in_a_line(optimizer, parameters, rate, steps):
    late(optimizer, parameters, rate, steps)
    return lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)


def late_returns_nothing(*given):
    late(*given)
    return None


def runs(gains=(0.0, 0.04, -0.03, 0.02, -0.01), *, ways=("constant", "scheduled"), other=0, images=40, same=False):
    rows = Table()
    for seed, gain in enumerate(gains):
        for way, more in zip(ways, (0.0, gain), strict=True):
            moved = seed + (other if way == "scheduled" else 0)
            row = {"data": "toypets", "way": way, "images": images, "seed": moved, "accuracy": 0.7 + more}
            rows.append(row | {"loss": 0.6 if same else 0.6 - more / 2, "seconds": 1.0})
    return Runs(rows)


UP, DOWN = (0.05, 0.06, 0.04, 0.05, 0.06), (-0.05, -0.06, -0.04, -0.05, -0.06)
TIE = "no difference shown"

RIGHT = {
    "plateau": [
        plateau,
        plateau_by_hand,
        plateau_by_package,
        partial(plateau, optimizer=Adam, eps=0, mode="min"),
        head_in_two_groups,
        with_a_new_head,
        partial(plateau, params=nn.Module.parameters),
    ],
    "groups": [
        groups,
        one_group_per_tensor,
        groups_by_package,
        lambda m: tuple(groups(m)),
        by_yielding,
        lambda m: AdamW(groups(m)).param_groups,
    ],
    "warmup": [
        by_lambda,
        in_a_row,
        own_scheduler,
        as_a_schedule,
        product,
        with_restarts,
        from_a_table,
        fall_of(lambda i, m, b: float(1 + torch.cos(torch.tensor(math.pi * i / m))) / 2),
    ],
    "late": [late, late_by_lambda, late_by_package, late_rates_written, late_with_restarts],
    "gain": [
        (runs(), TIE),
        (runs(UP), "better"),
        [runs(DOWN), " Worse "],
        (runs((*UP, *UP)), "better"),
        (runs((0.03, -0.01, 0.05, 0.0, 0.01, 0.02)), TIE),
    ],
}
WRONG = {
    "plateau": [
        (partial(plateau, mode="max"), "`mode`: it is 'max'"),
        (partial(plateau, factor=0.1), "`factor`: it is 0.1"),
        (partial(plateau, patience=3), "`patience`: it is 3"),
        (partial(plateau, patience=1), "`patience`: it is 1"),
        (partial(plateau, cooldown=2), "`cooldown`: it is 2"),
        (partial(plateau, threshold=0.3), "`threshold`, 0.3"),
        (partial(plateau, threshold=0.1), "`threshold`, 0.1: a loss that is lower by less"),
        (plateau_stepped, "has stepped the scheduler"),
        (lambda m: (plateau(m)[0], lr_scheduler.ReduceLROnPlateau), "the class ReduceLROnPlateau stands"),
        (lambda m: (made := plateau(m)[0], lr_scheduler.LambdaLR(made, lambda loss: 0.5)), "never looks at the loss"),
        (plateau_by_hand_of(1, 0.5), "too early"),
        (plateau_by_hand_of(4, 0.5), "three epochs in a row"),
        (plateau_by_hand_of(3, 0.1), "multiplied by 0.1"),
        (partial(plateau, patience=10), "`patience`: it is 10"),
        (partial(plateau, min_lr=0.004), "`min_lr`"),
        (partial(plateau, eps=0.02), "`eps`"),
        (partial(head_in_two_groups, bias=0.02), "fc.bias starts with a rate of 0.02"),
        (partial(head_in_two_groups, min_lr=[0, 0.009]), "the rate of fc.bias is 0.009 after epoch 6"),
        (lambda m: (made := plateau_by_hand(m)[0], SinceTheEpochBefore(made)), "no new lowest loss"),
        (lambda m: (made := plateau_by_hand(m)[0], schedules.plateau(made)), "`patience`: it is 3"),
        (partial(plateau, keep=("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")), "48 of 48 parameters"),
        (partial(plateau, lr=0.001), "0.01 is asked for"),
        (
            partial(plateau, keep=("fc", "layer4")),
            "15 of 48 parameters below the head take gradients, such as layer4.0.bn1.bias",
        ),
        (partial(plateau, keep=("layer4",), params=lambda m: m.layer4.parameters()), "below the head"),
        (partial(plateau, keep=("fc",), frozen=True), "takes no gradients"),
        (partial(plateau, params=lambda m: [m.fc.weight]), "fc.bias is in no group"),
        (another_head, "another model"),
        (on_another_optimizer, "another optimizer"),
        (cosine_instead, "never looks at the loss"),
        (lambda model: plateau(model)[0], "two things"),
        (lambda model: plateau(model)[::-1], "where the optimizer is asked for"),
        (lambda model: 0.01, "two things"),
        (lambda: None, "TypeError"),
        (nn.Linear(2, 2), "Give a function"),
    ],
    "groups": [
        (the_chapters, "33 of 50 parameters are in no group, such as conv1.weight"),
        (partial(groups, leave=("bn1",)), "2 of 50 parameters are in no group, such as bn1.weight"),
        (partial(groups, leave=("conv1", "bn1")), "3 of 50 parameters are in no group"),
        (partial(groups, leave=("fc",)), "in no group, such as fc.weight"),
        (partial(groups, order=ORDER[::-1]), "rise towards the stem"),
        (partial(groups, factor=1.0), "layer4.1.bn2.bias has the rate 0.004, and 0.002 is asked for"),
        (partial(groups, top=0.008), "fc.bias has the rate 0.008, and 0.004 is asked for"),
        (partial(groups, top=0.002), "fc.bias has the rate 0.002, and 0.004 is asked for"),
        (partial(groups, factor=0.1), "It is 0.1 of the rate of the stage above"),
        (partial(one_a_child, all_children=True), "layer4.1.bn2.bias has the rate 0.001, and 0.002 is asked for"),
        (partial(one_a_child, all_children=False), "conv1 and bn1 are one stage, the stem"),
        (stem_by_names, "more than one parameter group"),
        (one_twice, "in a group twice"),
        (lambda model: groups(model)[0], "no list of groups"),
        (partial(groups, frozen=("layer2",)), "layer2.0.conv1.weight is in a group and still frozen"),
        (partial(groups, frozen=("bn1",)), "still frozen"),
        (partial(groups, twice=True), "PyTorch refuses these groups"),
        (without_rates, "group 0 has no `lr`"),
        (bn_forgotten, "in no group, such as bn1.weight"),
        (of_another_model, "another model"),
        (lambda model: model.parameters(), "no list of groups"),
        (lambda model: [g | {"lr": str(g["lr"])} for g in groups(model)], "has the rate '0.004', which is no number"),
        (lambda model: AdamW(groups(model)), "returns an AdamW. Return a list of groups"),
        (lambda model: model, "returns a TLResNet"),
        (lambda model: [], "no list of groups"),
        ("groups", "Give a function"),
    ],
    "warmup": [
        (partial(by_lambda, start=0), "first step at rate zero"),
        (partial(by_lambda, warm=0), "no warm-up"),
        (partial(by_lambda, warm=1), "no warm-up"),
        (partial(by_lambda, warm=10), "the factor of this step is 1 / 7; it is 0.1."),
        (lambda o, e, b: by_lambda(o, e, b, warm=b + 1), "ends one step late"),
        (lambda o, e, b: by_lambda(o, e, b, warm=e * b, total=e * b + 1), "through all of the training"),
        (lambda o, e, b: by_lambda(o, 1, e, warm=1), "no warm-up"),
        (
            lambda o, e, b: by_lambda(o, e, b, total=b + e),
            "does the fall count epochs",
        ),
        (partial(by_lambda, shift=1), "one step early"),
        (lambda o, e, b: by_lambda(o, e, b, total=e * b + b), "as long as the training"),
        (lambda o, e, b: by_lambda(o, e, b, total=e * b - 1), "ends at the last step"),
        (fall_of(lambda i, m, b: half_wave(2 * i / m)), "A whole wave"),
        (fall_of(lambda i, m, b: math.cos(math.pi / 2 * i / m)), "a quarter of a wave"),
        (fall_of(lambda i, m, b: math.cos(math.pi * i / m)), "The bare cosine"),
        (fall_of(lambda i, m, b: half_wave(i // b * b / m)), "once an epoch"),
        (fall_of(lambda i, m, b: 1.0), "stays at the full rate"),
        (lambda o, e, b: schedules.warmup_cosine(o, e * b, warmup=1 / e), "ends one step late"),
        (fall_of(lambda i, m, b: 1 + math.cos(math.pi * i / m)), "is not halved"),
        (fall_of(lambda i, m, b: half_wave(i / m / math.pi)), "pi is missing"),
        (fall_of(lambda i, m, b: 1 - half_wave(i / m)), "starts at 0 times the full rate"),
        (fall_of(lambda i, m, b: half_wave(i % b / b)), "At its step 7 the wave rises"),
        (fall_of(lambda i, m, b: half_wave(i // b * b / (m - b))), "once an epoch, and ends in the last one"),
        (warmed_by_epoch, "The warm-up ends after one step"),
        (stepped_at_once, "one step ahead"),
        (OneLate, "Give a function"),
        (lambda *given: OneLate(*given), "Only the first rate is off"),
        (partial(in_a_row, late=1), "`batches - 1` steps away"),
        (chained, "falls in the warm-up, too"),
        (lambda o, e, b: lr_scheduler.LambdaLR(o, lambda t: 0.004 * (t + 1) / b), "far too low"),
        (lambda o, e, b: lr_scheduler.LambdaLR(o, lambda t: 1 / (b - b)), "ZeroDivisionError"),
        (wave_from_the_start, "since the first step"),
        (straight_line, "in a straight line"),
        (partial(by_lambda, bottom=0.1), "falls too slowly"),
        (partial(in_a_row, minimum=1e-5), "keep their ratio"),
        (partial(in_a_row, milestone=1), "one step late"),
        (partial(in_a_row, length=1000), "falls too slowly"),
        (partial(in_a_row, start=0.01), "it is 0.01"),
        (one_cycle, "keep their ratio"),
        (one_rate_for_all, "keep their ratio"),
        (elsewhere, "another optimizer"),
        (lambda o, e, b: lr_scheduler.CosineAnnealingLR(o, e * b), "no warm-up"),
        (lambda o, e, b: lr_scheduler.ReduceLROnPlateau(o), "waits for a loss"),
        (lambda o, e, b: lr_scheduler.LambdaLR(o, lambda t: 1.0), "no warm-up"),
        (lambda o, e, b: o, "where the scheduler is asked for"),
        (lambda o, e, b: None, "a NoneType stands"),
        (partial(as_a_schedule, interval="epoch"), "stepped by epoch"),
        (OwnScheduler, "Give a function"),
        (lambda t: 1.0, "TypeError"),
    ],
    "late": [
        (partial(late, reset=False), "There the last schedule stopped"),
        (partial(late, unfreeze=False), "still frozen"),
        (partial(late, join=False), "layer4.0.conv1.weight is in no group"),
        (partial(late, length=5), "At its step 6 the wave rises"),
        (lambda o, p, r, s: late(o, p, r, s, length=s - 1), "The wave ends at the last step"),
        (late_in_a_line, "in a straight line"),
        (partial(late, length=100), "falls too slowly"),
        (partial(late, minimum=1e-4), "falls too slowly"),
        (lambda o, p, r, s: late(o, p[:3], r, s), "still frozen"),
        (lambda o, p, r, s: late(o, p, 0.01, s), "That is the head's rate"),
        (lambda o, p, r, s: late(o, p, r / 10, s), "the rate that it was built with"),
        (lambda o, p, r, s: late_by_lambda(o, p, r, 2 * s), "falls too slowly"),
        (late_in_the_heads_group, "need a group of their own"),
        (late_with_initial_rates_overwritten, "There the last schedule stopped"),
        (late_scheduler_first, "build it when all have joined"),
        (late_forgets, "moments are gone"),
        (late_in_a_new_one, "another optimizer"),
        (late_one_rate, "layer4.0.conv1.weight has a rate of 0.01"),
        (late_returns_nothing, "a NoneType stands"),
        (lambda o, p, r, s: late(o, p, r, s) and o, "where the scheduler is asked for"),
        (lambda o, p, r, s: late(o, [*p, *o.param_groups[0]["params"]], r, s), "ValueError"),
        (3, "Give a function"),
    ],
    "gain": [
        ((runs(), "better"), "holds zero"),
        ((runs(), "worse"), "holds zero"),
        ((runs(UP), TIE), "leaves out zero"),
        ((runs(UP), "worse"), "'better'"),
        ((runs(DOWN), "better"), "'worse'"),
        ((runs(UP[:3]), "better"), "3 seeds"),
        ((runs(other=5), TIE), "cannot be paired"),
        ((runs(ways=("constant", "cosine")), TIE), "no runs named 'scheduled'"),
        ((runs(images=200), TIE), "with 200 training images, and 40 are asked for"),
        ((runs(UP, images=20), "better"), "with 20 training images, and 40 are asked for"),
        ((runs() + runs(images=80), TIE), "with 80 training images, and 40 are asked for"),
        ((runs((0.0,) * 5, same=True), TIE), "did not reach the training"),
        ((runs(), "maybe"), "Choose among"),
        ((runs(UP), 0.05), "Choose among"),
        ((runs() + runs(), TIE), "added twice"),
        ((runs(), runs().difference("scheduled", "constant")), "Choose among"),
        ((TIE, runs()), "the first part is a str"),
        ((0.05, "better"), "Give what"),
        (runs(), "two things"),
        ("better", "two things"),
    ],
}
test_the_bank_is_large_enough, test_right_answers_are_right, test_wrong_answers_are_refused_and_named = judges.bank(
    "ex2", RIGHT, WRONG, each=(3, 10)
)
