"""Make the runs that the package carries, for comparisons that take too long to repeat in a lesson.

    python tools/store_runs.py map            all of its image sets; about an hour on two cores
    python tools/store_runs.py fine_tuning    schedules or drop_path: some twenty minutes each
    python tools/store_runs.py adapters       or new_statistics, stages, refinements: up to fifteen minutes each
    python tools/store_runs.py map toypets    one image set, added to those that are there

Learning rates are chosen for each way by the validation accuracy of other seeds, and stored with the runs. The test
sets are not read. Writes tlcourse/lessons/runs/NAME.json after every image set.
"""

import argparse
from dataclasses import dataclass, field, replace

import _beyond
import torch

import tlcourse as tl
from tlcourse.evaluation import Evaluation
from tlcourse.lessons import experiments
from tlcourse.lessons.distillation import Distilled
from tlcourse.lessons.experiments import DropPath, Probe, Trained, WithNewStatistics
from tlcourse.runtime import best_precision

SEEDS = tuple(range(1000, 1005))
TEN = tuple(range(1000, 1010))
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
LABELLED = 200  # images of the teacher in distillation
MAP_SETS = {
    "toypets": (20, 80, 320, 800),
    "toypets-silhouette": (20, 80),
    "landuse": (20, 80, 320),
    "surfaces": (20, 80, 320),
    "radiographs": (20, 80, 320),
    "digits": (20, 80, 320),
}


def transfer_map(name):
    """From scratch, frozen, fine-tuned: the same images of one set."""
    backbone = tl.models.create("tl_resnet").to(tl.get_runtime().device)
    splits = tl.data.load(name, model=backbone)
    ways = {
        "scratch": Trained(lr=RATES[0], passes=30, weights=None),
        "frozen": Probe(backbone),
        "fine-tuned": Trained(lr=RATES[0], passes=15, layer_decay=0.7),
    }
    return splits, ways, MAP_SETS[name]


def fine_tuning(name):
    """Ways to fine-tune, and a probe, measured at home and on styles that nobody trained on."""
    splits = tl.data.load(name, model=tl.models.create("tl_resnet"))
    all_layers = Trained(lr=RATES[0], passes=15)
    ways = {
        "frozen": _beyond.ProbeInHead(),
        "fine-tuned": all_layers,
        "falling rates": replace(all_layers, layer_decay=0.7),
        "head first": replace(all_layers, start=_beyond.head_first),
        "last stage alone": replace(all_layers, start=last_stage_alone),
        "statistics kept": replace(all_layers, start=keep_statistics),
    }
    return splits, ways, (100,)


def last_stage_alone(model, splits):
    """Train the last stage and the head."""
    tl.models.unfreeze_from(model, tl.models.stages(model)[-2].name)


def keep_statistics(model, splits):
    """Freeze the batch norms, which keeps their statistics."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)


def schedules(name):
    """Schedules for the same fine-tuning."""
    splits = tl.data.load(name, model=tl.models.create("tl_resnet"))
    ways = {kind: Trained(lr=RATES[0], passes=15, layer_decay=0.7, schedule=kind) for kind in experiments.SCHEDULES}
    return splits, ways, (100,)


def distillation(name):
    """A small network from scratch: labels or a teacher's answers, for the labelled images or for all."""
    splits = tl.data.load(name, model=tl.models.create("tl_resnet"))
    answers = Distilled(Trained(lr=1e-3, passes=10), lr=RATES[0], teachers={})
    ways = {
        "labels": replace(answers, learns="labels", images="labelled"),
        "answers, same images": replace(answers, images="labelled"),
        "answers, all images": answers,
        "labels for all images": replace(answers, learns="labels"),
    }
    return splits, ways, (LABELLED,)


def drop_path(name):
    """Fine-tuning with more and more dropped blocks."""
    splits = tl.data.load(name, model=tl.models.create("tl_resnet"))
    way = Trained(lr=RATES[0], passes=15)
    return splits, {f"drop path {rate}": replace(way, start=DropPath(rate)) for rate in (0.0, 0.2, 0.4)}, (100,)


@dataclass(frozen=True)
class AlsoOnTraining:
    """A way that is measured on its training images, too."""

    way: Trained

    def __call__(self, splits, images, seed):
        """Train once, measure twice."""
        model, few = self.way.fit(splits, images, seed)
        plain = few.plain()
        precision = best_precision(tl.get_runtime().device)
        val = tl.train.evaluate(model, plain.loaders().val, precision=precision)
        seen = replace(plain, val=plain.train).loaders().val
        return {splits.name: val, "training images": tl.train.evaluate(model, seen, precision=precision)}


def new_statistics(name):
    """Fine-tuned with statistics that move and that stay, at the rates of `fine_tuning`, and new statistics."""
    moving = Trained(lr=1e-3, passes=15)
    kept = Trained(lr=3e-4, passes=15, start=keep_statistics)
    ways = {"fine-tuned": moving, "statistics kept": kept}
    styles = unseen_styles()
    splits = tl.data.load(name, model=tl.models.create("tl_resnet"))
    return splits, {way: WithNewStatistics(trained, styles) for way, trained in ways.items()}, (100,)


def adapters(name):
    """Few trained parameters: batch norms, and changes of low rank."""
    splits = tl.data.load(name, model=tl.models.create("tl_resnet"))
    starts = {
        "batch norms": _beyond.norms_only,
        "rank 1": _beyond.Adapters(1),
        "rank 4": _beyond.Adapters(4),
        "rank 4, head forgotten": _beyond.Adapters(4, head=False),
    }
    return splits, {way: Trained(lr=RATES[0], passes=15, start=start) for way, start in starts.items()}, (100,)


