"""Exercise 1: right answers in any spelling are right; each usual mistake is refused, and named."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

import tlcourse as tl
from tlcourse.lessons.comparison import Runs
from tlcourse.lessons.exercises import ex1
from tlcourse.table import Table

ORDER = ex1.STRATEGIES
PARTS = {"features": ("fc",), "last stage": ("layer4", "fc"), "everything": None}


def train(model, strategy, *, parts=PARTS, freeze=True):
    if freeze:
        model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parts[strategy] is None or name.split(".")[0] in parts[strategy]:
            parameter.requires_grad_(True)


def train_by_package(model, strategy):
    if strategy == "everything":
        return tl.models.unfreeze(model)
    return tl.models.freeze(model) if strategy == "features" else tl.models.unfreeze_from(model, "layer4")


def train_by_exclusion(model, strategy):
    for name, child in model.named_children():
        child.requires_grad_(
            name == "fc" or strategy == "everything" or (strategy == "last stage" and name == "layer4")
        )


def train_by_flags(model, strategy):
    names = [name for name, _ in model.named_parameters()]
    first = {"features": len(names) - 2, "last stage": names.index("layer4.0.conv1.weight"), "everything": 0}[strategy]
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad = i >= first


def passes(budget, images, share, *, forward=1, backward=2, whole=int):
    return whole(budget / (images * (forward + backward * share)))


def passes_by_counting(budget, images, share):
    done = 0
    while budget >= images * (1 + 2 * share):
        budget -= images * (1 + 2 * share)
        done += 1
    return done


def decide(runs, *, clear=True, order=ORDER, dearer_only=True, next_only=False, positive=True):
    for i, way in enumerate(order):
        rest = order[i + 1 :] if dearer_only else [one for one in order if one != way]
        gains = [runs.difference(other, way) for other in (rest[:1] if next_only else rest)]
        if not any((one.clear or not clear) and (one.mean > 0 or not positive) for one in gains):
            return way
    return order[-1]


def decide_by_elimination(runs):
    left = list(ORDER)
    for cheap, dear in itertools.combinations(ORDER, 2):
        gain = runs.difference(dear, cheap)
        if gain.mean > gain.margin and cheap in left:
            left.remove(cheap)
    return left[0]


def decide_by_hand(runs):
    x = np.array([[row["accuracy"] for row in runs.rows if row["way"] == way] for way in ORDER])
    for i, way in enumerate(ORDER):
        if not any(stats.ttest_rel(x[j], x[i]).pvalue < 0.05 and x[j].mean() > x[i].mean() for j in range(i + 1, 3)):
            return way


def the_best_mean(runs):
    return max(ORDER, key=lambda way: sum(runs.accuracies(way).values()))


def unpaired(runs):
    x = {way: np.array(list(runs.accuracies(way).values())) for way in ORDER}
    for i, way in enumerate(ORDER):
        if not any(
            stats.ttest_ind(x[other], x[way]).pvalue < 0.05 and x[other].mean() > x[way].mean()
            for other in ORDER[i + 1 :]
        ):
            return way


def stored(name):
    return tl.experiments.stored("strategies").only(data=name)


def again(*, ways=ORDER, seeds=(0, 1), more=0.0, data="radiographs", images=40, drop=0):
    rows = Table()
    for seed in seeds:
        for way in ways:
            accuracy = list(stored("radiographs").accuracies(way).values())[seed] + more
            row = {"data": data, "way": way, "images": images, "seed": seed, "accuracy": accuracy}
            rows.append(row | {"loss": 0.5, "seconds": 1.0})
    return Runs(Table(rows[drop:]))


DECISIONS = {name: ex1.decision(stored(name)) for name in ex1.SCENARIOS}
RIGHT = {
    "trains": [train, train_by_package, train_by_exclusion, train_by_flags],
    "passes": [
        passes,
        passes_by_counting,
        lambda *given: np.floor(passes(*given, whole=float)),
        partial(passes, whole=math.floor),
    ],
    "decide": [decide, decide_by_hand, decide_by_elimination, lambda runs: decide(runs).upper()],
    "agree": [again(), again(seeds=(0, 1, 2, 3, 4)), again(seeds=(3, 4))],
    "scenarios": [DECISIONS, dict(reversed(DECISIONS.items())), {k: v.capitalize() for k, v in DECISIONS.items()}],
}
OTHER = {name: next(way for way in ORDER if way != said) for name, said in DECISIONS.items()}
WRONG = {
    "trains": [
        (partial(train, freeze=False), "takes gradients afterwards, and it is to stay"),
        (partial(train, parts=PARTS | {"last stage": ("layer4",)}), "fc.bias takes none afterwards"),
        (partial(train, parts=PARTS | {"last stage": ("layer3", "fc")}), "layer4.0.bn1.bias takes none"),
        (partial(train, parts=PARTS | {"last stage": ("layer3", "layer4", "fc")}), "layer3.0.bn1.bias takes gradients"),
        (partial(train, parts=PARTS | {"features": ()}), "fc.bias takes none"),
        (partial(train, parts=PARTS | {"features": None}), "bn1.bias takes gradients"),
        (
            partial(train, parts=PARTS | {"everything": ("layer1", "layer2", "layer3", "layer4", "fc")}),
            "bn1.bias takes",
        ),
        (lambda model, strategy: model.fc.requires_grad_(True), "takes gradients afterwards, and it is to stay"),
        (lambda model, strategy: None, "takes gradients afterwards"),
        (lambda model: None, "TypeError"),
        ("everything", "Give a function"),
    ],
    "passes": [
        (partial(passes, whole=float), "round down"),
        (partial(passes, whole=math.ceil), "round down"),
        (partial(passes, backward=0), "without the backward pass"),
        (partial(passes, backward=1), "costs twice as much"),
        (lambda budget, images, share: int(budget / (3 * images)), "its cost depends on the share"),
        (partial(passes, forward=0), "One image costs one forward pass"),
        (lambda budget, images, share: budget // 40, "One image costs"),
        (lambda budget, images, share: 7, "a share of 1 give 7"),
        (lambda *given: [passes(*given)], "Return one whole number"),
        (lambda *given: str(passes(*given)), "Return one whole number"),
        (8, "Give a function"),
    ],
    "decide": [
        (the_best_mean, "where the three are alike"),
        (partial(decide, clear=False), "where the three are alike"),
        (partial(decide, next_only=True), "where everything is clearly better than the features"),
        (partial(decide, positive=False), "where training anything makes it worse"),
        (partial(decide, order=ORDER[::-1]), "and 'features' is asked for"),
        (unpaired, "and 'everything' is asked for"),
        (lambda runs: "features", "where everything is clearly the best"),
        (lambda runs: "everything", "where the three are alike"),
        (lambda runs: "last stage", "where the three are alike"),
        (lambda runs: runs.difference("everything", "features"), "Return one of"),
        (lambda runs: None, "Return one of"),
        ("features", "Give a function"),
    ],
    "agree": [
        (again(seeds=(0,)), "Run two seeds or more"),
        (again(ways=ORDER[:2]), "no runs named 'everything'"),
        (again(more=0.5), "Is something else trained?"),
        (again(data="landuse"), "not of 40 radiographs alone"),
        (again(images=80), "not of 40 radiographs alone"),
        (again(drop=1), "Run two seeds or more of each way"),
        ({"features": 0.6}, "Give what `tl.experiments.compare` returned"),
    ],
    "scenarios": [
        *((DECISIONS | {name: other}, f"for {name}") for name, other in OTHER.items()),
        (dict.fromkeys(DECISIONS, "everything"), "for "),
        (DECISIONS | {"landuse": "fine-tuning"}, "Choose among"),
        ({"radiographs": "features"}, "Give a dictionary"),
        (list(DECISIONS.values()), "Give a dictionary"),
    ],
}
right = [(step, answer) for step, answers in RIGHT.items() for answer in answers]
wrong = [(step, *pair) for step, pairs in WRONG.items() for pair in pairs]


def test_the_bank_is_large_enough():
    assert all(len(answers) >= 3 for answers in RIGHT.values())
    assert sum(map(len, WRONG.values())) >= 45


@pytest.mark.parametrize(("step", "answer"), right)
def test_right_answers_are_right_whatever_their_spelling(step, answer):
    verdict = tl.check(f"ex1/{step}", answer)
    assert verdict.outcome == "right", verdict
    assert f'tl.solution("ex1/{step}")' in verdict.message


@pytest.mark.parametrize(("step", "answer", "reason"), wrong)
def test_wrong_answers_are_refused_and_named(step, answer, reason):
    verdict = tl.check(f"ex1/{step}", answer)
    assert verdict.outcome == "not right", verdict
    assert reason in verdict.message
    assert f'tl.hint("ex1/{step}")' in verdict.message


def test_the_stored_runs_had_the_same_budget():
    """Passes of the stored settings, from the share that the network has."""
    about = tl.experiments.stored("strategies").about
    for name, images in (("radiographs", 40), ("landuse", 80), ("surfaces", 160)):
        for way, share in (("last stage", 67108864 / 203097088), ("everything", 1.0)):
            assert f"passes={passes(1920, images, share)}," in about[name]["ways"][way]
