"""What the course promises of its backbone, measured: on toy pets always, on real photos where there are some."""

import time

import pytest
import torch

import tlcourse as tl
from tlcourse import cli
from tlcourse.evaluate import mean_and_error
from tlcourse.features import Features, extract_splits, linear_probe
from tlcourse.predict import load_checkpoint


def test_on_toy_pets_frozen_is_far_ahead_of_scratch():
    """100 training pictures, 5 seeds: at least 15 points."""
    now = tl.setup("mini")
    precision = "bfloat16" if now.bf16 else "float32"
    backbone = tl.models.create("tl_resnet", 2)
    pets = tl.data.load("toypets", model=backbone).plain()
    features = extract_splits(backbone, pets)
    images = {part: torch.stack([image for image, _ in getattr(pets, part)]) for part in ("train", "test")}
    labels = {part: getattr(pets, part).labels for part in ("train", "test")}
    frozen, scratch = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        rows = torch.cat([(labels["train"] == c).nonzero().flatten()[torch.randperm(500)[:50]] for c in (0, 1)])
        probe = linear_probe(Features(features.train.x[rows], features.train.y[rows]))
        frozen.append(probe.evaluate(features.test).accuracy)
        model = tl.models.create("tl_resnet", 2, weights=None)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
        batches = [rows[torch.randperm(100)[:32]] for _ in range(50)]
        train = [(images["train"][b], labels["train"][b]) for b in batches]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(train))
        loaders = tl.data.Loaders(train, train[:1], None)
        tl.train.fit(model, loaders, optimizer, epochs=1, scheduler=schedule, precision=precision)
        test = list(zip(images["test"].split(200), labels["test"].split(200), strict=True))
        scratch.append(tl.train.evaluate(model, test, precision=precision).accuracy)
    (a, a_error), (b, b_error) = mean_and_error(frozen), mean_and_error(scratch)
    print(f"frozen {a:.3f} ± {a_error:.3f}, scratch {b:.3f} ± {b_error:.3f}")
    assert a - b >= 0.15


def probe_accuracy(folder, **options):
    model = tl.models.create("tl_resnet", 2, **options)
    features = extract_splits(model, tl.data.from_folder(folder, model=model))
    return linear_probe(features.train).evaluate(features.test).accuracy


@pytest.mark.real
def test_the_embedded_backbone_on_real_photos(real_data):
    """1,600 training and 1,000 test photos of cats and dogs at 64 pixels; random weights beside it."""
    torch.manual_seed(0)
    photos = real_data / "dogs-vs-cats"
    trained, untrained = probe_accuracy(photos), probe_accuracy(photos, weights=None)
    print(f"tl_resnet {trained:.3f}, random weights {untrained:.3f}")
    assert trained >= 0.76
    assert untrained < 0.65


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "images", "bar", "most"), [("dogs-vs-cats", 1000, 0.94, 180), ("hymenoptera_data", 153, 0.89, 180)]
)
def test_squeezenet_from_a_file_of_weights(name, images, bar, most, real_data, real_weights, tmp_path, capsys):
    out, start = tmp_path / "m.safetensors", time.perf_counter()
    weights = real_weights / "squeezenet1_1_imagenet_features.safetensors"
    arguments = ["train", "--data", str(real_data / name), "--model", "squeezenet1_1", "--weights", str(weights)]
    assert cli.main([*arguments, "--strategy", "linear-probe", "--out", str(out)]) == 0
    seconds = time.perf_counter() - start
    test = load_checkpoint(out)[1]["test"]
    print(f"{name}: {test['accuracy']:.3f} in {seconds:.0f} s")
    assert test["images"] == images
    assert test["accuracy"] >= bar
    assert seconds <= most
