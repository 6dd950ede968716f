"""Set-ups that are right: the doctor must find nothing wrong with them."""

import functools
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim import lr_scheduler as schedules
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

import tlcourse as tl
from tlcourse.preprocessing import Preprocessing
from tlcourse.train import Schedule

LOOK = Preprocessing(32, 32)
SETUPS = []


def setup(make):
    SETUPS.append(make)
    return make


class Net(nn.Module):
    """A small convolutional network with the norm of one's choice."""

    def __init__(self, classes=2, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), norm(8)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), norm(16), nn.ReLU(), nn.Dropout(0.2))
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        return self.fc(self.layer1(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


@functools.cache
def digits():
    """Handwritten digits as tensors: images `(N, 8, 8)` from 0 to 1, labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.images / 16, dtype=torch.float32), torch.tensor(found.target)


def pets(model=LOOK, **options):
    return tl.data.load("toypets", model=model, train=16, val=8, test=8, **options)


def feature_extractor(name, **options):
    """A frozen model of the zoo with a new head, in training as this package trains it."""
    model = tl.models.train_mode(tl.models.freeze(tl.models.create(name, 2, weights=None, **options)))
    return model, AdamW(tl.models.param_groups(model, lr=1e-3)), pets(model).loaders(4)


def fine_tuning(name, layer_decay=0.5, **options):
    model = tl.models.unfreeze(tl.models.create(name, 2, weights=None, **options)).train()
    return model, AdamW(tl.models.param_groups(model, lr=1e-3, layer_decay=layer_decay)), pets(model).loaders(4)


# Architectures, frozen and fine-tuned

for architecture in ("tl_resnet", "squeezenet1_1", "test_vit", "test_efficientnet"):
    setup(functools.partial(feature_extractor, architecture))
for architecture in ("tl_resnet", "resnet18", "test_resnet", "test_efficientnet", "test_vit"):
    setup(functools.partial(fine_tuning, architecture))


@setup
def the_readme():
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    return model, AdamW(tl.models.param_groups(model, lr=1e-3)), pets(model)


@setup
def mobilenet_with_one_rate():
    model = torchvision.models.mobilenet_v3_small(num_classes=2)
    data = pets(Preprocessing(64, 64))
    return model, RMSprop(model.parameters(), lr=1e-4), data.loaders(8), None, {"loss": nn.CrossEntropyLoss()}


@setup
def a_timm_model_without_stages_of_ours():
    import timm

    model = timm.create_model("test_convnext", num_classes=2)
    return model, AdamW(model.parameters(), lr=1e-4), pets(model).loaders(4)


@setup
def frozen_by_hand_as_in_a_plain_loop():
    model = torchvision.models.resnet18()
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = nn.Linear(512, 2)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model, Adam(model.fc.parameters(), lr=1e-3), pets(Preprocessing(64, 64)).loaders(4)


@setup
def group_norm():
    model = Net(norm=lambda width: nn.GroupNorm(4, width))
    return model, SGD(model.parameters(), lr=0.05, momentum=0.9), pets().loaders(4)


@setup
def from_scratch_on_plain_pixels():
    from torchvision.transforms import v2

    plain = v2.Compose([v2.Resize(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    splits, model = pets(augment=False), Net()
    data = [
        DataLoader(part.with_transform(plain), 4, shuffle=i == 0) for i, part in enumerate((splits.train, splits.val))
    ]
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9), data


@setup
def parallel():
    model = Net()
    return nn.DataParallel(model), SGD(model.parameters(), lr=0.05), pets().loaders(4)


@setup
def half_precision():
    model = Net().to(torch.bfloat16)
    return model, SGD(model.parameters(), lr=0.05), pets().loaders(4)


@setup
def one_output():
    model = Net(1)
    return model, Adam(model.parameters(), lr=1e-4), pets().loaders(4), None, {"loss": nn.BCEWithLogitsLoss()}


@setup
def a_model_to_predict_with():
    return Net().requires_grad_(False).eval(), None, pets(), None, {"evaluating": True}


# Data


@setup
def digits_from_the_catalog():
    model = Net(10)
    data = tl.data.load("digits", model=LOOK)
    return model, AdamW(model.parameters(), lr=1e-3), data.loaders(64)


@setup
def digits_as_large_tensors():
    images, labels = digits()
    grown = nn.functional.interpolate(images[:600, None], (32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    data = TensorDataset(grown[:400], labels[:400]), TensorDataset(grown[400:], labels[400:600])
    model = Net(10)
    return model, Adam(model.parameters(), lr=1e-3), [DataLoader(own, 32, shuffle=not i) for i, own in enumerate(data)]


@setup
def a_multilayer_perceptron():
    images, labels = digits()
    flat = images.flatten(1)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    data = {"train": TensorDataset(flat[:1500], labels[:1500]), "val": TensorDataset(flat[1500:], labels[1500:])}
    return model, Adam(model.parameters(), lr=1e-2), data, None, {"loss": nn.functional.cross_entropy}


@setup
def log_probabilities():
    images, labels = digits()
    model = nn.Sequential(nn.Linear(64, 10), nn.LogSoftmax(1))
    data = {"train": TensorDataset(images[:1500].flatten(1), labels[:1500])}
    return model, SGD(model.parameters(), lr=0.5), data, None, {"loss": nn.NLLLoss()}


@functools.cache
def image_folder():
    """Write toy pets as `train` and `val` folders, and return them."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="tlcourse-healthy-"))
    return tl.data.export_folder(pets(), folder / "pets")


@setup
def torchvisions_image_folder():
    folder, model = image_folder(), Net()
    parts = {"train": LOOK.training(), "val": LOOK.evaluation()}
    sets = {part: torchvision.datasets.ImageFolder(str(folder / part), how) for part, how in parts.items()}
    data = {part: DataLoader(own, 4, shuffle=part == "train") for part, own in sets.items()}
    return model, AdamW(model.parameters(), lr=1e-3), data


@setup
def two_data_sets_over_one_folder():
    folder, model = str(image_folder() / "train"), Net()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    train = Subset(torchvision.datasets.ImageFolder(folder, LOOK.training()), order[:12])
    val = Subset(torchvision.datasets.ImageFolder(folder, LOOK.evaluation()), order[12:])
    return model, Adam(model.parameters(), lr=1e-3), (DataLoader(train, 4, shuffle=True), DataLoader(val, 4))


class Transformed(Dataset):
    """A learner's own wrapper."""

    def __init__(self, subset, transform):
        self.subset, self.transform = subset, transform

    def __len__(self):
        return len(self.subset)

    def __getitem__(self, index):
        image, label = self.subset[index]
        return self.transform(image), label


@setup
def a_wrapper_of_ones_own():
    base = torchvision.datasets.ImageFolder(str(image_folder() / "train"))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    train, val = (
        Transformed(Subset(base, order[:12]), LOOK.training()),
        Transformed(Subset(base, order[12:]), LOOK.evaluation()),
    )
    model = Net()
    return model, Adam(model.parameters(), lr=1e-3), (DataLoader(train, 4, shuffle=True), DataLoader(val, 4))


@setup
def joined_sets_in_a_fixed_mixed_order():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 3, 32, 32, generator=generator), torch.arange(32) % 2
    train = ConcatDataset([TensorDataset(x[:12], y[:12]), TensorDataset(x[12:24], y[12:24])])
    model = Net()
    data = (DataLoader(train, 4, drop_last=True), DataLoader(TensorDataset(x[24:], y[24:]), 4))
    return model, SGD(model.parameters(), lr=0.05), data


@setup
def rare_images_drawn_more_often():
    x, y = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(0)), (torch.arange(48) % 8 == 0).long()
    weights = torch.where(y[:32] == 1, 7.0, 1.0)
    train = DataLoader(TensorDataset(x[:32], y[:32]), 8, sampler=WeightedRandomSampler(weights.tolist(), 32))
    model = Net()
    return model, Adam(model.parameters(), lr=1e-3), (train, DataLoader(TensorDataset(x[32:], y[32:]), 8))


