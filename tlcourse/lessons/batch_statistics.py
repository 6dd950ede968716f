"""Measure a trained model twice: as it is, and with new batch-norm statistics from images without labels."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tlcourse.data import Splits
from tlcourse.evaluation import Evaluation, evaluate
from tlcourse.models import NORMS
from tlcourse.runtime import best_precision, get_runtime

UNLABELLED = 120  # images that new statistics are made from
NEW = "new statistics"


@torch.no_grad()
def new_statistics(model: nn.Module, images: Dataset, *, seed: int = 0) -> nn.Module:
    """Return a copy in evaluation mode whose batch norms have the statistics of these images; labels are not used.

    Source: Li et al. 2016, Revisiting batch normalization for practical domain adaptation (AdaBN).
    """
    model, device = copy.deepcopy(model), next(model.parameters()).device
    for norm in (module for module in model.modules() if isinstance(module, NORMS)):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    model.train()
    for batch, _ in DataLoader(images, 60, shuffle=True, generator=torch.Generator().manual_seed(seed)):
        model(batch.to(device))
    return model.eval()


@dataclass(frozen=True)
class WithNewStatistics:
    """A way that is measured at home and on other styles, with its own statistics and with new ones of each place.

    New statistics come from training images, of a style that nobody trained on; accuracies from the other images.
    """

    way: Any
    styles: tuple[Splits, ...] = field(repr=False)

    def __call__(self, splits: Splits, images: int, seed: int) -> dict[str, Evaluation]:
        """Train once, measure four times."""
        model, _ = self.way.fit(splits, images, seed)
        home = splits.plain().take(train=min(UNLABELLED, len(splits.train)), seed=seed)
        found: dict[str, list[Evaluation]] = {}
        for place, name in ((home, splits.name), *((style, "unseen styles") for style in self.styles)):
            for kind, measured in ((name, model), (f"{name}, {NEW}", new_statistics(model, place.train, seed=seed))):
                loaders = place.loaders()
                for loader in (loaders.val,) if place is home else (loaders.val, loaders.test):
                    found.setdefault(kind, []).append(
                        evaluate(measured, loader, precision=best_precision(get_runtime().device))
                    )
        return {
            kind: Evaluation(torch.cat([e.labels for e in parts]), torch.cat([e.logits for e in parts]))
            for kind, parts in found.items()
        }
