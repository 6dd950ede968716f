"""Exercise 5: right answers in any spelling are right; each usual mistake is refused, and named.

What is judged by losses gets fabricated ones here: training with three seeds takes seconds. The repairs that learners
are shown are trained in `tests/test_exercises.py`. What is judged by images and weights runs as it is.
"""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import judges
import numpy as np
import pytest
import torch
from timm.data import create_transform
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchvision import transforms as v1
from torchvision.transforms import v2

import tlcourse as tl
from tlcourse.lessons.comparison import Runs
from tlcourse.lessons.exercises import ex5, setups
from tlcourse.table import Table

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def head(lr=0.01, weights="default"):
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=weights))
    return model, AdamW(model.fc.parameters(), lr=lr)


def everything(lr=0.0005, weights="default"):
    model = tl.models.create("tl_resnet", 2, weights=weights)
    return model, AdamW(model.parameters(), lr=lr)


# Causes.
TRUE = ("rate too high", "wrong normalisation", "learned by heart", "shared images", "random backbone")
TRUE = dict(zip("abcdef", (*TRUE, "forgotten layer"), strict=True))


# Losses: each `Fabricated` stands for a function whose training shows these with every seed, or with the last alone.
class Fabricated:
    def __init__(self, train, val=(0.7, 0.6, 0.6), accuracy=0.7, rate=0.01, images=40, last=None, make=None):
        self.seen, self.last = setups.Seen([*train], [*val], accuracy, rate, images), last
        self.make = make or partial(setup, net=partial(head, rate), images=images)

    def __call__(self, splits, seed):  # for what is looked at beside the losses
        return self.make(splits, seed)


@pytest.fixture(autouse=True)
def fabricated(monkeypatch):
    real = setups.trained

    def trained(function, seed):
        if not isinstance(function, Fabricated):
            return real(function, seed)
        return function.last.seen if function.last and seed == setups.SEEDS[-1] else function.seen

    monkeypatch.setattr(setups, "trained", trained)
    before = Fabricated((0.6, 0.05, 0.01), (0.6, 0.8, 1.2), accuracy=0.7, images=30)
    monkeypatch.setattr(ex5, "_before", lambda: [before.seen] * 3)


falls = partial(Fabricated, (0.7, 0.5, 0.3))
fits = partial(Fabricated, (0.7, 0.4, 0.2), (0.7, 0.6, 0.6), images=30)


def setup(
    splits, seed, *, part=slice(None), options=None, model=None, optimizer=None, loaders=None, net=None, images=40
):
    made, own = (net or head)()
    made = (
        model or made,
        loaders or splits.take(train=images, val=40, seed=seed).loaders(8),
        optimizer or own,
        options or {"epochs": 1},
    )
    return made[part]


def of_another_model(splits, seed):
    return setup(splits, seed, optimizer=head()[1])


def in_one_epoch_on_six(splits, seed):
    return setup(splits, seed, loaders=splits.take(train=6, val=6).loaders(3))


def explodes(splits, seed):
    model, _ = head()
    return setup(splits, seed, model=model, optimizer=SGD(model.fc.parameters(), lr=1e38, momentum=0.9))


def on_what_validates(splits, seed, images=40):
    few = splits.plain().take(train=images, val=40, seed=seed)
    return setup(splits, seed, loaders=replace(few, val=few.train).loaders(16))


def on_test(splits, seed):
    few = splits.plain().take(val=40, seed=seed)
    train = splits.test.subset(range(40)).with_transform(few.val.transform)
    return setup(splits, seed, loaders=replace(few, train=train).loaders(16))


def without_splits(splits, seed):
    """It takes the set of the notebook, not the one that it is given."""
    return setup(tl.data.load("toypets", model=tl.models.create("tl_resnet", 2, weights=None)), seed)


def loaders_in_a_dictionary(splits, seed):
    model, loaders, optimizer, _ = setup(splits, seed)
    return model, loaders._asdict(), optimizer, {"epochs": np.int64(1)}


