"""Exercise 1: right answers in any spelling are right; each usual mistake is refused, and named."""

import math
from contextlib import nullcontext
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import pairwise

import judges
import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy

import tlcourse as tl
from tlcourse.lessons.comparison import Runs
from tlcourse.table import Table

WAYS = ("frozen", "last stage", "fine-tuned")
SIZES = {"radiographs": 20, "landuse": 40, "surfaces": 80}


def train(
    model,
    trains,
    batches,
    lr,
    *,
    freeze=True,
    unfreeze=True,
    mode="own",
    params=None,
    optimizer=torch.optim.AdamW,
    rate=None,
    zero=True,
    sign=1,
    first_only=False,
    twice=False,
):
    for name, part in model.named_children():
        if name in trains and unfreeze:
            part.requires_grad_(True)
        if name not in trains and freeze:
            part.requires_grad_(False)
        if mode == "own":
            part.train(name in trains)
    if mode != "own":
        model.train(mode)
    moving = [p for p in model.parameters() if p.requires_grad] if params is None else list(params(model))
    made = optimizer(moving, lr=rate or lr)
    for inputs, labels in batches:
        for _ in range(1 + twice):
            loss = sign * cross_entropy(model(inputs), labels)
            if zero:
                made.zero_grad()
            loss.backward()
            made.step()
        if first_only:
            return


def train_by_package(model, trains, batches, lr):
    stage = {"fc": "head", "layer4": "layer4", "layer3": "layer3", "conv1": "stem"}[trains[0]]
    tl.models.unfreeze_from(model, stage)
    optimizer = torch.optim.Adam(tl.models.param_groups(model, lr))
    for x, y in batches:
        tl.models.train_mode(model)
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()
    return model


def train_by_hand(model, trains, batches, lr):
    """Plain gradient descent without an optimizer, by the names of the parameters."""
    model.train()
    own = {n: p for n, p in model.named_parameters() if n.split(".")[0] in trains}
    model.requires_grad_(False)
    for p in own.values():
        p.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
    for x, y in batches:
        gradients = torch.autograd.grad(cross_entropy(model(x), y), list(own.values()))
        with torch.no_grad():
            for p, g in zip(own.values(), gradients, strict=True):
                p -= lr * g


def train_by_groups(model, trains, batches, lr):
    """A group for each part, and modes set anew for each batch."""
    groups = []
    for name, p in model.named_parameters():
        p.requires_grad = any(name.startswith(f"{part}.") for part in trains)
    for part in trains:
        groups.append({"params": list(getattr(model, part).parameters())})
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    for batch in batches:
        model.train()
        [child.eval() for name, child in model.named_children() if name not in trains]
        loss = cross_entropy(model(batch[0]), batch[1])
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def prepared(model, trains):
    for name, part in model.named_children():
        part.requires_grad_(name in trains)
        part.train(name in trains)
    return [p for p in model.parameters() if p.requires_grad]


def train_by_loss(loss, model, trains, batches, lr, *, context=nullcontext):
    optimizer = torch.optim.AdamW(prepared(model, trains), lr=lr)
    for x, y in batches:
        optimizer.zero_grad()
        with context():
            found = loss(model(x), y)
        found.backward()
        optimizer.step()


def train_in_the_backward_pass(model, trains, batches, lr):
    optimizers = {p: torch.optim.SGD([p], lr=lr) for p in prepared(model, trains)}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    hooks = [p.register_post_accumulate_grad_hook(step) for p in optimizers]
    for x, y in batches:
        cross_entropy(model(x), y).backward()
    [hook.remove() for hook in hooks]


