"""Every finding of `examine`: a set-up where it must be made, and one where it must not."""

import functools
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, Subset, TensorDataset

import tlcourse as tl
from tlcourse.data import ImageSet
from tlcourse.doctor import examination, snapshots
from tlcourse.doctor.checks import schedule as schedule_checks
from tlcourse.doctor.findings import MESSAGES
from tlcourse.evaluation import Evaluation
from tlcourse.models.heads import unwrap_model
from tlcourse.preprocessing import Preprocessing
from tlcourse.train import Epoch, History

LOOK = Preprocessing(32, 32)
SOURCES = Path(tl.__file__).parent / "doctor"

# check -> [(severity, function that makes the keywords of `examine`)]; and those where the check must be silent
FIRES: dict[str, list] = {}
QUIET: dict[str, list] = {}


def fires(check, severity):
    def keep(make):
        FIRES.setdefault(check, []).append((severity, make))
        return make

    return keep


def quiet(*checks):
    def keep(make):
        for check in checks:
            QUIET.setdefault(check, []).append(make)
        return make

    return keep


class Small(nn.Module):
    """Stem, one stage with batch norm and dropout, head; named as in a ResNet."""

    def __init__(self, classes=2):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1)
        )
        self.fc = nn.Linear(16, classes)
        self.preprocessing = LOOK

    def forward(self, x):
        return self.fc(self.layer1(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


@functools.cache  # a part's images are then read once in all tests
def pets(train=24, others=8, augment=True):
    return tl.data.load("toypets", model=LOOK, train=train, val=others, test=others, augment=augment)


def trained_backbone(model=None):
    """A model whose backbone remembers normalised images, with a new head."""
    model = Small() if model is None else model
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.4, 1.6)
        norm.momentum = None  # the plain mean over what it sees
    with torch.no_grad():
        model.train()(torch.stack([image for image, _ in pets(augment=False).train]))
    for norm in norms:
        norm.momentum = 0.1
    return model


def frozen(model=None):
    return tl.models.freeze(trained_backbone(model))


def ready():
    """A feature extractor that is set up well: model, optimizer, data."""
    model = tl.models.train_mode(frozen())
    return model, AdamW(tl.models.param_groups(model, lr=1e-3)), pets()


def step(model, optimizer, steps=1):
    images, labels = next(iter(pets().loaders(8).train))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def history(losses=(0.7, 0.6, 0.5), train=(0.6, 0.7, 0.8), val=(0.6, 0.65, 0.7)):
    epochs = [
        Epoch(i, loss, a, loss + 0.2, b, 1e-3, 1.0)
        for i, (loss, a, b) in enumerate(zip(losses, train, val, strict=True), 1)
    ]
    return History(epochs)


def tensors(n=32, classes=2, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 3, size, size, generator=generator), torch.arange(n) % classes)


def evaluation(predicted, labels, classes):
    return Evaluation(torch.tensor(labels), nn.functional.one_hot(torch.tensor(predicted), classes).float())


def run(make):
    given = make()
    if isinstance(given, tl.doctor.Report):
        return given
    names = ("model", "optimizer", "data", "scheduler")
    if isinstance(given, tuple):
        given = dict(zip(names, given, strict=False))
    return tl.examine(**given)


# --- the model --------------------------------------------------------------------------------------------------------


@fires("not-finite", "wrong")
def broken_weight():
    model = Small()
    model.layer1[0].weight.data[0, 0, 0, 0] = torch.nan
    return {"model": model}


@fires("not-finite", "wrong")
def broken_image():
    images = torch.randn(8, 3, 32, 32)
    images[3, 0, 0, 0] = torch.nan
    return {"model": Small(), "data": {"val": TensorDataset(images, torch.arange(8) % 2)}}


@fires("not-finite", "wrong")
def broken_statistics():
    model = Small()
    model.bn1.running_var[0] = torch.inf
    return {"model": model}


@fires("all-frozen", "wrong")
def nothing_to_train():
    model = Small()
    optimizer = Adam(model.parameters())
    return model.requires_grad_(False), optimizer


@fires("all-frozen", "note")
def a_model_to_predict_with():
    return {"model": Small().requires_grad_(False)}


@fires("head-frozen", "wrong")
def frozen_after_the_head_was_replaced():
    model = trained_backbone()
    model.fc.requires_grad_(False)
    return {"model": model}


@fires("frozen-random", "suspicious")
def frozen_without_weights():
    return {"model": tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))}


class Neck(nn.Module):
    """A pre-trained network, and a new layer between it and the head."""

    def __init__(self):
        super().__init__()
        self.backbone = tl.models.create("tl_resnet", 2)
        self.backbone.fc = nn.Identity()
        self.neck, self.head = nn.Linear(256, 64), nn.Linear(64, 2)


@fires("frozen-random", "suspicious")
def frozen_with_a_new_layer():
    return {"model": tl.models.freeze(Neck())}


@quiet("frozen-random")
def frozen_but_for_the_new_layer():
    model = tl.models.freeze(Neck())
    model.neck.requires_grad_(True)
    return {"model": model}


IN_ORDER = (
    *("not-finite", "all-frozen", "head-frozen", "head-size", "frozen-statistics-move", "forward-fails"),
    *("not-in-optimizer", "foreign-parameters", "in-optimizer-twice", "frozen-in-optimizer", "frozen-with-gradient"),
    *("rate", "backbone-as-fast-as-head", "decay-on-norms", "not-normalised", "input-size", "augmented-evaluation"),
    *("labels", "classes-differ", "imbalance", "same-item", "same-image", "unreadable", "check-failed"),
)


@quiet(*IN_ORDER)
def feature_extraction():
    return ready()


@fires("head-size", "wrong")
def too_few_outputs():
    return {"model": Small(2), "data": {"train": tensors(classes=3)}}


