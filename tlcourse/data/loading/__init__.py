"""From an image set to batches: images are decoded once, then cropped and augmented from a table of random numbers."""

from tlcourse.data.loading.loader import make_loader
from tlcourse.data.loading.shard import shard_loader

__all__ = ["make_loader", "shard_loader"]