def on_both(splits, seed):
    """There are no more images for training, so those for validation are added."""
    few = splits.plain().take(train=30, val=30, seed=seed)
    both = [np.asarray(part.raw(i)) for part in (few.train, few.val) for i in range(30)]
    labels = torch.cat([few.train.labels, few.val.labels])
    train = tl.data.ImageSet(both, labels, few.classes, few.train.transform)
    return setup(splits, seed, loaders=replace(few, train=train).loaders(16))


def without_the_rest(splits, seed):
    few = splits.plain().take(train=30, val=40, seed=seed)
    train, val = (DataLoader(part, 16, shuffle=True, drop_last=True) for part in (few.train, few.val))
    return setup(splits, seed, loaders=SimpleNamespace(train=train, val=val))


def head_of_two_layers():
    model, _ = head()
    model.fc = nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 2))
    return model, AdamW(model.fc.parameters(), lr=0.003)


def unfrozen_body():
    """Only the head moves, and the batch norms below follow the images."""
    model = tl.models.create("tl_resnet", 2)
    return model, AdamW(model.fc.parameters(), lr=0.01)


def frozen_in_the_optimizer():
    model, _ = head()
    return model, AdamW(model.parameters(), lr=0.01)


def loaded_afterwards():
    model, optimizer = head(weights=None)
    model.load_state_dict(tl.models.create("tl_resnet", 2).state_dict())
    return model, optimizer


# Normalisation: what reaches the network.
def colours(splits, seed, *, val=None, train=None, net=None, **preprocessing):
    few = splits.plain().take(train=40, val=40, seed=seed)
    own = replace(splits.preprocessing, **preprocessing).evaluation()
    parts = {name: getattr(few, name).with_transform(step or own) for name, step in (("train", train), ("val", val))}
    return setup(splits, seed, loaders=replace(few, **parts).loaders(16, seed=seed), net=net)


def both(transform, **options):
    return partial(colours, train=transform, val=transform, **options)


def normalised_inside():
    model, optimizer = head()
    return nn.Sequential(NORMALISE, model), optimizer


def normalised_by_a_hook():
    model, optimizer = head()
    model.register_forward_pre_hook(lambda module, inputs: (v2.functional.normalize(inputs[0], MEAN, STD),))
    return model, optimizer


def by_timm(splits, seed):
    own = splits.preprocessing
    return both(create_transform((3, 64, 64), mean=own.mean, std=own.std, crop_pct=1.0))(splits, seed)


def by_numpy(image):
    pixels = (np.asarray(image.resize((64, 64))) / 255 - MEAN) / STD
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype("float32"))


def by_itself(image):
    return (image - image.mean((1, 2), keepdim=True)) / (image.std((1, 2), keepdim=True) + 1e-6)


def colours_from_splits(splits, seed):
    return setup(splits, seed, loaders=splits.plain().take(train=40, val=40, seed=seed).loaders(16))


def pipeline(*steps, scale=True):
    return v2.Compose([v2.Resize(64), v2.ToImage(), v2.ToDtype(torch.float32, scale=scale), *steps])


OLD = v1.Compose([v1.Resize(64), v1.CenterCrop(64), v1.ToTensor(), v1.Normalize(MEAN, STD)])
NORMALISE = v2.Normalize(MEAN, STD)
GOOD = pipeline(NORMALISE)
TO_255 = v2.Normalize([255 * m for m in MEAN], [255 * s for s in STD])
CIFAR = v2.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
SCALED_LATE = pipeline(NORMALISE, v2.Lambda(lambda x: x / 255), scale=False)
STRONG = pipeline(v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomGrayscale(0.2), NORMALISE)
ERASED = pipeline(NORMALISE, v2.RandomErasing(1.0, scale=(0.6, 0.7)))


def colours_in_tensors(splits, seed, channels_last=False):
    few, loaders = splits.take(train=40, val=40, seed=seed), []
    for part in (few.train, few.val):
        x = np.stack([np.asarray(part.raw(i)) for i in range(len(part))]) / 255
        x = torch.tensor((x - np.array(MEAN)) / np.array(STD), dtype=torch.float32)
        x = x if channels_last else x.permute(0, 3, 1, 2)
        loaders.append(DataLoader(TensorDataset(x, part.labels), 16))
    return setup(splits, seed, loaders=SimpleNamespace(train=loaders[0], val=loaders[1]))


