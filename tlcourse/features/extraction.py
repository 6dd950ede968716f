"""Each image's features, computed once and kept on disk; and the linear probe on them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from tlcourse.atomic_write import atomic_write
from tlcourse.data import Splits
from tlcourse.evaluation import Evaluation, evaluation_mode
from tlcourse.models import head, head_names
from tlcourse.runtime import get_runtime

# Inverse strengths of the penalty that a probe chooses among: a factor of ten a step covers D >> N and N >> D.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Up to this many values a second thread costs more than it gives: on 2 cores, 300 x 256 took 6.6 s against 0.3 s.
ONE_THREAD = 10_000_000


class Features(NamedTuple):
    """What the backbone makes of a set of images: `x` `(N, D)` float32 and labels `y` `(N,)`."""

    x: torch.Tensor
    y: torch.Tensor


class FeatureSplits(NamedTuple):
    """Features of the three parts of a data set."""

    train: Features
    val: Features
    test: Features


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features, with the strength of penalty that was chosen for it."""

    linear: nn.Linear
    strength: float
    chosen_from: str

    @torch.no_grad()
    def evaluate(self, features: Features) -> Evaluation:
        """Classify features `(N, D)`."""
        return Evaluation(features.y, self.linear(features.x))


def extract(model: nn.Module, dataset: Dataset, *, batch_size: int = 64, cache: bool | Path = True) -> Features:
    """Compute what the head of a model is given, for every image, in the order of the data set.

    A feature map is averaged over its positions; of several heads the first counts. The result is kept in the cache
    folder under a key made of the body's weights, the images and their transform, so that nothing stale is ever read;
    a data set without a `fingerprint` is not cached.

    Args:
        model: any model with a recognisable head; the head itself is not used.
        dataset: gives `(image, label)` with a transform that is not random.
        batch_size: images a step.
        cache: `False` computes anew and stores nothing; a path is the folder to use.

    Raises:
        ValueError: the data set is empty, or reading an image twice gives two results.
    """
    _refuse_random(dataset)
    file = _cache_file(model, dataset, cache)
    if file is not None and file.is_file():
        try:
            stored = load_file(file)
            return Features(stored["x"], stored["y"])
        except (SafetensorError, KeyError, OSError):
            file.unlink(missing_ok=True)  # damaged: compute it again
    features = _compute(model, dataset, batch_size)
    if file is not None:
        with atomic_write(file) as part:
            save_file({"x": features.x.contiguous(), "y": features.y.contiguous()}, part)
    return features


def extract_splits(
    model: nn.Module, splits: Splits, *, batch_size: int = 64, cache: bool | Path = True
) -> FeatureSplits:
    """Compute the features of all three parts, without augmentation."""
    plain = splits.plain()
    parts = (plain.train, plain.val, plain.test)
    return FeatureSplits(*(extract(model, part, batch_size=batch_size, cache=cache) for part in parts))


def linear_probe(train: Features, *, seed: int = 0) -> Probe:
    """Fit a logistic regression on standardised features, its penalty chosen by cross-validation, then refitted.

    Nothing but the training features is looked at. The standardisation is folded into the weights, so the result
    takes raw features.
    Source: Kornblith et al. 2019, Do better ImageNet models transfer better?

    Raises:
        ValueError: the training part has one class only.
    """
    x, y = train.x.numpy().astype(np.float64), train.y.numpy()
    smallest = np.bincount(y, minlength=int(y.max()) + 1).min()
    if len(np.unique(y)) < 2 or smallest == 0:
        raise ValueError(f"A probe needs images of every class; the counts are {np.bincount(y).tolist()}.")
    scaler = StandardScaler().fit(x)
    z = scaler.transform(x)
    with threadpool_limits(1 if z.size <= ONE_THREAD else None):
        return _fit_probe(z, y, scaler, int(smallest), seed)