# Schedulers: 4 batches an epoch


def scheduled(make, steps=0, optimizer_steps=0, epochs=10, **more):
    model = Net()
    optimizer = Adam(model.parameters(), lr=1e-3)
    scheduler = make(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(optimizer_steps):
        optimizer.step()
    for i in range(steps):
        getattr(scheduler, "scheduler", scheduler).step(*(more["fed"](i),) if "fed" in more else ())
    return model, optimizer, pets().loaders(4), scheduler, {"epochs": epochs}


def second_schedule(optimizer):
    """Ours start from the base rates: the first one, which a notebook still holds, does no harm."""
    optimizer.forgotten = tl.train.schedules.cosine(optimizer, 12)
    return tl.train.schedules.one_cycle(optimizer, 40)


def warm_up_then_cosine(optimizer):
    parts = [schedules.LinearLR(optimizer, 0.1, total_iters=4), schedules.CosineAnnealingLR(optimizer, 36)]
    return schedules.SequentialLR(optimizer, parts, [4])


for name, make, steps, optimizer_steps in (
    ("one cycle", lambda o: schedules.OneCycleLR(o, 1e-3, total_steps=40), 0, 0),
    ("one cycle, half way", lambda o: schedules.OneCycleLR(o, 1e-3, epochs=10, steps_per_epoch=4), 20, 20),
    ("one cycle, at its end", lambda o: schedules.OneCycleLR(o, 1e-3, total_steps=40), 40, 40),
    ("one cycle over accumulated gradients", lambda o: schedules.OneCycleLR(o, 1e-3, total_steps=20), 0, 0),
    ("cosine by steps", lambda o: schedules.CosineAnnealingLR(o, 40), 8, 8),
    ("cosine by epochs", lambda o: schedules.CosineAnnealingLR(o, 10), 3, 12),
    ("cosine, at its end", lambda o: schedules.CosineAnnealingLR(o, 10), 10, 40),
    ("warm restarts", lambda o: schedules.CosineAnnealingWarmRestarts(o, 3), 7, 28),
    ("steps", lambda o: schedules.StepLR(o, 3), 8, 32),
    ("milestones", lambda o: schedules.MultiStepLR(o, [5, 8]), 10, 40),
    ("warm-up and cosine", warm_up_then_cosine, 6, 6),
    ("cosine by epochs, and it says so", lambda o: Schedule(schedules.CosineAnnealingLR(o, 10), "epoch"), 0, 0),
    ("cosine by epochs, in the first epoch", lambda o: Schedule(schedules.CosineAnnealingLR(o, 10), "epoch"), 0, 2),
    ("cosine by epochs, after two", lambda o: Schedule(schedules.CosineAnnealingLR(o, 10), "epoch"), 2, 8),
    ("cosine by steps, and it says so", lambda o: Schedule(schedules.CosineAnnealingLR(o, 40), "step"), 8, 8),
    ("one cycle by epochs", lambda o: Schedule(schedules.OneCycleLR(o, 1e-3, total_steps=10), "epoch"), 3, 12),
    ("one cycle by steps", lambda o: Schedule(schedules.OneCycleLR(o, 1e-3, total_steps=40), "step"), 8, 8),
    ("new on an optimizer that trained", lambda o: Schedule(schedules.StepLR(o, 3), "epoch"), 0, 40),
    ("our constant", tl.train.schedules.constant, 8, 8),
    ("our cosine", lambda o: tl.train.schedules.cosine(o, 40), 0, 0),
    ("our cosine at its end", lambda o: tl.train.schedules.cosine(o, 40), 40, 40),
    ("our cosine over accumulated gradients", lambda o: tl.train.schedules.cosine(o, 20), 0, 0),
    ("our restarts", lambda o: tl.train.schedules.cosine(o, 40, restarts=3), 11, 11),
    ("our warm-up", lambda o: tl.train.schedules.warmup_cosine(o, 40), 8, 8),
    ("our one cycle", lambda o: tl.train.schedules.one_cycle(o, 40), 40, 40),
    ("our second schedule on one optimizer", second_schedule, 5, 5),
    ("any function", lambda o: schedules.LambdaLR(o, lambda step: min(1, step / 8)), 0, 0),
):
    found = functools.partial(scheduled, make, steps, optimizer_steps)
    found.__doc__ = name
    setup(found)


@setup
def plateau():
    values = [0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.71]
    return scheduled(lambda o: schedules.ReduceLROnPlateau(o, "max", patience=1), 7, 28, fed=values.__getitem__)


@setup
def our_plateau():
    values = [0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.49]
    return scheduled(lambda o: tl.train.schedules.plateau(o, patience=1), 7, 28, fed=values.__getitem__)


# Runs


@setup
def a_whole_run_of_feature_extraction():
    model = tl.models.freeze(tl.models.create("test_resnet", 2, weights=None))
    optimizer = AdamW(tl.models.param_groups(model, lr=1e-3))
    loaders = pets(model).loaders(8)
    tl.examine(model, optimizer, loaders)
    history = tl.train.fit(model, loaders, optimizer, epochs=2)
    return model, optimizer, loaders, None, {"history": history, "epochs": 2}


@setup
def a_stage_more_with_all_groups_built_before():
    model = tl.models.unfreeze(Net())
    optimizer = Adam(tl.models.param_groups(model, lr=1e-3, layer_decay=0.3))
    tl.models.freeze(model)
    tl.train.fit(model, pets().loaders(8), optimizer, epochs=1)
    tl.examine(model, optimizer)
    tl.models.unfreeze_from(model, "layer1")
    return tl.models.train_mode(model), optimizer, pets().loaders(8)


@setup
def a_gradual_run():
    model = Net()
    optimizer, loaders = AdamW(model.parameters()), pets().loaders(8)
    plan = [tl.train.Phase({"head": 1e-3}, 2), tl.train.Phase({"layer1": 1e-4, "head": 1e-3}, 1)]
    history = tl.train.fit_gradual(model, loaders, optimizer, plan, make_schedule=tl.train.schedules.cosine)
    schedule = tl.train.schedules.cosine(optimizer, 4)
    return tl.models.train_mode(model), optimizer, loaders, schedule, {"history": history, "epochs": 2}


@setup
def a_run_and_its_evaluation():
    images, labels = digits()
    model = nn.Sequential(nn.Linear(64, 10))
    train, val = (
        TensorDataset(images[:1200].flatten(1), labels[:1200]),
        TensorDataset(images[1200:].flatten(1), labels[1200:]),
    )
    loaders = {"train": DataLoader(train, 32, shuffle=True), "val": DataLoader(val, 64)}
    optimizer, losses = Adam(model.parameters(), lr=1e-2), []
    for _ in range(3):
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    evaluation = tl.evaluation.evaluate(model.eval(), loaders["val"])
    return model, optimizer, loaders, None, {"history": losses, "evaluation": evaluation, "evaluating": True}


@pytest.mark.parametrize("make", SETUPS, ids=lambda make: make.__doc__ or getattr(make, "__name__", None))
def test_nothing_is_wrong(make):
    torch.manual_seed(0)
    given = make()
    named = given[4] if len(given) > 4 else {}
    report = tl.examine(*given[:4], **named)
    assert report.ok, report
    assert not report.named("check-failed"), report
    again = tl.examine(*given[:4], **named)
    assert again.ok, again


def told_how_to_step():
    """The set-ups whose schedule says when it is stepped: nothing about it is open, so nothing is remarked."""
    made = {make.__doc__: make for make in SETUPS if getattr(make, "__doc__", None)}
    return [make for name, make in made.items() if name.startswith("our ") or "says so" in name or "cycle by" in name]


@pytest.mark.parametrize("make", told_how_to_step(), ids=lambda make: make.__doc__)
def test_nothing_is_remarked_on_a_schedule_that_fits(make):
    given = make()
    report = tl.examine(*given[:4], **given[4])
    for name in ("scheduler-interval", "scheduler-not-stepped", "several-schedulers", "foreign-scheduler"):
        assert not report.named(name), report
    assert len(told_how_to_step()) >= 12


def test_there_are_enough_of_them():
    assert len(SETUPS) >= 25


@pytest.mark.real
@pytest.mark.parametrize("name", ["hymenoptera_data", "dogs-vs-cats"])
def test_real_images(real_data, name):
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    data = tl.data.from_folder(real_data / name, model=model, skip_unreadable=True)
    report = tl.examine(model, AdamW(tl.models.param_groups(model, lr=1e-3)), data.loaders(32))
    assert report.ok, report
