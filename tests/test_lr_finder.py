"""The learning-rate range test finds the rates that a set-up can take, and has no side effects."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, WeightedRandomSampler

import tlcourse as tl
from tlcourse.train import lr_range_test
from tlcourse.train.lr_finder import _smooth, _steepest


class Noisy(Dataset):
    """Images whose augmentation draws from every source of random numbers that there is."""

    def __init__(self, n=24):
        self.x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        self.own = [
            torch.Generator().manual_seed(1),
            random.Random(2),
            np.random.default_rng(3),
            np.random.RandomState(4),
        ]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        mine, python, numpy, old = self.own
        shift = torch.randn(1) + torch.randn(1, generator=mine)
        shift += random.random() + python.random() + np.random.rand() + numpy.random() + old.rand()
        return self.x[i] + 3 * (i % 2) + 0.1 * shift, i % 2


def net():
    """Convolution, batch norm and dropout; the first stage is frozen."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, 2),
    )
    model.stage_plan = {"stem": ["0", "1"], "body": ["3", "4"], "head": ["9"]}
    return tl.models.unfreeze_from(model, "body")


class Halves:
    """A sampler of one's own with a counter, as resumable samplers have."""

    def __init__(self, n):
        self.n, self.passes, self.generator = n, 0, torch.Generator().manual_seed(5)

    def __iter__(self):
        self.passes += 1
        return iter(torch.randperm(self.n, generator=self.generator)[: self.n // 2 + self.passes].tolist())

    def __len__(self):
        return self.n // 2


LOADERS = {
    "global order": lambda: DataLoader(Noisy(), 4, shuffle=True),
    "own generator": lambda: DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator().manual_seed(7)),
    "sampler's generator": lambda: DataLoader(
        Noisy(), 4, sampler=RandomSampler(Noisy(), generator=torch.Generator().manual_seed(8))
    ),
    "weighted": lambda: DataLoader(
        Noisy(), 4, sampler=WeightedRandomSampler([1.0] * 24, 16, generator=torch.Generator().manual_seed(9))
    ),
    "counting sampler": lambda: DataLoader(Noisy(), 4, sampler=Halves(24)),
}
OPTIMIZERS = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, amsgrad=True),
    "SGD": lambda groups: torch.optim.SGD(groups, momentum=0.9),
}


def set_up(loader="own generator", kind="AdamW"):
    """A set-up in the middle of training: moments, gradients, a schedule under way, modes of one's own."""
    model = net()
    optimizer = OPTIMIZERS[kind](tl.models.param_groups(model, 1e-2, layer_decay=0.5))
    loader = LOADERS[loader]()
    schedule = tl.train.schedules.cosine(optimizer, 100)
    train(model, loader, optimizer, schedule)
    model.eval()
    model[6].train()
    return model, loader, optimizer, schedule


def train(model, loader, optimizer, schedule):
    tl.models.train_mode(model)
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.scheduler.step()


def everything(model, loader, optimizer, schedule):
    """All that a test must leave alone, as one text of exact numbers."""
    tensors = {**model.state_dict(keep_vars=True), **{f"grad of {n}": p.grad for n, p in model.named_parameters()}}
    modes = [(name, module.training) for name, module in model.named_modules()]
    flags = [(id(p), p.requires_grad, p.data_ptr()) for p in model.parameters()]
    generators = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]
    if isinstance(loader, DataLoader):
        mine, python, numpy, old = loader.dataset.own
        generators += [mine.get_state().tolist(), python.getstate(), numpy.bit_generator.state, str(old.get_state()[1])]
        for part in (loader, loader.sampler):
            generator = getattr(part, "generator", None)
            generators.append(None if generator is None else generator.get_state().tolist())
        generators += [getattr(loader.sampler, "passes", None), loader._iterator, sorted(vars(loader))]
    values = {
        name: None if value is None else value.detach().double().numpy().tobytes() for name, value in tensors.items()
    }
    state = {
        k: {n: v.double().numpy().tobytes() if torch.is_tensor(v) else v for n, v in s.items()}
        for k, s in optimizer.state_dict()["state"].items()
    }
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    return repr((values, modes, flags, generators, state, groups, held, schedule.scheduler.state_dict()))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("loader", LOADERS)
def test_everything_is_as_it_was_and_training_goes_on_bit_for_bit(loader, kind):
    weights = []
    for tested in (False, True):
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        given = set_up(loader, kind)
        if tested:
            before = everything(*given)
            result = lr_range_test(
                *given[:3], min_lr=1e-4, max_lr=1.0, steps=15
            )  # more steps than the loader has batches
            assert len(result.losses) > 6
            assert everything(*given) == before
        train(*given)
        weights.append(given[0].state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Failing(Noisy):
    """Images one of which cannot be read, or during which Ctrl-C is pressed."""

    def __init__(self, error):
        super().__init__()
        self.error, self.left = error, [10]

    def __getitem__(self, i):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise self.error
        return super().__getitem__(i)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("unreadable")])
