"""Schedules: exact rates at every step, agreement with torch's, base rates, and curves without training."""

import copy
import gc
import json
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim import lr_scheduler as theirs

import tlcourse as tl
from tlcourse.train import Schedule, schedules
from tlcourse.train.schedules import as_schedule, cosine, one_cycle, plateau, simulate, warmup_cosine


def optimizer_of(*rates, kind=SGD):
    return kind([{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates], lr=1.0)


def followed(schedule, steps, metrics=None):
    """The rates that training sees: step the optimizer, then the scheduler."""
    optimizer, rates = schedule.scheduler.optimizer, []
    for step in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.scheduler.step(*[] if metrics is None else [metrics[step]])
    return torch.tensor(rates, dtype=torch.float64)


def half_wave(fraction, min_factor=0.0):
    return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * fraction)) / 2


# Schedule -> the factor of the base rate at each step, written out, and past the end.
CLOSED_FORMS = {
    "constant": (schedules.constant, [1.0] * 12),
    "cosine": (partial(cosine, steps=4), [1.0, half_wave(1 / 4), 0.5, half_wave(3 / 4), 0.0, 0.0, 0.0]),
    "cosine to a minimum": (
        partial(cosine, steps=4, min_factor=0.1),
        [1.0, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1 + 0.45 * (1 - math.sqrt(0.5)), 0.1, 0.1],
    ),
    "cosine with a restart": (
        partial(cosine, steps=8, restarts=1),
        [1.0, half_wave(1 / 4), 0.5, half_wave(3 / 4)] * 2 + [0, 0],
    ),
    "cosine with uneven restarts": (
        partial(cosine, steps=5, restarts=1),
        [half_wave(fraction) for fraction in (0, 2 / 5, 4 / 5, 1 / 5, 3 / 5)] + [0, 0],
    ),
    "one step": (partial(cosine, steps=1), [1.0, 0.0, 0.0]),
    "warm-up": (
        partial(warmup_cosine, steps=10, warmup=0.3),
        [1 / 4, 2 / 4, 3 / 4, *(half_wave(t / 7) for t in range(7)), 0, 0],
    ),
    "warm-up to a minimum": (
        partial(warmup_cosine, steps=6, warmup=0.5, min_factor=0.2),
        [1 / 4, 2 / 4, 3 / 4, 1.0, half_wave(1 / 3, 0.2), half_wave(2 / 3, 0.2), 0.2, 0.2],
    ),
    "warm-up rounded down": (  # 2.45 steps
        partial(warmup_cosine, steps=7, warmup=0.35),
        [1 / 3, 2 / 3, *(half_wave(t / 5) for t in range(5)), 0, 0],
    ),
    "warm-up rounded up": (  # 2.7 steps
        partial(warmup_cosine, steps=6, warmup=0.45),
        [1 / 4, 2 / 4, 3 / 4, *(half_wave(t / 3) for t in range(3)), 0, 0],
    ),
    "no warm-up": (partial(warmup_cosine, steps=4, warmup=0), [half_wave(t / 4) for t in range(4)] + [0]),
    "only warm-up": (partial(warmup_cosine, steps=4, warmup=1), [1 / 4, 2 / 4, 3 / 4, 1.0, 0.0, 0.0]),
    "one cycle": (
        partial(one_cycle, steps=10, warmup=0.3, start_factor=0.1, min_factor=0.01),
        # The peak is at step 2; half a wave up from a tenth, half a wave down to a hundredth at step 9.
        [0.1, 0.55, 1.0, *(half_wave(t / 7, 0.01) for t in range(1, 8)), 0.01, 0.01],
    ),
    "one cycle between two steps": (
        partial(one_cycle, steps=5, warmup=0.5, start_factor=0.0, min_factor=0.0),
        [0.0, 1 - half_wave(1 / 1.5), half_wave(0.5 / 2.5), half_wave(1.5 / 2.5), 0.0, 0.0],
    ),
    "one cycle that only falls": (partial(one_cycle, steps=3, warmup=0, min_factor=0), [1.0, 0.5, 0.0, 0.0]),
    "one cycle that only rises": (
        partial(one_cycle, steps=3, warmup=1, start_factor=0, min_factor=0),
        [0.0, 0.5, 1.0, 0.0, 0.0],
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_rates_in_closed_form(name):
    """Every step, one past the end, and more: nothing climbs back. Groups keep their ratio of 1 to 8 throughout."""
    make, factors = CLOSED_FORMS[name]
    schedule = make(optimizer_of(0.25, 2.0))
    expected = torch.tensor(factors, dtype=torch.float64)[:, None] * torch.tensor([0.25, 2.0])
    assert schedule.interval == "step"
    torch.testing.assert_close(followed(schedule, len(factors)), expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(simulate(make, len(factors), lr=[0.25, 2.0]), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("ours", "other", "steps"),
    [
        (partial(cosine, steps=50), partial(theirs.CosineAnnealingLR, T_max=50), 51),
        (partial(cosine, steps=50, min_factor=0.01), partial(theirs.CosineAnnealingLR, T_max=50, eta_min=3e-5), 51),
        (partial(cosine, steps=60, restarts=2), partial(theirs.CosineAnnealingWarmRestarts, T_0=20), 60),
        (partial(one_cycle, steps=50), partial(theirs.OneCycleLR, max_lr=3e-3, total_steps=50), 50),
        (
            partial(one_cycle, steps=7, warmup=0.25),
            partial(theirs.OneCycleLR, max_lr=3e-3, total_steps=7, pct_start=0.25),
            7,
        ),
        (partial(plateau, factor=0.5, patience=1), partial(theirs.ReduceLROnPlateau, factor=0.5, patience=1), 9),
    ],
)
def test_rates_agree_with_torchs(ours, other, steps):
    losses = [3.0, 2.0, 2.1, 2.2, 2.3, 1.0, 1.0, 1.0, 1.0][:steps] if ours.func is plateau else None
    expected = simulate(other, steps, lr=3e-3, metrics=losses)
    torch.testing.assert_close(simulate(ours, steps, lr=3e-3, metrics=losses), expected, rtol=1e-9, atol=1e-18)


def test_cosine_of_torch_climbs_past_its_end_and_ours_does_not():
    past = simulate(partial(theirs.CosineAnnealingLR, T_max=10), 15)[:, 0]
    assert past[14] > past[10] + 0.3
    assert simulate(partial(cosine, steps=10), 15)[10:].eq(0).all()


def test_a_plateau_halves_every_rate_and_keeps_tiny_ones_in_step():
    """torch's own leaves a group of 1e-8 where it is: a cut below its eps does not count."""
    losses = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    schedule = plateau(optimizer_of(1e-8, 1e-3), factor=0.5, patience=1)
    assert schedule.interval == "metric"
    factors = torch.tensor([1, 1, 1, 1, 0.5, 0.5, 0.25], dtype=torch.float64)
    expected = factors[:, None] * torch.tensor([1e-8, 1e-3], dtype=torch.float64)
    torch.testing.assert_close(simulate(schedule, 7, metrics=losses), expected)
    torch.testing.assert_close(followed(schedule, 7, losses), expected)


@pytest.mark.parametrize("name", [*CLOSED_FORMS, "plateau"])
def test_every_schedule_keeps_the_ratio_of_discriminative_rates(name):
    model = tl.models.create("tl_resnet", 2, weights=None)
    groups = tl.models.param_groups(model, 1e-3, layer_decay=0.3, weight_decay=0.1)
    base = torch.tensor([group["lr"] for group in groups], dtype=torch.float64)
    make = plateau if name == "plateau" else CLOSED_FORMS[name][0]
    schedule = make(torch.optim.AdamW(groups))
    curve = simulate(schedule, 12, metrics=[1.0] * 12 if name == "plateau" else None)
    assert curve.shape == (12, 12)
    torch.testing.assert_close(curve / base, curve[:, -1:] / base[-1:] * torch.ones(12, dtype=torch.float64))


def test_one_cycle_leaves_adams_betas_alone():
    optimizer = optimizer_of(1e-3, kind=Adam)
    followed(one_cycle(optimizer, 10), 10)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    theirs.OneCycleLR(optimizer, 1e-3, total_steps=10)
    assert optimizer.param_groups[0]["betas"][0] == 0.95  # the trap


# --- base rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [partial(cosine, steps=5), partial(one_cycle, steps=5), plateau])
@pytest.mark.parametrize("second", [schedules.constant, partial(one_cycle, steps=5), plateau])
def test_a_second_schedule_starts_from_the_base_rates(first, second):
    optimizer = optimizer_of(1e-4, 1e-3)
    losses = [1.0] * 6 if first is plateau else None
    followed(first(optimizer), 6, losses)
    assert optimizer.param_groups[1]["lr"] < 1e-3
    again = simulate(second(optimizer), 5, metrics=[1.0] * 5 if second is plateau else None)
    fresh = simulate(second, 5, lr=[1e-4, 1e-3], metrics=[1.0] * 5 if second is plateau else None)
    assert torch.equal(again, fresh)


def test_a_schedule_after_one_of_torchs_starts_from_the_base_rates_too():
    optimizer = optimizer_of(1e-4, 1e-3)
    followed(Schedule(theirs.ExponentialLR(optimizer, 0.1), "step"), 4)
    assert simulate(cosine(optimizer, 3), 1).tolist() == [[1e-4, 1e-3]]


def test_base_rates_lost_to_a_one_cycle_are_not_taken_for_right():
    optimizer = optimizer_of(1e-3, kind=Adam)
    theirs.OneCycleLR(optimizer, 1e-3, total_steps=10)
    for make in (partial(cosine, steps=10), schedules.constant, plateau):
        with pytest.raises(ValueError, match=r"overwrote its base rates .*4e-05 now"):
            make(optimizer)


def test_an_extended_optimizer_has_new_base_rates():
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    optimizer = torch.optim.AdamW(tl.models.param_groups(model, 1e-2))
    followed(cosine(optimizer, 4), 4)
    tl.models.unfreeze_from(model, "layer4")
    tl.models.extend_optimizer(optimizer, model, 1e-3, layer_decay=0.1)
    curve = simulate(cosine(optimizer, 4), 4)
    assert curve[0].tolist() == pytest.approx([1e-4, 1e-3])
    torch.testing.assert_close(curve, simulate(partial(cosine, steps=4), 4, lr=[1e-4, 1e-3]))


def test_rates_that_are_tensors_are_filled_and_not_replaced():
    parameter, rate = nn.Parameter(torch.ones(1)), torch.tensor(0.5)
    optimizer = Adam([parameter], lr=rate)
    schedule = cosine(optimizer, 2)
    optimizer.step()
    schedule.scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.25)
    cosine(optimizer, 2)
    assert rate.item() == 0.5
    assert simulate(schedule, 1).item() == 0.5


# --- schedules as values ----------------------------------------------------------------------------------------------


def test_intervals_are_derived_and_checked():
    optimizer = optimizer_of(1.0)
    waiting, decaying = theirs.ReduceLROnPlateau(optimizer), theirs.StepLR(optimizer, 3)
    assert as_schedule(None) is None
    assert as_schedule(waiting) == Schedule(waiting, "metric")
    assert as_schedule(decaying) == Schedule(decaying, "step")
    mine = Schedule(decaying, "epoch")
    assert as_schedule(mine) is mine
    with pytest.raises(ValueError, match="interval is 'batch': choose among 'step', 'epoch', 'metric'"):
        Schedule(decaying, "batch")
    for interval in ("step", "epoch"):
        with pytest.raises(ValueError, match=f"interval is '{interval}', but ReduceLROnPlateau needs 'metric'"):
            Schedule(waiting, interval)
    with pytest.raises(ValueError, match="interval is 'metric', but StepLR needs 'step' or 'epoch'"):
        Schedule(decaying, "metric")
    for wrong in (optimizer, cosine, 1e-3):
        with pytest.raises(ValueError, match=f"scheduler is {type(wrong).__name__}: give one of torch"):
            as_schedule(wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: cosine(o, 0), "steps=0"),
        (lambda o: cosine(o, 10, min_factor=1.1), r"min_factor=1\.1: give a number from 0"),
        (lambda o: cosine(o, 10, min_factor=-0.1), r"min_factor=-0\.1: give a number from 0"),
        (lambda o: cosine(o, 10, restarts=-1), "restarts=-1"),
        (lambda o: cosine(o, 10, restarts=10), "restarts=10: give 0 or more, and fewer than the 10"),
        (lambda o: warmup_cosine(o, 0), "steps=0"),
        (lambda o: warmup_cosine(o, 10, warmup=5), "warmup=5: give a number from 0"),
        (lambda o: one_cycle(o, -1), "steps=-1"),
        (lambda o: one_cycle(o, 10, start_factor=25), "start_factor=25: give a number from 0"),
        (lambda o: one_cycle(o, 10, min_factor=math.nan), "min_factor=nan: give a number from 0"),
        (lambda o: plateau(o, factor=1.0), r"factor=1\.0 must lie"),
        (lambda o: plateau(o, patience=-1), "patience=-1 must not"),
        (lambda o: simulate(partial(cosine, steps=5), 0), "steps=0"),
        (lambda o: simulate(cosine(o, 5), 5, lr=1e-3), r"lr=0\.001: this schedule has an optimizer"),
        (lambda o: simulate(cosine(o, 5), 5, metrics=[1.0] * 5), "LambdaLR takes no metrics"),
        (lambda o: simulate(plateau(o), 5), "metrics has none"),
        (lambda o: simulate(plateau(o), 5, metrics=[1.0] * 4), "each of the 5 steps; metrics has 4"),
        (lambda o: simulate(lambda optimizer: None, 5), "returned None"),
    ],
)
def test_bad_arguments(call, message):
    optimizer = optimizer_of(1e-3)
    with pytest.raises(ValueError, match=message):
        call(optimizer)
    assert optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_schedule_goes_on_from_its_state(name):
    """The state is plain numbers, whatever the format of a checkpoint, and the rest of the curve is the same."""
    make, factors = CLOSED_FORMS[name]
    whole = simulate(make, len(factors), lr=[0.25, 2.0])
    first = make(optimizer_of(0.25, 2.0))
    followed(first, 2)
    state = json.loads(json.dumps(first.scheduler.state_dict()))
    second = make(optimizer_of(0.25, 2.0))
    second.scheduler.load_state_dict(state)
    second.scheduler.optimizer.load_state_dict(first.scheduler.optimizer.state_dict())
    assert torch.equal(simulate(second, len(factors) - 2), whole[2:])
    pickled = pickle.loads(pickle.dumps(first))
    assert torch.equal(simulate(pickled, len(factors) - 2), whole[2:])


