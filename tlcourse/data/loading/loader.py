"""Loaders whose images are decoded once and augmented in batches."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from tlcourse import runtime
from tlcourse.data.images import ImageSet
from tlcourse.data.loading.augmentation import COLUMNS, Recipe, cut, finish, normalise, recipe
from tlcourse.data.loading.pixel_cache import Pixels, pixels

AHEAD = 2  # batches that are made while a GPU works on another: the processor has nothing else to do then


def make_loader(images: ImageSet, batch_size: int, *, workers: int | None = None, **options: Any) -> DataLoader:
    """Return a loader; `options` are those of `DataLoader`.

    `workers` are threads where the transform is one of `Preprocessing`, else processes; None chooses for the machine.
    """
    now = runtime.get_runtime()
    how = recipe(images.transform)
    if how is not None:
        threads = min(runtime.MAX_WORKERS, runtime.cores()) if workers is None else workers
        return PixelLoader(images, how, threads=threads, batch_size=batch_size, **options)
    workers = now.workers if workers is None else workers
    pinned = now.device.type == "cuda"
    # Workers that stay would keep random numbers that no checkpoint holds: each epoch has its own.
    return DataLoader(images, batch_size, num_workers=workers, pin_memory=pinned, **options)


class PixelLoader(DataLoader):
    """A `DataLoader` that gives what `how` makes of images, decoded once and kept as uint8.

    Batches are images `(B, 3, H, W)`, float32, in channels-last format and on the runtime's device, and labels `(B,)`
    on the CPU. `dataset`, `sampler` and `collate_fn` are as they always are, and single items of the data set too.

    An epoch's order and augmentation are drawn from `generator` when its iterator is made, and from nothing else. They
    depend neither on the number of threads nor on how images are grouped into batches.
    """

    def __init__(self, images: ImageSet, how: Recipe, *, threads: int, **options: Any):
        super().__init__(images, **options)
        self.how, self.threads = how, threads
        self._pixels: Pixels | None = None
        self._lines = tuple(np.tile(np.float32(values), how.size) for values in (how.mean, how.std))

    def with_batches(self, batches: Iterable[list[int]]) -> "PixelLoader":
        """Return a loader of the same images that reads other batches, with the same random numbers."""
        other = PixelLoader(
            self.dataset, self.how, threads=self.threads, batch_sampler=batches, generator=self.generator
        )
        other._pixels = self._pixels
        return other

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches, rows = list(self.batch_sampler), None
        if self.how.augmentation is not None:
            rows = torch.rand(len(self.dataset), COLUMNS, generator=self.generator)
        return self._run(batches, rows)

    def _run(self, batches: list[list[int]], rows: torch.Tensor | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device = runtime.get_runtime().device
        if self._pixels is None:
            self._pixels = pixels(self.dataset, self.how.keep)
        waiting: deque[_Batch] = deque()
        pool = ThreadPoolExecutor(self.threads) if self.threads else None
        try:
            for batch in batches:
                waiting.append(self._start(batch, rows, pool, device))
                if len(waiting) > (0 if device.type == "cpu" else AHEAD):
                    yield self._finish(waiting.popleft(), device)
            while waiting:
                yield self._finish(waiting.popleft(), device)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _start(
        self, batch: list[int], rows: torch.Tensor | None, pool: ThreadPoolExecutor | None, device: torch.device
    ) -> "_Batch":
        """Begin to make a batch, its images dealt out to the threads."""
        pinned = device.type == "cuda"
        dtype = torch.float32 if device.type == "cpu" and self.how.plain else torch.uint8
        indices = torch.tensor(batch)
        labels = self.dataset.labels[indices]
        lines = None if rows is None else rows[indices]
        images = torch.empty(len(batch), self.how.size, self.how.size, 3, dtype=dtype, pin_memory=pinned)
        jobs, array = [], images.numpy()
        for first in range(max(1, min(self.threads, len(batch)))):
            own = slice(first, None, max(1, self.threads))
            work = (batch[own], None if lines is None else lines[own].tolist(), array[own])
            if pool is None:
                self._fill(*work)
            else:
                jobs.append(pool.submit(self._fill, *work))
        return _Batch(images, labels.pin_memory() if pinned else labels, lines, jobs)

    def _fill(self, batch: Sequence[int], lines: Sequence[Sequence[float]] | None, out: np.ndarray) -> None:
        """Write images into `out`: as they are cut where it is uint8, normalised where it is float32."""
        own = np.empty(out.shape[1:], np.uint8)
        for position, index in enumerate(batch):
            image = self._pixels[index]
            if lines is not None:
                image = cut(image, lines[position], self.how.augmentation, own)
            if out.dtype == np.uint8:
                out[position] = image
            else:
                normalise(image, *self._lines, out[position])

    def _finish(self, batch: "_Batch", device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        for job in batch.jobs:
            job.result()
        if batch.images.dtype == torch.float32:
            return batch.images.permute(0, 3, 1, 2), batch.labels
        return finish(batch.images.to(device, non_blocking=True), batch.lines, self.how), batch.labels


class _Batch(NamedTuple):
    """A batch in the making: `images` are whole when all `jobs` are done."""

    images: torch.Tensor
    labels: torch.Tensor
    lines: torch.Tensor | None
    jobs: list[Future]
