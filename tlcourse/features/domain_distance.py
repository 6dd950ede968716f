"""How far is a new domain from the images a backbone was trained on, and which stage's features suit it best?"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tlcourse.data import Splits
from tlcourse.features.extraction import Features, forward_passes
from tlcourse.features.probe import fit_probe
from tlcourse.models import NORMS, stages, unwrap_model
from tlcourse.side_effects import input_hooks
from tlcourse.table import Table


def domain_gap(model: nn.Module, dataset: Dataset, *, batch_size: int = 64) -> Table:
    """Measure how far images are from the backbone's training images, as its batch norms see them.

    A pre-trained batch norm keeps the mean μ and the standard deviation σ that each channel had on the training
    images, so the training images themselves are not needed. For each channel this is the distance to the normal
    distribution of the new images, in units of σ: sqrt((μ' - μ)² + (σ' - σ)²) / σ. Each row gives the median over the
    channels of one stage: 0 for the same statistics, 1 for a shift of the mean by one σ. The last row is the mean over
    the stages.
    Sources: Dowson and Landau 1982 for the distance (Fréchet's); Li et al. 2017, AdaBN, for batch norms as a
    description of a domain.

    Args:
        model: with pre-trained batch norms; it is not changed.
        dataset: gives `(image, label)`, transformed as the model wants it; at least some twenty images.
        batch_size: images per batch.

    Raises:
        ValueError: the model has no batch norm, or the data set fewer than two images.
    """
    if len(dataset) < 2:
        raise ValueError(f"{len(dataset)} images have no deviation: give at least two, better a hundred.")
    norms = {
        name: module
        for name, module in unwrap_model(model).named_modules()
        if isinstance(module, NORMS) and module.running_mean is not None
    }
    if not norms:
        raise ValueError("The model has no batch norm with statistics, so it does not remember its training images.")
    moments = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms.values()}

    def add_moments(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().transpose(0, 1).flatten(1).cpu().double()
        moments[norm] += torch.stack([torch.ones_like(values).sum(1), values.sum(1), (values**2).sum(1)])

    with input_hooks(norms.values(), add_moments):
        for _ in forward_passes(model, dataset, batch_size):
            pass
    rows = Table()
    for stage in stages(model):
        owners = dict.fromkeys(buffer.rpartition(".")[0] for buffer in stage.buffers)
        distances = [_distance(norms[name], moments[norms[name]]) for name in owners if name in norms]
        if distances:
            rows.append({"stage": stage.name, "gap": torch.cat(distances).median().item()})
    rows.append({"stage": "mean", "gap": sum(row["gap"] for row in rows) / len(rows)})
    return rows


def _distance(norm: nn.Module, moments: Tensor) -> Tensor:
    """Return the distance for each channel, `(C,)`, from number, sum and sum of squares of the new values."""
    number, total, squares = moments
    mean = total / number
    deviation = (squares / number - mean**2).clamp(min=0).sqrt()
    kept = (norm.running_var.cpu().double() + norm.eps).sqrt()
    return torch.hypot(mean - norm.running_mean.cpu(), deviation - kept) / kept


def stage_features(model: nn.Module, dataset: Dataset, *, batch_size: int = 64) -> dict[str, Features]:
    """Compute the output of each stage, averaged over its positions, for every image in order.

    Shapes: for each stage below the head, `x` `(N, D)` with that stage's D channels, and labels `y` `(N,)`.
    """
    rows: dict[str, list[Tensor]] = {}
    readers: dict[nn.Module, list[str]] = {}  # modules in which a stage may begin, with the names of the stages below
    for below, stage in pairwise(stages(model)):
        rows[below.name] = []
        for owner in dict.fromkeys(name.rpartition(".")[0] for name in stage.parameters):
            readers.setdefault(unwrap_model(model).get_submodule(owner), []).append(below.name)
    seen: set[str] = set()  # stages whose output was read in this pass: the first reader counts

    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for name in readers[module]:
            if name not in seen:
                seen.add(name)
                rows[name].append(_pooled(inputs[0], module))

    labels = []
    with input_hooks(readers, read):
        for targets in forward_passes(model, dataset, batch_size):
            labels.append(targets)
            seen.clear()
    return {name: Features(torch.cat(batches), torch.cat(labels)) for name, batches in rows.items()}


def _pooled(x: Tensor, reader: nn.Module) -> Tensor:
    """Average over positions what `reader` is given: maps `(N, C, H, W)` or `(N, H, W, C)`, tokens, or rows."""
    x = x.detach().float().cpu()
    channels_last = isinstance(reader, nn.Linear | nn.LayerNorm) and not type(reader).__name__.endswith("2d")
    if x.ndim == 4 and not channels_last:
        return x.mean((2, 3))
    return x.flatten(1, -2).mean(1) if x.ndim > 2 else x


def depth_profile(model: nn.Module, splits: Splits, *, seed: int = 0) -> Table:
    """Fit a linear probe on each stage's output, to see which stage has the features that suit this domain.

    Each row has the stage, its number of channels and the probe's accuracy on the validation and the test set.
    Source: Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes.
    """
    plain = splits.plain()
    train, val, test = (stage_features(model, part) for part in (plain.train, plain.val, plain.test))
    rows = Table()
    for name, features in train.items():
        probe = fit_probe(features, seed=seed)
        accuracies = {part: probe.evaluate(own[name]).accuracy for part, own in (("val", val), ("test", test))}
        rows.append({"stage": name, "channels": features.x.shape[1], **accuracies})
    return rows
