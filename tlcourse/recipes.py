"""Three ways to use a pre-trained model on a folder of images, from the cheapest to the most thorough."""

from dataclasses import dataclass

import torch
from torch import nn

from tlcourse.data import Splits
from tlcourse.evaluation import Evaluation, evaluate
from tlcourse.features import Features, extract, extract_splits, linear_probe, put_into_head
from tlcourse.models import freeze, head_names, param_groups, unfreeze
from tlcourse.train import History, fit, schedules

STRATEGIES = ("linear-probe", "frozen", "fine-tune")
# Rates for AdamW, per strategy: a new head may move fast; a pre-trained body starts near its goal.
RATES = {"frozen": 1e-3, "fine-tune": 1e-3}
# Each stage towards the stem learns at this share of the rate of the stage above it.
DECAY = 0.7
# Share of the steps in which the rate rises, before it falls to zero along a cosine.
WARM_UP = 0.2


@dataclass(frozen=True)
class Recipe:
    """What a run needs beside model and data; a rate of `None` takes the strategy's own."""

    strategy: str = "linear-probe"
    epochs: int = 5
    batch_size: int = 32
    lr: float | None = None
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"There is no strategy {self.strategy!r}: choose among {', '.join(STRATEGIES)}.")
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(f"epochs={self.epochs} must be at least 1, and batch_size={self.batch_size} at least 2.")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be positive.")


@dataclass(frozen=True)
class Result:
    """What a run gave: accuracy on validation and test part, and the history of training if there was a loop."""

    val: Evaluation
    test: Evaluation
    history: History | None
    note: str


def run(model: nn.Module, splits: Splits, recipe: Recipe) -> Result:
    """Train a model's head, or all of it, and measure it once on the test part.

    - `linear-probe`: features once, then a logistic regression, which becomes the head. Nothing is chosen on the
      validation part: once it is measured, its images join the training part for the probe that is kept.
    - `frozen`: the head alone by gradient descent, with augmentation; the best epoch is kept.
    - `fine-tune`: the probe first, then everything, with rates that fall towards the stem; the best epoch is kept.

    Source of the last one: Kumar et al. 2022, Fine-tuning can distort pretrained features (LP-FT).
    """
    torch.manual_seed(recipe.seed)
    if recipe.strategy == "linear-probe":
        return _linear_probe(model, splits, recipe)
    if recipe.strategy == "fine-tune" and len(head_names(model)) == 1:  # several (distilled DeiT) start anew
        put_into_head(model, linear_probe(extract(model, splits.plain().train), seed=recipe.seed))
    (freeze if recipe.strategy == "frozen" else unfreeze)(model)
    loaders = splits.loaders(recipe.batch_size, seed=recipe.seed)
    lr = recipe.lr or RATES[recipe.strategy]
    groups = param_groups(model, lr, decay=DECAY)
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    schedule = schedules.one_cycle(optimizer, recipe.epochs * len(loaders.train), warm_up=WARM_UP)
    history = fit(model, loaders, optimizer, epochs=recipe.epochs, scheduler=schedule, precision=recipe.precision)
    note = f"best epoch {history.best.epoch} of {recipe.epochs}, highest rate {lr:g}"
    return Result(evaluate(model, loaders.val), evaluate(model, loaders.test), history, note)


def _linear_probe(model: nn.Module, splits: Splits, recipe: Recipe) -> Result:
    train, val, test = extract_splits(model, splits)
    measured = linear_probe(train, seed=recipe.seed).evaluate(val)
    both = Features(torch.cat([train.x, val.x]), torch.cat([train.y, val.y]))
    probe = linear_probe(both, seed=recipe.seed)
    put_into_head(model, probe)
    note = (
        f"penalty C = {probe.C:g}, chosen by {probe.C_chosen_by} (training and validation part; "
        "the validation accuracy is that of a probe fitted on the training part alone)"
    )
    return Result(measured, probe.evaluate(test), None, note)