@fires("head-size", "wrong")
def imagenet_head():
    return {"model": Small(1000), "data": pets()}


@fires("head-size", "note")
def more_outputs_than_labels():
    return {"model": Small(5), "data": {"train": tensors()}}


@fires("head-size", "suspicious")
def one_output():
    return {"model": Small(1), "data": pets()}


@quiet("head-size", "softmax-before-cross-entropy", "loss-wants-log-probabilities")
def one_output_with_its_loss():
    return {"model": Small(1), "data": pets(), "loss": nn.BCEWithLogitsLoss()}


@quiet("head-size")
def one_output_with_a_loss_of_ones_own():
    loss = nn.functional.binary_cross_entropy_with_logits
    return {"model": Small(1), "data": pets(), "loss": lambda y, n: loss(y[:, 0], n.float())}


@fires("frozen-statistics-move", "suspicious")
def plain_train():
    model, optimizer, _ = ready()
    return model.train(), optimizer


@fires("frozen-statistics-move", "wrong")
def plain_train_and_a_step():
    model, optimizer, _ = ready()
    step(model.train(), optimizer)
    return model, optimizer


@fires("frozen-statistics-move", "wrong")
def statistics_that_moved_though_the_mode_is_right_now():
    model, optimizer, _ = ready()
    tl.examine(model, optimizer)
    step(model.train(), optimizer)
    return model.eval(), optimizer


@quiet("frozen-statistics-move", "frozen-moved", "did-not-move")
def a_step_in_train_mode():
    model, optimizer, _ = ready()
    tl.examine(model, optimizer)
    step(tl.models.train_mode(model), optimizer)
    return model, optimizer


@quiet("frozen-statistics-move")
def nothing_frozen():
    model = trained_backbone()
    tl.examine(model)
    step(model.train(), optimizer := SGD(model.parameters(), lr=1e-3))
    return model, optimizer


@quiet("frozen-statistics-move")
def weights_loaded_between_looks():
    model, optimizer, _ = ready()
    tl.examine(model, optimizer)
    model.load_state_dict(trained_backbone().state_dict())
    return model, optimizer


@fires("training-mode", "wrong")
def measured_in_training_mode():
    return {"model": trained_backbone().train(), "evaluating": True}


@fires("training-mode", "note")
def measured_in_a_mode_that_changes_nothing():
    return {"model": nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), "evaluating": True}


@quiet("training-mode")
def measured_in_evaluation_mode():
    return {"model": trained_backbone().eval(), "evaluating": True}


@quiet("training-mode")
def training():
    return {"model": trained_backbone().train()}


@fires("forward-fails", "wrong")
def grey_images():
    x = torch.randn(8, 1, 32, 32)
    return {"model": Small(), "data": {"train": TensorDataset(x, torch.arange(8) % 2)}}


@fires("softmax-before-cross-entropy", "wrong")
def softmax_at_the_end():
    return {"model": nn.Sequential(Small(), nn.Softmax(1)), "data": pets(), "loss": nn.CrossEntropyLoss()}


@fires("softmax-before-cross-entropy", "wrong")
def softmax_and_the_function():
    return {"model": nn.Sequential(Small(), nn.Softmax(1)), "data": pets(), "loss": nn.functional.cross_entropy}


@fires("softmax-before-cross-entropy", "suspicious")
def softmax_and_no_loss_given():
    return {"model": nn.Sequential(Small(), nn.Softmax(1)), "data": pets()}


@fires("softmax-before-cross-entropy", "note")
def log_softmax_and_cross_entropy():
    return {"model": nn.Sequential(Small(), nn.LogSoftmax(1)), "data": pets(), "loss": nn.CrossEntropyLoss()}


@quiet("softmax-before-cross-entropy", "loss-wants-log-probabilities")
def logits():
    return {"model": Small(), "data": pets(), "loss": nn.CrossEntropyLoss()}


@quiet("softmax-before-cross-entropy", "loss-wants-log-probabilities")
def log_softmax_and_nll():
    return {"model": nn.Sequential(Small(), nn.LogSoftmax(1)), "data": pets(), "loss": nn.NLLLoss()}


@fires("loss-wants-log-probabilities", "wrong")
def logits_and_nll():
    return {"model": Small(), "data": pets(), "loss": nn.NLLLoss()}


# --- the optimizer ----------------------------------------------------------------------------------------------------


@fires("not-in-optimizer", "wrong")
def unfrozen_after_the_optimizer():
    model, optimizer, _ = ready()
    return tl.models.unfreeze(model), optimizer


@quiet("not-in-optimizer")
def two_optimizers():
    model = trained_backbone()
    body = [p for name, p in model.named_parameters() if not name.startswith("fc")]
    return {"model": model, "optimizer": [SGD(body, lr=1e-4), AdamW(model.fc.parameters())]}


@fires("foreign-parameters", "wrong")
def optimizer_of_the_old_head():
    model = trained_backbone(Small(10))
    optimizer = AdamW(model.parameters(), lr=1e-4)
    return tl.models.replace_head(model, 2), optimizer


@fires("foreign-parameters", "suspicious")
def another_model_trains_along():
    model, other = Small(), nn.Linear(2, 2)
    return model, SGD([*model.parameters(), *other.parameters()], lr=1e-3)


@quiet("foreign-parameters")
def a_loss_that_learns():
    model, loss = Small(), nn.Bilinear(2, 2, 2)
    return {"model": model, "optimizer": SGD([*model.parameters(), *loss.parameters()], lr=1e-3), "loss": loss}


@fires("in-optimizer-twice", "wrong")
def twice_in_two_groups():
    model = Small()
    optimizer = SGD(model.parameters(), lr=1e-3)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [model.fc.weight]})
    return model, optimizer


