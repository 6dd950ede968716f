"""What other people bring to `fit`, `evaluate` and saving: their networks, loaders, labels and schedulers."""

import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import tlcourse as tl
from tlcourse.evaluation import Evaluation, check_outputs, evaluate
from tlcourse.preprocessing import get_preprocessing

X, Y = torch.randn(33, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(33) % 2


def loader(*tensors, size=8):
    return DataLoader(TensorDataset(*tensors), size)


class Net(nn.Module):
    """A small network as in tutorials: `.view` between the features and the classifier."""

    def __init__(self, outputs=2):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm1d(144), nn.Linear(144, outputs)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.fc(self.norm(x.view(x.size(0), -1)))


def fit(data, model=None, epochs=1, **options):
    torch.manual_seed(0)
    model = Net() if model is None else model
    return tl.train.fit(model, data, torch.optim.SGD(model.parameters(), 0.01), epochs=epochs, **options)


GOOD = loader(X[:32], Y[:32])


@pytest.mark.parametrize(
    "data",
    [
        {"train": GOOD, "val": GOOD},
        {"train": loader(X, Y), "val": loader(X, Y)},  # a last batch of one image
        {"train": list(loader(X, Y)), "val": list(loader(X, Y))},
        {"train": loader(X[:32], torch.eye(2)[Y[:32]]), "val": GOOD},  # labels as MixUp makes them
        {"train": loader(X[:32], Y[:32], Y[:32]), "val": loader(X, Y, Y)},  # more in a batch
        {"train": loader(X[:32], Y[:32].int()), "val": loader(X, Y.to(torch.uint8))},
    ],
)
def test_usual_loaders_train(data):
    history = fit(data)
    assert history.epochs[0].images == 32
    assert 0 <= history.best.val_accuracy <= 1


class Rows(nn.Module):
    """A learner's own part."""

    def forward(self, x):
        return x.view(x.size(0), -1)


def test_an_own_part_with_view_in_a_known_network_trains():
    model = torchvision.models.resnet18(num_classes=2)
    model.avgpool, model.fc = nn.Sequential(nn.AdaptiveAvgPool2d(2), Rows()), nn.Linear(2048, 2)
    data = loader(torch.randn(4, 3, 64, 64), Y[:4], size=4)
    assert fit({"train": data, "val": data}, model).epochs[0].images == 4


class Views(nn.Module):
    """`.view` in the features, and the images of our own loaders."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 62 * 62, 2)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.fc(x.view(x.size(0), -1))


@pytest.mark.parametrize(
    "use",
    [
        lambda model, pets: fit(pets.loaders(8), model, ema_decay=0.9),
        lambda model, pets: tl.train.lr_range_test(
            model, pets.loaders(8).train, torch.optim.SGD(model.parameters(), 1e-4), steps=10
        ),
        lambda model, pets: list(tl.features.precompute(tl.models.freeze(model), pets).loaders(8).train),
    ],
)
def test_an_own_network_with_view_works_everywhere(use):
    pets = tl.data.load("toypets", model=tl.models.create("tl_resnet", 2), train=16, val=8, test=8)
    use(Views(), pets)


def test_soft_labels_train_as_cross_entropy_with_probabilities():
    hard, soft = Net(), Net()
    soft.load_state_dict(hard.state_dict())
    fit({"train": GOOD, "val": GOOD}, hard)
    fit({"train": loader(X[:32], torch.eye(2)[Y[:32]]), "val": GOOD}, soft)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(hard.parameters(), soft.parameters(), strict=True))


def test_batches_of_one_are_trained_on_where_there_are_no_others():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 2))  # it averages over the pixels
    sampler = torch.utils.data.BatchSampler(range(5), 1, drop_last=False)
    single = DataLoader(TensorDataset(X, Y), batch_sampler=sampler)
    assert fit({"train": single, "val": GOOD}, model).epochs[0].images == 5
    assert fit({"train": loader(X[:1], Y[:1]), "val": GOOD}, model).epochs[0].images == 1


def test_without_batch_norm_a_single_last_image_is_trained_on():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    assert fit({"train": loader(X, Y), "val": GOOD}, model).epochs[0].images == 33


@pytest.mark.parametrize(
    ("labels", "outputs", "message"),
    [
        (Y[:, None].float(), 1, "one output each.*BCEWithLogitsLoss"),
        (Y[:, None], 2, "squeeze"),
        (Y.float(), 2, "as integers"),
        (torch.ones(33, 2), 2, "add up to 1"),
        (Y + 1, 2, "from 1 to 2.*numbered from 0"),
        (Y - 1, 2, "numbered from 0"),
    ],
)
def test_labels_that_cannot_be_measured_are_refused_at_the_first_batch(labels, outputs, message):
    steps, model = [], Net(outputs)
    model.register_forward_hook(lambda *_: steps.append(model.training))
    loss = nn.BCEWithLogitsLoss() if outputs == 1 else nn.functional.cross_entropy
    for data in ({"train": loader(X, labels), "val": GOOD}, {"train": GOOD, "val": loader(X, labels)}):
        with pytest.raises(ValueError, match=message):
            fit(data, model, loss=loss)
    assert sum(steps) <= 6  # the first data at the first batch; the second when validation begins
    with pytest.raises(ValueError, match=message):
        evaluate(Net(outputs), loader(X, labels))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": GOOD}, "`train` and `val`"),
        ({"train": GOOD, "val": None}, "is None.*random_split"),
        ({"train": [{"pixel_values": X, "labels": Y}], "val": GOOD}, "pixel_values, labels.*collate_fn"),
        ({"train": [X], "val": GOOD}, "no pairs"),
        ({"train": [(list(X), Y)], "val": GOOD}, r"no pairs .*\['list', 'Tensor'\]"),
        ({"train": TensorDataset(X, Y), "val": GOOD}, "a data set.*DataLoader"),
        ({"train": GOOD, "val": iter([(X, Y)])}, "an iterator"),
    ],
)
def test_loaders_that_lack_something_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        fit(data)


def test_a_loss_of_ones_own_may_read_labels_as_rows_of_a_teachers_answers():
    answers = torch.eye(2)[Y]
    data = {"train": loader(X[:32], torch.arange(32)), "val": GOOD}
    history = fit(data, loss=lambda logits, rows: nn.functional.cross_entropy(logits, answers[rows]))
    assert history.epochs[0].train_loss > 0


SUM = partial(nn.functional.cross_entropy, reduction="sum")
NO_MEANS = [nn.CrossEntropyLoss(reduction="sum"), nn.BCELoss(reduction="none"), nn.NLLLoss, None, SUM]


@pytest.mark.parametrize("loss", NO_MEANS)
def test_a_loss_that_is_no_mean_is_refused(loss):
    with pytest.raises(ValueError, match="returns the mean of a batch"):
        fit({"train": GOOD, "val": GOOD}, loss=loss)


def test_a_loss_of_one_value_in_a_list_trains():
    history = fit({"train": GOOD, "val": GOOD}, loss=lambda y, n: nn.functional.cross_entropy(y, n).reshape(1))
    assert history.epochs[0].train_loss > 0


def test_images_without_a_class_would_count_as_wrong():
    some = loader(X, Y.masked_fill(Y == 1, -100))
    with pytest.raises(ValueError, match=r"from -100 to 0.*Leave out images that have no class"):
        fit({"train": some, "val": GOOD}, loss=nn.CrossEntropyLoss())


def test_outputs_that_are_no_logits_are_refused():
    with pytest.raises(ValueError, match="returns a tuple"):
        check_outputs((X, X), Y)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_a_network_with_auxiliary_heads_trains_by_its_logits(name):
    model = getattr(torchvision.models, name)(init_weights=False, num_classes=2, aux_logits=True)
    data = loader(torch.randn(2, 3, 299, 299), Y[:2])
    assert fit({"train": data, "val": data}, model).best.val_accuracy in (0, 0.5, 1)


def test_view_in_a_network_reads_the_packages_own_loaders(monkeypatch):
    class Flat(Net):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(4 * 62 * 62), nn.Linear(4 * 62 * 62, 2)

    backbone = tl.models.create("tl_resnet", 2)
    pets = tl.data.load("toypets", model=backbone, train=16, val=8, test=8)
    model = Flat()
    history = fit(pets.loaders(8), model)
    assert history.epochs[0].images == 16
    assert evaluate(model, pets.loaders(8).test).n == 8
    assert tl.features.extract(model, pets.plain().test, cache=False).x.shape == (8, 4 * 62 * 62)


def test_an_epoch_whose_validation_is_not_finite_is_never_the_best():
    labels = (torch.arange(40) % 8 == 0).long()
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[1].bias.data = torch.tensor([-9.0, 9.0])  # a poor but honest start: the majority is class 0
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    jump = lr_scheduler.LambdaLR(optimizer, lambda step: 1 if step < 2 else 3e41)
    data = {"train": loader(torch.randn(40, 4), labels, size=40), "val": loader(torch.randn(40, 4), labels, size=40)}
    history = tl.train.fit(model, data, optimizer, epochs=3, scheduler=jump, precision="float32")
    assert history.best.epoch < 3
    assert model[1].weight.abs().max() < 10
    assert tl.train.evaluate(model, data["val"]).loss == pytest.approx(history.best.val_loss)


def test_a_first_validation_that_is_not_finite_is_an_error():
    data = {"train": GOOD, "val": loader(torch.full((4, 3, 8, 8), torch.nan), Y[:4])}
    with pytest.raises(FloatingPointError, match="validation loss of epoch 1 is nan"):
        fit(data)


def test_outputs_that_are_not_finite_are_no_right_answers():
    logits = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
    assert Evaluation(torch.tensor([0, 0, 0, 0]), logits).accuracy == 0.25


def test_a_class_that_is_masked_is_no_fault_of_the_others():
    logits = torch.tensor([[2.0, 1.0, -torch.inf], [0.0, 1.0, -torch.inf]])
    assert Evaluation(torch.tensor([0, 0]), logits).accuracy == 0.5


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 7),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 3]),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=1), lr_scheduler.CosineAnnealingLR(o, 2)], [1]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_made_for_epochs_is_refused_until_its_interval_is_given(name):
    data, model = {"train": GOOD, "val": GOOD}, Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with pytest.raises(ValueError, match=f"{name} would be stepped after each of 4 optimizer steps.*'epoch'"):
        tl.train.fit(model, data, optimizer, epochs=3, scheduler=SCHEDULERS[name](optimizer))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    given = tl.train.Schedule(SCHEDULERS[name](optimizer), "epoch")
    rates = [epoch.lr for epoch in tl.train.fit(model, data, optimizer, epochs=3, scheduler=given).epochs]
    assert rates[0] in (0.01, 0.001)
    assert len(rates) == 3


def trained(model, optimizer, schedule=None, epochs=2):
    data = {"train": GOOD, "val": GOOD}
    return tl.train.fit(model, data, optimizer, epochs=epochs, scheduler=schedule)


@pytest.mark.parametrize(
    "make", [tl.train.schedules.cosine, lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n)]
)
def test_a_schedule_that_has_ended_is_refused_before_training(make):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = make(optimizer, 8)
    trained(model, optimizer, schedule)
    with pytest.raises(ValueError, match="has 8 steps, and 8 are done; training takes 8: make a new one"):
        trained(model, optimizer, schedule)


def test_a_one_cycle_that_is_too_short_is_refused_before_training():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    short = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=7)
    with pytest.raises(ValueError, match="has 7 steps, and 0 are done; training takes 8"):
        trained(model, optimizer, tl.train.Schedule(short, "step"))


def test_optimizers_that_do_not_fit():
    model = Net()
    with pytest.raises(ValueError, match="LBFGS"):
        trained(model, torch.optim.LBFGS(model.parameters()))
    old = torch.optim.SGD(model.parameters(), 0.1)
    model.fc = nn.Linear(144, 2)  # after the optimizer was built: nothing would train it
    with pytest.raises(ValueError, match="holds replaced parameters"):
        trained(model, old)
    inner = torch.optim.SGD(model.parameters(), 0.1)
    wrapper = SimpleNamespace(param_groups=inner.param_groups, step=lambda: inner.step(), zero_grad=inner.zero_grad)
    wrapper.state_dict = inner.state_dict
    assert trained(model, wrapper, tl.train.schedules.cosine(inner, 8)).epochs[1].lr < 0.01


def test_a_scheduler_of_another_optimizer_or_of_fewer_groups_is_refused():
    data, model = {"train": GOOD, "val": GOOD}, Net()
    old, new = (torch.optim.SGD(model.fc.parameters(), 0.01) for _ in range(2))
    with pytest.raises(ValueError, match="another optimizer"):
        tl.train.fit(model, data, new, epochs=1, scheduler=tl.train.schedules.cosine(old, 4))
    schedule = tl.train.schedules.cosine(new, 4)
    new.add_param_group({"params": model.conv.parameters()})
    with pytest.raises(ValueError, match="made for 1 groups, and the optimizer has 2"):
        tl.train.fit(model, data, new, epochs=1, scheduler=schedule)
    waiting = lr_scheduler.ReduceLROnPlateau(old)
    old.add_param_group({"params": model.conv.parameters()})
    with pytest.raises(ValueError, match="made for 1 groups"):
        tl.train.fit(model, data, old, epochs=1, scheduler=waiting)


def test_a_resumed_run_may_be_longer_with_our_schedules_and_not_with_torchs(tmp_path):
    def run(folder, make, epochs):
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        options = {"scheduler": make(optimizer, 4 * epochs), "checkpoints": tl.train.Checkpoints(tmp_path / folder)}
        return tl.train.fit(model, {"train": GOOD, "val": GOOD}, optimizer, epochs=epochs, **options)

    for name in ("cosine", "one_cycle"):
        run(name, getattr(tl.train.schedules, name), 2)
        assert run(name, getattr(tl.train.schedules, name), 4).epochs[-1].lr < 0.005
    for make in (lr_scheduler.CosineAnnealingLR, lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n)):
        run("theirs", make, 2)
        run("theirs", make, 2)  # the same run again is at its end
        with pytest.raises(ValueError, match=r"another schedule.*For more epochs"):
            run("theirs", make, 4)
        for file in (tmp_path / "theirs").iterdir():
            file.unlink()


class Cosine(nn.Module):
    """A head that compares directions, with a scale that is learnt."""

    def __init__(self, width):
        super().__init__()
        self.linear, self.scale = nn.Linear(width, 2, bias=False), nn.Parameter(torch.tensor(10.0))


NEW_HEADS = {
    "resnet18": ("fc", nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 2)), 4),
    "mobilenet_v3_small": ("classifier", nn.Sequential(nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 2)), 4),
    "vit_b_16": ("heads.head", nn.Sequential(nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 2)), 4),
    "vgg11": ("classifier.6", nn.Linear(4096, 2), 2),  # its own lower layers are pre-trained and stay frozen
    "convnext_tiny": ("classifier.2", nn.Sequential(nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 2)), 4),
    "alexnet": ("classifier.6", nn.Sequential(nn.LayerNorm(4096), nn.Linear(4096, 2)), 4),
    "resnet50": ("fc", nn.Sequential(nn.PReLU(2048), nn.Linear(2048, 2)), 3),
    "efficientnet_b0": ("classifier", Cosine(1280), 2),
}


@pytest.mark.parametrize("name", NEW_HEADS)
def test_a_new_head_of_several_layers_trains_as_a_whole(name):
    place, new, tensors = NEW_HEADS[name]
    model = torchvision.models.get_model(name, weights=None)
    with torch.no_grad():  # as if it were trained: values beyond those that are drawn
        for parameter in model.get_submodule(place.partition(".")[0]).parameters():
            parameter.mul_(2)
    model.set_submodule(place, new)
    tl.models.freeze(model)
    trained = [f"{place}.{n}" for n, _ in new.named_parameters()]
    assert [n for n, p in model.named_parameters() if p.requires_grad] == trained
    assert tl.models.stages(model)[-1].trainable == tl.models.count(new.parameters())
    assert len(tl.models.stages(model)[-1].parameters) == tensors


def new_classifier():
    return nn.Sequential(nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 2))


def test_a_new_classifier_of_the_old_widths_trains_as_a_whole():
    model = torchvision.models.vgg11(weights=None)
    model.classifier = new_classifier()
    for _ in range(2):
        assert tl.models.stages(tl.models.freeze(model))[-1].trainable == tl.models.count(model.classifier.parameters())
        model.classifier[0].weight.data[0, 0] = 1.0  # as training leaves it: what the head is does not change


def test_a_librarys_own_layers_below_the_classifier_stay_frozen():
    for name in ("vgg11_bn", "alexnet", "mobilenet_v3_large", "maxvit_t", "convnext_tiny", "timm/efficientvit_b0"):
        with torch.device("meta"):
            model = tl.models.freeze(tl.models.create(name, 3, weights=None))
        classifier = tl.models.head(model)
        assert tl.models.stages(model)[-1].trainable == tl.models.count(classifier.parameters()), name


def test_a_batch_norm_in_a_new_head_trains():
    model = tl.models.create("resnet18", weights=None)
    model.fc = nn.Sequential(nn.BatchNorm1d(512), nn.Linear(512, 2))
    tl.models.train_mode(tl.models.freeze(model))
    assert model.fc[0].training
    assert model.fc[0].weight.requires_grad


def test_of_a_hidden_layer_fc_and_a_head_the_last_is_the_head():
    model = nn.Sequential()
    model.fc, model.head = nn.Linear(8, 4), nn.Linear(4, 2)
    assert tl.models.head_name(model) == "head"


def test_a_frozen_batch_norm_without_parameters_keeps_its_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3), nn.Flatten())
    model.fc = nn.Linear(64, 2)
    tl.models.train_mode(tl.models.freeze(model))
    assert not model[1].training
    assert tl.models.train_mode(tl.models.unfreeze(model))[1].training


def test_the_size_and_the_channels_are_asked_of_the_model():
    small = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=96)
    assert get_preprocessing(small).size == get_preprocessing(nn.DataParallel(small)).size == 96
    with pytest.raises(ValueError, match="not square"):
        get_preprocessing(timm.create_model("vit_tiny_patch16_224", img_size=(96, 128)))
    with pytest.raises(ValueError, match="takes 1 channels"):
        get_preprocessing(timm.create_model("resnet18", in_chans=1))


def tied(model):
    model.layer1[1].conv1.weight = model.layer1[0].conv1.weight


def head_of_two(model):
    model.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 2))


def stem(model):
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)


def activation(model):
    model.relu = nn.SiLU()  # no weight tells


def parametrized(model):
    nn.utils.parametrizations.weight_norm(model.fc)


def diverged(model):
    model.fc.weight.data[0, 0] = torch.nan


WRAPS = [lambda m: m, lambda m: torch.compile(m, backend="eager"), nn.DataParallel, torch.optim.swa_utils.AveragedModel]


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_is_saved_gives_the_same_outputs(wrap, tmp_path):
    model = tl.models.create("resnet18", 2, weights=None)
    tied(model)
    tl.predict.save_checkpoint(tmp_path / "m.safetensors", wrap(model), ["a", "b"])
    loaded, _ = tl.predict.load_checkpoint(tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(loaded(x), model.eval()(x), atol=1e-5)


def test_half_precision_is_saved_and_stays_half(tmp_path):
    model = tl.models.create("resnet18", 2, weights=None).half()
    file = tl.predict.save_checkpoint(tmp_path / "m.safetensors", model, ["a", "b"])
    assert file.stat().st_size < 30e6
    assert model.fc.weight.dtype == torch.float16
    assert torch.equal(tl.predict.load_checkpoint(file)[0].fc.weight, model.fc.weight.float())


@pytest.mark.parametrize("change", [head_of_two, stem, activation, parametrized, diverged])
def test_what_could_not_be_loaded_is_not_saved(change, tmp_path):
    model = tl.models.create("resnet18", 2, weights=None)
    change(model)
    with pytest.raises(ValueError, match="not finite" if change is diverged else "Nothing was written"):
        tl.predict.save_checkpoint(tmp_path / "m.safetensors", model, ["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_other_libraries_are_saved_and_classes_are_there_once(tmp_path):
    model = tl.models.create("resnet18", 2, weights=None)
    facts = {"accuracy": torch.tensor(0.5), "seconds": np.float32(2)}
    file = tl.predict.save_checkpoint(tmp_path / "m.safetensors", model, list(np.arange(2)), **facts)
    assert tl.predict.load_checkpoint(file)[1]["accuracy"] == 0.5
    with pytest.raises(ValueError, match="1 different classes for 2 outputs"):
        tl.predict.save_checkpoint(tmp_path / "n.safetensors", model, ["a", "a"])


def test_the_thousand_classes_of_a_model_are_saved(tmp_path):
    model = tl.models.create("mobilenet_v3_small", weights=None)
    tl.predict.save_checkpoint(tmp_path / "m.safetensors", model, [str(i) for i in range(1000)])
    assert len(tl.predict.load_checkpoint(tmp_path / "m.safetensors")[1]["classes"]) == 1000


SPAWNED = """
import multiprocessing; multiprocessing.set_start_method("spawn", force=True)
import tlcourse as tl
tl.setup("full", device="cpu", workers=2)
model = tl.models.create("tl_resnet", 2)
pets = tl.data.load("toypets", model=model, train=20, val=10, test=10)
print(tuple(tl.features.extract(model, pets.plain().train, cache=False).x.shape))
"""


def test_features_need_no_main_guard_where_processes_are_spawned(tmp_path):
    (tmp_path / "plain.py").write_text(SPAWNED, encoding="utf-8")
    done = subprocess.run([sys.executable, tmp_path / "plain.py"], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "(20, 256)", done.stderr[-500:]


def test_loaders_as_attributes_still_do():
    assert fit(SimpleNamespace(train=GOOD, val=GOOD)).best is not None
