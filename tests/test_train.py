"""The loop: learns, keeps the best weights, stops cleanly, and says what is wrong."""

import copy

import pytest
import torch
from torch import nn

import tlcourse as tl
from tlcourse.evaluate import Evaluation, evaluate, mean_and_error, wilson


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
    tl.train.fit(ours, Loaders(data.train, data.train), torch.optim.SGD(ours.parameters(), lr=0.05), epochs=1)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)
    for x, y in data.train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_history_holds_what_was_measured(data):
    model = net()
    history = tl.train.fit(model, data, torch.optim.SGD(model.parameters(), lr=0.05), epochs=4)
    assert history.column("epoch") == [1, 2, 3, 4]
    assert history.column("train_loss")[-1] < history.column("train_loss")[0]
    final = evaluate(model, data.val)
    assert final.accuracy == history.best.val_accuracy
    assert final.loss == pytest.approx(history.best.val_loss)
    assert sum(row["best"] for row in history.table()) == 1


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
    assert history.column("lr") == pytest.approx([1 / 9, 1 / 17])


def test_two_runs_with_one_seed_are_bit_equal(data):
    results = []
    for _ in range(2):
        model = net(3)
        tl.train.fit(model, data, torch.optim.Adam(model.parameters(), lr=0.01), epochs=2)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


class Interrupting:
    """Batches during which Ctrl-C is pressed in the second epoch."""

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
    with pytest.raises(ValueError, match="epochs is 0"):
        tl.train.fit(model, data, optimizer, epochs=0)
    with pytest.raises(ValueError, match="loaders `train` and `val`"):
        tl.train.fit(model, data.train, optimizer, epochs=1)
    with pytest.raises(ValueError, match="training loader is empty"):
        tl.train.fit(model, Loaders([], data.val), optimizer, epochs=1)
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
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20)[0] == 0


def test_standard_error():
    assert mean_and_error([0.7, 0.8, 0.9]) == pytest.approx((0.8, 0.1 / 3**0.5))
    with pytest.raises(ValueError, match="at least two"):
        mean_and_error([0.7])