@fires("in-optimizer-twice", "suspicious")
def twice_in_two_optimizers():
    model = Small()
    return {"model": model, "optimizer": [SGD(model.parameters(), lr=1e-3), SGD(model.fc.parameters(), lr=1e-3)]}


@fires("frozen-in-optimizer", "note")
def frozen_and_held():
    model = frozen()
    return tl.models.train_mode(model), Adam(model.parameters())


@fires("frozen-with-gradient", "wrong")
def frozen_with_an_old_gradient():
    model = trained_backbone()
    step(model, optimizer := SGD(model.parameters(), lr=1e-3, momentum=0.9))
    model.layer1.requires_grad_(False)
    return model, optimizer


@quiet("frozen-with-gradient")
def frozen_without_one():
    model = trained_backbone()
    step(model, optimizer := SGD(model.parameters(), lr=1e-3, momentum=0.9))
    return tl.models.freeze(model), optimizer


@fires("rate", "wrong")
def no_rate():
    model = Small()
    return model, SGD(model.parameters(), lr=0.0)


@fires("rate", "note")
def one_group_without_a_rate():
    model = Small()
    return model, SGD([{"params": model.layer1.parameters(), "lr": 0.0}, {"params": model.fc.parameters()}], lr=0.1)


@fires("rate", "suspicious")
def far_too_high_for_adam():
    model = trained_backbone()
    return model, Adam(model.parameters(), lr=0.1)


@fires("rate", "wrong")
def rate_that_is_no_number():
    model = Small()
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = float("nan")
    return model, optimizer


@quiet("rate")
def lbfgs_at_its_default():
    model = trained_backbone()
    return model, LBFGS(model.parameters())


@quiet("rate")
def warm_up_from_zero():
    model = Small()
    optimizer = SGD(model.parameters(), lr=0.1)
    return model, optimizer, None, schedules.LambdaLR(optimizer, lambda i: min(1.0, i / 10))


@quiet("rate")
def sgd_from_scratch():
    model = Small()
    return model, SGD(model.parameters(), lr=0.5, momentum=0.9)


@fires("backbone-as-fast-as-head", "suspicious")
def one_high_rate_for_all():
    model = trained_backbone()
    return model, AdamW(model.parameters(), lr=1e-3)


@fires("backbone-as-fast-as-head", "note")
def one_low_rate_for_all():
    model = trained_backbone()
    return model, AdamW(model.parameters(), lr=1e-4)


@quiet("backbone-as-fast-as-head")
def falling_rates():
    model = trained_backbone()
    return model, AdamW(tl.models.param_groups(model, lr=1e-3, layer_decay=0.3))