# --- simulation changes nothing ---------------------------------------------------------------------------------------


def sequential(optimizer):
    parts = [theirs.LinearLR(optimizer, 0.1, total_iters=3), theirs.CosineAnnealingLR(optimizer, 9)]
    return theirs.SequentialLR(optimizer, parts, [3])


def chained(optimizer):
    return theirs.ChainedScheduler([theirs.ConstantLR(optimizer, 0.5, 3), theirs.ExponentialLR(optimizer, 0.9)])


TORCHS = {
    "one cycle": lambda o: theirs.OneCycleLR(o, [1e-3, 1e-2], total_steps=20),
    "cyclic": lambda o: theirs.CyclicLR(o, 1e-4, 1e-2, step_size_up=4, cycle_momentum=True),
    "cyclic, by a function": lambda o: theirs.CyclicLR(
        o, 1e-4, 1e-2, 4, scale_fn=lambda x: 0.9**x, cycle_momentum=False
    ),
    "sequential": sequential,
    "chained": chained,
    "lambda": lambda o: theirs.LambdaLR(o, [lambda t: 0.9**t, lambda t: 0.5**t]),
    "warm restarts": lambda o: theirs.CosineAnnealingWarmRestarts(o, 3, 2),
    "steps": lambda o: theirs.MultiStepLR(o, [3, 6]),
    "polynomial": lambda o: theirs.PolynomialLR(o, 12, 2),
    "averaging": lambda o: torch.optim.swa_utils.SWALR(o, 1e-3, anneal_epochs=5),
    "plateau": lambda o: theirs.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("name", TORCHS)
def test_the_simulated_curve_is_the_one_that_training_sees_and_nothing_changes(name):
    """After three steps of training: rates, momenta, moments, and counters as before."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3)) for _ in range(2)]
    optimizer = SGD([{"params": [p], "lr": 0.01} for p in parameters], lr=0.01, momentum=0.9)
    schedule = as_schedule(TORCHS[name](optimizer))
    metrics = [1.0] * 9 if name == "plateau" else None
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    followed(schedule, 3, metrics)

    def everything():
        return copy.deepcopy((optimizer.state_dict(), schedule.scheduler.state_dict(), list(optimizer.__dict__)))

    before, texts = everything(), [repr(everything())]
    curve = simulate(schedule, 9, metrics=metrics)
    texts.append(repr(everything()))
    assert texts[0] == texts[1]
    assert all(
        torch.equal(optimizer.state[p]["momentum_buffer"], before[0]["state"][i]["momentum_buffer"])
        for i, p in enumerate(parameters)
    )
    assert torch.equal(curve, simulate(schedule, 9, metrics=metrics))
    assert torch.equal(curve, followed(schedule, 9, metrics))


def test_a_simulation_copies_no_weights_and_leaves_nobody_behind():
    model = nn.Linear(1000, 1000)
    optimizer = Adam(model.parameters(), lr=1e-3)
    schedule = Schedule(theirs.CosineAnnealingLR(optimizer, 5), "epoch")
    copied, original = [], nn.Parameter.__deepcopy__
    nn.Parameter.__deepcopy__ = lambda self, memo: copied.append(self) or original(self, memo)
    try:
        curve = simulate(schedule, 6)
    finally:
        nn.Parameter.__deepcopy__ = original
    assert copied == []
    assert curve[5].item() == 0
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) is theirs.CosineAnnealingLR and o.optimizer is optimizer]
    assert found == [schedule.scheduler]  # the doctor looks for forgotten ones


# --- in training ------------------------------------------------------------------------------------------------------


class Batches:
    def __init__(self, steps):
        generator = torch.Generator().manual_seed(0)
        self.train = [(torch.randn(4, 3, generator=generator), torch.tensor([0, 1, 0, 1])) for _ in range(steps)]
        self.val = self.train[:1]


@pytest.mark.parametrize("interval", ["step", "epoch", "metric"])
def test_fit_steps_a_schedule_at_its_interval(interval):
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=1.0)
    seen = []

    class Halving(theirs.ReduceLROnPlateau if interval == "metric" else theirs.ExponentialLR):
        def step(self, *metrics):
            seen.append(metrics)
            super().step(*metrics)

    scheduler = Halving(optimizer, "min", 0.5) if interval == "metric" else Halving(optimizer, 0.5)
    seen.clear()
    history = tl.train.fit(model, Batches(5), optimizer, epochs=3, scheduler=Schedule(scheduler, interval))
    if interval == "metric":
        assert seen == [(loss,) for loss in history.column("val_loss")]
    else:
        assert seen == [()] * (15 if interval == "step" else 3)