def colours_augmented(splits, seed):
    train = splits.preprocessing.training(scale=(0.5, 1.0), rotation=20, colour=0.1)
    return colours(splits, seed, train=train)


# Originals and their views.
def views_of(images):
    arrays = [np.asarray(images.raw(i)) for i in range(len(images))]
    views = [v for a in arrays for v in (a, a[:, ::-1], a[4:-4, 4:-4])]
    return tl.data.ImageSet(views, images.labels.repeat_interleave(3), images.classes, images.transform)


def views(splits, seed, *, choose, flip=False, net=None):
    many = views_of(splits.plain().take(train=30, seed=seed).train)
    train, val = choose(seed)
    parts = {"train": many.subset(train), "val": many.subset(val)}
    if flip:
        parts["val"] = parts["val"].relabelled(1 - parts["val"].labels)
    return setup(splits, seed, loaders=replace(splits, **parts).loaders(8), net=net)


def by_view(seed):
    order = torch.randperm(90, generator=torch.manual_seed(seed)).tolist()
    return order[20:], order[:20]


def by_original(seed, val=7, train=30):
    order = np.random.default_rng(seed).permutation(30).tolist()
    return [[3 * i + k for i in part for k in range(3)] for part in (order[val:train], order[:val])]


def views_afterwards(splits, seed):
    pool = splits.plain().take(train=30, seed=seed).train
    order = torch.randperm(30, generator=torch.manual_seed(seed))
    loaders = replace(splits, train=views_of(pool.subset(order[8:])), val=pool.subset(order[:8])).loaders(8)
    return setup(splits, seed, loaders=loaders)


def views_one_after_another(splits, seed):
    pool = splits.plain().take(train=30, seed=seed).train
    arrays = [np.asarray(pool.raw(i)) for i in range(30)]
    many = [*arrays, *(a[:, ::-1] for a in arrays), *(a[4:-4, 4:-4] for a in arrays)]
    many = tl.data.ImageSet(many, pool.labels.repeat(3), pool.classes, pool.transform)
    parts = {"train": many.subset(i for i in range(90) if i % 30 >= 7), "val": many.subset(range(7))}
    return setup(splits, seed, loaders=replace(splits, **parts).loaders(8))


def views_on_the_fly(splits, seed):
    pool = splits.plain().take(train=30, seed=seed).train
    step = pipeline(v2.RandomHorizontalFlip(), v2.RandomResizedCrop(64, (0.7, 1)), NORMALISE)
    train = pool.subset(range(7, 30)).with_transform(step)
    return setup(splits, seed, loaders=replace(splits, train=train, val=pool.subset(range(7))).loaders(8))


def on_test_images(splits, seed):
    few = splits.plain().take(train=30, seed=seed)
    return setup(splits, seed, loaders=replace(few, val=splits.plain().test.subset(range(8))).loaders(8))


def with_the_other_set(splits, seed):
    few = splits.plain().take(train=30, val=20, seed=seed)
    return setup(splits, seed, loaders=replace(few, train=views_of(few.train)).loaders(8))


def by_random_split(splits, seed):
    images = splits.plain().take(train=40, seed=seed).train
    train, val = random_split(images, [30, 10], torch.Generator().manual_seed(seed))
    return setup(
        splits, seed, loaders=SimpleNamespace(train=DataLoader(train, 8, shuffle=True), val=DataLoader(val, 8))
    )


def on_noise(splits, seed):
    few = splits.plain().take(train=30, val=20, seed=seed)
    noise = np.random.default_rng(0).integers(0, 255, (20, 1, 1, 3)).astype(np.uint8).repeat(64, 1).repeat(64, 2)
    val = tl.data.ImageSet(list(noise), few.val.labels, few.val.classes, few.val.transform)
    return setup(splits, seed, loaders=replace(few, val=val).loaders(8))


