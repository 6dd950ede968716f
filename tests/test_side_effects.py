"""Random state, loaders and models are as they were; a checkpoint can hold every random state."""

import io
import multiprocessing
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tlcourse.side_effects import (
    get_rng_state,
    no_side_effects,
    preserve_loader_state,
    preserve_rng_state,
    set_rng_state,
)


class FakeApple:
    """A GPU's generator whose state is the number of draws."""

    def __init__(self, monkeypatch):
        self.draws = 0
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([self.draws], dtype=torch.uint8))
        monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: setattr(self, "draws", state.item()))


def test_the_global_random_state_is_restored_also_after_an_error(monkeypatch):
    apple, drawn = FakeApple(monkeypatch), []

    def draw():
        apple.draws += 1
        drawn.append((random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item(), apple.draws))

    def fail():
        with preserve_rng_state():
            draw()
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        fail()
    draw()
    assert drawn[0] == drawn[1]


GENERATORS = {
    "torch": lambda: torch.Generator().manual_seed(3),
    "python": lambda: random.Random(3),
    "old numpy": lambda: np.random.RandomState(3),
    **{
        name: lambda name=name: np.random.Generator(getattr(np.random, name)(3))
        for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
    },
}


@pytest.mark.parametrize("name", GENERATORS)
def test_the_state_of_a_loaders_generator_goes_through_a_file(name):
    loader, other = (DataLoader([0]) for _ in range(2))
    loader.dataset.append(GENERATORS[name]())
    other.dataset.append(GENERATORS[name]())

    def draw(loader):
        generator = loader.dataset[-1]
        if name == "torch":
            return torch.rand(3, generator=generator).tolist()
        return [generator.random() for _ in range(3)] if hasattr(generator, "random") else generator.rand(3).tolist()

    draw(loader)
    file = io.BytesIO()
    torch.save(get_rng_state([loader]), file)
    file.seek(0)
    set_rng_state(torch.load(file, weights_only=True), [other])
    assert draw(other) == draw(loader)


def test_a_data_loader_keeps_its_persistent_workers_where_we_think():
    """No public attribute leads to them; the copy must not take the loader's own."""
    assert "_iterator" in vars(DataLoader([0]))
    loader = DataLoader(list(range(4)), num_workers=1, persistent_workers=True)
    list(loader)
    own = set(multiprocessing.active_children())
    with preserve_loader_state(loader) as copied:
        assert len(list(copied)) == 4
        assert len(multiprocessing.active_children()) == len(own) + 1
    assert set(multiprocessing.active_children()) == own  # the copy's have ended


def test_a_model_that_writes_its_buffers_is_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x + torch.rand(())

    model = nn.Sequential(Counting(), nn.Dropout()).train()
    model[1].eval()
    state = torch.get_rng_state()
    with no_side_effects(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        model(torch.ones(2))
    assert model[0].calls == 0
    assert (model.training, model[1].training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)