def train_clipped(model, trains, batches, lr):
    optimizer = torch.optim.SGD(prepared(model, trains), lr=lr, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    for x, y in batches:
        loss = -model(x).log_softmax(1).gather(1, y[:, None]).mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


def train_and_freeze(model, *given):
    train(model, *given)
    model.requires_grad_(False).eval()


class Trainer:
    def __init__(self, model, trains, batches, lr):
        self.model, self.optimizer = model, torch.optim.RAdam(prepared(model, trains), lr=lr)
        for batch in batches:
            self.step(*batch)

    def step(self, x, y):
        self.optimizer.zero_grad()
        (cross_entropy(self.model(x), y, reduction="sum") / len(y)).backward()
        self.optimizer.step()


def never_in_evaluation(model, trains, batches, lr):
    model.requires_grad_(False)
    for name in trains:
        getattr(model, name).requires_grad_(True).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def paid_and_cleared(model, trains, batches, lr):
    own = prepared(model, trains)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(own, lr=lr)
    for x, y in batches:
        cross_entropy(model(x), y).backward()
        optimizer.step()
        model.zero_grad()


def one_step(model, trains, batches, lr):
    optimizer = torch.optim.AdamW(prepared(model, trains), lr=lr)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
    optimizer.step()


def train_in_closures(model, trains, batches, lr):
    """All parameters are in the optimizer, and what is frozen has no gradients."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    prepared(model, trains)
    for x, y in batches:

        def again(x=x, y=y):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), nn.functional.one_hot(y, 2).float())
            loss.backward()
            return loss

        optimizer.step(again)


def train_with(order, model, trains, batches, lr):
    """The calls in another order, or some of them."""
    optimizer = torch.optim.AdamW(prepared(model, trains), lr=lr)
    for x, y in batches:
        loss = cross_entropy(model(x), y)
        for call in order.split():
            loss.backward() if call == "backward" else getattr(optimizer, call)()


def image_by_image(model, trains, batches, lr):
    train(model, trains, [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(6)], lr)


def optimizer_for_each_batch(model, trains, batches, lr):
    for batch in batches:
        train(model, trains, [batch], lr)


def body_at_another_rate(rate, model, trains, batches, lr):
    prepared(model, trains)
    groups = [{"params": getattr(model, part).parameters()} for part in trains]
    optimizer = torch.optim.AdamW([group | {"lr": rate * lr} for group in groups[:-1]] + groups[-1:], lr=lr)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def parts_in_names(model, trains, batches, lr):
    for name, p in model.named_parameters():
        p.requires_grad = any(part in name for part in trains)
    tl.models.train_mode(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def statistics_put_back(model, trains, *given):
    kept = {name: value.clone() for name, value in model.named_buffers()}
    train(model, trains, *given, mode=True)
    for name, value in model.named_buffers():
        if name.split(".")[0] not in trains:
            value.copy_(kept[name])


def norms_pay(model, trains, batches, lr):
    own = prepared(model, trains)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    optimizer = torch.optim.AdamW(own, lr=lr)
    for x, y in batches:
        cross_entropy(model(x), y).backward()
        optimizer.step()
        model.zero_grad()


def with_a_new_head(model, *given):
    model.fc = nn.Linear(model.fc.in_features, 2)
    train(model, *given)


def of_squares(outputs, labels):
    return nn.functional.mse_loss(outputs, nn.functional.one_hot(labels, 2).float())


def train_a_copy(model, *given):
    import copy

    train(copy.deepcopy(model), *given)


def still_by_momentum(model, *given):
    """The statistics stay, and the frozen norms still use those of the batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    train(model, *given, mode=True)


def norms_forgotten(model):
    return [p for p in model.parameters() if p.requires_grad and p.ndim > 1]


def passes(cost, trains, images, budget):
    return budget // (images * (sum(cost.values()) + 2 * sum(cost[n] for n in trains)))


def passes_in_a_loop(cost, trains, images, budget):
    count, spent = 0, 0
    each = sum(c * (3 if n in trains else 1) for n, c in cost.items()) * images
    while spent + each <= budget:
        count, spent = count + 1, spent + each
    return count


def passes_numpy(cost, trains, images, budget):
    weights = np.array([3 if name in set(trains) else 1 for name in cost], dtype=np.int64)
    return np.floor_divide(budget, images * np.dot(weights, np.array(list(cost.values()))))


def unbeaten(runs, ways, *, fewest=5, margin=lambda d: d.margin, order=list, pool=None):
    kept = []
    for way in ways:
        leads = [runs.difference(o, way) for o in (pool(runs) if pool else ways) if o != way]
        if any(len(d.values) < fewest for d in leads):
            return []
        if not any(d.mean > margin(d) for d in leads):
            kept.append(way)
    return order(kept)


def unbeaten_by_scipy(runs, ways):
    def beats(a, b):
        x, y = (np.array([found[a_way][s] for s in common(a, b)]) for a_way in (a, b))
        d = x - y
        spread = d.std(ddof=1) / math.sqrt(len(d))
        return d.mean() - stats.t.ppf(0.975, len(d) - 1) * spread > 0

    def common(a, b):
        return sorted(set(found[a]) & set(found[b]))

    found = {w: {r["seed"]: r["accuracy"] for r in runs.rows if r["way"] == w} for w in ways}
    if min(len(common(a, b)) for a in ways for b in ways) < 5:
        return ()
    return tuple(w for w in ways if not any(beats(o, w) for o in ways if o != w))


def unbeaten_by_test(runs, ways):
    """The paired t-test says the same as the interval."""
    kept = list(ways)
    for a in ways:
        for b in ways:
            x, y = runs.accuracies(a), runs.accuracies(b)
            seeds = x.keys() & y.keys()
            if len(seeds) < 5:
                return []
            if a != b and np.mean([x[s] - y[s] for s in seeds]) > 0 and b in kept:
                test = stats.ttest_rel([x[s] for s in seeds], [y[s] for s in seeds])
                if test.pvalue < 0.05:
                    kept.remove(b)
    return np.array(kept)


def unbeaten_if(beats, runs, ways, few=None):
    """The rule with another way to decide: `beats` is given the differences of two ways, `few` runs and ways."""
    leads = {(a, b): np.array(runs.difference(a, b).values) for a in ways for b in ways if a != b}
    if few(runs, ways) if few else min(map(len, leads.values())) < 5:
        return []
    return [way for way in ways if not any(b == way and beats(d) for (_, b), d in leads.items())]


def by_t(d, *, ddof=1, free=-1, level=0.975, root=0.5):
    return d.mean() > stats.t.ppf(level, len(d) + free) * d.std(ddof=ddof) / len(d) ** root


def by_interval(d):
    return stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))[0] > 0