def of_one_class(splits, seed):
    few = splits.plain().take(train=30, val=20, seed=seed)
    val = few.val.subset((few.val.labels == 0).nonzero().flatten())
    return setup(splits, seed, loaders=replace(few, val=val).loaders(8))


# Layers: which move.
def layers(
    splits,
    seed,
    *,
    free=("layer3", "layer4"),
    held=("layer3", "layer4", "fc"),
    rate=0.001,
    options=None,
    weights="default",
):
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=weights))
    for name in free:
        getattr(model, name).requires_grad_(True)
    rates = rate if isinstance(rate, dict) else dict.fromkeys(held, rate)
    optimizer = AdamW([{"params": getattr(model, name).parameters(), "lr": rates[name]} for name in held], lr=0.001)
    loaders = splits.take(train=16, val=8, seed=seed).loaders(8)
    return setup(splits, seed, model=model, optimizer=optimizer, options=options, loaders=loaders)


def layer3_at_rate_zero(splits, seed):
    model, loaders, optimizer, options = layers(splits, seed)
    optimizer.param_groups[0]["lr"] = 0.0
    return model, loaders, optimizer, options


def on_what_validates_too(splits, seed):
    model, loaders, optimizer, options = layers(splits, seed)
    return model, loaders._replace(val=loaders.train), optimizer, options


def with_a_new_layer3(splits, seed):
    made = layers(splits, seed)
    made[0].layer3.load_state_dict(tl.models.create("tl_resnet", 2, weights=None).layer3.state_dict())
    return made


def cut_off(splits, seed):
    """No gradient gets below layer4."""
    made = layers(splits, seed)
    made[0].layer4.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    return made


def group_by_group(splits, seed):
    model, optimizer = head(0.004)
    for name in ("layer4", "layer3"):
        getattr(model, name).requires_grad_(True)
        optimizer.add_param_group({"params": getattr(model, name).parameters(), "lr": 0.001})
    return setup(splits, seed, model=model, optimizer=optimizer)


def by_adagrad(splits, seed):
    model, loaders, _, options = layers(splits, seed)
    return model, loaders, Adagrad(filter(lambda p: p.requires_grad, model.parameters()), lr=0.001), options


def by_dimensions(splits, seed):
    model, loaders, _, options = layers(splits, seed)
    free = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in free if (p.ndim > 1) == many], "weight_decay": 0.01 * many} for many in (0, 1)]
    return model, loaders, AdamW(groups, lr=0.001), options


def all_layers(splits, seed):
    model = tl.models.create("tl_resnet", 2)
    return setup(splits, seed, model=model, optimizer=AdamW(model.parameters()))


def only_weights(splits, seed):
    model, loaders, _, options = layers(splits, seed)
    held = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    return model, loaders, Adam(held), options


def layers_by_package(splits, seed):
    model = tl.models.create("tl_resnet", 2)
    tl.models.unfreeze_from(model, "layer3")
    return setup(splits, seed, model=model, optimizer=AdamW(tl.models.param_groups(model, 0.001, layer_decay=0.5)))


