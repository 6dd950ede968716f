"""Activations that are kept, and loaders that read them as the images would be read."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler


@dataclass(frozen=True)
class Activations(Dataset):
    """What the frozen part made of a set of N images.

    `rows` is float16, or float32 where float16 overflows, `(views * N, ...)`: row `view * N + i` is of image `i`.
    Maps that are `channels_last` are stored as `(views * N, H, W, C)`. `labels` are `(N,)`.
    """

    rows: np.ndarray
    labels: Tensor
    channels_last: bool

    @property
    def views(self) -> int:
        """How many versions there are of each image."""
        return len(self.rows) // len(self.labels)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        x, labels = self.__getitems__([row])
        return x[0], labels[0]

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch, float32; maps are `(B, C, H, W)` however they are stored."""
        x = torch.from_numpy(self.rows[rows]).float()
        labels = self.labels[torch.tensor(rows) % len(self.labels)]
        return (x.permute(0, 3, 1, 2) if self.channels_last else x), labels


class ViewSampler(Sampler[int]):
    """Draws an order of the images, and for each image one of its views.

    The order is that of PyTorch's `RandomSampler`. The views come from a fork of the generator, which itself goes on
    as if there were none: orders are those of the images' own loader, and the generator's state before an epoch
    decides all of the epoch.
    """

    def __init__(self, images: int, views: int, generator: torch.Generator):
        # Inside, not above: tools that replace a `RandomSampler` by their own would draw rows, which are not images.
        self.order, self.views, self.generator = RandomSampler(range(images), generator=generator), views, generator

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        fork = torch.Generator()
        fork.set_state(self.generator.get_state())
        fork.manual_seed(int(torch.randint(2**31, (), generator=fork)))
        views = torch.randint(self.views, (len(self),), generator=fork).tolist()
        for image in self.order:
            yield views[image] * len(self) + image


class ActivationLoader(DataLoader):
    """A `DataLoader` that takes whole batches from memory or disk.

    All of an epoch is drawn when its iterator is made, and nothing but its order, as the loader of the images does.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self._batch, list(self.batch_sampler))

    def _batch(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        x, labels = self.dataset.__getitems__(rows)
        return (x.pin_memory(), labels.pin_memory()) if self.pin_memory else (x, labels)