def stages(name):
    """A probe on each stage's output."""
    backbone = tl.models.create("tl_resnet").to(tl.get_runtime().device)
    splits = tl.data.load(name, model=backbone, train=300)
    return splits, {part.name: Probe(backbone, part.name) for part in tl.models.stages(backbone)[:-1]}, (100,)


def refinements(name):
    """What others do after fine-tuning, at the rate of `fine_tuning`; and neighbours instead of a probe."""
    backbone = tl.models.create("tl_resnet").to(tl.get_runtime().device)
    tuned, styles = _beyond.Tuned(Trained(lr=3e-4, passes=15, start=_beyond.head_first)), unseen_styles()
    makers = (_beyond.as_trained, _beyond.half_way_back, _beyond.mean_of_three, _beyond.mirrored_too)
    ways = {maker.__name__.replace("_", " "): _beyond.Refined(maker, tuned, styles) for maker in makers}
    ways |= {"frozen": Probe(backbone), "nearest neighbours": _beyond.Neighbours(backbone)}
    return tl.data.load(name, model=backbone), ways, (100,)


def unseen_styles():
    """Toy pets in the styles that nobody trains on."""
    return tuple(tl.data.load(style, model=tl.models.create("tl_resnet")).plain() for style in STYLES)


@dataclass(frozen=True)
class Tuning:
    """What is tried before the runs: learning rates, with how many training images and which seeds."""

    images: int
    seeds: tuple[int, ...]
    rates: tuple[float, ...] = RATES


# The map has many sets and sizes, so it tries less. Seeds of tuning and of runs are others than the lessons' own.
EXPERIMENTS = {
    "map": (transfer_map, tuple(MAP_SETS), SEEDS, Tuning(80, (2000, 2001), RATES[1:4])),
    "fine_tuning": (fine_tuning, ("toypets",), TEN, Tuning(80, (2000, 2001), RATES[1:4])),
    "drop_path": (drop_path, ("toypets",), TEN, Tuning(100, (2000, 2001, 2002), RATES[1:4])),
    "schedules": (schedules, ("toypets",), TEN, Tuning(100, (2000, 2001, 2002))),
    "distillation": (
        distillation,
        ("toypets",),
        tuple(range(1000, 1008)),
        Tuning(LABELLED, (2000, 2001), (1e-3, 3e-3, 1e-2)),  # a new network wants higher rates
    ),
    "new_statistics": (new_statistics, ("toypets",), TEN, Tuning(80, ())),  # tuned in fine_tuning
    # For the batch norms 3e-2 was best and 1e-1 as good: it got one of 400 validation images more right.
    "adapters": (adapters, ("toypets",), TEN, Tuning(80, (2000, 2001), (1e-3, 3e-3, 1e-2, 3e-2))),
    "stages": (stages, ("toypets", "landuse", "surfaces", "radiographs", "digits"), TEN, Tuning(80, ())),
    "refinements": (refinements, ("toypets",), TEN, Tuning(80, ())),  # tuned in fine_tuning
}
STYLES = ("toypets-cartoon", "toypets-line", "toypets-silhouette")


@dataclass(frozen=True)
class AlsoOnStyles:
    """A way that is measured at home and on all images of the other styles."""

    way: Trained | _beyond.ProbeInHead
    styles: tuple = field(repr=False)

    def __call__(self, splits, images, seed):
        """Train once, measure twice."""
        model, few = self.way.fit(splits, images, seed)
        precision = best_precision(tl.get_runtime().device)
        home = tl.train.evaluate(model, few.loaders().val, precision=precision)
        away = [
            tl.train.evaluate(model, loader, precision=precision) for style in self.styles for loader in style.loaders()
        ]
        unseen = Evaluation(torch.cat([e.labels for e in away]), torch.cat([e.logits for e in away]))
        return {splits.name: home, "unseen styles": unseen}


def tuned(way, splits, tuning):
    """Return a way with the rate that is best on the validation set; a probe chooses its penalty by itself."""
    if not isinstance(way, Trained | Distilled):
        return way
    ways = {str(rate): replace(way, lr=rate) for rate in tuning.rates}
    runs = experiments.compare(ways, splits, sizes=[tuning.images], seeds=tuning.seeds, bar=False)
    means = {name: sum(runs.accuracies(name).values()) / len(tuning.seeds) for name in ways}
    shown = {name: round(mean, 3) for name, mean in means.items()}
    print(f"{splits.name}, {experiments.describe(way)}: {shown}", flush=True)
    return ways[max(means, key=means.get)]


def main():
    """Make the runs of an experiment, image set by image set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("sets", nargs="*", help="image sets (default: all)")
    options = parser.parse_args()
    tl.setup("mini")
    make, sets, seeds, tuning = EXPERIMENTS[options.experiment]
    for name in options.sets or sets:
        splits, ways, sizes = make(name)
        ways = {way: tuned(function, splits, tuning) for way, function in ways.items()}
        if options.experiment == "fine_tuning":
            styles = unseen_styles()
            ways = {w: AlsoOnStyles(f, styles) for w, f in ways.items()}
        if options.experiment == "drop_path":
            ways = {w: AlsoOnTraining(f) for w, f in ways.items()}
        runs = experiments.compare(ways, splits, sizes=sizes, seeds=seeds, bar=False)
        print(name, runs, sep="\n", flush=True)
        print("kept in", experiments.add(options.experiment, runs, ways).name, flush=True)


if __name__ == "__main__":
    main()
