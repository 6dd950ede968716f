"""Three ways to use a pre-trained model on your images, from the cheapest to the most thorough."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tlcourse import features
from tlcourse.data import Loaders, Splits
from tlcourse.evaluation import Evaluation, evaluate
from tlcourse.features import Features, extract, extract_splits, put_into_head
from tlcourse.models import freeze, head, head_names, param_groups, unfreeze
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
    if not _takes_probe(model):
        names = ", ".join(head_names(model))
        raise ValueError(
            f"A probe needs one head with weight and bias, not {names} (or weight norm). Take frozen or fine-tune."
        )
    torch.manual_seed(seed)
    train, val, test = extract_splits(model, splits)
    _check_finite(train, val, test)
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
    loaders = splits.loaders(batch_size, seed=seed)
    return _measured(model, loaders, *_train(freeze(model), loaders, epochs, lr))


def fine_tune(
    model: nn.Module, splits: Splits, *, epochs: int = 5, lr: float = LR, batch_size: int = 32, seed: int = 0
) -> RecipeResult:
    """Start with a linear probe as the head, where it takes one, train everything, keep the best epoch or the start.

    Source: Kumar et al. 2022, Fine-tuning can distort pretrained features (LP-FT).
    """
    torch.manual_seed(seed)
    loaders = splits.loaders(batch_size, seed=seed)
    if not _takes_probe(model):  # parallel heads (distilled DeiT) start from random weights
        return _measured(model, loaders, *_train(unfreeze(model), loaders, epochs, lr))
    train = extract(model, splits.plain().train)
    _check_finite(train)
    put_into_head(model, features.fit_probe(train, seed=seed))
    start, weights = evaluate(model, loaders.val), copy.deepcopy(model.state_dict())
    history, note = _train(unfreeze(model), loaders, epochs, lr, weights)
    best, before = history.best, (start.accuracy, -start.loss)
    if best and (best.val_accuracy, -best.val_loss) < before:  # as networks without batch norm may end
        model.load_state_dict(weights)
        note += "; no epoch was as good as the linear probe it started from, so that is kept: try a lower rate"
    return _measured(model, loaders, history, note)


def _takes_probe(model: nn.Module) -> bool:
    return len(head_names(model)) == 1 and {"weight", "bias"} <= {*dict(head(model).named_parameters(recurse=False))}


def _check_finite(*parts: Features) -> None:
    if not all(part.x.isfinite().all() for part in parts):
        raise FloatingPointError("The features are not all finite: the weights are damaged, or not those of the model.")


def _train(model: nn.Module, loaders: Loaders, epochs: int, lr: float, start: Any = None) -> tuple[History, str]:
    """Train; after Ctrl-C in the first epoch the model has the weights in `start`, or the interrupt goes on."""
    optimizer = torch.optim.AdamW(param_groups(model, lr, layer_decay=LAYER_DECAY), weight_decay=1e-2)
    schedule = schedules.one_cycle(optimizer, epochs * len(loaders.train), warmup=WARMUP)
    history = fit(model, loaders, optimizer, epochs=epochs, scheduler=schedule)
    if not history.epochs:
        if start is None:
            raise KeyboardInterrupt("No epoch was finished, so there are no weights to keep.")
        model.load_state_dict(start)
        return history, "stopped by Ctrl-C in the first epoch; the linear probe is kept"
    done = f", stopped by Ctrl-C after {len(history.epochs)}" if history.interrupted else ""
    return history, f"best epoch {history.best.epoch} of {epochs}{done}, highest learning rate {lr:g}"


def _measured(model: nn.Module, loaders: Loaders, history: History, note: str) -> RecipeResult:
    try:
        return RecipeResult(evaluate(model, loaders.val), evaluate(model, loaders.test), history, note)
    except BaseException as error:  # Ctrl-C, an image that is gone: what was learned need not be lost
        error.trained = True
        raise


RECIPES = {"linear-probe": linear_probe, "frozen": frozen, "fine-tune": fine_tune}