def test_everything_is_as_it_was_after_an_interruption(error):
    model, _, optimizer, schedule = set_up()
    loader = DataLoader(Failing(error), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    before = everything(model, loader, optimizer, schedule)
    with pytest.raises(type(error)):
        lr_range_test(model, loader, optimizer, steps=20)
    assert loader.dataset.left[0] < 0
    assert everything(model, loader, optimizer, schedule) == before


def test_workers_that_live_long_do_not_notice():
    """Persistent workers carry random numbers of their own: the test has workers of its own."""
    found = []
    for tested in (False, True):
        loader = DataLoader(
            Noisy(), 8, shuffle=True, num_workers=1, persistent_workers=True, generator=torch.Generator().manual_seed(1)
        )
        model = net()
        first = [images for images, _ in loader]
        if tested:
            lr_range_test(model, loader, torch.optim.SGD(model.parameters(), lr=1.0), steps=10)
        found.append(torch.cat(first + [images for images, _ in loader]))
    assert torch.equal(*found)


# --- what it finds ----------------------------------------------------------------------------------------------------


def separable():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(128) % 2
    x = torch.randn(128, 3, generator=generator) + 3 * labels[:, None]
    return list(zip(x.split(16), labels.split(16), strict=True))


def test_the_suggested_rate_trains_and_the_last_one_does_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    start, data = copy.deepcopy(model), separable()
    result = lr_range_test(model, data, torch.optim.SGD(model.parameters(), lr=1.0), min_lr=1e-4, max_lr=1e4)
    assert result.diverged
    assert len(result.rates) == len(result.losses) == len(result.smoothed) < 100
    assert all(math.isfinite(loss) for loss in result.losses)
    first = nn.functional.cross_entropy(start(data[0][0]), data[0][1])
    assert result.losses[0] == first.item()

    def after_an_epoch(rate):
        tried = copy.deepcopy(start)
        optimizer = torch.optim.SGD(tried.parameters(), lr=rate)
        for x, y in data:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(tried(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    # A hundredth of it hardly moves, and the rate of divergence does harm.
    assert after_an_epoch(result.suggestion) < 0.8 * after_an_epoch(result.suggestion / 100)
    assert not after_an_epoch(result.rates[-1]) < first.item()


def test_rates_rise_by_one_factor_and_groups_keep_their_ratio():
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])

    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = Watched([{"params": model[0].parameters(), "lr": 0.02}, {"params": model[1].parameters(), "lr": 0.2}])
    tl.train.schedules.warmup_cosine(optimizer, 100)  # moves the rates, but not their ratio
    result = lr_range_test(model, separable(), optimizer, min_lr=1e-3, max_lr=1.0, steps=31)
    assert list(result.rates) == pytest.approx([10 ** (-3 + i / 10) for i in range(31)])
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([[rate / 10, rate] for rate in result.rates]))
    assert not result.diverged
    assert result.suggestion is None  # nothing was learnt: there is nothing to suggest


def test_smoothing_neither_lags_nor_moves_a_line():
    line = [float(i) for i in range(50)]
    assert _smooth(line, 2.5)[15:35] == pytest.approx(line[15:35])
    peak = [0.0] * 20 + [1.0] + [0.0] * 20
    smoothed = _smooth(peak, 2.5)
    assert smoothed.index(max(smoothed)) == 20
    assert smoothed == pytest.approx(smoothed[::-1])


