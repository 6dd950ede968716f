"""What the course promises of its backbone, measured: on toy pets always, on real images where there are some."""

import time

import pytest
import torch

import tlcourse as tl
from tlcourse import cli
from tlcourse.evaluation import mean_and_error
from tlcourse.features import Features, extract_splits, fit_probe
from tlcourse.predict import load_checkpoint


@pytest.fixture(scope="module")
def pets():
    """The backbone, the toy pets as tensors for it, and their features."""
    backbone = tl.models.create("tl_resnet", 2)
    splits = tl.data.load("toypets", model=backbone).plain()
    images = {part: torch.stack([image for image, _ in getattr(splits, part)]) for part in ("train", "test")}
    labels = {part: getattr(splits, part).labels for part in ("train", "test")}
    return images, labels, extract_splits(backbone, splits)


def trained_accuracy(pets, n, steps, seed, *, lr=4e-3, weights=None, layer_decay=1.0):
    """Train everything on n images, mirrored at random; return test accuracy and the rows used."""
    images, labels, _ = pets
    precision = "bfloat16" if tl.get_runtime().bf16 else "float32"
    torch.manual_seed(seed)
    rows = torch.cat([(labels["train"] == c).nonzero().flatten()[torch.randperm(500)[: n // 2]] for c in (0, 1)])
    order = torch.cat([rows[torch.randperm(n)] for _ in range(steps * 32 // n + 1)]).split(32)[:steps]
    train = [
        (images["train"][b].flip(3) if i % 2 else images["train"][b], labels["train"][b]) for i, b in enumerate(order)
    ]
    model = tl.models.create("tl_resnet", 2, weights=weights).to(memory_format=torch.channels_last)
    groups = tl.models.param_groups(model, lr, layer_decay=layer_decay)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=len(train))
    loaders = tl.data.Loaders(train, train[:1], None)
    tl.train.fit(model, loaders, optimizer, epochs=1, scheduler=schedule, precision=precision)
    test = list(zip(images["test"].split(200), labels["test"].split(200), strict=True))
    return tl.train.evaluate(model, test, precision=precision).accuracy, rows


@pytest.mark.slow  # lessons 3.2 and 3.3 claim as much from their runs
def test_on_toy_pets_scratch_frozen_and_fine_tuned_are_told_apart(pets):
    """200 training images, 5 seeds: each step is larger than twice its standard error, the same images compared."""
    features, accuracy = pets[2], {"scratch": [], "frozen": [], "fine-tuned": []}
    for seed in range(5):
        scratch, rows = trained_accuracy(pets, 200, 60, seed)
        tuned, same = trained_accuracy(pets, 200, 60, seed, lr=3e-3, weights="default", layer_decay=0.8)
        assert torch.equal(rows, same)
        probe = fit_probe(Features(features.train.x[rows], features.train.y[rows]))
        for name, value in zip(accuracy, (scratch, probe.evaluate(features.test).accuracy, tuned), strict=True):
            accuracy[name].append(value)
    print("toy pets:", *("{} {:.3f} ± {:.3f}".format(name, *mean_and_error(a)) for name, a in accuracy.items()))
    for worse, better in (("scratch", "frozen"), ("frozen", "fine-tuned")):
        step, error = mean_and_error([b - a for a, b in zip(accuracy[worse], accuracy[better], strict=True)])
        assert step > 2 * error, (worse, better)


def test_on_toy_pets_frozen_is_far_ahead_of_scratch(pets):
    """100 training images, 5 seeds: at least 15 points."""
    features = pets[2]
    frozen, scratch = [], []
    for seed in range(5):
        accuracy, rows = trained_accuracy(pets, 100, 50, seed, lr=2e-3)
        probe = fit_probe(Features(features.train.x[rows], features.train.y[rows]))
        frozen.append(probe.evaluate(features.test).accuracy)
        scratch.append(accuracy)
    (a, a_error), (b, b_error) = mean_and_error(frozen), mean_and_error(scratch)
    print(f"frozen {a:.3f} ± {a_error:.3f}, scratch {b:.3f} ± {b_error:.3f}")
    assert a - b >= 0.15


@pytest.mark.slow
def test_scratch_learns_from_many_images_and_passes_and_not_from_few(pets):
    """What lesson 3.2 says without measuring it, since it takes two minutes."""
    many, few = trained_accuracy(pets, 800, 750, 0)[0], trained_accuracy(pets, 20, 375, 0)[0]
    print(f"800 images, 24,000 passes: {many:.3f}; 20 images, 12,000 passes: {few:.3f}")
    assert many > 0.65
    assert few < 0.6


def probe_accuracy(folder, **options):
    model = tl.models.create("tl_resnet", 2, **options)
    features = extract_splits(model, tl.data.from_folder(folder, model=model))
    return fit_probe(features.train).evaluate(features.test).accuracy


@pytest.mark.real
@pytest.mark.parametrize(("name", "bar"), [("dogs-vs-cats", 0.83), ("hymenoptera_data", 0.82)])
def test_the_embedded_backbone_on_real_images(name, bar, real_data):
    """At 64 pixels, random weights beside it; 1,000 and 153 test images."""
    torch.manual_seed(0)
    trained, untrained = probe_accuracy(real_data / name), probe_accuracy(real_data / name, weights=None)
    print(f"{name}: tl_resnet {trained:.3f}, random weights {untrained:.3f}")
    assert trained >= bar
    assert trained - untrained >= 0.1


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "images", "bar", "most"), [("dogs-vs-cats", 1000, 0.94, 180), ("hymenoptera_data", 153, 0.89, 180)]
)
def test_squeezenet_from_a_file_of_weights(name, images, bar, most, real_data, real_weights, tmp_path, capsys):
    out, start = tmp_path / "m.safetensors", time.perf_counter()
    weights = real_weights / "squeezenet1_1_imagenet_features.safetensors"
    arguments = ["train", "--data", str(real_data / name), "--model", "squeezenet1_1", "--weights", str(weights)]
    assert cli.main([*arguments, "--recipe", "linear-probe", "--out", str(out)]) == 0
    seconds = time.perf_counter() - start
    test = load_checkpoint(out)[1]["test"]
    print(f"{name}: {test['accuracy']:.3f} in {seconds:.0f} s")
    assert test["images"] == images
    assert test["accuracy"] >= bar
    assert seconds <= most