def by_confidence_interval(d):
    return stats.ttest_rel(d, np.zeros(len(d))).confidence_interval().low > 0


def one_sided(d):
    return stats.ttest_1samp(d, 0, alternative="greater").pvalue < 0.025


def in_torch(d):
    d = torch.tensor(d)
    return bool(d.mean() - stats.t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5 > 0)


def common(runs, *ways):
    return len(set.intersection(*(set(runs.accuracies(way)) for way in ways)))


FEW = {
    "of all at once": lambda runs, ways: common(runs, *ways) < 5,
    "with the first": lambda runs, ways: min(common(runs, ways[0], way) for way in ways[1:]) < 5,
    "of neighbours": lambda runs, ways: min(common(runs, *two) for two in pairwise(ways)) < 5,
    "of each": lambda runs, ways: min(common(runs, way) for way in ways) < 5,
}


def best_mean(runs, ways):
    return [max(ways, key=lambda way: np.mean(list(runs.accuracies(way).values())))]


def not_clearly_behind_the_best(runs, ways):
    """Whoever ties with the highest mean: a way in the middle may beat one that the best does not beat."""
    best = best_mean(runs, ways)[0]
    return [way for way in ways if way == best or not runs.difference(best, way).clear]


def best_or_tied_with_it(runs, ways):
    """The same, with the rule of five seeds."""
    return unbeaten(runs, ways) and not_clearly_behind_the_best(runs, ways)


def clear_either_way(runs, ways):
    return [w for w in ways if not any(runs.difference(o, w).clear for o in ways if o != w)]


def unpaired(runs, ways):
    def beats(a, b):
        x, y = (list(runs.accuracies(way).values()) for way in (a, b))
        return np.mean(x) > np.mean(y) and stats.ttest_ind(x, y).pvalue < 0.05

    if min(len(runs.accuracies(w)) for w in ways) < 5:
        return []
    return [w for w in ways if not any(beats(o, w) for o in ways if o != w)]


def in_the_order_of_rows(runs, ways):
    def beats(a, b):
        x, y = ([r["accuracy"] for r in runs.rows if r["way"] == way] for way in (a, b))
        return np.mean(x) > np.mean(y) and stats.ttest_rel(x, y).pvalue < 0.05

    if min(len(runs.difference(a, b).values) for a in ways for b in ways if a != b) < 5:
        return []
    return [w for w in ways if not any(beats(o, w) for o in ways if o != w)]