class Adapter(nn.Module):
    """A small detour that begins as the identity."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(256, 8, 1), nn.Conv2d(8, 256, 1)

    def forward(self, x):
        return x + self.up(self.down(x).relu())


@quiet("backbone-as-fast-as-head")
def adapters_and_biases():
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    model.layer4.add_module("adapter", Adapter())
    trained = [p for name, p in model.named_parameters() if name.endswith("bias") or p.requires_grad]
    return model, AdamW([p.requires_grad_(True) for p in trained], lr=1e-3)


@quiet("backbone-as-fast-as-head")
def from_scratch():
    model = Small()
    return model, AdamW(model.parameters(), lr=1e-3)


@fires("gradient", "suspicious")
def a_part_without_gradient():
    model = trained_backbone()
    with torch.no_grad():
        features = model.layer1(model.bn1(model.conv1(torch.randn(4, 3, 32, 32)))).mean((2, 3))
    model.fc(features).sum().backward()
    return model, SGD(model.parameters(), lr=1e-3)


@fires("gradient", "note")
def unfrozen_after_the_last_pass():
    model = trained_backbone()
    optimizer = Adam(model.parameters(), lr=1e-4)
    step(tl.models.freeze(model), optimizer)
    return tl.models.unfreeze_from(model, "layer1"), optimizer


@fires("gradient", "wrong")
def gradients_that_are_nan():
    model = trained_backbone()
    (model(torch.randn(4, 3, 32, 32)).sum() * torch.nan).backward()
    return model, SGD(model.parameters(), lr=1e-3)


@quiet("gradient", "did-not-move")
def unfrozen_after_the_last_look():
    model, optimizer, _ = ready()
    tl.examine(model, optimizer)
    step(model, optimizer)
    tl.models.extend_optimizer(optimizer, tl.models.unfreeze_from(model, "layer1"), 1e-3, layer_decay=0.3)
    return model, optimizer


@quiet("gradient")
def after_a_backward_pass():
    model = trained_backbone()
    step(model, optimizer := SGD(model.parameters(), lr=1e-3))
    return model, optimizer


@fires("frozen-moved", "suspicious")
def something_moves_what_is_frozen():
    model, optimizer, _ = ready()
    tl.examine(model, optimizer)
    model.layer1[0].weight.data += 0.01
    return model, optimizer


@fires("did-not-move", "suspicious")
def a_head_on_detached_features():
    model = trained_backbone()
    tl.examine(model, optimizer := SGD(model.parameters(), lr=1e-3))
    step(model, SGD(model.fc.parameters(), lr=1e-3))
    return model, optimizer


@fires("decay-on-norms", "note")
def decay_everywhere():
    model = Small()
    return model, AdamW(model.parameters(), weight_decay=0.05)


# --- schedulers -------------------------------------------------------------------------------------------------------


def scheduled(make, *, epochs=None, steps=0):
    """A model with the scheduler that `make(optimizer)` gives, stepped `steps` times; 6 batches an epoch."""
    model = Small()
    optimizer = Adam(model.parameters(), lr=1e-3)
    scheduler = make(optimizer)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    data = DataLoader(tensors(24), 4, shuffle=True)
    return {"model": model, "optimizer": optimizer, "data": data, "scheduler": scheduler, "epochs": epochs}


@fires("several-schedulers", "wrong")
def three_schedulers():
    model = Small()
    optimizer = Adam(model.parameters(), lr=1e-3)
    made = [schedules.CosineAnnealingLR(optimizer, 50), schedules.OneCycleLR(optimizer, 1e-3, total_steps=50)]
    return {"model": model, "optimizer": optimizer, "scheduler": made}


@fires("several-schedulers", "suspicious")
def one_that_was_not_told_of():
    given = scheduled(lambda o: schedules.StepLR(o, 5))
    given["optimizer"].forgotten = schedules.ExponentialLR(given["optimizer"], 0.9)
    return given


@fires("several-schedulers", "wrong")
def trace_of_a_one_cycle():
    model = Small()
    optimizer = Adam(model.parameters(), lr=1e-3)
    schedules.OneCycleLR(optimizer, 1e-3, total_steps=50)
    return {"model": model, "optimizer": optimizer, "scheduler": schedules.CosineAnnealingLR(optimizer, 50)}


@quiet("several-schedulers", "foreign-scheduler", "scheduler-interval", "scheduler-not-stepped")
def warm_up_then_cosine():
    def make(optimizer):
        parts = [schedules.LinearLR(optimizer, 0.1, total_iters=6), schedules.CosineAnnealingLR(optimizer, 54)]
        return schedules.SequentialLR(optimizer, parts, [6])

    return scheduled(make, epochs=10)


@fires("foreign-scheduler", "wrong")
def scheduler_of_another_optimizer():
    model = Small()
    other = schedules.StepLR(SGD(model.parameters(), lr=1.0), 5)
    return {"model": model, "optimizer": SGD(model.parameters(), lr=1.0), "scheduler": other}


def cosine(length):
    return lambda optimizer: schedules.CosineAnnealingLR(optimizer, length)


def one_cycle(length):
    return lambda optimizer: schedules.OneCycleLR(optimizer, 1e-3, total_steps=length)


def with_gradients(given):
    """Make Adam count steps: it does so for parameters that have gradients."""
    for p in given["model"].parameters():
        p.grad = torch.zeros_like(p)
    return given


def stepped(make, epochs, optimizer_steps, scheduler_steps):
    """Let the optimizer and the scheduler make different numbers of steps."""
    given = with_gradients(scheduled(make, epochs=epochs))
    for _ in range(optimizer_steps):
        given["optimizer"].step()
    for _ in range(scheduler_steps):
        given["scheduler"].step()
    return given


fires("scheduler-interval", "wrong")(lambda: scheduled(one_cycle(50), epochs=10))  # 60 steps
fires("scheduler-interval", "suspicious")(lambda: scheduled(one_cycle(30), epochs=10))  # perhaps accumulated over 2
fires("scheduler-interval", "wrong")(lambda: scheduled(one_cycle(600), epochs=10))
fires("scheduler-interval", "suspicious")(lambda: scheduled(one_cycle(90), epochs=10))
fires("scheduler-interval", "note")(lambda: scheduled(one_cycle(10), epochs=10))
fires("scheduler-interval", "wrong")(lambda: stepped(one_cycle(60), 10, 24, 4))
fires("scheduler-interval", "wrong")(lambda: stepped(one_cycle(40), 10, 24, 24))
quiet("scheduler-interval")(lambda: scheduled(one_cycle(60), epochs=10))
quiet("scheduler-interval")(lambda: stepped(one_cycle(60), 10, 60, 60))

fires("scheduler-interval", "wrong")(lambda: scheduled(cosine(10), steps=11))
fires("scheduler-interval", "wrong")(lambda: stepped(cosine(10), 10, 8, 8))
fires("scheduler-interval", "wrong")(lambda: stepped(cosine(60), 10, 24, 4))
fires("scheduler-interval", "note")(lambda: scheduled(cosine(10), epochs=10))
fires("scheduler-interval", "suspicious")(lambda: scheduled(cosine(25), epochs=10))
fires("scheduler-interval", "suspicious")(lambda: scheduled(cosine(600), epochs=10))
quiet("scheduler-interval")(lambda: scheduled(cosine(60), epochs=10))
quiet("scheduler-interval")(lambda: stepped(cosine(60), 10, 60, 60))
quiet("scheduler-interval")(lambda: stepped(cosine(10), 10, 24, 4))

fires("scheduler-interval", "wrong")(lambda: stepped(lambda o: schedules.StepLR(o, 3), 10, 24, 24))
fires("scheduler-interval", "suspicious")(lambda: scheduled(lambda o: schedules.StepLR(o, 3), steps=24))
quiet("scheduler-interval")(lambda: stepped(lambda o: schedules.StepLR(o, 3), 10, 24, 4))


def said(make, interval):
    return lambda optimizer: tl.train.Schedule(make(optimizer), interval)


fires("scheduler-interval", "wrong")(lambda: scheduled(said(cosine(10), "step"), epochs=10))
fires("scheduler-interval", "wrong")(lambda: scheduled(said(cosine(60), "epoch"), epochs=10))
fires("scheduler-interval", "wrong")(lambda: scheduled(said(cosine(6), "epoch"), epochs=10))
fires("scheduler-interval", "suspicious")(lambda: scheduled(said(cosine(25), "step"), epochs=10))
fires("scheduler-interval", "suspicious")(lambda: scheduled(said(cosine(16), "epoch"), epochs=10))
fires("scheduler-interval", "wrong")(lambda: scheduled(said(one_cycle(60), "epoch"), epochs=10))
fires("scheduler-interval", "suspicious")(lambda: scheduled(said(one_cycle(30), "step"), epochs=10))
quiet("scheduler-interval")(lambda: scheduled(said(cosine(10), "epoch"), epochs=10))
quiet("scheduler-interval")(lambda: scheduled(said(cosine(30), "step"), epochs=10))  # accumulated over 2
quiet("scheduler-interval")(lambda: scheduled(said(one_cycle(10), "epoch"), epochs=10))

for made in (10, 40, 100):
    ours = functools.partial(tl.train.schedules.cosine, steps=made)
    fires("scheduler-interval", "suspicious")(functools.partial(scheduled, ours, epochs=10))
for made in (30, 60):
    ours = functools.partial(tl.train.schedules.warmup_cosine, steps=made)
    quiet("scheduler-interval", "several-schedulers")(functools.partial(scheduled, ours, epochs=10))

fires("scheduler-not-stepped", "suspicious")(lambda: stepped(cosine(10), 10, 12, 0))
quiet("scheduler-not-stepped")(lambda: stepped(cosine(10), 10, 12, 2))


def plateau(values, mode="max", *, seen=None):
    model = Small()
    optimizer = SGD(model.parameters(), lr=1e-3)
    scheduler = schedules.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=1)
    for value in values:
        scheduler.step(value)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "history": seen}


fires("plateau-constant", "wrong")(lambda: plateau([0.0] * 6))
fires("plateau-constant", "wrong")(lambda: plateau([float("nan")] * 3))
fires("plateau-constant", "suspicious")(lambda: plateau([0.5] * 6))
fires("plateau-constant", "wrong")(lambda: plateau([0.5] * 6, seen=history()))
quiet("plateau-constant", "plateau-direction")(lambda: plateau([0.5, 0.6, 0.6, 0.6, 0.6, 0.7, 0.6, 0.6, 0.6]))
quiet("plateau-constant", "plateau-direction")(lambda: plateau([0.9, 0.8, 0.7], "min", seen=history()))
quiet("plateau-constant")(lambda: plateau([]))
fires("plateau-direction", "wrong")(lambda: plateau([0.9, 0.8, 0.7], "max", seen=history()))
fires("plateau-direction", "wrong")(lambda: plateau([0.6, 0.65, 0.7], "min", seen=history()))
fires("scheduler-interval", "suspicious")(lambda: plateau([0.5 + i / 100 for i in range(18)], seen=history()))


# --- data -------------------------------------------------------------------------------------------------------------


@fires("unreadable", "wrong")
def a_file_that_is_gone():
    splits = pets()
    sources = [*splits.val.sources[:-1], "no/such/image.jpg"]
    val = ImageSet(sources, splits.val.labels, splits.classes, splits.val.transform)
    return {"model": Small(), "data": {"train": splits.train, "val": val}}


def prepared(transform, model=None):
    """Data whose images come as `transform` makes them, for a model that remembers normalised ones."""
    splits = pets(augment=False)
    parts = {part: getattr(splits, part).with_transform(transform) for part in ("train", "val")}
    return {"model": trained_backbone() if model is None else model, "data": parts}


def steps_of(*last):
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(32), v2.ToImage(), *(step(v2) for step in last)])


def scaled(v2):
    return v2.ToDtype(torch.float32, scale=True)


def half(v2):
    return v2.Normalize([0.5] * 3, [0.5] * 3)


def black_and_white(v2):
    """Make the corners black and white, as some pixel of an image is."""

    def mark(image):
        image[:, 0, 0], image[:, -1, -1] = 0, 1
        return image

    return v2.Lambda(mark)


def imagenet(v2):
    return v2.Normalize(LOOK.mean, LOOK.std)


class Opaque:
    """A transform that does not show what it is made of."""

    def __init__(self, transform):
        self.__call = transform

    def __call__(self, image):
        return self.__call(image)


fires("not-normalised", "wrong")(lambda: prepared(steps_of(scaled)))
fires("not-normalised", "wrong")(lambda: prepared(steps_of(lambda v2: v2.ToDtype(torch.float32))))
fires("not-normalised", "suspicious")(lambda: prepared(steps_of()))
fires("not-normalised", "wrong")(lambda: prepared(steps_of(scaled, imagenet, imagenet)))
fires("not-normalised", "wrong")(lambda: prepared(steps_of(scaled, half)))
fires("not-normalised", "suspicious")(lambda: prepared(Opaque(steps_of(scaled, black_and_white, half))))
fires("not-normalised", "note")(lambda: prepared(steps_of(scaled), Small()))
fires("not-normalised", "wrong")(lambda: prepared(Opaque(steps_of(scaled, imagenet, imagenet))))
quiet("not-normalised")(lambda: prepared(steps_of(scaled, imagenet)))
quiet("not-normalised")(lambda: prepared(Opaque(steps_of(scaled, imagenet))))
quiet("not-normalised")(lambda: {"model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), "data": tensors()})

fires("input-size", "suspicious")(lambda: {"model": trained_backbone(), "data": tensors(size=80)})
fires("input-size", "note")(lambda: {"model": trained_backbone(), "data": tensors(size=40)})


@fires("augmented-evaluation", "wrong")
def one_transform_for_both_parts():
    splits = pets()
    parts = torch.utils.data.random_split(splits.train, [16, 8])
    return {"model": Small(), "data": {"train": DataLoader(parts[0], 4, shuffle=True), "val": DataLoader(parts[1], 4)}}


@fires("augmented-evaluation", "suspicious")
def random_in_name_only():
    splits = pets(augment=False)
    still = splits.val.with_transform(steps_of(lambda v2: v2.RandomHorizontalFlip(0.0), scaled, imagenet))
    return {"model": Small(), "data": {"train": splits.train, "val": still}}


@fires("classes-differ", "wrong")
def other_class_names():
    splits = pets()
    val = ImageSet(splits.val.sources, splits.val.labels, ["dogs", "cats"], splits.val.transform)
    return {"model": Small(), "data": {"train": splits.train, "val": val}}


@fires("labels", "wrong")
def labels_from_one():
    images = torch.randn(8, 3, 32, 32)
    return {"model": Small(), "data": {"train": TensorDataset(images, torch.tensor([-1, 0] * 4))}}


@fires("labels", "suspicious")
def a_class_that_is_not_measured():
    splits = pets()
    cats = (splits.val.labels == 0).nonzero().flatten()
    return {"model": Small(), "data": {"train": splits.train, "val": splits.val.subset(cats)}}


@fires("labels", "wrong")
def a_class_that_is_not_learnt():
    splits = pets()
    cats = (splits.train.labels == 0).nonzero().flatten()
    return {"model": Small(), "data": {"train": splits.train.subset(cats), "val": splits.val}}


@fires("imbalance", "suspicious")
def nearly_all_one_class():
    images = torch.randn(40, 3, 32, 32)
    return {"model": Small(), "data": {"train": TensorDataset(images, (torch.arange(40) < 3).long())}}


@fires("shuffled-evaluation", "note")
def shuffled_validation():
    return {
        "model": Small(),
        "data": (DataLoader(tensors(), 4, shuffle=True), DataLoader(tensors(seed=1), 4, shuffle=True)),
    }


@fires("drop-last", "suspicious")
def validation_that_drops_images():
    return {"model": Small(), "data": (DataLoader(tensors(), 4), DataLoader(tensors(30, seed=1), 4, drop_last=True))}


@fires("unshuffled-training", "wrong")
def sorted_training():
    return {"model": Small(), "data": DataLoader(pets().train, 4)}


@quiet("shuffled-evaluation", "drop-last", "unshuffled-training", "scheduler-interval", "augmented-evaluation")
def our_loaders():
    return {"model": Small(), "data": pets().loaders(4)}


@quiet("unshuffled-training")
def training_in_a_fixed_order_that_is_mixed():
    return {"model": Small(), "data": DataLoader(tensors(), 4)}


@fires("same-item", "wrong")
def overlapping_subsets():
    images = tensors()
    return {"model": Small(), "data": (Subset(images, range(20)), Subset(images, range(18, 32)))}


@quiet("same-item")
def disjoint_subsets():
    images = tensors()
    return {"model": Small(), "data": (Subset(images, range(18)), Subset(images, range(18, 32)))}


@fires("same-image", "wrong")
def the_same_tensors():
    train, val = tensors(), tensors(seed=1)
    val.tensors[0][3] = train.tensors[0][7]
    return {"model": Small(), "data": (train, val)}


@fires("same-image", "wrong")
def a_mirrored_image():
    splits = pets()
    array = np.asarray(splits.train.raw(5).transpose(0))
    sources = [*splits.val.sources[:-1], np.ascontiguousarray(array)]
    val = ImageSet(sources, splits.val.labels, splits.classes, splits.val.transform)
    return {"model": Small(), "data": {"train": splits.train, "val": val}}


@fires("same-image", "suspicious")
def images_that_are_all_alike():
    base = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(1)) / 50
    images, labels = base + noise, torch.arange(60) % 2
    return {
        "model": Small(),
        "data": (TensorDataset(images[:40], labels[:40]), TensorDataset(images[40:], labels[40:])),
    }


# --- results ----------------------------------------------------------------------------------------------------------

fires("loss-not-finite", "wrong")(lambda: {"model": Small(), "history": [0.7, 0.6, float("nan")]})
fires("loss-constant", "wrong")(lambda: {"model": Small(), "history": [0.6931, 0.6931, 0.6931]})
fires("loss-rises", "suspicious")(lambda: {"model": Small(), "history": [0.7, 2.0, 9.0]})
quiet("loss-not-finite", "loss-constant", "loss-rises")(lambda: {"model": Small(), "history": [0.7, 0.5, 0.4]})
quiet("loss-constant", "overfitting")(lambda: {"model": Small(), "history": history()})
quiet("loss-constant")(lambda: {"model": Small(), "history": [1e-5, 1e-5, 1e-5]})
fires("overfitting", "note")(lambda: {"model": Small(), "history": history(train=(0.6, 0.9, 1.0))})

MIXED = [0, 1, 2] * 20
fires("class-never-predicted", "wrong")(lambda: {"model": Small(3), "evaluation": evaluation([0] * 60, MIXED, 3)})
fires("class-never-predicted", "suspicious")(
    lambda: {"model": Small(3), "evaluation": evaluation([0, 1, 1] * 20, MIXED, 3)}
)
fires("no-better-than-majority", "suspicious")(
    lambda: {"model": Small(), "evaluation": evaluation([0] * 58 + [1, 1], [0] * 57 + [1] * 3, 2)}
)
quiet("class-never-predicted", "no-better-than-majority")(
    lambda: {"model": Small(3), "evaluation": evaluation(MIXED, MIXED, 3)}
)


def fails(setup):
    raise RuntimeError("unforeseen")


@fires("check-failed", "note")
def a_check_that_stumbles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination, "CHECKS", (fails,))
        return tl.examine(Small())


# --- the tests --------------------------------------------------------------------------------------------------------

ALL_FIRES = [pytest.param(c, s, m, id=f"{c}-{i}") for c, own in FIRES.items() for i, (s, m) in enumerate(own)]
ALL_QUIET = [pytest.param(c, m, id=f"{c}-{i}") for c, own in QUIET.items() for i, m in enumerate(own)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("check", "severity", "make"), ALL_FIRES)
def test_it_is_found(check, severity, make):
    report = run(make)
    assert [f.severity for f in report.named(check)][:1] == [severity], report
    assert report.ok == all(finding.severity != "wrong" for finding in report.findings) == bool(report)
    if check != "check-failed":
        assert not report.named("check-failed"), report
    for finding in report.findings:
        assert finding.what.endswith((".", ":", "?")), finding
        assert finding.evidence, finding
        assert finding.advice, finding


@pytest.mark.parametrize(("check", "make"), ALL_QUIET)
def test_it_is_not_found(check, make):
    report = run(make)
    assert not report.named(check), report
    assert not report.named("check-failed"), report


def test_every_finding_has_both_tests():
    sources = "".join(
        path.read_text(encoding="utf-8") for path in [*SOURCES.glob("checks/*.py"), SOURCES / "report.py"]
    )
    names = {name.partition("/")[0] for name in MESSAGES if f'"{name}"' in sources}
    assert names == set(FIRES) == set(QUIET)


def everything(model, optimizer):
    """Copy all that examining must not change."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    flags = [(module.training, len(module._forward_pre_hooks)) for module in model.modules()]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    trainable = [p.requires_grad for p in model.parameters()]
    return state, grads, (flags, groups, trainable), (random.getstate(), np.random.get_state()[1].tolist())


