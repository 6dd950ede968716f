"""How far is a new domain from what a backbone was trained on, and how deep do its features serve there?"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tlcourse.data import Splits
from tlcourse.evaluation import evaluation_mode
from tlcourse.features.extraction import Features, linear_probe
from tlcourse.models import NORMS, stages, unwrap_model
from tlcourse.runtime import get_runtime
from tlcourse.side_effects import input_hooks
from tlcourse.table import Table

MEASURED = Path(__file__).parents[1] / "models" / "pretrained" / "tl_resnet_transfer.json"


def domain_gap(model: nn.Module, dataset: Dataset, *, batch_size: int = 64) -> Table:
    """Measure how far images are from the backbone's training images, stage by stage, as its batch norms see it.

    A pre-trained batch norm remembers the mean and the deviation that each channel had on the training images, so
    the training images themselves are not needed. For each channel the distance between two normal distributions is
    taken, the remembered one and that of `dataset`, in units of the remembered deviation σ:
    sqrt((μ' - μ)² + (σ' - σ)²) / σ. A row gives the median over the channels of one stage: 0 for the same statistics,
    1 for a shift by a whole deviation. The last row is the mean of the stages.
    Sources: Dowson and Landau 1982 for the distance (Fréchet's); Li et al. 2017, AdaBN, for batch norms as a domain's
    fingerprint.

    Args:
        model: with batch norms that were pre-trained; it is not changed.
        dataset: gives `(image, label)`, transformed as the model wants it; two dozen images are a bare minimum.
        batch_size: images a step.

    Raises:
        ValueError: the model has no batch norm, or the data set fewer than two images.
    """
    if len(dataset) < 2:
        raise ValueError(f"{len(dataset)} images have no deviation: give at least two, better a hundred.")
    modules = {name: module for name, module in unwrap_model(model).named_modules() if _remembers(module)}
    of_stage = {
        stage.name: [modules[n] for n in dict.fromkeys(b.rpartition(".")[0] for b in stage.buffers) if n in modules]
        for stage in stages(model)
    }
    if not modules:
        raise ValueError("The model has no batch norm with statistics, so it does not remember its training images.")
    moments = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in modules.values()}

    def count(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().transpose(0, 1).flatten(1).cpu().double()
        moments[norm] += torch.stack(
            [torch.full_like(values[:, 0], values.shape[1]), values.sum(1), (values**2).sum(1)]
        )

    with input_hooks(modules.values(), count):
        _run(model, dataset, batch_size)
    rows = Table()
    for name, norms in of_stage.items():
        if norms:
            rows.append(
                {"stage": name, "gap": torch.cat([_shift(norm, moments[norm]) for norm in norms]).median().item()}
            )
    rows.append({"stage": "mean", "gap": sum(row["gap"] for row in rows) / len(rows)})
    return rows


def stage_features(model: nn.Module, dataset: Dataset, *, batch_size: int = 64) -> dict[str, Features]:
    """Compute what each stage hands to the next one, averaged over its positions, for every image in order.

    Shapes: for each stage below the head, `x` `(N, D)` with that stage's D channels, and labels `y` `(N,)`.
    """
    parts = stages(model)
    above = {below.name: part for below, part in pairwise(parts)}
    rows: dict[str, list[Tensor]] = {name: [] for name in above}
    entrances: dict[nn.Module, list[str]] = {}  # the modules in which a stage may begin, with the stage below
    for name, part in above.items():
        for owner in dict.fromkeys(tensor.rpartition(".")[0] for tensor in part.parameters):
            entrances.setdefault(unwrap_model(model).get_submodule(owner), []).append(name)
    taken: set[str] = set()

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for name in entrances[module]:
            if name not in taken:
                taken.add(name)
                rows[name].append(_pooled(inputs[0], module))

    with input_hooks(entrances, enter):
        labels = _run(model, dataset, batch_size, before=taken.clear)
    return {name: Features(torch.cat(kept), labels) for name, kept in rows.items()}


def depth_profile(model: nn.Module, splits: Splits, *, seed: int = 0) -> Table:
    """Fit a linear probe on each stage's output: where do features that suit this domain end?

    Each row has the stage, the number of channels and the probe's accuracy on the validation and the test part;
    penalties are chosen within the training part.
    Source: Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes.
    """
    plain = splits.plain()
    train, val, test = (stage_features(model, part) for part in (plain.train, plain.val, plain.test))
    rows = Table()
    for name, features in train.items():
        probe = linear_probe(features, seed=seed)
        accuracies = {part: probe.evaluate(own[name]).accuracy for part, own in (("val", val), ("test", test))}
        rows.append({"stage": name, "channels": features.x.shape[1], **accuracies})
    return rows


def measured() -> dict[str, Any]:
    """Return what was measured of `tl_resnet` on other domains, as `tools/measure_backbone.py` stored it.

    Each key holds a dictionary by domain: `profile` the test accuracy of a probe on each stage, `gap` the rows of
    `domain_gap`, `gain` the test accuracies of linear probes (`random`, `probe`) and of training everything
    (`fine-tuned`, `scratch`), a list over seeds; `images` and `classes` the sizes.
    """
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def _remembers(module: nn.Module) -> bool:
    return isinstance(module, NORMS) and module.running_mean is not None


def _shift(norm: nn.Module, moments: Tensor) -> Tensor:
    """The distance for each channel, `(C,)`, from number, sum and sum of squares."""
    number, total, squares = moments
    mean = total / number
    deviation = (squares / number - mean**2).clamp(min=0).sqrt()
    remembered = (norm.running_var.cpu().double() + norm.eps).sqrt()
    return torch.hypot(mean - norm.running_mean.cpu(), deviation - remembered) / remembered


def _pooled(x: Tensor, reader: nn.Module) -> Tensor:
    """Average over positions what `reader` is given: maps `(N, C, H, W)` or `(N, H, W, C)`, tokens, or rows."""
    x = x.detach().float().cpu()
    last = isinstance(reader, nn.Linear | nn.LayerNorm) and not type(reader).__name__.endswith("2d")
    if x.ndim == 4 and not last:
        return x.mean((2, 3))
    return x.flatten(1, -2).mean(1) if x.ndim > 2 else x


@torch.no_grad()
def _run(model: nn.Module, dataset: Dataset, batch_size: int, before: Any = lambda: None) -> Tensor:
    """Run a model over a data set in evaluation mode, and return the labels."""
    device, labels = next(model.parameters()).device, []
    with evaluation_mode(model):
        for images, targets in DataLoader(dataset, batch_size, num_workers=get_runtime().workers):
            before()
            model(images.to(device))
            labels.append(targets)
    return torch.cat(labels)
