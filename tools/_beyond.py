"""Ways that lessons 3.3 and 3.7 compare: a probe in the head, adapters, and refinements that others report to help."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.utils import parametrize

import tlcourse as tl
from tlcourse.data import Loaders, Splits
from tlcourse.evaluation import Evaluation
from tlcourse.lessons.experiments import Trained
from tlcourse.runtime import best_precision


class LowRank(nn.Module):
    """A weight with a low-rank change added to it; the change starts at zero.

    Source: Hu et al. 2021, LoRA: low-rank adaptation of large language models.
    """

    def __init__(self, weight: torch.Tensor, rank: int):
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.a = nn.Parameter(torch.randn(rank, columns, device=weight.device) / columns**0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the changed weight."""
        return weight + (self.b @ self.a).view_as(weight)


def add_low_rank(model: nn.Module, rank: int) -> None:
    """Freeze a model and give every convolution a trainable change of low rank."""
    model.requires_grad_(False)
    for layer in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


@dataclass(frozen=True)
class Adapters:
    """A start for `Trained`: a trainable change of every convolution, and a new head, which may be forgotten."""

    rank: int
    head: bool = True

    def __call__(self, model: nn.Module, splits: Splits) -> None:
        """Prepare a new model."""
        add_low_rank(model, self.rank)
        tl.models.head(model).requires_grad_(self.head)


def norms_only(model: nn.Module, splits: Splits) -> None:
    """Train the scale and shift of each batch norm, and the head."""
    for module in model.modules():
        module.requires_grad_(isinstance(module, nn.BatchNorm2d))
    tl.models.head(model).requires_grad_(True)


def head_first(model: nn.Module, splits: Splits) -> None:
    """Start with a probe as the head."""
    tl.features.put_into_head(model, tl.features.fit_probe(tl.features.extract(model, splits.plain().train)))


@dataclass
class Tuned:
    """Models that were fine-tuned on the same images, in several orders; those of the last seed are kept."""

    way: Trained
    _known: dict[tuple, tuple[nn.Module, Splits]] = field(default_factory=dict, repr=False)

    def model(self, splits: Splits, images: int, seed: int, run: int = 0) -> tuple[nn.Module, Splits]:
        """Return the model of a run, and the splits that it learned from."""
        if any(key[:2] != (images, seed) for key in self._known):
            self._known.clear()
        if (images, seed, run) not in self._known:
            few = splits.take(train=images, seed=seed)
            self._known[images, seed, run] = self.way.fit(few, images, seed + 100_000 * run)
        return self._known[images, seed, run]


def mean_weights(models: list[nn.Module]) -> nn.Module:
    """Return a model whose weights and statistics are the means of theirs."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[0])
    mean.load_state_dict({k: (sum(s[k] for s in states) / len(states)).to(states[0][k].dtype) for k in states[0]})
    return mean


def as_trained(tuned: Tuned, splits: Splits, images: int, seed: int) -> nn.Module:
    """Return one run."""
    return tuned.model(splits, images, seed)[0]


def half_way_back(tuned: Tuned, splits: Splits, images: int, seed: int) -> nn.Module:
    """Half of the way back from the fine-tuned weights to the start (Wortsman et al. 2022, WiSE-FT)."""
    model, few = tuned.model(splits, images, seed)
    start = tl.models.create("tl_resnet", len(splits.classes)).to(tl.get_runtime().device)
    head_first(start, few)
    return mean_weights([model, start])


def mean_of_three(tuned: Tuned, splits: Splits, images: int, seed: int) -> nn.Module:
    """Return the mean of the weights of three runs (Wortsman et al. 2022, Model soups)."""
    return mean_weights([tuned.model(splits, images, seed, run)[0] for run in range(3)])


class Mirrored(nn.Module):
    """The mean of a model's answers for an image and for its mirror image."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return mean logits."""
        return (self.model(images) + self.model(images.flip(3))) / 2


def mirrored_too(tuned: Tuned, splits: Splits, images: int, seed: int) -> nn.Module:
    """One run that answers for the image and its mirror image."""
    return Mirrored(tuned.model(splits, images, seed)[0])


@dataclass(frozen=True)
class Refined:
    """What `how` makes of fine-tuned models, measured at home and on the images of other styles."""

    how: Callable
    tuned: Tuned
    styles: tuple[Splits, ...] = field(repr=False)

    def __call__(self, splits: Splits, images: int, seed: int) -> dict[str, Evaluation]:
        """Measure twice."""
        model = self.how(self.tuned, splits, images, seed)
        precision = best_precision(tl.get_runtime().device)

        def evaluated(loaders: list) -> Evaluation:
            parts = [tl.train.evaluate(model, loader, precision=precision) for loader in loaders]
            return Evaluation(torch.cat([e.labels for e in parts]), torch.cat([e.logits for e in parts]))

        styles: list[Loaders] = [style.loaders() for style in self.styles]
        away = evaluated([loader for loaders in styles for loader in (loaders.val, loaders.test)])
        return {splits.name: evaluated([splits.loaders().val]), "unseen styles": away}


@dataclass(frozen=True)
class Neighbours:
    """The class of the nearest features; number, distance and scaling are chosen by cross-validation."""

    model: nn.Module = field(repr=False)

    def __call__(self, splits: Splits, images: int, seed: int) -> Evaluation:
        """Keep the features of `images` training images."""
        few = splits.plain().take(train=images, seed=seed)
        train, val = (tl.features.extract(self.model, part) for part in (few.train, few.val))
        nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(weights="distance"))
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        choices = {
            "standardscaler": [StandardScaler(), "passthrough"],
            "kneighborsclassifier__n_neighbors": [1, 3, 5, 9, 15, 25],
            "kneighborsclassifier__metric": ["euclidean", "cosine"],
        }
        search = GridSearchCV(nearest, choices, cv=folds).fit(train.x.numpy(), train.y.numpy())
        return Evaluation(val.y, torch.from_numpy(search.predict_proba(val.x.numpy())).clamp(1e-6).log())


@dataclass(frozen=True)
class ProbeInHead:
    """A probe that becomes the head, so that the network can be measured on any images."""

    def fit(self, splits, images, seed):
        """Return the network and what its probe was fitted to, as `Trained.fit` does."""
        few = splits.plain().take(train=images, seed=seed)
        model = tl.models.create("tl_resnet", len(splits.classes)).to(tl.get_runtime().device)
        probe = tl.features.fit_probe(tl.features.extract(model, few.train), seed=seed)
        tl.features.put_into_head(model, probe)
        return model, few