def test_nothing_is_changed():
    model = trained_backbone()
    step(model, optimizer := SGD(model.parameters(), lr=1e-3, momentum=0.9))
    model.layer1.eval()
    loaders = pets().loaders(4)
    before, numbers = everything(model, optimizer), torch.get_rng_state()
    orders = loaders.train.generator.get_state()
    tl.examine(model, optimizer, loaders, schedules.StepLR(optimizer, 3), loss=nn.CrossEntropyLoss(), epochs=3)
    after = everything(model, optimizer)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old.keys() == new.keys()
        for name, value in old.items():
            assert new[name] is None if value is None else torch.equal(value, new[name]), name
    assert [before[2][0], before[2][2]] == [after[2][0], after[2][2]]
    assert before[3] == after[3]
    assert torch.equal(numbers, torch.get_rng_state())
    assert torch.equal(orders, loaders.train.generator.get_state())


def test_a_module_that_writes_buffers_is_put_back():
    class Counts(Small):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            torch.rand(3)
            return super().forward(x)

    model, numbers = Counts(), torch.get_rng_state()
    tl.examine(model, data=pets())
    assert model.calls == 0
    assert torch.equal(numbers, torch.get_rng_state())


def test_the_table_has_a_row_for_each_stage():
    model, optimizer, data = ready()
    table = tl.examine(model, optimizer, data).table
    assert [row["stage"] for row in table] == ["stem", "layer1", "head", "all"]
    assert [row["parameters"] for row in table] == [232, 1184, 34, 1450]
    assert [row["trainable"] for row in table] == [0, 0, 34, 34]
    assert [row["learning rate"] for row in table] == ["frozen", "frozen", "0.001", ""]
    assert [row["batch norm"] for row in table] == ["eval", "eval", "none", ""]
    assert [row["moved"] for row in table] == ["first look", "first look", "first look", ""]