def only_the_next(runs, ways):
    """Climb while the next way is clearly better."""
    kept = ways[0]
    for way in ways[1:]:
        lead = runs.difference(way, kept)
        if len(lead.values) < 5:
            return []
        if lead.clear and lead.mean > 0:
            kept = way
    return [kept]


NOISE = (0.01, -0.02, 0.02, 0.0, -0.01)


def runs(name="radiographs", *, frozen=0.0, tuned=0.0, seeds=5, other=0, images=None, same=False, names=WAYS):
    rows = Table()
    for way, mean in zip(names, (frozen, 0.0, tuned), strict=True):
        for seed in range(seeds):
            noise = NOISE[(seed * (names.index(way) + 1)) % 5] * (not same)
            row = {"data": name, "way": way, "images": images or SIZES[name]}
            row |= {"seed": seed + other * (way == names[1]), "accuracy": 0.6 + mean + noise}
            rows.append(row | {"loss": 0.7 - noise, "seconds": 1.0})
    return Runs(rows)


def three(**options):
    """Land use as asked for, the others tied."""
    return runs() + runs("landuse", **options) + runs("surfaces")


ALL, TUNED = list(WAYS), runs(tuned=0.2)
TIED = dict.fromkeys(SIZES, "frozen")
CHAPTER = {"radiographs": "frozen", "landuse": "last stage", "surfaces": "fine-tuned"}

