"""Distillation: a small network learns from scratch, on labels or on a larger network's answers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tlcourse.data import ImageSet, Loaders, Splits
from tlcourse.evaluation import Evaluation, evaluate
from tlcourse.lessons.experiments import Trained
from tlcourse.models import create, param_groups
from tlcourse.runtime import best_precision, get_runtime
from tlcourse.train import fit, schedules


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the cross-entropy of a student's logits `(N, C)` and a teacher's, both divided by the temperature.

    The factor keeps the gradients as large as they are at temperature 1.
    Source: Hinton, Vinyals and Dean 2015, Distilling the knowledge in a neural network.
    """
    soft = (teacher / temperature).softmax(1)
    return temperature**2 * F.cross_entropy(student / temperature, soft)


@dataclass(frozen=True)
class Distilled:
    """The way to a small network: AdamW on augmented images for a number of steps, one cycle, no epoch chosen.

    Args:
        teacher: trains the large network on the labelled images; it answers once for each image, without augmentation.
        lr: highest learning rate.
        steps: optimizer steps, however many images there are.
        learns: `"answers"`, the teacher's logits, or `"labels"`.
        images: `"labelled"`, those that the teacher learned from, or `"all"` of the training set.
        model: the small network, for `tl.models.create`, without weights.
        temperature: of `distillation_loss`.
        batch_size: images in a batch.
        teachers: networks that are trained already, by number of images and seed; new ones are added.

    Raises:
        ValueError: `learns` or `images` is none of its two values.
    """

    teacher: Trained
    lr: float
    steps: int = 400
    learns: str = "answers"
    images: str = "all"
    model: str = "test_resnet"
    temperature: float = 2.0
    batch_size: int = 16
    teachers: dict[tuple[int, int], nn.Module] = field(default_factory=dict, repr=False, compare=False)
    _students: dict[tuple[int, int], nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.learns not in ("answers", "labels") or self.images not in ("labelled", "all"):
            raise ValueError(
                f"learns={self.learns!r}, images={self.images!r}: a student learns 'answers' or 'labels' of the "
                "'labelled' images or of 'all'."
            )

    def __call__(self, splits: Splits, images: int, seed: int) -> Evaluation:
        """Train a student, with a teacher that has `images` labelled images, and measure it."""
        return evaluate(self.fit(splits, images, seed), splits.loaders().val, precision=_precision())

    def fit(self, splits: Splits, images: int, seed: int) -> nn.Module:
        """Return the trained student; one that was trained before is returned again."""
        if (images, seed) not in self._students:
            self._students[images, seed] = self._train(splits, images, seed)
        return self._students[images, seed]

    def _train(self, splits: Splits, images: int, seed: int) -> nn.Module:
        own = splits if self.images == "all" else splits.take(train=images, seed=seed)
        device = get_runtime().device
        if self.learns == "labels":
            targets, measure = own.train.labels.to(device), F.cross_entropy
        else:
            targets = self._answers(splits, own, images, seed).to(device)
            measure = partial(distillation_loss, temperature=self.temperature)

        def loss(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return measure(logits, targets[positions])

        torch.manual_seed(seed)
        student = create(self.model, len(splits.classes), weights=None).to(device)
        student.preprocessing = splits.preprocessing
        loaders = _numbered(own).loaders(self.batch_size, seed=seed)
        optimizer = torch.optim.AdamW(param_groups(student, self.lr), weight_decay=1e-2)
        schedule = schedules.one_cycle(optimizer, self.steps, warmup=0.2)
        fit(
            student,
            Loaders(_Steps(loaders.train, self.steps), loaders.val, loaders.test),
            optimizer,
            epochs=1,
            scheduler=schedule,
            loss=loss,
        )
        return student

    def _answers(self, splits: Splits, own: Splits, images: int, seed: int) -> torch.Tensor:
        """Return the teacher's logits for the images to learn from; no label is read but those of its own images."""
        if (images, seed) not in self.teachers:
            self.teachers[images, seed] = self.teacher.fit(splits, images, seed)[0]
        plain = own.plain().train
        loader = replace(own, val=plain).loaders(64).val  # a validation loader keeps the order
        return evaluate(self.teachers[images, seed], loader, precision=_precision()).logits


def _numbered(splits: Splits) -> Splits:
    """Return splits whose training images have their positions as labels."""
    images = splits.train
    names = [str(i) for i in range(len(images))]
    return replace(splits, train=ImageSet(images.sources, range(len(images)), names, images.transform))


def _precision() -> str:
    return best_precision(get_runtime().device)


@dataclass
class _Steps:
    """A loader of so many batches, which goes through another one again and again."""

    loader: Any
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator:
        return islice(chain.from_iterable(repeat(self.loader)), self.steps)