def test_it_remembers_the_last_look():
    model, optimizer, _ = ready()
    tl.examine(model, optimizer)
    step(model, optimizer)
    assert [row["moved"] != "no" for row in tl.examine(model, optimizer).table[:3]] == [False, False, True]
    assert {row["moved"] for row in tl.examine(model, optimizer).table[:3]} == {"no"}
    step(model.train(), SGD(model.fc.parameters(), lr=0.0))
    assert [row["moved"] for row in tl.examine(model, optimizer).table[:3]] == ["statistics only"] * 2 + ["no"]
    tl.models.replace_head(model, 5)
    assert tl.examine(model).table[2]["moved"] == "new"


def test_a_change_outside_of_the_sampled_values_is_noticed():
    model = nn.Linear(200, 200)
    snapshots.compare(model)
    model.weight.data[0, 1] += 1
    assert snapshots.compare(model)["weight"].size > 0
    assert snapshots.compare(model)["weight"].size == 0


def test_a_tensor_of_zeros_has_not_changed():
    model = nn.Linear(2, 2)
    model.bias.data.zero_()
    snapshots.compare(model)
    assert snapshots.compare(model)["bias"] == snapshots.Change(0.0, frozen=False)


def test_every_module_of_checks_is_used():
    modules = [f"tlcourse.doctor.checks.{path.stem}" for path in SOURCES.glob("checks/*.py") if path.stem != "__init__"]
    assert {check.__module__ for check in examination.CHECKS} == set(modules)
    assert len(set(examination.CHECKS)) == len(examination.CHECKS)