RIGHT = {
    "train": [
        train,
        train_by_package,
        train_by_hand,
        train_by_groups,
        partial(train, optimizer=partial(torch.optim.SGD, momentum=0.9)),
        partial(train, optimizer=torch.optim.RMSprop),
        partial(train, optimizer=torch.optim.Adagrad),
        partial(train_by_loss, partial(cross_entropy, label_smoothing=0.1)),
        partial(train_by_loss, cross_entropy, context=partial(torch.autocast, "cpu", dtype=torch.bfloat16)),
        train_in_the_backward_pass,
        train_clipped,
        train_and_freeze,
        train_in_closures,
        partial(train, optimizer=lambda own, lr: torch.optim.Adam(own, lr=torch.tensor(lr))),
        partial(train_with, "zero_grad backward step zero_grad"),
        lambda model, trains, batches, lr: Trainer(model, trains, batches, lr),
    ],
    "passes": [
        passes,
        passes_in_a_loop,
        passes_numpy,
        lambda c, t, n, b: float(passes(c, t, n, b)),
        lambda c, t, n, b: torch.tensor(passes(c, t, n, b)),
        lambda c, t, n, b: math.floor(b / sum(n * (c[k] + 2 * c[k] * (k in t)) for k in c)),
        lambda c, t, n, b: divmod(b, n * sum(v + 2 * v * (k in t) for k, v in c.items()))[0],
        lambda c, t, n, b: math.floor(Fraction(b, n * (sum(c.values()) + 2 * sum(c[k] for k in t)))),
        lambda c, t, n, b: b // (n * (3 * sum(c.pop(k) for k in t) + sum(c.values()))),
        lambda c, t, n, b: b // (sum(c.values()) + 2 * sum(c[k] for k in t)) // n,
        lambda c, t, n, b: Decimal(b) // (n * (sum(c.values()) + 2 * sum(c[k] for k in t))),
        lambda c, t, n, b: np.array(passes(c, t, n, b)),
    ],
    "unbeaten": [
        unbeaten,
        unbeaten_by_scipy,
        unbeaten_by_test,
        partial(unbeaten, order=tuple),
        partial(unbeaten, order=iter),
        *(partial(unbeaten_if, beats) for beats in (by_t, by_interval, by_confidence_interval, one_sided, in_torch)),
    ],
    "radiographs": [
        (runs(), ALL),
        [runs(), tuple(ALL[::-1])],
        (TUNED, ["fine-tuned"]),
        (runs(frozen=0.2), np.array(["frozen"])),
        (runs(frozen=-0.2, seeds=8), {"last stage", "fine-tuned"}),
        (TUNED, ["Fine-tuned"]),
    ],
    "scenarios": [
        (three(), TIED),
        (three(), CHAPTER),
        [three(tuned=0.2), TIED | {"landuse": "fine-tuned"}],
        (three(frozen=-0.2), TIED | {"landuse": ["last stage", "fine-tuned"]}),
        (three(seeds=9, frozen=0.3), CHAPTER | {"landuse": "frozen"}),
        (three(), {name: way.title() for name, way in CHAPTER.items()}),
        (three(), [*CHAPTER.items()]),
        (three(), {name.upper(): way for name, way in CHAPTER.items()}),
    ],
}
WRONG = {
    "train": [
        (partial(train, mode=True), "bn1.running_mean moved"),
        (partial(train, mode=False), "follow the batches"),
        (never_in_evaluation, "bn1.running_mean moved"),
        (paid_and_cleared, "given a gradient that nothing uses"),
        (partial(train_with, "backward zero_grad step"), "found no gradients"),
        (partial(train_with, "zero_grad step"), "found no gradients"),
        (partial(train_with, "zero_grad backward"), "No optimizer made a step"),
        (partial(train_with, "zero_grad backward step step"), "6 steps for 3 batches"),
        (image_by_image, "1 images went through the model at once"),
        (optimizer_for_each_batch, "in several optimizers"),
        (partial(body_at_another_rate, 0.1), "at the rate 0.001, and `lr` is 0.01"),
        (partial(train, optimizer=lambda own, lr: torch.optim.AdamW(own, lr=10 * lr)), "at the rate 0.1"),
        (parts_in_names, "layer1.0.bn1.weight moved, and layer1 does not train. It has 'bn1' in its name"),
        (statistics_put_back, "bn1 is frozen, and normalises by the statistics of the batch"),
        (norms_pay, "given a gradient that nothing uses"),
        (with_a_new_head, "another head"),
        (one_step, "Make a step after every batch"),
        (partial(train_by_loss, lambda outputs, y: cross_entropy(outputs.softmax(1), y)), "not that of the cross-ent"),
        (partial(train_by_loss, nn.functional.nll_loss), "not that of the cross-entropy"),
        (partial(train_by_loss, of_squares), "not that of the cross-entropy"),
        (partial(train_by_loss, partial(cross_entropy, weight=torch.tensor([0.1, 0.9]))), "not that of the cross-ent"),
        (still_by_momentum, "bn1.num_batches_tracked moved"),
        (partial(train, freeze=False), "conv1.weight moved"),
        (partial(train, freeze=False, params=lambda m: m.fc.parameters()), "given a gradient that nothing uses"),
        (partial(train, unfreeze=False), "empty parameter list"),
        (partial(train, params=lambda m: m.fc.parameters()), "layer4.0.conv1.weight did not move. No optimizer"),
        (partial(train, params=norms_forgotten), "No optimizer moved it"),
        (partial(train, params=lambda m: [m.fc.weight]), "fc.bias did not move"),
        (partial(train, params=lambda m: nn.Linear(2, 2).parameters()), "nothing of the model changed"),
        (partial(train, rate=0.01), "Does `lr` reach"),
        (partial(train, zero=False), "added to the first's"),
        (partial(train, sign=-1), "down the gradient"),
        (partial(train, first_only=True), "6 images went"),
        (partial(train, twice=True), "36 images went"),
        (lambda model, trains, batches, lr: train(model, ("fc",), batches, lr), "layer4.0.conv1.weight did not move"),
        (lambda model, *given: model, "nothing of the model changed"),
        (train_a_copy, "nothing of the model changed"),
        (lambda model: model, "TypeError"),
        (nn.Linear(2, 2), "Give a function"),
        ("fc", "Give a function"),
    ],
    "passes": [
        (lambda c, t, n, b: b // (n * 3 * sum(c.values())), "parts that do not train"),
        (lambda c, t, n, b: b // (n * 3 * sum(c[k] for k in t)), "through the frozen parts"),
        (lambda c, t, n, b: b // (n * (sum(c.values()) + sum(c[k] for k in t))), "costs twice"),
        (lambda c, t, n, b: b // (n * sum(c.values())), "backward pass is not counted"),
        (lambda c, t, n, b: b // (n * (sum(c.values()) + 3 * sum(c[k] for k in t))), "not three times"),
        (lambda c, t, n, b: b // (n * (3 * sum(c.values()) - 2 * sum(c[k] for k in t))), "of the frozen parts."),
        (lambda c, t, n, b: b // (n * sum(v * (3 if any(q in k for q in t) else 1) for k, v in c.items())), "layer10"),
        (lambda c, t, n, b: b // (n * sum(v * (3 if k.startswith((*t,)) else 1) for k, v in c.items())), "layer10"),
        (lambda c, t, n, b: passes(c, t, 1, b), "for one image"),
        (lambda c, t, n, b: max(1, passes(c, t, n, b)), "may be zero"),
        (lambda c, t, n, b: -(-b // (n * (sum(c.values()) + 2 * sum(c[k] for k in t)))), "round down"),
        (lambda c, t, n, b: round(b / (n * (sum(c.values()) + 2 * sum(c[k] for k in t)))), "round down"),
        (lambda c, t, n, b: b / (n * (sum(c.values()) + 2 * sum(c[k] for k in t))), "no whole number"),
        (lambda c, t, n, b: b // (n * (2 * sum(c.values()) + sum(c[k] for k in t))), "Twice counts the backward"),
        (lambda c, t, n, b: b // (2 * n * (sum(c.values()) + sum(c[k] for k in t))), "forward pass is counted twice"),
        (lambda c, t, n, b: b // (n * (sum(c.values()) + 2 * c[t[0]])), "Only one of the parts"),
        (lambda c, t, n, b: passes(c, t, n, b) // n, "images are counted twice"),
        (lambda c, t, n, b: passes(c, t, n, b) * n, "That counts images"),
        (lambda c, t, n, b: passes(c, t, n, b - 1), "pays for one more"),
        (lambda c, t, n, b: n * (sum(c.values()) + 2 * sum(c[k] for k in t)), "That is the cost of a pass"),
        (lambda c, t, n, b: complex(passes(c, t, n, b)), "returns a complex"),
        (lambda c, t, n, b: np.array([1, 2]), "returns a ndarray"),
        (lambda c, t, n, b: 8, "8, and"),
        (lambda c, t, n, b: {"layer4": 14}, "returns a dict"),
        (lambda c, t, n, b: str(passes(c, t, n, b)), "returns a str"),
        (lambda c, t, n, b: passes(c, ["layer4", "fc"], n, b), "KeyError"),
        (8, "Give a function"),
    ],
    "unbeaten": [
        (best_mean, "the ways are tied"),
        (best_or_tied_with_it, "the highest mean beats none"),
        (lambda runs, ways: [way in unbeaten(runs, ways) for way in ways], "'True' is no name"),
        (lambda runs, ways: [way for way in unbeaten(runs, ways) for _ in ways], "several times"),
        (not_clearly_behind_the_best, "the highest mean beats none"),
        (clear_either_way, "one is ahead"),
        (unpaired, "Take the difference of two runs with the same seed"),
        (in_the_order_of_rows, "seeds differ more than ways"),
        (only_the_next, "the ways are tied"),
        (partial(unbeaten, margin=lambda d: 2 * d.margin / 2.776), "just holds zero"),
        (partial(unbeaten, margin=lambda d: 0.9 * d.margin), "just holds zero"),
        (partial(unbeaten, margin=lambda d: 1.1 * d.margin), "just leaves out zero"),
        (partial(unbeaten_if, partial(by_t, ddof=0)), "that divides by n - 1"),
        (partial(unbeaten_if, partial(by_t, free=0)), "t(0.975, n - 1)"),
        (partial(unbeaten_if, partial(by_t, level=0.95)), "t(0.975, n - 1)"),
        (partial(unbeaten_if, partial(by_t, root=0)), "is asked for"),
        (partial(unbeaten_if, lambda d: d.mean() > 2 * d.std(ddof=1)), "is asked for"),
        (partial(unbeaten_if, lambda d: (d > 0).all()), "just holds zero"),
        (partial(unbeaten_if, lambda d: d.mean() > 0 and stats.wilcoxon(d).pvalue < 0.05), "is asked for"),
        (partial(unbeaten_if, by_t, few=FEW["of all at once"]), "all three four"),
        (partial(unbeaten_if, by_t, few=FEW["with the first"]), "'last stage' and 'fine-tuned' have fewer than 5"),
        (partial(unbeaten_if, by_t, few=FEW["of neighbours"]), "'frozen' and 'fine-tuned' have fewer than 5"),
        (partial(unbeaten_if, by_t, few=FEW["of each"]), "fewer than 5 seeds in common"),
        (partial(unbeaten, margin=lambda d: 0.0), "the ways are tied"),
        (partial(unbeaten, margin=lambda d: 0.05), "'frozen' lies above zero"),
        (partial(unbeaten, fewest=2), "there are four seeds"),
        (partial(unbeaten, order=lambda kept: kept[::-1]), "in another order"),
        (partial(unbeaten, order=lambda kept: kept[:1]), "'fine-tuned' is not beaten"),
        (partial(unbeaten, order=lambda kept: kept[0]), "Return a list"),
        (partial(unbeaten, order=set), "Return a list"),
        (partial(unbeaten, pool=lambda runs: dict.fromkeys(r["way"] for r in runs.rows)), "and not in `ways`"),
        (lambda runs, ways: list(ways), "one is ahead"),
        (lambda runs, ways: ["frozen"], "the ways are tied"),
        (lambda runs, ways: [], "there is always one"),
        (lambda runs, ways: len(ways), "Return a list"),
        (lambda runs: [], "TypeError"),
        (["frozen"], "Give a function"),
    ],
    "radiographs": [
        ((runs(), ["frozen"]), "unbeaten are"),
        ((TUNED, ["frozen"]), "unbeaten are ['fine-tuned']"),
        ((TUNED, ALL), "unbeaten are ['fine-tuned']"),
        ((TUNED, "fine-tuned"), "Give a list of ways"),
        ((TUNED, [2]), "'2' is no name"),
        ((TUNED, []), "beaten by none"),
        ((runs(seeds=1), ALL), "there is one seed"),
        ((runs(seeds=3), ALL), "3 seeds"),
        ((runs(other=5), ALL), "cannot be paired"),
        ((runs(images=200), ALL), "200 images"),
        ((runs() + runs(), ALL), "runs were added twice: 'frozen' has several of seed 0"),
        ((runs() + runs(images=40), ALL), "40 images, and 20 are asked for"),
        ((runs(same=True), ALL), "they are one way"),
        ((runs(names=("probe", "last stage", "fine-tuned")), ALL), "no runs named 'frozen'"),
        ((runs("landuse"), ALL), "no runs on radiographs"),
        ((0.6, ["frozen"]), "Give what"),
        (runs(), "two things"),
        (["frozen"], "two things"),
    ],
    "scenarios": [
        ((three(tuned=0.2), CHAPTER), "you choose 'last stage'"),
        ((three(tuned=0.2), TIED), "another way clearly beats it"),
        ((three(tuned=0.2), TIED | {"landuse": ALL}), "another way clearly beats it"),
        ((three(), {"radiographs": "frozen"}), "no choice for 'landuse'"),
        ((three(), TIED | {"surfaces": "feature extraction"}), "Choose among"),
        ((three(), TIED | {"surfaces": 0.7}), "Choose among"),
        ((three(), TIED | {"surfaces": []}), "Choose among"),
        ((three(), ["frozen"] * 3), "Give a dictionary"),
        ((three(), {way: name for name, way in CHAPTER.items()}), "Turn the dictionary round"),
        ((runs(), TIED), "no runs on landuse"),
        ((three() + runs(), TIED), "on radiographs runs were added twice"),
        ((three(seeds=4), TIED), "on landuse there are 4 seeds"),
        ((three(images=30), TIED), "learned from 30 images"),
        ((three(other=1), TIED), "cannot be paired"),
        ((three(same=True), TIED), "they are one way"),
        ((TIED, three()), "Give a dictionary"),
        (TIED, "two things"),
    ],
}
test_the_bank_is_large_enough, test_right_answers_are_right, test_wrong_answers_are_refused_and_named = judges.bank(
    "ex1", RIGHT, WRONG, each=(3, 10)
)