def layers_by_name(splits, seed):
    model = tl.models.create("tl_resnet", 2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split(".")[0] in ("layer3", "layer4", "fc")
    made = setup(splits, seed, model=model, optimizer=SGD([p for p in model.parameters() if p.requires_grad], lr=0.01))
    return list(made)


def all_in_the_optimizer(splits, seed):
    """What is frozen may be held: it does not move."""
    model, loaders, _, options = layers(splits, seed)
    return model, loaders, AdamW(model.parameters()), options


# Runs: accuracies of a broken set-up, and what the repair adds, by what they were measured on.
UP, DOWN, NONE = (0.2, 0.25, 0.15, 0.2, 0.2), (-0.2, -0.25, -0.3, -0.2, -0.25), (0.02, -0.03, 0.0, 0.04, -0.02)
HONEST = {"b own": "better", "d own": "worse", "d fresh": "no difference shown"}


def runs(b=UP, d=DOWN, fresh=NONE, *, other=0, leave=(), same=False, fresh_name="fresh", images=40):
    rows = Table()
    for case, data, gains in (("b", "own", b), ("d", "own", d), ("b", fresh_name, NONE), ("d", fresh_name, fresh)):
        for seed, gain in enumerate(gains):
            for way, more in ((case, 0.0), (f"{case} repaired", gain)):
                moved = seed + (other if "repaired" in way else 0)
                row = {"data": data, "way": way, "images": images, "seed": moved, "accuracy": 0.6 + more}
                rows.append(row | {"loss": 0.6 if same else 0.6 - more / 2, "seconds": 1.0})
    return Runs(Table(row for row in rows if row["way"] not in leave))


RIGHT = {
    "causes": [
        TRUE,
        [*TRUE.values()],
        [*TRUE.items()],
        {f"case_{k}": f" {v.title()}" for k, v in reversed(TRUE.items())},
        {f"Case {k.upper()}": v.replace(" ", "_") for k, v in TRUE.items()},
        {k: v.replace(" ", "-").replace("isation", "ization") for k, v in TRUE.items()},
        {k: [v] for k, v in TRUE.items()},
        TRUE.items(),
    ],
    "case_a": [
        falls(),
        falls(rate=3.0),
        Fabricated((0.9, 0.4, 0.6), accuracy=0.6),
        falls(make=partial(setup, net=frozen_in_the_optimizer)),
        falls(make=loaders_in_a_dictionary),
    ],
    "case_e": [
        falls(),
        Fabricated((0.9, 0.5, 0.5), accuracy=0.62),
        *(falls(make=partial(setup, net=net)) for net in (head_of_two_layers, loaded_afterwards)),
    ],
    "case_c": [
        fits(),
        fits(accuracy=0.66),
        Fabricated((0.7, 0.6), (0.7, 0.65), images=60, make=partial(setup, images=30)),
        fits(accuracy=0.8),
        fits(make=partial(setup, images=30, net=everything)),
        fits(make=without_the_rest),
    ],
    "case_b": [
        colours,
        colours_from_splits,
        colours_in_tensors,
        colours_augmented,
        both(OLD),
        both(GOOD),
        *(both(pipeline(), net=net) for net in (normalised_inside, normalised_by_a_hook)),
        *(partial(colours, train=train) for train in (STRONG, ERASED)),
        by_timm,
        both(by_numpy),
        both(pipeline(TO_255, scale=False)),
    ],
    "case_d": [
        partial(views, choose=by_original),
        views_afterwards,
        with_the_other_set,
        by_random_split,
        views_one_after_another,
        views_on_the_fly,
    ],
    "case_f": [
        layers,
        layers_by_package,
        layers_by_name,
        all_in_the_optimizer,
        partial(layers, rate=1e-5),
        group_by_group,
        by_adagrad,
        by_dimensions,
    ],
    "proof": [
        (runs(), HONEST),
        [runs((*UP, *UP)), {key.upper(): f" {value.title()}" for key, value in HONEST.items()}],
        (runs(), HONEST | {"d fresh": "No difference"}),
        (runs(), [(key.replace(" ", "_"), value) for key, value in HONEST.items()]),
        (runs(NONE, NONE, DOWN), dict.fromkeys(HONEST, "no difference shown") | {"d fresh": "worse"}),
    ],
}
WRONG = {
    "causes": [
        (TRUE | {"a": "rate too low"}, "case a is not explained yet"),
        (TRUE | {"b": "random backbone"}, "case b is not explained yet"),
        (TRUE | {"c": "moving statistics"}, "case c is not explained yet"),
        (TRUE | {"d": "learned by heart"}, "case d is not explained yet"),
        (TRUE | {"e": "wrong normalisation"}, "case e is not explained yet"),
        (TRUE | {"f": "learned by heart"}, "case f is not explained yet"),
        ([*TRUE.values()][::-1], "case a is not explained yet"),
        (TRUE | {"c": "overfitting"}, "not in the list"),
        (TRUE | {"f": ...}, "case f has no cause yet"),
        ({key: value for key, value in TRUE.items() if key != "e"}, "case e has no cause yet"),
        ({cause: case for case, cause in TRUE.items()}, "Turn the dictionary round"),
        ("rate too high", "Give a dictionary"),
        (dict(enumerate(TRUE.values())), "the keys are 0, 1, 2"),
        (TRUE | {"d": "rate too low"}, "falls by very little in each epoch. Case d does not show that"),
    ],
    "case_a": [
        (Fabricated((12.0, 48.0, 7.0)), "48 in epoch 2"),
        (falls(last=Fabricated((0.7, 1.5, 0.3))), "with seed 13"),
        (Fabricated((0.7, 0.69, 0.68), rate=1e-6), "are the steps too short"),
        (falls(last=Fabricated((0.7, 0.7, 0.7))), "with seed 13"),
        (falls(accuracy=0.5), "nothing that helps there"),
        (falls(images=400), "400 training images"),
        (falls(make=partial(setup, images=20)), "20 different training images"),
        (falls(make=partial(setup, images=100)), "100 different training images"),
        (falls(make=partial(setup, net=everything)), "conv1.weight trains, and the docstring wants other parts"),
        (falls(make=partial(setup, net=partial(head, weights=None))), "not that of the pre-trained network"),
        (falls(make=on_what_validates), "images train and validate"),
        (falls(make=on_test), "40 training images are test images"),
        (falls(make=without_splits), "40 validation images are none of those given"),
        (falls(make=partial(setup, net=unfrozen_body)), "bn1.running_mean moved in one epoch"),
        (falls(make=partial(setup, options={"epochs": 1, "frozen_bn": "train"})), "bn1.running_mean moved in one"),
        (Fabricated((9.0, 8.0), make=partial(setup, images=20)), "20 different training images"),
        (in_one_epoch_on_six, "6 training images"),
        (explodes, "training stops"),
        (partial(setup, part=slice(3)), "four things"),
        (partial(setup, options={"epochs": 100}), "take too long"),
        (partial(setup, options={"lr": 0.01}), "number of `epochs`"),
        (partial(setup, model=0.01), "where the network is asked for"),
        (partial(setup, optimizer=0.01), "where the optimizer is asked for"),
        (partial(setup, loaders=[1, 2]), "has no `train`"),
        (of_another_model, "another model"),
        (nn.Linear(2, 2), "Give a function"),
        (lambda splits: None, "TypeError"),
    ],
    "case_e": [
        (
            Fabricated((0.7, 0.69, 0.69), make=partial(setup, net=partial(head, weights=None))),
            "conv1.weight is not that of the pre-trained network",
        ),
        (falls(make=partial(setup, net=partial(everything, weights=None))), "conv1.weight trains"),
        (falls(make=partial(setup, net=everything)), "conv1.weight trains"),
        (falls(make=partial(setup, images=60)), "60 different training images"),
        (Fabricated((0.7, 0.69, 0.69), rate=1e-5), "The highest rate is 1e-05"),
        (falls(last=Fabricated((0.7, 0.7, 0.6))), "with seed 13"),
        (falls(accuracy=0.52), "nothing that helps there"),
        (0.01, "Give a function"),
    ],
    "case_c": [
        (Fabricated((0.6, 0.05, 0.01), (0.6, 0.8, 1.2), images=30), "gap has not shrunk"),
        (fits(last=Fabricated((0.6, 0.0), (0.6, 2.0), images=30)), "with seed 13"),
        (Fabricated((1.5, 1.4), (1.6, 1.5), images=30), "before at 1.20"),
        (Fabricated((0.7, 0.2, 0.1), (0.7, 0.5, 0.9), images=30), "still rises"),
        (fits(accuracy=0.6), "was the repair too strong"),
        (fits(accuracy=0.5), "nothing that helps there"),
        (Fabricated((0.7, 0.4), (0.6, 0.5), images=300), "300 training images"),
        (fits(images=60), "60 different training images"),
        (fits(images=15), "15 different training images"),
        (fits(make=on_both), "30 images train and validate"),
    ],
    "case_b": [
        (partial(colours, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)), "count to 255, and the pixels to 1"),
        (partial(colours, mean=(0, 0, 0), std=(1, 1, 1)), "nothing normalises them"),
        (partial(colours, mean=(0.5,) * 3, std=(0.5,) * 3), "normalised by 0.5"),
        (partial(colours, mean=STD, std=MEAN), "changed places"),
        (partial(colours, train=pipeline(NORMALISE, NORMALISE), val=pipeline(NORMALISE, NORMALISE)), "twice"),
        (
            partial(colours, train=pipeline(NORMALISE, scale=False), val=pipeline(NORMALISE, scale=False)),
            "pixels count",
        ),
        (partial(colours, train=pipeline(scale=False), val=pipeline(scale=False)), "nothing scales"),
        (partial(colours, val=pipeline()), "the validation images reach the network"),
        (partial(colours, train=pipeline()), "the training images reach the network"),
        (partial(colours, mean=(0.9, 0.9, 0.9)), "The weights were trained with"),
        (partial(colours_in_tensors, channels_last=True), "has the shape"),
        (both(pipeline(v2.Lambda(lambda x: x.flip(0)), NORMALISE)), "channels are in the order BGR"),
        (both(pipeline(v2.Normalize(MEAN[::-1], STD[::-1]))), "mean and deviation are in the order BGR"),
        (both(pipeline(v2.Lambda(by_itself))), "by its own mean"),
        (both(pipeline(v2.Normalize((0, 0, 0), STD))), "only the deviation"),
        (both(pipeline(v2.Normalize(MEAN, (1, 1, 1)))), "only the mean"),
        (both(pipeline(v2.Normalize(MEAN, [s * s for s in STD]))), "divided by the variance"),
        (both(pipeline(CIFAR)), "CIFAR-10"),
        (both(pipeline(NORMALISE, v2.Lambda(lambda x: x.clamp(0, 1)))), "clamped after"),
        (both(SCALED_LATE), "scaled after"),
        (both(pipeline(v2.Normalize((0.49, 0.45, 0.41), (0.23, 0.22, 0.22)))), "nearly what the weights want"),
        (both(pipeline(v2.Normalize((0.45,) * 3, (0.225,) * 3))), "-2.00 to 2.44, -2.00 to 2.44, -2.00 to 2.44 in red"),
        (partial(colours, train=pipeline(v2.Normalize((0.45,) * 3, (0.28,) * 3))), "the training images reach"),
        (partial(colours, train=pipeline(v2.Lambda(lambda x: x.flip(0)), NORMALISE)), "the training images reach"),
        (both(GOOD, net=normalised_inside), "normalised twice"),
        (both(pipeline(v2.Normalize((0.1307,) * 3, (0.3081,) * 3))), "mean 0.131, 0.131, 0.131 and deviation 0.308"),
        (partial(colours, std=(58.4, 57.1, 57.4)), "deviation 58.400, 57.100, 57.400 are used"),
        (both(pipeline(NORMALISE, v2.Lambda(lambda x: x.clamp(-1, 1)))), "cut off at -1.00 and 1.00"),
        (both(pipeline(NORMALISE, v2.Lambda(lambda x: x.flip(0)))), "turned to BGR after"),
        (both(pipeline(v2.Grayscale(3), NORMALISE)), "they have no colours"),
        (both(pipeline(v2.RandomInvert(1.0), NORMALISE)), "black and white have changed places"),
        (both(pipeline(v2.Lambda(lambda x: (x - x.mean()) / (x.std() + 1e-6)))), "over all channels"),
        (partial(colours, net=unfrozen_body), "bn1.running_mean moved"),
        (partial(colours, net=everything), "conv1.weight trains"),
        (partial(colours, net=partial(head, weights=None)), "not that of the pre-trained network"),
        (partial(setup, images=10), "10 different training images"),
        (partial(setup, images=100), "100 different training images"),
        (on_what_validates, "40 images train and validate"),
    ],
    "case_d": [
        (partial(views, choose=by_view), "in the training set as well"),
        (partial(views, choose=lambda seed: (range(90), range(20))), "7 are in the training set"),
        (partial(views, choose=lambda seed: (range(0, 90, 3), range(1, 90, 3))), "30 are in the training set"),
        (partial(views, choose=partial(by_original, val=3)), "show 3 originals"),
        (partial(views, choose=partial(by_original, train=15)), "show 8 originals"),
        (partial(views, choose=by_original, flip=True), "another label"),
        (on_test, "40 training images are test images"),
        (partial(setup, images=80), "show 80 originals"),
        (partial(views, choose=by_original, net=unfrozen_body), "bn1.running_mean moved"),
        (on_noise, "20 validation images are none of those given"),
        (on_test_images, "8 validation images are test images"),
        (partial(views, choose=by_original, net=everything), "conv1.weight trains"),
        (partial(views, choose=by_original, net=partial(head, weights=None)), "of the pre-trained network"),
        (of_one_class, "of one class"),
    ],
    "case_f": [
        (partial(layers, free=["layer4"], held=["layer4", "fc"]), "takes no gradients, and is in no group"),
        (partial(layers, free=["layer4"]), "takes no gradients, and is in a group"),
        (partial(layers, held=["layer4", "fc"]), "takes gradients, and is in no group"),
        (partial(layers, held=["layer3", "layer4"]), "fc.weight takes gradients, and is in no group"),
        (partial(layers, free=["layer3"], held=["layer3", "fc"]), "layer4.0.conv1.weight takes no gradients"),
        (layer3_at_rate_zero, "Its rate is 0"),
        (partial(layers, rate={"layer3": 1e-12, "layer4": 0.001, "fc": 0.004}), "Its rate is 1e-12"),
        (cut_off, "does a gradient reach it"),
        (on_what_validates_too, "images train and validate"),
        (with_a_new_layer3, "layer3.0.conv1.weight is not that of the pre-trained network"),
        (partial(layers, weights=None), "conv1.weight is not that of the pre-trained network"),
        (only_weights, "bn1.weight takes gradients, and is in no group"),
        (all_layers, "conv1.weight trains"),
        (partial(layers, free=["layer2", "layer3", "layer4"], held=["layer2", "layer3", "layer4", "fc"]), "layer2."),
        (partial(layers, options={"epochs": 1, "frozen_bn": "train"}), "running_mean"),
        (of_another_model, "another model"),
    ],
    "proof": [
        ((runs(), HONEST | {"d own": "better"}), "leaves out zero"),
        ((runs(), HONEST | {"b own": "no difference shown"}), "leaves out zero"),
        ((runs(), HONEST | {"d fresh": "worse"}), "holds zero"),
        ((runs(NONE), HONEST), "holds zero"),
        ((runs(DOWN), HONEST), "'worse'"),
        ((runs(UP[:3]), HONEST), "3 seeds"),
        ((runs(other=1), HONEST), "cannot be paired"),
        ((runs(leave=["d repaired"]), HONEST), "'d repaired' has 0 seeds"),
        ((runs(fresh_name="new"), HONEST), "no runs on fresh"),
        ((runs(same=True), HONEST), "the same function twice"),
        ((runs(), {"b own": "better"}), "no key 'd own'"),
        ((runs(), {tuple(key.split()): value for key, value in HONEST.items()}), "no key 'b own'. Their keys are ('b'"),
        ((runs() + runs(), HONEST), "runs were added twice"),
        ((runs(images=20), HONEST), "runs with 20 images, and `sizes=[40]`"),
        ((runs() + runs(images=20), HONEST), "runs with 20 images, and `sizes=[40]`"),
        ((runs(), HONEST | {"b own": "yes"}), "Choose among"),
        ((runs(), "better"), "Give a dictionary"),
        ((0.2, HONEST), "Give what"),
        (runs(), "two things"),
    ],
}
test_the_bank_is_large_enough, test_right_answers_are_right, test_wrong_answers_are_refused_and_named = judges.bank(
    "ex5", RIGHT, WRONG, each=(2, 5), in_all=(13, 0)
)


def test_an_unexplained_case_is_not_told_its_cause():
    for case, true in TRUE.items():
        for cause in set(ex5.SIGNS) - {true}:
            message = tl.check("ex5/causes", TRUE | {case: cause}).message
            assert f"case {case} is not explained" in message
            assert repr(true) not in message