def test_the_schedulers_inside_a_scheduler_are_found():
    """PyTorch keeps them in a private attribute, which may change its name."""
    optimizer = SGD(Small().parameters(), lr=0.1)
    parts = [schedules.LinearLR(optimizer), schedules.ExponentialLR(optimizer, 0.9)]
    assert schedule_checks._parts(schedules.SequentialLR(optimizer, parts, [3])) == parts
    assert schedule_checks._parts(schedules.ChainedScheduler(parts, optimizer)) == parts
    assert schedule_checks._parts(parts[0]) == []


def test_dropouts_are_known_by_name():
    """Those of PyTorch, torchvision and timm: a rename would go unnoticed otherwise."""
    from timm.layers import DropPath, PatchDropout
    from torchvision.ops import DropBlock2d, StochasticDepth

    own = [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout]
    for layer in (*(kind(0.5) for kind in own), DropPath(0.5), PatchDropout(0.5), StochasticDepth(0.5, "row")):
        (finding,) = tl.examine(nn.Sequential(nn.Linear(2, 2), layer), evaluating=True).named("training-mode")
        assert "1 dropouts drop: 1" in finding.evidence
    assert tl.examine(nn.Sequential(DropBlock2d(0.5, 3)), evaluating=True).named("training-mode")[0].severity == "wrong"
    still = tl.examine(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)), evaluating=True)
    assert [finding.severity for finding in still.named("training-mode")] == ["note"]


