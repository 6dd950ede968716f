"""A run with everything that a checkpoint must hold, small enough to be killed fifty times."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import tlcourse as tl

EPOCHS, BATCHES, BATCH = 6, 8, 8


class Noisy(Dataset):
    """Images with noise from every kind of random number that a transform may draw."""

    def __init__(self, n: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(n) % 2
        self.x = torch.randn(n, 3, 8, 8, generator=generator) + self.labels[:, None, None, None]
        self.own = [np.random.default_rng(seed), np.random.RandomState(seed), random.Random(seed)]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int):
        noise = torch.rand(()).item() + random.random() + np.random.rand()
        noise += sum(generator.random() for generator in self.own[::2]) + self.own[1].rand()
        return self.x[i] + 0.1 * noise, self.labels[i]


class Data:
    """Loaders whose order comes from a generator of their own, or from the global one."""

    def __init__(self, *, workers: int = 0, own: bool = True):
        generator = torch.Generator().manual_seed(5) if own else None
        common = {"batch_size": BATCH, "num_workers": workers}
        self.train = DataLoader(Noisy(BATCH * BATCHES - 3, 0), shuffle=True, generator=generator, **common)
        self.val = DataLoader(Noisy(32, 1), **common)


def network() -> nn.Module:
    """Batch norm has buffers, dropout draws random numbers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(8 * 36, 2)
    )


def same(a, b) -> bool:
    """Whether two runs ended with the same weights."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def seed_everything() -> None:
    """Fix every random number that a run here draws."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)


def train(checkpoints: tl.train.Checkpoints | None, *, workers: int = 0, own: bool = True, **options):
    """Train with a fixed seed; return weights and history."""
    seed_everything()
    model = network()
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 1e-3}, {"params": model[1:].parameters(), "lr": 1e-2}]
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-3, 1e-2], total_steps=EPOCHS * BATCHES)
    options = {"ema_decay": 0.9, "clip_grad_norm": 1.0, "precision": "float32"} | options
    history = tl.train.fit(
        model,
        Data(workers=workers, own=own),
        optimizer,
        epochs=EPOCHS,
        scheduler=scheduler,
        checkpoints=checkpoints,
        **options,
    )
    return model.state_dict(), history
