"""The linear probe: a logistic regression on features, and its place in the model's head."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from tlcourse.evaluation import Evaluation
from tlcourse.features.extraction import Features
from tlcourse.models import head, head_names

# Inverse penalties to choose among. Steps of a factor of ten cover many more features than images, and far fewer.
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Up to this many values a second thread costs more than it gives: on 2 cores, 300 x 256 took 6.6 s against 0.3 s.
ONE_THREAD = 10_000_000


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features; `C` is the inverse of its L2 penalty, as in scikit-learn."""

    linear: nn.Linear
    C: float
    C_chosen_by: str

    @torch.no_grad()
    def evaluate(self, features: Features) -> Evaluation:
        """Classify features `(N, D)`."""
        return Evaluation(features.y, self.linear(features.x))


def fit_probe(train: Features, *, seed: int = 0) -> Probe:
    """Fit a logistic regression on standardised features, with `C` chosen by cross-validation.

    Only the training features are used. The standardisation is folded into the weights, so the probe takes features
    as they are. A class with a single image cannot be cross-validated; then `C` is fixed.
    Source: Kornblith et al. 2019, Do better ImageNet models transfer better?

    Raises:
        ValueError: there is only one class, or a class has no image.
    """
    x, y = train.x.numpy().astype(np.float64), train.y.numpy()
    counts = np.bincount(y)
    if len(counts) < 2 or counts.min() == 0:
        raise ValueError(f"A probe needs images of every class; the counts are {counts.tolist()}.")
    scaler = StandardScaler().fit(x)
    z = scaler.transform(x)
    with threadpool_limits(1 if z.size <= ONE_THREAD else None):
        fitted, chosen_by = _fit(z, y, min(5, counts.min()), seed)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(counts) == 2:  # scikit-learn keeps the difference of the two logits
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    linear = nn.Linear(z.shape[1], len(counts)).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(weight / scaler.scale_))
    linear.bias.copy_(torch.from_numpy(bias - weight @ (scaler.mean_ / scaler.scale_)))
    return Probe(linear, fitted.C, chosen_by)


def _fit(z: np.ndarray, y: np.ndarray, folds: int, seed: int) -> tuple[LogisticRegression, str]:
    regression = LogisticRegression(C=1e-2, max_iter=1000)
    if folds < 2:
        return regression.fit(z, y), "fixed: a class with one image cannot be cross-validated"
    cv = StratifiedKFold(folds, shuffle=True, random_state=seed)
    search = GridSearchCV(regression, {"C": CS}, scoring=log_likelihood, cv=cv).fit(z, y)
    return search.best_estimator_, f"{folds}-fold cross-validation on {len(y)} images"


def log_likelihood(regression: LogisticRegression, z: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log probability of the labels `(N,)` for standardised features `(N, D)`, in nats."""
    # From the logits: a confident mistake's probability rounds to 0, whose logarithm is no number. The built-in
    # scoring="neg_log_loss" checks its input for as long as the fits themselves take.
    logits = regression.decision_function(z)
    if logits.ndim == 1:  # scikit-learn gives the difference of the two logits
        logits = np.stack([-logits / 2, logits / 2], axis=1)
    return log_softmax(logits, axis=1)[np.arange(len(y)), y].mean()


def put_into_head(model: nn.Module, probe: Probe) -> nn.Module:
    """Copy a probe into the head of its model, which then gives the probe's answers for images.

    Raises:
        ValueError: the model has several heads, or its head has no weight and bias of its own.
    """
    if len(names := head_names(model)) > 1:
        raise ValueError(f"A probe fits one head, and this model has {', '.join(names)}. Train them: 'frozen'.")
    classifier = head(model)
    if not {"weight", "bias"} <= dict(classifier.named_parameters(recurse=False)).keys():  # or they are computed anew
        raise ValueError(
            f"A probe needs a head with weight and bias; {names[0]} has no bias, or weight norm. Train it: 'frozen'."
        )
    with torch.no_grad():
        classifier.weight.copy_(probe.linear.weight.view_as(classifier.weight))
        classifier.bias.copy_(probe.linear.bias)
    return model