def test_the_suggestion_is_where_a_loss_of_known_shape_falls_fastest():
    rates = [10 ** (-6 + 7 * i / 99) for i in range(100)]
    losses = [1 / (1 + rate / 1e-3) + (rate / 0.1) ** 4 for rate in rates]  # steepest by the log of the rate at 1e-3
    assert _steepest(rates, losses, _smooth(losses, 2.5)) == pytest.approx(1e-3, rel=0.2)
    noise = (0.1 * torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).tolist()
    assert _steepest(rates, noise, _smooth(noise, 2.5)) is None
    falling_with_noise = [loss + extra for loss, extra in zip(losses, noise, strict=True)]
    assert 1e-4 < _steepest(rates, falling_with_noise, _smooth(falling_with_noise, 2.5)) < 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_lr": 0.0}, r"min_lr=0\.0"),
        ({"min_lr": 1.0, "max_lr": 0.1}, r"min_lr=1\.0 and max_lr=0\.1"),
        ({"steps": 9}, "steps=9: give at least 10"),
        ({"loader": []}, "loader is empty"),
        ({"loader": iter(separable())}, "read only once"),
        ({"optimizer": torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)}, "no trainable parameter of this model"),
    ],
)
def test_bad_arguments(options, message):
    model = nn.Linear(3, 2)
    given = {"loader": separable(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)} | options
    with pytest.raises(ValueError, match=message):
        lr_range_test(model, given.pop("loader"), given.pop("optimizer"), **given)


def test_outputs_and_labels_are_those_of_training():
    model, loader = nn.Linear(3, 1), [(x, y[:, None].float()) for x, y in separable()]
    with pytest.raises(ValueError, match="one output each"):
        lr_range_test(model, loader, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_last_batch_of_one_image_is_left_out_where_there_is_batch_norm():
    model, (x, y) = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), separable()[0]
    result = lr_range_test(model, [(x, y), (x[:1], y[:1])], torch.optim.SGD(model.parameters(), lr=0.1), steps=10)
    assert len(result.losses) == 10


def test_rates_of_zero_have_no_ratio():
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="Every group's rate is 0"):
        lr_range_test(model, separable(), torch.optim.SGD(model.parameters(), lr=0.0))


def test_a_loss_that_is_no_number_is_reported():
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, torch.nan)
    with pytest.raises(FloatingPointError, match="first batch is nan"):
        lr_range_test(model, separable(), torch.optim.SGD(model.parameters(), lr=0.1))


class Outer(torch.optim.Optimizer):
    """An optimizer around another, with attributes of its own, as Lookahead is."""

    def __init__(self, inner):
        self.inner, self.steps = inner, [0]
        super().__init__(inner.param_groups, inner.defaults)
        self.param_groups = inner.param_groups

    def step(self, closure=None):
        self.steps[0] += 1
        self.inner.step()


def test_an_optimizer_of_ones_own_with_hooks_and_a_scheduler():
    torch.manual_seed(0)
    model, stepped = nn.Linear(3, 2), []
    optimizer = Outer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    optimizer.register_step_post_hook(lambda *_: stepped.append(1))
    schedule = tl.train.schedules.cosine(optimizer, 100)  # puts a `step` of its own into the optimizer
    before = copy.deepcopy(model.state_dict())
    result = lr_range_test(model, separable(), optimizer, min_lr=1e-3, max_lr=1.0, steps=20)
    assert result.smoothed[-1] < result.smoothed[0]
    assert (optimizer.steps, stepped) == ([0], [])
    assert not optimizer.inner.state
    assert not hasattr(optimizer, "_opt_called")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert tl.train.schedules.simulate(schedule, 3)[0].item() == 0.1


def test_wrapped_models_and_frozen_stages():
    model = net()
    compiled, optimizer = torch.compile(model, backend="eager"), torch.optim.SGD(model.parameters(), lr=0.1)
    stem = []
    model[0].register_forward_hook(lambda module, inputs, output: stem.append(module.weight.detach().clone()))
    norms = []
    model[1].register_forward_hook(lambda module, inputs, output: norms.append((module.training, module.running_mean)))
    lr_range_test(compiled, DataLoader(Noisy(), 4), optimizer, steps=10)
    assert len(stem) > 1
    assert all(torch.equal(weights, stem[0]) for weights in stem)
    assert {training for training, _ in norms} == {False}
    assert all(mean.eq(0).all() for _, mean in norms)
