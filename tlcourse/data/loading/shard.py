"""A loader's batches dealt out to several processes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from tlcourse.data.loading.loader import PixelLoader

# What a `DataLoader` is made of beside its batch sampler. Newer versions of PyTorch have more than older ones.
SETTINGS = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
SETTINGS += ("generator", "prefetch_factor", "persistent_workers", "in_order")


def shard_loader(loader: Iterable, index: int, count: int, *, whole_small: bool) -> Iterable:
    """Return a loader that gives process `index` of `count` its part of every batch of `loader`: `batch[index::count]`.

    A `DataLoader` reads that part only; order, random numbers and settings stay the same. From anything else whole
    batches are taken, and cut. A batch with fewer images than processes goes whole to every process with `whole_small`,
    as training needs it; else a process without an image leaves it out, so that none is counted twice.

    Raises:
        ValueError: `index` is not below `count`.
    """
    if not 0 <= index < count:
        raise ValueError(f"index is {index} and count {count}: processes are numbered from 0 to count - 1.")
    if count == 1:
        return loader
    if isinstance(loader, PixelLoader):
        part = BatchParts(loader.batch_sampler, index, count, whole_small=whole_small)
        return loader.with_batches(part)
    # A subclass may do anything with what it reads, and a stream of items has no positions.
    plain = type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset)
    if not plain or loader.batch_sampler is None:
        return Slices(loader, index, count, whole_small=whole_small)
    part = BatchParts(loader.batch_sampler, index, count, whole_small=whole_small)
    settings = {name: getattr(loader, name) for name in SETTINGS if hasattr(loader, name)}
    return DataLoader(loader.dataset, batch_sampler=part, **settings)


class BatchParts(Sampler[list[int]]):
    """The part of every batch of `batches` that process `index` of `count` reads."""

    def __init__(self, batches: Iterable[list[int]], index: int, count: int, *, whole_small: bool):
        self.batches, self.index, self.count, self.whole_small = batches, index, count, whole_small

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            if self.whole_small and len(batch) < self.count:
                yield batch
            elif own := batch[self.index :: self.count]:
                yield own

    def __len__(self) -> int:
        """Return the number of batches; exact where the sizes of all batches are known beforehand."""
        batches = self.batches
        if self.whole_small or type(batches) is not BatchSampler:
            return len(batches)
        whole, rest = divmod(len(batches.sampler), batches.batch_size)
        return whole * (batches.batch_size > self.index) + (rest > self.index and not batches.drop_last)


class Slices:
    """The part of every batch of tensors that process `index` of `count` works on."""

    def __init__(self, loader: Iterable, index: int, count: int, *, whole_small: bool):
        self.loader, self.index, self.count, self.whole_small = loader, index, count, whole_small

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            size = len(next(item for item in batch if isinstance(item, torch.Tensor)))
            if self.whole_small and size < self.count:
                yield batch
            elif size > self.index:
                own = slice(self.index, None, self.count)
                yield tuple(item[own] if isinstance(item, torch.Tensor) else item for item in batch)

    def __len__(self) -> int:
        """Return the number of the loader's batches, of which some may be left out."""
        return len(self.loader)
