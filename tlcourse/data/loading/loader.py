"""Loaders whose images are decoded once and augmented in batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from tlcourse import runtime
from tlcourse.data.images import ImageSet
from tlcourse.data.loading import augmentation
from tlcourse.data.loading.augmentation import SplitTransform
from tlcourse.data.loading.pixel_cache import Pixels, load_pixels, results

PREFETCH_BATCHES = 2  # prepared while a GPU works on another batch: the processor has nothing else to do then
Batch = tuple[torch.Tensor, torch.Tensor]


def make_loader(images: ImageSet, batch_size: int, *, workers: int | None = None, **options: Any) -> DataLoader:
    """Return a loader; `options` are those of `DataLoader`.

    With a transform that `Preprocessing` made, `workers` threads crop and augment cached images. With any other one, a
    plain `DataLoader` with `workers` processes decodes every image in every epoch, and a printed line says so. None
    chooses for the machine.
    """
    now = runtime.get_runtime()
    transform = augmentation.split_transform(images.transform)
    if transform is not None:
        threads = min(runtime.MAX_WORKERS, runtime.cores()) if workers is None else workers
        return PixelLoader(images, transform, threads=threads, batch_size=batch_size, **options)
    if images.transform is not None:
        steps = getattr(images.transform, "transforms", [images.transform])
        names = ", ".join(getattr(step, "__name__", type(step).__name__) for step in steps)
        print(
            f"{len(images):,} images have a transform that Preprocessing did not make ({names}), so each is decoded in "
            "every epoch and stays on the CPU: keep it, or use the options of Preprocessing.training, which are faster."
        )
    workers = now.workers if workers is None else workers
    # No persistent workers: they would keep random numbers that no checkpoint holds.
    return DataLoader(images, batch_size, num_workers=workers, pin_memory=now.device.type == "cuda", **options)


class PixelLoader(DataLoader):
    """A `DataLoader` that applies `transform` to images that are decoded once and kept as uint8.

    Batches are images `(B, 3, H, W)`, float32, in channels-last format and on the runtime's device, and labels `(B,)`
    on the CPU. `dataset`, `sampler` and `collate_fn` are those of any `DataLoader`.

    An epoch's order and augmentation are drawn from `generator` when its iterator is made, and from nothing else. They
    depend neither on the number of threads nor on how images are grouped into batches.
    """

    def __init__(self, images: ImageSet, transform: SplitTransform, *, threads: int, **options: Any):
        super().__init__(images, **options)
        self.transform, self.threads = transform, max(1, threads)
        self._pixels: Pixels | None = None
        normalize = transform.normalize
        self._mean_and_std = [np.tile(np.float32(values), transform.size) for values in (normalize.mean, normalize.std)]

    def with_batch_sampler(self, batches: Iterable[list[int]]) -> "PixelLoader":
        """Return a loader of the same images that reads other batches, with the same random numbers."""
        options = {"batch_sampler": batches, "generator": self.generator}
        other = PixelLoader(self.dataset, self.transform, threads=self.threads, **options)
        other._pixels = self._pixels
        return other

    def __iter__(self) -> Iterator[Batch]:
        batches, rows = list(self.batch_sampler), None
        if self.transform.crop is not None:
            rows = torch.rand(len(self.dataset), augmentation.COLUMNS, generator=self.generator)
        return self._batches(batches, rows)

    def _batches(self, batches: list[list[int]], rows: torch.Tensor | None) -> Iterator[Batch]:
        if self._pixels is None:
            self._pixels = load_pixels(self.dataset, self.transform.once)
        device = runtime.get_runtime().device
        ahead = 0 if device.type == "cpu" else PREFETCH_BATCHES
        with ThreadPoolExecutor(self.threads) as pool:
            yield from results((self._start(batch, rows, pool, device) for batch in batches), ahead)

    def _start(
        self, batch: list[int], rows: torch.Tensor | None, pool: ThreadPoolExecutor, device: torch.device
    ) -> Callable[[], Batch]:
        """Start to prepare a batch, an equal part in each thread; the result waits for it and returns it."""
        pinned, indices, size = device.type == "cuda", torch.tensor(batch), self.transform.size
        only_normalize = self.transform.rotation is None and self.transform.jitter is None
        dtype = torch.float32 if device.type == "cpu" and only_normalize else torch.uint8
        labels = self.dataset.labels[indices]
        labels = labels.pin_memory() if pinned else labels
        rows = None if rows is None else rows[indices]
        images = torch.empty(len(batch), size, size, 3, dtype=dtype, pin_memory=pinned)
        parts = [slice(first, None, self.threads) for first in range(min(self.threads, len(batch)))]
        jobs = [
            pool.submit(self._fill, batch[part], None if rows is None else rows[part].tolist(), images[part].numpy())
            for part in parts
        ]

        def finish() -> Batch:
            for job in jobs:
                job.result()
            if dtype is torch.float32:
                return images.permute(0, 3, 1, 2), labels
            return augmentation.transform_batch(images.to(device, non_blocking=True), rows, self.transform), labels

        return finish

    def _fill(self, indices: Sequence[int], rows: Sequence[Sequence[float]] | None, out: np.ndarray) -> None:
        """Write the crops of images into `out`, which is uint8, or float32 for normalised values."""
        for position, index in enumerate(indices):
            image = self._pixels[index]
            if rows is not None:
                image = augmentation.random_crop(image, rows[position], self.transform)
            if out.dtype == np.uint8:
                out[position] = image
            else:
                augmentation.normalize(image, *self._mean_and_std, out[position])