def test_models_are_forgotten():
    before = len(snapshots._snapshots)
    tl.examine(Small())
    assert len(snapshots._snapshots) == before


def test_wrappers_are_taken_off():
    model = Small()
    assert unwrap_model(nn.DataParallel(model)) is model
    compiled = nn.Module()  # torch.compile's own takes seconds to import
    compiled._orig_mod = model
    assert unwrap_model(nn.DataParallel(compiled)) is model
    report = tl.examine(nn.DataParallel(model), SGD(model.parameters(), lr=0.1), pets())
    assert report, report


def test_a_model_of_no_known_family():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 2))
    report = tl.examine(model, SGD(model.parameters(), lr=0.1), pets())
    assert [row["stage"] for row in report.table] == ["1", "3", "all"]
    assert report, report


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precision(dtype):
    report = tl.examine(Small().to(dtype), data=pets())
    assert not report.named("forward-fails"), report


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("resnet18",), "give the nn.Module first"),
        ((Small(), "adam"), "optimizer is str"),
        ((Small(), None, "toypets"), "data is str"),
        ((Small(), None, None, 3), "scheduler is int"),
    ],
)
def test_what_cannot_be_examined(given, message):
    with pytest.raises(ValueError, match=message):
        tl.examine(*given)


def test_data_that_can_only_be_read_once_is_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            raise AssertionError("was read")

    with pytest.raises(ValueError, match="can only be read from its start"):
        tl.examine(Small(), data=DataLoader(Stream(), 4))


def test_a_list_of_batches_is_data():
    images, labels = tensors(16).tensors
    batches = [(images[i : i + 4], labels[i : i + 4]) for i in range(0, 16, 4)]
    report = tl.examine(Small(3), data={"train": batches})
    assert report.named("head-size"), report


def test_an_image_that_is_not_finite_is_named_and_no_augmentation():
    report = run(broken_image)
    assert "1 of 8 images looked at, such as item 3" in report.named("not-finite")[0].evidence
    assert not report.named("augmented-evaluation")


def test_data_that_cannot_be_looked_at_is_remarked():
    pairs = [{"image": torch.randn(3, 32, 32), "label": i % 2} for i in range(8)]
    assert "The train part gives no tensors" in "".join(tl.examine(Small(), data=DataLoader(pairs, 4)).remarks)


def test_a_history_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="history is dict"):
        tl.examine(Small(), history={"loss": [1.0]})


def test_a_report_reads_well():
    model, optimizer, data = ready()
    report = tl.examine(tl.models.unfreeze(model), optimizer, data)
    text, page = str(report), report._repr_html_()
    assert text.startswith("Small: 1 wrong, ")
    assert "WRONG       Parameters are unfrozen, and in no group of the optimizer: they never move." in text
    assert "stem (3 tensors, 232 values), layer1 (3 tensors, 1,184 values)" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "<b>✗ wrong:</b>" in page  # the word, not the colour alone
    assert "<table>" in page
    assert "Not given, and not checked: scheduler, history, evaluation." in text


def test_html_is_escaped():
    finding = tl.doctor.Finding("note", "x", "<b>", "<script>", "<i>")
    assert not {"<script>", "<i>"} & set(re.findall(r"<\w+>", finding._repr_html_()))


def test_a_subclass_of_dropout_drops_too():
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(nn.Flatten(), Own(0.5), nn.Linear(12, 2))
    model.stage_plan = {"body": ["0", "1"], "head": ["2"]}
    (finding,) = tl.examine(model.train(), evaluating=True).named("training-mode")
    assert finding.severity == "wrong"


def test_steps_of_an_optimizer_without_state_are_seen_under_a_scheduler():
    """`_opt_called` is torch's own name: this fails where torch drops it."""
    model = tl.models.freeze(tl.models.create("tl_resnet", num_classes=2)).train()
    optimizer = SGD(tl.models.param_groups(model, lr=0.1))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    (before,) = tl.examine(model, optimizer).named("frozen-statistics-move")
    optimizer.step()
    (after,) = tl.examine(model, optimizer).named("frozen-statistics-move")
    assert (before.severity, after.severity) == ("suspicious", "wrong")


def test_an_optimizer_without_a_rate_in_its_groups():
    model = Small()
    optimizer = SGD(model.parameters(), lr=0.1)
    del optimizer.param_groups[0]["lr"]
    assert not tl.examine(model, optimizer).named("check-failed")
    assert not tl.examine(model, optimizer).named("rate")


def test_a_bias_that_began_at_zero_moved_by_no_share_of_itself():
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten())
    nn.init.zeros_(model[0].bias)
    tl.examine(model)
    with torch.no_grad():
        model[0].weight *= 1.1
        model[0].bias += 1
    assert tl.examine(model).table[0]["moved"] == "10.00%"
    with torch.no_grad():
        model[0].bias.zero_()
    tl.examine(model)
    with torch.no_grad():
        model[0].bias += 1
    assert tl.examine(model).table[0]["moved"] == "from 0"


def test_the_same_items_are_shown_in_the_order_of_the_part():
    images = TensorDataset(torch.randn(30, 3, 8, 8), torch.arange(30) % 2)
    data = {"training": Subset(images, [7, 3, 9, 1]), "validation": Subset(images, [1, 3, 20])}
    (finding,) = tl.examine(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), data=data).named("same-item")
    assert "2 of 3, such as item 3 of TensorDataset" in finding.evidence
    assert "in train and in val" in finding.what