def _fit_probe(z: np.ndarray, y: np.ndarray, scaler: StandardScaler, smallest: int, seed: int) -> Probe:
    folds = min(5, smallest)
    if folds < 2:
        strength, chosen = 1e-2, "fixed: a class with one image cannot be cross-validated"
    else:
        split = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(z, y))
        losses = [np.mean([_held_out_loss(z, y, fit, rest, c) for fit, rest in split]) for c in STRENGTHS]
        strength, chosen = STRENGTHS[int(np.argmin(losses))], f"{folds}-fold cross-validation on {len(y)} images"
    weight, bias = _regression(z, y, strength)
    linear = nn.Linear(z.shape[1], len(weight))
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight / scaler.scale_))
        linear.bias.copy_(torch.from_numpy(bias - weight @ (scaler.mean_ / scaler.scale_)))
    return Probe(linear.requires_grad_(False), strength, chosen)


def put_into_head(model: nn.Module, probe: Probe) -> nn.Module:
    """Copy a probe into the head of its model, which then makes the same decisions from images.

    Raises:
        ValueError: the model has several heads, and its answers are not those of one; or the head has no bias.
    """
    if len(names := head_names(model)) > 1:
        raise ValueError(f"A probe fits one head, and this model has {', '.join(names)}. Train them: 'frozen'.")
    classifier = head(model)
    if classifier.bias is None:
        raise ValueError(f"A probe has a bias, and the head {names[0]} has none. Train it: 'frozen'.")
    with torch.no_grad():
        classifier.weight.copy_(probe.linear.weight.view_as(classifier.weight))
        classifier.bias.copy_(probe.linear.bias)
    return model


def _regression(z: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    fitted = LogisticRegression(C=strength, max_iter=1000).fit(z, y)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps one row; two rows with the same difference
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias


def _held_out_loss(z: np.ndarray, y: np.ndarray, fit: np.ndarray, rest: np.ndarray, strength: float) -> float:
    weight, bias = _regression(z[fit], y[fit], strength)
    logits = torch.from_numpy(z[rest] @ weight.T + bias)
    return nn.functional.cross_entropy(logits, torch.from_numpy(y[rest])).item()


@torch.no_grad()
def _compute(model: nn.Module, dataset: Dataset, batch_size: int) -> Features:
    device = next(model.parameters()).device
    captured: list[torch.Tensor] = []
    hook = head(model).register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    rows, labels = [], []
    try:
        with evaluation_mode(model):
            for images, targets in tqdm(
                DataLoader(dataset, batch_size, num_workers=get_runtime().workers), desc="features", leave=False
            ):
                captured.clear()
                model(images.to(device))
                x = captured[0]
                rows.append((x.mean(dim=(2, 3)) if x.ndim == 4 else x).float().cpu())
                labels.append(targets)
    finally:
        hook.remove()
    features = Features(torch.cat(rows), torch.cat(labels))
    if len(features.x) != len(dataset):
        raise ValueError(f"The data set has {len(dataset)} images but gave {len(features.x)}.")
    return features


def _refuse_random(dataset: Dataset) -> None:
    if len(dataset) == 0:
        raise ValueError("The data set is empty: there is nothing to compute features of.")
    for i in range(min(3, len(dataset))):  # one reading may be lucky, three are not
        if not torch.equal(dataset[i][0], dataset[i][0]):
            raise ValueError(
                "Reading the same image twice gives two results, so its transform is random, and one draw would be "
                "kept for good. Use the plain transform: `splits.plain()`."
            )


def _cache_file(model: nn.Module, dataset: Dataset, cache: bool | Path) -> Path | None:
    fingerprint = getattr(dataset, "fingerprint", None)
    if cache is False or fingerprint is None:
        return None
    folder = get_runtime().cache / "features" if cache is True else Path(cache)
    classifier = {id(tensor) for tensor in head(model).state_dict(keep_vars=True).values()}
    digest = hashlib.sha256(f"{model}{fingerprint}".encode())
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in classifier:
            digest.update(
                name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
    return folder / f"{digest.hexdigest()[:32]}.safetensors"
