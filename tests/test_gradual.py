"""Gradual fine-tuning: phases as data, an optimizer that remembers, one history, and the best weights of all."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import tlcourse as tl
from tlcourse.evaluation import evaluate
from tlcourse.train import CHAPTER_PLAN, Epoch, History, Phase, fit_gradual, plan, schedules
from tlcourse.train import gradual as phases
from tlcourse.train.loop import fit


class Data:
    """A few images for every pass."""

    def __init__(self, steps=3, size=16, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.train = [(torch.randn(4, 3, size, size, generator=generator), torch.tensor([0, 1, 0, 1]))] * steps
        self.val = self.train[:1]


def net():
    """Four stages, with batch norm in each but the last."""
    torch.manual_seed(0)

    def block(before, after):
        return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())

    return nn.Sequential(*(block(3, 4), block(4, 8), block(8, 8)), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                         nn.Linear(8, 2))  # fmt: skip


def staged():
    model = net()
    model.stage_plan = {"stem": ["0"], "middle": ["1"], "top": ["2"], "head": ["4"]}
    return model


THREE = [
    Phase({"head": 0.1}, 2, "warm-up"),
    Phase({"top": 0.01, "head": 0.05}, 1),
    Phase({"stem": 1e-4, "top": 1e-3, "head": 1e-2}, 2, "all"),
]


def spied(monkeypatch, act=None):
    """Record what each call of `fit` is given, and act on it."""
    calls = []

    def spy(model, data, optimizer, **options):
        state = {name: copy.deepcopy(optimizer.state.get(p)) for name, p in model.named_parameters()}
        calls.append(
            {
                "rates": {group["name"]: group["lr"] for group in optimizer.param_groups},
                "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
                "tensors": {name: dict(optimizer.state.get(p, {})) for name, p in model.named_parameters()},
                "state": state,
                "options": options,
            }
        )
        return (act or fit)(model, data, optimizer, **options)

    monkeypatch.setattr(phases, "fit", spy)
    return calls


# --- running ----------------------------------------------------------------------------------------------------------


class Stream(torch.utils.data.IterableDataset):
    """Images of which nobody knows how many there are."""

    def __iter__(self):
        yield from ()


def test_each_phase_trains_its_stages_at_its_rates(monkeypatch):
    calls = spied(monkeypatch)
    model = staged()
    history = fit_gradual(model, Data(), torch.optim.AdamW(model.parameters()), THREE)
    assert [call["rates"] for call in calls] == [
        {"head": 0.1},
        {"top": 0.01, "head": 0.05},
        # The rate of the stem holds up to the next stage that is named.
        {"stem": 1e-4, "middle": 1e-4, "top": 1e-3, "head": 1e-2},
    ]
    assert [{name.split(".")[0] for name in call["trainable"]} for call in calls] == [
        {"4"},
        {"2", "4"},
        {"0", "1", "2", "4"},
    ]
    assert [call["options"]["epochs"] for call in calls] == [2, 1, 2]
    assert history.phases == [(1, "warm-up"), (3, "top"), (4, "all")]
    assert history.column("epoch") == [1, 2, 3, 4, 5]
    assert history.best in history.epochs
    assert sum(row["best"] for row in history.table()) == 1


@pytest.mark.parametrize("weight_decay", [None, 0.1])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, partial(torch.optim.SGD, lr=1.0, momentum=0.9)])
def test_the_optimizer_keeps_what_it_knows_of_what_trained_before(monkeypatch, kind, weight_decay):
    calls = spied(monkeypatch)
    model = tl.models.freeze(staged())
    optimizer = kind(tl.models.param_groups(model, 1.0, weight_decay=weight_decay))
    fit_gradual(model, Data(), optimizer, THREE)
    states = [call["tensors"] for call in calls] + [{n: optimizer.state.get(p) for n, p in model.named_parameters()}]
    values = [call["state"] for call in calls]
    for number, names in ((1, ("4.weight", "4.bias")), (2, ("2.0.weight", "4.weight", "4.bias"))):
        assert set(names) <= {name for name, state in states[number].items() if state}
        for name in names:
            for key, tensor in states[number][name].items():
                assert tensor is states[number + 1][name][key]  # the same tensor goes on, and is not a copy
                if key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                    assert values[number][name][key].abs().sum() > 0
    assert not states[1]["2.0.weight"]  # new ones begin without
    if kind is torch.optim.AdamW:  # three steps an epoch: the count goes on
        assert [values[number]["4.weight"]["step"].item() for number in (1, 2)] == [6, 9]
        assert optimizer.state[model[4].weight]["step"].item() == 15
        assert optimizer.state[model[0][0].weight]["step"].item() == 6
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    default = optimizer.defaults["weight_decay"]
    expected = {None: {"head": default}, 0.1: {"head": 0.1, "head (no decay)": 0.0}}[weight_decay]
    assert {name: decay for name, decay in decays.items() if name.startswith("head")} == expected


def test_the_run_equals_its_phases_written_out():
    ours, theirs = staged(), staged()
    data = Data()
    fit_gradual(ours, data, torch.optim.AdamW(ours.parameters()), THREE[:2], make_schedule=schedules.cosine)
    optimizer = torch.optim.AdamW(theirs.parameters())
    for stage, rates, epochs in (("head", [0.1], 2), ("top", [0.01, 0.05], 1)):
        tl.models.unfreeze_from(theirs, stage)
        tl.models.extend_optimizer(optimizer, theirs, 1.0)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        fit(theirs, data, optimizer, epochs=epochs, scheduler=schedules.cosine(optimizer, epochs * 3))
    best = theirs.state_dict()
    assert all(torch.equal(value, best[name]) for name, value in ours.state_dict().items())


def test_every_phase_has_a_schedule_of_its_own_length(monkeypatch):
    made = []

    def schedule(optimizer, steps):
        made.append(([group["lr"] for group in optimizer.param_groups], steps))
        return schedules.cosine(optimizer, steps)

    calls = spied(monkeypatch, lambda *args, **options: History())
    model = staged()
    fit_gradual(model, Data(steps=3), torch.optim.AdamW(model.parameters()), THREE, make_schedule=schedule)
    assert made == [([0.1], 6), ([0.01, 0.05], 3), ([1e-4, 1e-4, 1e-3, 1e-2], 6)]
    assert [call["options"]["scheduler"].interval for call in calls] == ["step"] * 3
    made.clear()
    fit_gradual(
        model, Data(steps=3), torch.optim.AdamW(model.parameters()), THREE, make_schedule=schedule, accumulate=2
    )
    assert [steps for _, steps in made] == [4, 2, 4]


@dataclass
class Checkpoints:
    folder: Path
    every: int = 100
    keep: int = 2


def test_each_phase_has_a_folder_of_its_own_and_options_reach_fit(monkeypatch, tmp_path):
    calls = spied(monkeypatch, lambda *args, **options: History())
    model = staged()
    checkpoints = Checkpoints(tmp_path, every=7)
    options = {"checkpoints": checkpoints, "patience": 3}
    fit_gradual(model, Data(), torch.optim.AdamW(model.parameters()), THREE, **options)
    assert [call["options"]["checkpoints"] for call in calls] == [
        replace(checkpoints, folder=tmp_path / f"phase-{number}") for number in (1, 2, 3)
    ]
    assert {call["options"]["patience"] for call in calls} == {3}
    assert checkpoints.folder == tmp_path


# --- the best of all --------------------------------------------------------------------------------------------------


def scripted(accuracies, interrupt=()):
    """A `fit` that writes the phase's number into the model's weights, and says what it was told to."""
    number = iter(range(1, 10))

    def act(model, data, optimizer, **options):
        now = next(number)
        found = [Epoch(i, 1.0, 0.5, loss, accuracy, 0.1, 1.0) for i, (accuracy, loss) in enumerate(accuracies[now], 1)]
        with torch.no_grad():
            for value in model.state_dict().values():
                value.fill_(now)
        return History(found, interrupted=now in interrupt)

    return act


def weights(model):
    (value,) = {float(value) for tensor in model.state_dict().values() for value in tensor.flatten()}
    return value


@pytest.mark.parametrize(
    ("accuracies", "epoch", "phase"),
    [
        ({1: [(0.5, 1), (0.6, 1)], 2: [(0.7, 1)], 3: [(0.8, 1), (0.7, 1)]}, 4, 3),  # each better than the one before
        ({1: [(0.5, 1), (0.9, 1)], 2: [(0.7, 1)], 3: [(0.8, 1), (0.7, 1)]}, 2, 1),  # the first was never beaten
        ({1: [(0.5, 1), (0.6, 1)], 2: [(0.9, 1)], 3: [(0.8, 1), (0.7, 1)]}, 3, 2),
        ({1: [(0.5, 1), (0.9, 1)], 2: [(0.9, 0.8)], 3: [(0.9, 0.9), (0.9, 1)]}, 3, 2),  # equals: the lower loss
        ({1: [(0.9, 1), (0.9, 1)], 2: [(0.9, 1)], 3: [(0.9, 1), (0.9, 1)]}, 1, 1),  # equals throughout: the first
    ],
)
def test_the_model_ends_with_the_weights_that_the_history_calls_best(monkeypatch, accuracies, epoch, phase):
    spied(monkeypatch, scripted(accuracies))
    model = staged()
    history = fit_gradual(model, Data(), torch.optim.AdamW(model.parameters()), THREE)
    assert history.best is history.epochs[epoch - 1]
    assert history.best.epoch == epoch
    assert weights(model) == phase


@pytest.mark.parametrize(
    ("accuracies", "phase", "boundaries"),
    [
        ({1: [(0.5, 1), (0.6, 1)], 2: [(0.7, 1)]}, 2, [(1, "warm-up"), (3, "top")]),
        ({1: [(0.5, 1), (0.6, 1)], 2: [(0.4, 1)]}, 1, [(1, "warm-up"), (3, "top")]),
        ({1: [(0.5, 1), (0.6, 1)], 2: []}, 1, [(1, "warm-up")]),  # before the phase's first epoch was whole
    ],
)
def test_ctrl_c_ends_the_run_after_the_phase_and_keeps_everything(monkeypatch, accuracies, phase, boundaries):
    calls = spied(monkeypatch, scripted(accuracies, interrupt=[2]))
    model = staged()
    history = fit_gradual(model, Data(), torch.optim.AdamW(model.parameters()), THREE)
    assert len(calls) == 2
    assert history.interrupted
    assert history.phases == boundaries
    assert weights(model) == phase


class Pressed:
    """Batches during which Ctrl-C is pressed in pass number `at`."""

    def __init__(self, batches, at):
        self.batches, self.left = batches, at

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.left -= 1
        for batch in self.batches:
            if self.left == 0:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize(
    ("at", "epochs", "boundaries"), [(3, 2, [(1, "warm-up")]), (5, 4, [(1, "warm-up"), (3, "top"), (4, "all")])]
)
def test_ctrl_c_with_the_real_loop(at, epochs, boundaries):
    model, data = staged(), Data()
    data.train = Pressed(data.train, at)
    optimizer, options = torch.optim.AdamW(model.parameters()), {"precision": "float32"}
    history = fit_gradual(model, data, optimizer, THREE, make_schedule=schedules.one_cycle, **options)
    assert history.interrupted
    assert history.column("epoch") == list(range(1, epochs + 1))
    assert history.phases == boundaries
    assert evaluate(model, data.val).loss == pytest.approx(history.best.val_loss)


def test_ctrl_c_before_anything_was_measured(monkeypatch):
    spied(monkeypatch, scripted({1: []}, interrupt=[1]))
    model = staged()
    history = fit_gradual(model, Data(), torch.optim.AdamW(model.parameters()), THREE)
    assert (history.epochs, history.best, history.phases, history.interrupted) == ([], None, [], True)


def test_a_ruined_last_phase_does_not_cost_the_best_weights():
    """With the real loop: uphill in the last phase, which destroys what the first one learnt, batch norms included."""
    torch.manual_seed(0)
    model, data = staged(), Data()
    images, labels = data.train[0]
    images[labels == 1] += 2
    three = [Phase({"stem": 0.01}, 8), Phase({"head": 0.01}, 1), Phase({"stem": 0.01}, 2)]

    def uphill(optimizer, steps):
        return tl.train.Schedule(
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: -50 if steps == 6 else 1), "step"
        )

    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, lr=1.0)
    history = fit_gradual(model, data, optimizer, three, make_schedule=uphill, precision="float32")
    assert history.best.epoch <= 9
    assert history.epochs[-1].val_loss > history.best.val_loss + 1
    measured = evaluate(model, data.val)
    assert (measured.accuracy, measured.loss) == pytest.approx((history.best.val_accuracy, history.best.val_loss))


# --- plans ------------------------------------------------------------------------------------------------------------


def test_the_chapters_plan_on_the_chapters_model(monkeypatch):
    """Its figures for rates and epochs, and the true counts of what trains: its own are wrong."""
    calls = spied(monkeypatch, lambda *args, **options: History())
    with torch.device("meta"):
        model = tl.models.create("resnet50", 2, weights=None)
    trained = []
    for number in range(1, 5):
        fit_gradual(model, Data(), torch.optim.Adam(model.parameters()), CHAPTER_PLAN[:number])
        trained.append(tl.models.count(p for p in model.parameters() if p.requires_grad))
    assert trained == [4_098, 14_968_834, 22_067_202, 23_512_130]
    assert [call["rates"] for call in calls[-4:]] == [
        {"head": 1e-3},
        {"layer4": 1e-4, "head": 1e-3},
        {"layer3": 5e-5, "layer4": 1e-4, "head": 1e-3},
        {"stem": 2.5e-5, "layer1": 2.5e-5, "layer2": 2.5e-5, "layer3": 5e-5, "layer4": 1e-4, "head": 1e-3},
    ]
    assert [call["options"]["epochs"] for call in calls[-4:]] == [5, 10, 10, 5]
    assert [phase.name for phase in CHAPTER_PLAN] == ["head", "layer4", "layer3", "all"]


def test_plans_fit_a_resnet():
    with torch.device("meta"):
        model = tl.models.create("resnet50", 2, weights=None)
    made = plan(model, lr=1e-2, layer_decay=0.1, epochs=[1, 2, 3, 4])
    assert [phase.name for phase in made] == ["head", "layer4", "layer3", "all"]
    assert [phase.epochs for phase in made] == [1, 2, 3, 4]
    assert made[2].rates == pytest.approx({"layer3": 1e-4, "layer4": 1e-3, "head": 1e-2})
    groups = tl.models.param_groups(model, 1e-2, layer_decay=0.1)
    assert made[3].rates == pytest.approx({group["name"]: group["lr"] for group in groups})


@pytest.mark.parametrize(
    ("name", "max_stages"),
    [("vit_tiny_patch16_224", 5), ("efficientnet_b0", 4), ("convnext_tiny", None), ("swin_t", 6), ("squeezenet1_1", 5)],
)
def test_plans_fit_any_architecture(monkeypatch, name, max_stages):
    """Joined stages or not, the rates of `param_groups`, and each parameter in one group."""
    calls = spied(monkeypatch, lambda *args, **options: History())
    with torch.device("meta"):
        model = tl.models.create(name, 2, weights=None)
    made = plan(model, 3, layer_decay=0.5, max_stages=max_stages)
    optimizer = torch.optim.AdamW(model.parameters())
    fit_gradual(model, Data(), optimizer, made)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = tl.models.param_groups(model, 1e-3, layer_decay=0.5, max_stages=max_stages)
    assert rate_of == pytest.approx({id(p): group["lr"] for group in expected for p in group["params"]})
    starts = tl.models.unfreeze_order(model, 3, max_stages=max_stages)
    for start, call in zip(starts, calls, strict=True):
        tl.models.unfreeze_from(model, start, max_stages=max_stages)
        assert call["trainable"] == [name for name, p in model.named_parameters() if p.requires_grad]


def test_a_plan_does_not_change_with_its_authors_rates():
    rates = {"head": 1e-3}
    phase = Phase(rates, 1)
    rates["head"] = 1.0
    assert phase.rates == {"head": 1e-3}
    assert phase.name == "head"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Phase({}, 1), "at least one stage"),
        (lambda: Phase({"head": 0.0, "layer4": 1e-4}, 1), r"not \{'head': 0\.0\}"),
        (lambda: Phase({"head": float("nan")}, 1), "positive numbers"),
        (lambda: Phase({"head": 1e-3}, 0), "epochs is 0"),
        (lambda: plan(staged(), 9), "phases=9: give 2 to 4"),
        (lambda: plan(staged(), 3, lr=0.0), r"lr=0\.0"),
        (lambda: plan(staged(), 3, epochs=[1, 2]), r"epochs=\[1, 2\]: give one number, or one for each of the 3"),
    ],
)
def test_bad_plans(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_plan_for_another_network_is_refused_before_anything_trains(monkeypatch):
    calls = spied(monkeypatch)
    model = staged()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match="Phase 2 names 'layer4', which this model does not have"):
        fit_gradual(model, Data(), optimizer, CHAPTER_PLAN)
    with pytest.raises(ValueError, match="There is no phase"):
        fit_gradual(model, Data(), optimizer, [])
    assert calls == []
    assert len(optimizer.param_groups) == 1
    stream = torch.utils.data.DataLoader(Stream())  # it has a `__len__`, which raises
    for loader, message in ((iter(Data().train), "is an iterator"), (stream, "training loader has no length")):
        data = Data()
        data.train = loader
        with pytest.raises(ValueError, match=message):
            fit_gradual(model, data, optimizer, THREE, make_schedule=schedules.cosine)


def test_the_weight_decay_of_a_group_is_kept():
    model = staged()
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "weight_decay": 0.1}], lr=0.1)
    fit_gradual(model, Data(), optimizer, THREE)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


def test_a_loss_that_learns_goes_on_learning_in_every_phase():
    scale, seen = torch.nn.Parameter(torch.ones(())), []

    def loss(logits, labels):
        seen.append(scale.item())
        return torch.nn.functional.cross_entropy(logits * scale, labels)

    model = staged()
    fit_gradual(model, Data(), torch.optim.SGD([*model.parameters(), scale], lr=0.1), THREE, loss=loss)
    assert len(set(seen)) == len(seen)


def test_groups_of_their_own_with_different_decays_are_refused():
    model = staged()
    first, *others = model.parameters()
    groups = [{"params": [first], "weight_decay": 0.1}, {"params": others, "weight_decay": 0.2}]
    with pytest.raises(ValueError, match=r"decays of 0\.1, 0\.2"):
        fit_gradual(model, Data(), torch.optim.SGD(groups, lr=0.1), THREE)
