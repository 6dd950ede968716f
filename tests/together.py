"""A run of one process, or of several that train one model together: started by `torchrun`, compared by a test.

torchrun --nproc_per_node 2 tests/together.py FOLDER
"""

import os
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import tlcourse as tl

N_TRAIN, N_VAL, BATCH = 77, 43, 16  # the last batches are small, and odd


def blobs(n: int, seed: int) -> TensorDataset:
    """Two classes of small images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return TensorDataset(torch.randn(n, 3, 8, 8, generator=generator) + labels[:, None, None, None] / 2, labels)


class Data:
    """Loaders as anybody makes them."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.train = DataLoader(blobs(N_TRAIN, 0), BATCH, shuffle=True, generator=generator)
        self.val = DataLoader(blobs(N_VAL, 1), 2 * BATCH)


class Stream(IterableDataset):
    """Images that come one after the other: how many is not known."""

    def __init__(self, images: TensorDataset):
        self.images = images

    def __iter__(self):
        yield from self.images


class StreamedData:
    """Loaders of streams."""

    def __init__(self):
        self.train = DataLoader(Stream(blobs(N_TRAIN, 0)), BATCH)
        self.val = DataLoader(Stream(blobs(N_VAL, 1)), BATCH)


def frozen_body() -> nn.Module:
    """A convolution and a batch norm, both frozen, below what trains."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _network()


def _network() -> nn.Module:
    layers = {"conv": nn.Conv2d(3, 8, 3), "norm": nn.BatchNorm2d(8), "act": nn.ReLU(), "deep": nn.Conv2d(8, 8, 3)}
    layers |= {"flat": nn.Flatten(), "head": nn.Linear(8 * 16, 2)}
    model = nn.Sequential(OrderedDict(layers))
    model[:2].requires_grad_(False)
    return model


def settings(folder: Path) -> dict[str, dict]:
    """Name -> keywords of `fit`."""
    checkpoints = tl.train.Checkpoints(folder / "checkpoints", every=2)
    return {"plain": {}, "more": {"accumulate": 2, "clip_grad_norm": 0.5, "ema_decay": 0.9, "checkpoints": checkpoints}}


def run(data, model=None, **options):
    """Train; return weights, history and accuracy."""
    model = model or frozen_body()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    history = tl.train.fit(model, data, optimizer, epochs=3, scheduler=scheduler, precision="float32", **options)
    rows = {
        name: history.column(name) for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "images")
    }
    return model.state_dict(), rows


def main(folder: Path) -> None:
    """Train in every setting, and with toy pets from our own loaders."""
    results = {name: run(Data(), **options) for name, options in settings(folder).items()}
    torch.manual_seed(100 + int(os.environ.get("RANK", 0)))  # each process has other random numbers
    unseeded = Data()
    unseeded.train = DataLoader(blobs(N_TRAIN, 0), BATCH, shuffle=True)
    results["unseeded"] = run(unseeded)
    results["stream"] = run(StreamedData())
    pets = tl.data.load("toypets", model=tl.preprocessing.Preprocessing(8, 9)).take(train=37, val=21, seed=0)
    results["pets"] = run(pets.loaders(8, seed=0))
    kept = tl.features.precompute(frozen_body(), pets, cache=False)  # what the frozen part makes of them
    results["kept"] = run(kept.loaders(8, seed=0), kept.trainable_part)
    torch.save(results, folder / f"rank-{os.environ.get('RANK', 'alone')}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
