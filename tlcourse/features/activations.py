"""The frozen part's activations as a data set, and loaders that give them in the order of the images' own loaders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler


@dataclass(frozen=True)
class Activations(Dataset):
    """The frozen part's output for N images.

    `rows` is float16, or float32 where float16 overflows, `(views * N, ...)`: row `view * N + i` is of image `i`.
    Maps are stored with their channels last, `(views * N, H, W, C)`. `labels` are `(N,)`.
    """

    rows: np.ndarray
    labels: Tensor

    @property
    def views(self) -> int:
        """Number of versions of each image."""
        return len(self.rows) // len(self.labels)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        x, labels = self.__getitems__([row])
        return x[0], labels[0]

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch, float32; maps are `(B, C, H, W)`, in channels-last format."""
        x = torch.from_numpy(self.rows[rows]).float()
        labels = self.labels[torch.tensor(rows) % len(self.labels)]
        return (x.permute(0, 3, 1, 2) if x.ndim == 4 else x), labels


class ViewSampler(Sampler[int]):
    """Draws an order of the images, and for each image one of its views.

    The order is that of PyTorch's `RandomSampler`. The views come from a copy of the generator, so that drawing them
    does not change the order of later epochs. The generator's state before an epoch decides all of the epoch.
    """

    def __init__(self, images: int, views: int, generator: torch.Generator):
        # An attribute, not a base class: tools that replace a `RandomSampler` by their own would draw rows, not images.
        self.order, self.views, self.generator = RandomSampler(range(images), generator=generator), views, generator

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        copy = torch.Generator()
        copy.set_state(self.generator.get_state())
        copy.manual_seed(int(torch.randint(2**31, (), generator=copy)))
        views = torch.randint(self.views, (len(self),), generator=copy).tolist()
        for image in self.order:
            yield views[image] * len(self) + image


class ActivationLoader(DataLoader):
    """A `DataLoader` that takes whole batches from memory or disk.

    Like the loader of the images, it draws an epoch's order when its iterator is made, and no other random number.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self._batch, list(self.batch_sampler))

    def _batch(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        x, labels = self.dataset.__getitems__(rows)
        return (x.pin_memory(), labels.pin_memory()) if self.pin_memory else (x, labels)
