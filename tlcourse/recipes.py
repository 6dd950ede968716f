"""Three ways to use a pre-trained model on your images, from the cheapest to the most thorough."""

from dataclasses import dataclass

import torch
from torch import nn

from tlcourse import features
from tlcourse.data import Loaders, Splits
from tlcourse.evaluation import Evaluation, evaluate
from tlcourse.features import Features, extract, extract_splits, put_into_head
from tlcourse.models import freeze, head_names, param_groups, unfreeze
from tlcourse.train import History, fit, schedules

LR = 1e-3  # of the head, for AdamW
# Factor for the learning rate from each stage to the one below: a pre-trained backbone starts close to its goal.
LAYER_DECAY = 0.7
# Share of the steps in which the learning rates rise, before they fall to zero along a cosine.
WARMUP = 0.2


@dataclass(frozen=True)
class RecipeResult:
    """Accuracy on the validation and the test set; with a training loop, its history; and a note on what was chosen."""

    val: Evaluation
    test: Evaluation
    history: History | None
    note: str


def linear_probe(model: nn.Module, splits: Splits, *, seed: int = 0) -> RecipeResult:
    """Compute the features once, fit a logistic regression on them, and put it into the head.

    Nothing is chosen on the validation set: once the accuracy on it is measured, its images join the training set.
    """
    torch.manual_seed(seed)
    train, val, test = extract_splits(model, splits)
    val_result = features.fit_probe(train, seed=seed).evaluate(val)
    both = Features(torch.cat([train.x, val.x]), torch.cat([train.y, val.y]))
    probe = features.fit_probe(both, seed=seed)
    put_into_head(model, probe)
    note = (
        f"penalty C = {probe.C:g}, chosen by {probe.C_chosen_by} (training and validation set; "
        "the validation accuracy is that of a probe fitted on the training set alone)"
    )
    return RecipeResult(val_result, probe.evaluate(test), None, note)


def frozen(
    model: nn.Module, splits: Splits, *, epochs: int = 5, lr: float = LR, batch_size: int = 32, seed: int = 0
) -> RecipeResult:
    """Train only the head, by gradient descent with augmentation, and keep the best epoch."""
    torch.manual_seed(seed)
    return _train(freeze(model), splits.loaders(batch_size, seed=seed), epochs, lr)


def fine_tune(
    model: nn.Module, splits: Splits, *, epochs: int = 5, lr: float = LR, batch_size: int = 32, seed: int = 0
) -> RecipeResult:
    """Start with a linear probe as the head, then train everything, and keep the best epoch.

    Source: Kumar et al. 2022, Fine-tuning can distort pretrained features (LP-FT).
    """
    torch.manual_seed(seed)
    if len(head_names(model)) == 1:  # parallel heads (distilled DeiT) start from random weights
        put_into_head(model, features.fit_probe(extract(model, splits.plain().train), seed=seed))
    return _train(unfreeze(model), splits.loaders(batch_size, seed=seed), epochs, lr)


def _train(model: nn.Module, loaders: Loaders, epochs: int, lr: float) -> RecipeResult:
    optimizer = torch.optim.AdamW(param_groups(model, lr, layer_decay=LAYER_DECAY), weight_decay=1e-2)
    schedule = schedules.one_cycle(optimizer, epochs * len(loaders.train), warmup=WARMUP)
    history = fit(model, loaders, optimizer, epochs=epochs, scheduler=schedule)
    note = f"best epoch {history.best.epoch} of {epochs}, highest learning rate {lr:g}"
    return RecipeResult(evaluate(model, loaders.val), evaluate(model, loaders.test), history, note)


RECIPES = {"linear-probe": linear_probe, "frozen": frozen, "fine-tune": fine_tune}
