"""The loop: learns, keeps the best weights, stops cleanly, and says what is wrong."""

import copy
import inspect
import os
import signal
import sys

import pytest
import torch
from torch import nn

import tlcourse as tl
from tlcourse.evaluation import Evaluation, evaluate, mean_and_error
from tlcourse.train.loop import loop


class Loaders:
    """Lists of batches, as `fit` takes them."""

    def __init__(self, train, val):
        self.train, self.val = train, val


def blobs(n, seed):
    """Two classes that a linear layer separates."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    x = torch.randn(n, 3, generator=generator) + 3 * labels[:, None]
    return list(zip(x.split(16), labels.split(16), strict=True))


@pytest.fixture
def data():
    return Loaders(blobs(128, 0), blobs(64, 1))


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def test_the_loop_equals_a_loop_written_out(data):
    ours, theirs = net(), net()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05)
    tl.train.fit(ours, Loaders(data.train, data.train), optimizer, epochs=1, precision="float32")
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)
    for x, y in data.train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_history_holds_what_was_measured(data):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    history = tl.train.fit(model, data, optimizer, epochs=4, precision="float32")
    assert history.column("epoch") == [1, 2, 3, 4]
    assert history.column("images") == [128] * 4
    assert history.column("rates") == [(0.05,)] * 4
    assert all(epoch.images_per_second > 0 for epoch in history.epochs)
    assert history.column("train_loss")[-1] < history.column("train_loss")[0]
    final = evaluate(model, data.val)
    assert final.accuracy == history.best.val_accuracy
    assert final.loss == pytest.approx(history.best.val_loss)
    assert sum(row["best"] for row in history.table()) == 1


def test_training_loss_and_accuracy_are_means_over_images(data):
    """Batches of 16, 16 and 4: the last one counts a quarter of the others."""
    x, y = (torch.cat(parts)[:36] for parts in zip(*data.train, strict=True))
    y[32:] = 1 - y[32:]  # the model will be wrong on the small batch
    model = net()
    tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), epochs=5, precision="float32")
    uneven = Loaders(list(zip(x.split(16), y.split(16), strict=True)), data.val)
    batches = [evaluate(model, [batch]) for batch in uneven.train]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    epoch = tl.train.fit(model, uneven, optimizer, epochs=1, precision="float32").epochs[0]
    whole = evaluate(model, uneven.train)
    assert epoch.train_loss == pytest.approx(whole.loss, rel=1e-5)
    assert epoch.train_accuracy == pytest.approx(whole.accuracy)
    assert abs(sum(batch.loss for batch in batches) / 3 - whole.loss) > 0.1
    assert abs(sum(batch.accuracy for batch in batches) / 3 - whole.accuracy) > 0.1


def test_among_epochs_of_equal_accuracy_the_one_with_the_lowest_loss_is_best(data):
    def epoch(number, accuracy, loss):
        return tl.train.Epoch(number, 1.0, 0.5, loss, accuracy, 0.1, 1.0)

    history = tl.train.History([epoch(1, 0.8, 0.1), epoch(2, 0.9, 0.7), epoch(3, 0.9, 0.6), epoch(4, 0.9, 0.6)])
    assert history.best.epoch == 3  # the first of equals
    assert tl.train.History().best is None
    model = net()
    tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), epochs=5)
    history = tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=1e-3), epochs=3, precision="float32")
    assert len(set(history.column("val_accuracy"))) == 1
    assert history.best.epoch == 3  # the loss still falls
    assert evaluate(model, data.val).loss == pytest.approx(history.best.val_loss)


def test_the_model_ends_in_evaluation_mode(data):
    model = net().append(nn.Dropout())
    tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
    assert not any(module.training for module in model.modules())
    history = tl.train.fit(
        model, Loaders(Interrupting(data.train), data.val), torch.optim.SGD(model.parameters(), lr=0.1), epochs=2
    )
    assert history.interrupted
    assert not any(module.training for module in model.modules())


def test_the_best_weights_come_back_when_later_epochs_are_worse(data):
    """A scheduler that blows the rate up after the first epoch ruins the rest of the run."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = len(data.train)
    ruin = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < steps else -20.0)
    history = tl.train.fit(model, data, optimizer, epochs=3, scheduler=ruin)
    assert history.best.epoch == 1
    assert history.column("val_accuracy")[-1] < history.best.val_accuracy
    assert evaluate(model, data.val).accuracy == history.best.val_accuracy


