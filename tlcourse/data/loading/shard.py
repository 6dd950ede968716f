"""A loader's batches divided among several processes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from tlcourse.data.loading.loader import PixelLoader

# What a `DataLoader` is made of beside its batch sampler. Newer versions of PyTorch have more than older ones.
SETTINGS = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
SETTINGS += ("generator", "prefetch_factor", "persistent_workers", "in_order")


def shard_loader(loader: Iterable, index: int, count: int, *, whole_small: bool) -> Iterable:
    """Return a loader that gives process `index` of `count` its part of every batch of `loader`: `batch[index::count]`.

    A `DataLoader` reads that part only; order, random numbers and settings stay the same. Any other loader is read
    whole, and its batches are sliced. A batch with fewer images than processes goes whole to every process with
    `whole_small`, as training needs it; otherwise a process without an image skips it, so that none is counted twice.

    Raises:
        ValueError: `index` is not below `count`.
    """
    if not 0 <= index < count:
        raise ValueError(f"index is {index} and count {count}: processes are numbered from 0 to count - 1.")
    if count == 1:
        return loader
    # A subclass may do anything with what it reads, and a stream of items has no positions.
    own = type(loader) not in (DataLoader, PixelLoader) or isinstance(loader.dataset, IterableDataset)
    if own or loader.batch_sampler is None:
        return ShardedBatches(loader, index, count, whole_small=whole_small)
    batches = ShardedBatchSampler(loader.batch_sampler, index, count, whole_small=whole_small)
    if isinstance(loader, PixelLoader):
        return loader.with_batch_sampler(batches)
    settings = {name: getattr(loader, name) for name in SETTINGS if hasattr(loader, name)}
    return DataLoader(loader.dataset, batch_sampler=batches, **settings)


class ShardedBatchSampler:
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


class ShardedBatches(ShardedBatchSampler):
    """The same part of batches of tensors that are read whole."""

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            size = len(next(item for item in batch if isinstance(item, torch.Tensor)))
            if self.whole_small and size < self.count:
                yield batch
            elif size > self.index:
                own = slice(self.index, None, self.count)
                yield tuple(item[own] if isinstance(item, torch.Tensor) else item for item in batch)