def test_the_scheduler_steps_once_a_step(data):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    history = tl.train.fit(model, data, optimizer, epochs=2, scheduler=scheduler)
    assert history.column("lr") == pytest.approx([1 / 8, 1 / 16])  # that of the last step of each epoch


def test_two_runs_with_one_seed_are_bit_equal(data):
    results = []
    for _ in range(2):
        model = net(3)
        tl.train.fit(model, data, torch.optim.Adam(model.parameters(), lr=0.01), epochs=2)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def weights_after(data, **options):
    """Train in full precision for two epochs; return the weights."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    history = tl.train.fit(model, data, optimizer, epochs=2, precision="float32", **options)
    return model.state_dict(), history


def far(a, b):
    """Largest difference between two sets of weights."""
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_accumulated_batches_train_like_one_large_batch(data):
    """36 images in batches of 16, 16 and 4: the last step has fewer images, and each counts as much as another."""
    x, y = (torch.cat(parts)[:36] for parts in zip(*data.train, strict=True))
    x, y = x[y.argsort()], y.sort().values  # batches of other classes, and so of other weights
    small = Loaders(list(zip(x.split(16), y.split(16), strict=True)), data.val)
    large = Loaders(list(zip(x.split(32), y.split(32), strict=True)), data.val)
    for loss in (nn.functional.cross_entropy, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0]))):
        ours, whole = weights_after(small, accumulate=2, loss=loss)[0], weights_after(large, loss=loss)[0]
        assert far(ours, whole) < 1e-5
    whole = weights_after(large)[0]
    assert far(weights_after(small)[0], whole) > 1e-3


@pytest.mark.parametrize(("precision", "size"), [("float32", 100.0), ("float16", 0.1)])
def test_gradients_are_clipped(data, precision, size):
    """In float16 they are scaled by 65,536, and have to be clipped after the scale is taken off."""
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    one_step = Loaders([(size * data.train[0][0], data.train[0][1])], data.val)
    tl.train.fit(model, one_step, optimizer, epochs=1, clip_grad_norm=0.01, precision=precision)
    moved = torch.cat([(model.state_dict()[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_training_stops_when_patience_runs_out(data):
    model = net()
    history = tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=1e-30), epochs=50, patience=3)
    assert (len(history.epochs), history.best.epoch, history.stopped_early) == (4, 1, True)
    _, history = weights_after(data, patience=2)
    assert (len(history.epochs), history.stopped_early) == (2, False)


def test_the_average_of_the_weights_is_measured_and_kept(data):
    ours, history = weights_after(data, ema_decay=0.5)
    model, average = net(), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    accuracies = []
    for _ in range(2):
        for x, y in data.train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            now = {name: value.clone() for name, value in model.state_dict().items()}
            average = now if average is None else {n: 0.5 * average[n] + 0.5 * now[n] for n in now}
        measured = net()
        measured.load_state_dict(average)
        accuracies.append(evaluate(measured, data.val).accuracy)
    assert history.column("val_accuracy") == accuracies
    if history.best.epoch == 2:
        assert far(ours, average) < 1e-6
    assert far(ours, weights_after(data)[0]) > 1e-4


def test_batch_norm_statistics_are_averaged_with_the_weights(data):
    torch.manual_seed(0)
    model, average = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), None
    norm = copy.deepcopy(model[0])
    tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=1e-30), epochs=1, ema_decay=0.5)
    for x, _ in data.train:
        norm(x)
        now = norm.running_mean.clone()
        average = now if average is None else 0.5 * average + 0.5 * now
    assert torch.allclose(model[0].running_mean, average)
    assert not torch.allclose(average, now)


def test_the_loss_can_be_another(data):
    smooth = weights_after(data, loss=nn.CrossEntropyLoss(label_smoothing=0.3))
    assert far(smooth[0], weights_after(data)[0]) > 1e-3
    hard = evaluate(_with(smooth[0]), data.val)
    assert smooth[1].best.val_loss == pytest.approx(hard.loss)  # validation measures plain cross-entropy


def _with(weights):
    model = net()
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize(("interval", "steps"), [("step", 16), ("epoch", 2)])
def test_a_schedule_is_stepped_at_its_interval(data, interval, steps):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    tl.train.fit(model, data, optimizer, epochs=2, scheduler=tl.train.Schedule(scheduler, interval))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / (1 + steps))


def test_a_plateau_schedule_sees_the_validation_loss(data):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, eps=0)
    history = tl.train.fit(model, data, optimizer, epochs=6, scheduler=scheduler)
    assert history.column("lr") == [1e-30 * share for share in (1, 1, 1, 0.5, 0.5, 0.25)]
    assert scheduler.best == pytest.approx(history.best.val_loss)


def test_schedules_that_would_stop_the_training_unseen_are_refused(data):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    best = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
    with pytest.raises(ValueError, match=r"validation loss here.*mode='min'"):
        tl.train.fit(model, data, optimizer, epochs=2, scheduler=best)
    with pytest.raises(ValueError, match=r"has 3 steps.*takes 24.*epochs \* len\(loaders.train\)"):
        tl.train.fit(model, data, optimizer, epochs=3, scheduler=tl.train.schedules.cosine(optimizer, 3))
    with pytest.raises(ValueError, match=r"has 16 steps.*takes 24"):
        tl.train.fit(model, data, optimizer, epochs=3, scheduler=tl.train.schedules.cosine(optimizer, 16))
    kept = tl.train.schedules.cosine(optimizer, 16, min_factor=0.1)  # the last epoch at a tenth
    assert len(tl.train.fit(model, data, optimizer, epochs=3, scheduler=kept).epochs) == 3


def test_chained_schedulers(data):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    parts = [torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma) for gamma in (0.5, 0.25)]
    chained = tl.train.Schedule(torch.optim.lr_scheduler.ChainedScheduler(parts), "epoch")
    tl.train.fit(model, data, optimizer, epochs=2, scheduler=chained)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.125**2)


def test_float16_scales_the_loss(data):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = tl.train.fit(model, data, optimizer, epochs=10, precision="float16")
    assert history.best.val_accuracy > 0.9


def test_kernels_come_back_in_the_usual_memory_format():
    """safetensors refuses the other one."""
    model = tl.models.create("tl_resnet", 2, weights=None)
    batch = (torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1]))
    seen = []
    model.conv1.register_forward_hook(lambda module, *_: seen.append(module.weight.is_contiguous()))
    tl.train.fit(model, Loaders([batch], [batch]), torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
    assert not any(seen)
    assert all(p.is_contiguous() for p in model.parameters())


def test_the_loop_that_lessons_show_is_short():
    lines = inspect.getsource(loop).splitlines()
    assert len(lines) < 80


class Interrupting:
    """Batches during which the loader itself is interrupted in the second epoch."""

    def __init__(self, batches):
        self.batches, self.epoch = batches, 0

    def __iter__(self):
        self.epoch += 1
        for i, batch in enumerate(self.batches):
            if self.epoch == 2 and i == 1:
                raise KeyboardInterrupt
            yield batch


def test_ctrl_c_keeps_what_was_done(data, capsys):
    model = net()
    loaders = Loaders(Interrupting(data.train), data.val)
    history = tl.train.fit(model, loaders, torch.optim.SGD(model.parameters(), lr=0.1), epochs=5)
    assert history.interrupted
    assert len(history.epochs) == 1
    assert evaluate(model, data.val).accuracy == history.best.val_accuracy
    assert "1 whole epochs of 5" in capsys.readouterr().out


def test_ctrl_c_in_the_first_epoch_says_that_nothing_was_measured_yet(data, capsys):
    class AtOnce(Interrupting):
        def __iter__(self):
            yield from list(super().__iter__())[:1]
            raise KeyboardInterrupt

    model = net()
    history = tl.train.fit(
        model, Loaders(AtOnce(data.train), data.val), torch.optim.SGD(model.parameters(), lr=0.1), epochs=2
    )
    assert history.interrupted
    assert history.best is None
    assert "no best weights yet" in capsys.readouterr().out


class Pressing(Interrupting):
    """Batches during which Ctrl-C is pressed in the second epoch, once or twice."""

    def __init__(self, batches, times):
        super().__init__(batches)
        self.times = times

    def __iter__(self):
        self.epoch += 1
        for i, batch in enumerate(self.batches):
            if self.epoch == 2 and i == 1:
                for _ in range(self.times):
                    os.kill(os.getpid(), signal.SIGINT)
            yield batch


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to oneself there")
@pytest.mark.parametrize(("times", "steps"), [(1, 10), (2, 9)])
def test_the_first_ctrl_c_finishes_its_step_and_the_second_does_not_wait(data, times, steps):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    usual = signal.getsignal(signal.SIGINT)
    history = tl.train.fit(model, Loaders(Pressing(data.train, times), data.val), optimizer, epochs=5)
    assert history.interrupted
    assert len(history.epochs) == 1
    assert {state["step"].item() for state in optimizer.state.values()} == {steps}
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_diverging_loss_is_reported(data):
    model = net()
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=1e20), epochs=3)


def test_an_optimizer_of_another_model_is_refused(data):
    model, other = net(), net()
    with pytest.raises(ValueError, match="no trainable parameter of this model"):
        tl.train.fit(model, data, torch.optim.SGD(other.parameters(), lr=0.1), epochs=1)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter of this model"):
        tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)


def test_bad_arguments(data):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epochs in (0, 1.5):
        with pytest.raises(ValueError, match=f"epochs is {epochs}: give a whole number"):
            tl.train.fit(model, data, optimizer, epochs=epochs)
    for wrong in (torch.optim.SGD, [optimizer]):
        with pytest.raises(ValueError, match="give one optimizer"):
            tl.train.fit(model, data, wrong, epochs=1)
    with pytest.raises(ValueError, match="loaders `train` and `val`"):
        tl.train.fit(model, data.train, optimizer, epochs=1)
    with pytest.raises(ValueError, match="training loader is empty"):
        tl.train.fit(model, Loaders([], data.val), optimizer, epochs=1)
    for name, value in (("accumulate", 0), ("clip_grad_norm", 0.0), ("patience", 0), ("ema_decay", 1.0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            tl.train.fit(model, data, optimizer, epochs=1, **{name: value})
    with pytest.raises(ValueError, match="precision"):
        tl.train.fit(model, data, optimizer, epochs=1, precision="float8")
    with pytest.raises(ValueError, match="no image to evaluate"):
        evaluate(model, [])


def test_bfloat16_learns_too(data):
    model = net()
    history = tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), epochs=10, precision="bfloat16")
    assert history.best.val_accuracy > 0.9
    assert next(model.parameters()).dtype == torch.float32


def test_evaluation_leaves_modes_alone(data):
    model = net().train()
    model[1].eval()
    before = copy.deepcopy([m.training for m in model.modules()])
    evaluate(model, data.val)
    assert [m.training for m in model.modules()] == before


def test_evaluation_measures():
    logits = torch.tensor([[3.0, 0], [0, 1], [2, 0], [0, 5]])
    result = Evaluation(torch.tensor([0, 1, 1, 0]), logits)
    assert (result.correct, result.n, result.accuracy) == (2, 4, 0.5)
    assert result.confusion().tolist() == [[1, 1], [1, 1]]
    assert result.worst().tolist() == [3, 2]
    assert result.worst(1).tolist() == [3]
    assert "2 of 4 right" in str(result)


def test_wilson_against_published_values():
    """10 of 10: (0.7225, 1); 81 of 263: (0.2553, 0.3662) (Newcombe 1998, table I, method 3)."""

    def interval(correct, n):
        return Evaluation((torch.arange(n) >= correct).long(), torch.tensor([[1.0, 0.0]]).repeat(n, 1)).interval

    assert interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval(0, 20)[0] == 0


def test_standard_error():
    assert mean_and_error([0.7, 0.8, 0.9]) == pytest.approx((0.8, 0.1 / 3**0.5))
    with pytest.raises(ValueError, match="at least two"):
        mean_and_error([0.7])
