"""Where networks are split, and that training on stored activations is training the network."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import frozen
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tlcourse as tl
from tlcourse.data import ImageSet, Splits
from tlcourse.features import array_store, precompute, split_frozen
from tlcourse.features.activations import Activations, ViewSampler
from tlcourse.features.cut import HeadInput
from tlcourse.preprocessing import Preprocessing

SHAPE = Preprocessing(64, 64, interpolation="nearest")


def files_in(folder):
    """The files of activations; unfinished ones too, but no locks."""
    return sorted(file for file in folder.iterdir() if file.suffix != ".lock")


def model_of(name, stage="head", **options):
    torch.manual_seed(0)
    options.setdefault("weights", "default" if name == "tl_resnet" else None)
    return tl.models.unfreeze_from(tl.models.create(name, 3, **options), stage)


def with_dropout(model):
    model.drop_rate, model.head_drop = 0.5, nn.Dropout(0.5)  # a ResNet reads the first, a transformer has the second
    return model


def noise(n=3, size=64):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def tensors(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


CUTS = {  # where it trains from -> what crosses
    "tl_resnet": {
        **{"layer1": (32, 32, 32), "layer2": (32, 32, 32), "layer3": (64, 16, 16)},
        **{"layer4": (128, 8, 8), "head": (256,)},
    },
    "resnet18": {
        **{"layer1": (64, 16, 16), "layer2": (64, 16, 16), "layer3": (128, 8, 8)},
        **{"layer4": (256, 4, 4), "head": (512,)},
    },
    "resnet50": {"layer4": (1024, 4, 4), "head": (2048,)},
    "squeezenet1_1": {"features.9": (256, 3, 3), "head": (512, 3, 3)},
    "mobilenet_v3_small": {"features.7": (40, 4, 4), "head": (1024,)},
    "efficientnet_b0": {"features.7": (192, 2, 2), "head": (1280,)},
    "densenet121": {"features.denseblock4": (1024, 4, 4), "head": (1024,)},
    "regnet_y_400mf": {"trunk_output.block4": (208, 4, 4), "head": (440,)},
    "timm/test_vit": {"blocks.3": (101, 64), "head": (64,)},
    "timm/test_convnext": {"stages.2": (32, 20, 20), "head": (64,)},
    "timm/test_efficientnet": {"blocks.3": (32, 20, 20), "head": (256,)},
    "timm/test_nfnet": {"head": (192,)},
    "timm/test_maxvit": {"stages.3": (96, 10, 10), "head": (128,)},
}


@pytest.mark.parametrize("name", CUTS)
def test_the_two_parts_are_the_network(name):
    for stage, shape in CUTS[name].items():
        model = model_of(name, stage).eval()
        images = noise(size=160 if "test_" in name else 64)
        frozen_part, trainable_part = split_frozen(model, images)
        with torch.no_grad():
            x = frozen_part(images)
            torch.testing.assert_close(trainable_part(x.clone()), model(images), rtol=1e-4, atol=1e-5)
        assert x.shape == (3, *shape), stage
        own = dict(model.named_parameters())
        assert all(own[name] is p for name, p in trainable_part.named_parameters())
        assert not any(p.requires_grad for p in frozen_part.parameters())
        assert {n for n, p in own.items() if p.requires_grad} <= set(dict(trainable_part.named_parameters()))
        assert tl.models.head(trainable_part) is tl.models.head(model)
        assert next(part.name for part in tl.models.stages(trainable_part)) == stage
        assert len(tl.models.param_groups(trainable_part, lr=1e-3, layer_decay=0.5)) == len(
            tl.models.param_groups(model, lr=1e-3, layer_decay=0.5)
        )


def test_the_cut_goes_back_to_where_one_tensor_crosses():
    """The second convolution of a block trains: its input and the way around it would both cross."""
    model = model_of("resnet18", "head").eval()
    model.layer4[1].conv2.requires_grad_(True)
    frozen_part, trainable_part = split_frozen(model, noise())
    assert frozen_part(noise()).shape == (3, 512, 2, 2)
    assert "layer4.1.conv1.weight" in dict(trainable_part.named_parameters())
    assert "layer4.0.conv1.weight" in dict(frozen_part.named_parameters())
    tl.models.train_mode(trainable_part)
    assert not trainable_part.get_submodule("layer4.1.bn1").training


def test_a_bias_may_train_alone():
    """As in BitFit: the lowest trainable bias decides, and no module of torch is taken apart."""
    model = model_of("resnet18").eval()
    model.layer3[0].bn1.bias.requires_grad_(True)
    frozen_part, trainable_part = split_frozen(model, noise())
    assert frozen_part(noise()).shape == (3, 128, 8, 8)
    assert trainable_part.get_submodule("layer3.0.bn1") is model.layer3[0].bn1


class Own(nn.Module):
    """A model whose way from body to head is given."""

    def __init__(self, between=None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.ReLU())
        self.fc = nn.Linear(8, 3)
        self.between = between or (lambda model, x: x)
        self.body.requires_grad_(False)

    def forward(self, images):
        return self.fc(self.between(self, self.body(images.flatten(1))))


def small(n=3):
    return noise(n, 2)


@pytest.mark.parametrize(
    "model",
    [
        model_of("mobilenet_v3_small"),  # a module
        model_of("squeezenet1_1"),  # inside the head's own container
        with_dropout(model_of("timm/resnet18")),  # a function that asks for the mode
        with_dropout(model_of("timm/test_vit")),
        Own(lambda model, x: F.dropout(x, 0.5, model.training)),
    ],
    ids=["torchvision", "container", "function", "vit", "own"],
)
def test_dropout_above_the_boundary_stays_random(model):
    images = small() if isinstance(model, Own) else noise(size=160 if "vit" in model.architecture else 64)
    frozen_part, trainable_part = split_frozen(model.eval(), images)
    assert not isinstance(frozen_part, HeadInput)
    with torch.no_grad():
        x = frozen_part(images)
        tl.models.train_mode(trainable_part)
        assert not torch.equal(trainable_part(x.clone()), trainable_part(x.clone()))
        trainable_part.eval()
        assert torch.equal(trainable_part(x.clone()), trainable_part(x.clone()))
        torch.testing.assert_close(trainable_part(x.clone()), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_dropout_in_a_frozen_part_does_nothing_and_may_be_kept():
    frozen_part, _ = split_frozen(Own(), small())
    assert frozen_part(small()).shape == (3, 8)
    without = model_of("mobilenet_v3_small")
    without.classifier[2].p = 0.0
    assert split_frozen(without, noise()).trainable_part.code.count("dropout") == 0


def test_norms_without_parameters_belong_to_the_trainable_part():
    """Nothing freezes them: they move their statistics in every step."""
    model = nn.Sequential()
    model.body, model.norm, model.fc = nn.Linear(12, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 2)
    model.body.requires_grad_(False)
    frozen_part, trainable_part = split_frozen(model, torch.randn(3, 12))
    assert not list(frozen_part.buffers())
    assert "norm.running_mean" in dict(trainable_part.named_buffers())


class TwoWays(Own):
    """Body and shortcut are frozen, and what trains takes both."""

    def __init__(self):
        super().__init__()
        self.way = nn.Linear(12, 3).requires_grad_(False)

    def forward(self, images):
        return self.fc(self.body(images.flatten(1))) + self.way(images.flatten(1))


def test_networks_that_cannot_be_split_are_refused_with_advice():
    with pytest.raises(ValueError, match="Nothing in ResNet is frozen"):
        split_frozen(tl.models.unfreeze(model_of("resnet18")), noise())
    with pytest.raises(ValueError, match="Everything in ResNet is frozen"):
        split_frozen(model_of("resnet18").requires_grad_(False), noise())
    with pytest.raises(ValueError, match="not on 1"):
        split_frozen(model_of("resnet18"), noise(1))
    upper = tl.models.unfreeze(model_of("resnet18"))
    upper.fc.requires_grad_(False)
    with pytest.raises(ValueError, match="unfreeze_from"):
        split_frozen(upper, noise())
    with pytest.raises(ValueError, match="2 tensors would cross: body, way"):
        split_frozen(TwoWays(), small())


def test_what_mixes_images_belongs_to_the_trainable_part():
    """It would be stored as it was for one composition of the batch."""
    model = Own(lambda model, x: x - x.mean(0))
    frozen_part, trainable_part = split_frozen(model.eval(), small())
    assert torch.equal(frozen_part(small()), model.body(small().flatten(1)))
    torch.testing.assert_close(trainable_part(frozen_part(small())), model(small()))


class Secret(nn.Module):
    """Draws random numbers, and neither its name nor its code as traced says so."""

    def forward(self, x):
        return x + torch.randn(1) if self.training else x


def test_hidden_randomness_is_noticed():
    model = Own()
    model.body = nn.Sequential(model.body, Secret())  # frozen as a whole: `train_mode` switches it off
    split_frozen(model, small())
    model = Own(lambda model, x: model.secret(x))
    model.secret = Secret()
    frozen_part, _ = split_frozen(model, small())  # cut below it
    assert not any(isinstance(module, Secret) for module in frozen_part.modules())


def decides(model, x):
    return x * 2 if x.sum() > 0 else x


def other_ways(model, x):
    return torch.cat([x, x]).relu()[: len(x)] if model.training else x


@pytest.mark.parametrize("between", [decides, other_ways])
def test_untraceable_models_are_split_at_the_head_only(between):
    model = Own(between).eval()
    frozen_part, trainable_part = split_frozen(model, small())
    assert isinstance(frozen_part, HeadInput)
    torch.testing.assert_close(trainable_part(frozen_part(small())), model(small()))
    assert not model.fc._forward_pre_hooks
    assert list(dict(trainable_part.named_parameters())) == ["fc.weight", "fc.bias"]
    model.body[0].bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"(cannot trace|other ways).*tl\.models\.freeze"):
        split_frozen(model, small())


def test_an_untraceable_block_is_left_whole():
    """The cut comes before the block that decides by values, though only its last layer trains."""
    model = nn.Sequential()
    model.body, model.block, model.fc = nn.Linear(12, 8), Own(decides), nn.Linear(3, 2)
    model.block.body = nn.Linear(8, 8)
    model.requires_grad_(False)
    model.block.fc.requires_grad_(True)
    model.fc.requires_grad_(True)
    frozen_part, trainable_part = split_frozen(model, torch.randn(3, 12))
    assert frozen_part(torch.randn(3, 12)).shape == (3, 8)
    assert trainable_part.get_submodule("block") is model.block


def test_modes_wrappers_and_copies():
    model = model_of("tl_resnet", "layer4")
    model.train()
    before = {name: module.training for name, module in model.named_modules()}
    _, trainable_part = split_frozen(nn.DataParallel(model), noise())
    assert {name: module.training for name, module in model.named_modules()} == before
    twin = copy.deepcopy(trainable_part)
    x = torch.randn(2, 128, 8, 8)
    assert torch.equal(twin.eval()(x), trainable_part.eval()(x))
    assert twin.fc.weight is not trainable_part.fc.weight


def images_of_noise(n, seed, size=40):
    generator = np.random.default_rng(seed)
    arrays = [generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(n)]
    return ImageSet(arrays, [i % 3 for i in range(n)], ["a", "b", "c"])


@pytest.fixture(scope="module")
def splits():
    parts = (images_of_noise(n, seed) for seed, n in enumerate((26, 9, 7)))
    return Splits("noise", *parts, ["a", "b", "c"], SHAPE, augmentation={"scale": (0.2, 1.0)})


def written_out(model, batches, steps=6):
    """Train as the chapter does, on the same batches, with what is frozen in evaluation mode."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for _, (x, labels) in zip(range(steps), batches, strict=False):
        tl.models.train_mode(model)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "stage"), [("tl_resnet", "head"), ("tl_resnet", "layer4"), ("resnet18", "layer4")])
def test_training_the_trainable_part_is_training_the_model(name, stage):
    """On exact activations nothing differs but the order of sums, batch norm's statistics in training included."""
    model, twin = model_of(name, stage), model_of(name, stage)
    before = tensors(model)
    batches = [(torch.randn(8, 3, 64, 64), torch.randint(3, (8,))) for _ in range(4)]
    frozen_part, trainable_part = split_frozen(model, batches[0][0])
    with torch.no_grad(), tl.evaluation.evaluation_mode(frozen_part):
        kept = [(frozen_part(x), labels) for x, labels in batches]
    written_out(trainable_part, kept)
    written_out(twin, batches)
    moved = False
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-4, atol=1e-5)
        frozen = not name.startswith(("fc", *(["layer4"] if stage == "layer4" else [])))
        assert not frozen or torch.equal(value, before[name]), name
        moved |= not torch.equal(value, before[name])
    assert moved


@pytest.mark.parametrize("stage", ["head", "layer4"])
def test_fit_on_activations_is_fit_on_images(stage, tmp_path):
    """float16 rounds by 0.05 %: the way that training takes, three epochs long, differs by less than 1 %."""
    pets = tl.data.load("toypets").take(40, 20, 20)
    results = []
    start = tensors(model_of("tl_resnet", stage))
    for kept in (True, False):
        model = model_of("tl_resnet", stage)
        cached = precompute(model, pets, cache=tmp_path)
        data = cached.loaders(16, seed=5) if kept else pets.plain().loaders(16, workers=0, seed=5)
        trained = cached.trainable_part if kept else model
        optimizer = torch.optim.SGD(tl.models.param_groups(trained, lr=0.01), momentum=0.9)
        history = tl.train.fit(trained, data, optimizer, epochs=3, precision="float32")
        results.append((tensors(model), history))
    (ours, our_history), (theirs, their_history) = results
    for column in ("train_loss", "val_loss"):
        assert our_history.column(column) == pytest.approx(their_history.column(column), rel=1e-3)
    assert our_history.column("val_accuracy") == their_history.column("val_accuracy")
    way = sum((theirs[name].double() - start[name]).square().sum() for name in start) ** 0.5
    apart = sum((theirs[name].double() - ours[name]).square().sum() for name in start) ** 0.5
    assert 0 < apart < 0.01 * way
    assert all(torch.equal(ours[n], start[n]) for n in start if n.startswith(("conv1", "bn1", "layer1", "layer3")))


@pytest.fixture
def seen(monkeypatch):
    """Counts the images that go through the first convolution; a hook would become part of the key."""
    count, forward = [0], nn.Conv2d.forward

    def counting(self, x):
        count[0] += len(x) if self.in_channels == 3 else 0
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counting)
    return count


def test_images_are_computed_once(splits, tmp_path, seen):
    model = model_of("tl_resnet", "layer4").eval()
    first = precompute(model, splits, cache=tmp_path)
    tried = seen[0] - 26 - 9 - 7
    seen[0] = 0
    again = precompute(model, splits, cache=tmp_path)
    assert seen[0] == tried <= 20  # the two images on which the split is tried, and one for the shape
    assert np.array_equal(first.train.rows, again.train.rows)
    assert first.train.rows.dtype == np.float16
    assert first.train.rows.shape == (26, 8, 8, 128)
    assert len(files_in(tmp_path)) == 3
    batch, labels = next(iter(again.loaders(8).val))
    assert batch.dtype == torch.float32
    assert batch.shape == (9, 128, 8, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        images = torch.stack([splits.val[i][0] for i in range(9)])
        torch.testing.assert_close(batch, split_frozen(model, images).frozen_part(images), rtol=1e-3, atol=1e-4)
    assert torch.equal(labels, splits.val.labels)


def test_nothing_stale_is_read(splits, tmp_path):
    def files(model, data=splits, **options):
        precompute(model, data, cache=tmp_path, **options)
        return len(files_in(tmp_path))

    model = model_of("tl_resnet")
    assert files(model) == 3
    with torch.no_grad():
        model.fc.weight.add_(1)
    assert files(model) == 3  # the head is no part of it
    assert files(model, replace(splits, val=images_of_noise(9, 7))) == 4
    assert files(model, replace(splits, preprocessing=Preprocessing(64, 66)).for_model(Preprocessing(64, 66))) == 7
    assert files(model, views=2) == 8
    assert files(model, views=2, seed=1) == 9
    assert files(model, seed=1) == 9  # without augmentation no seed is used
    assert files(model, views=3) == 10
    assert files(model, precision="bfloat16") == 13
    model.bn1.running_mean.add_(0.1)
    assert files(model) == 16
    with torch.no_grad():
        model.conv1.weight.mul_(1.1)
    assert files(model) == 19
    assert files(tl.models.unfreeze_from(model, "layer4")) == 22


class Flat(nn.Module):
    """A body of one's own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images):
        return self.body(images).flatten(1)


def shifted(self, images):
    return self.body(images).flatten(1) + 1


def test_code_of_ones_own_is_part_of_the_key(splits, tmp_path, monkeypatch):
    """A frozen module whose forward pass is rewritten gives something else with the same weights."""
    model = nn.Sequential()
    model.body, model.fc = Flat(), nn.Linear(256, 3)
    model.body.requires_grad_(False)
    before = precompute(model, splits, cache=tmp_path).val.rows
    monkeypatch.setattr(Flat, "forward", shifted)
    assert np.abs(precompute(model, splits, cache=tmp_path).val.rows - before - 1).max() < 0.01
    assert len(files_in(tmp_path)) == 6


def test_a_transforms_settings_are_part_of_the_key(splits, tmp_path):
    """Though its `repr` is the same."""

    class Brighter(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, image):
            return SHAPE.evaluation()(image) + self.by

    def values(by):
        parts = {part: getattr(splits, part).with_transform(Brighter(by)) for part in ("train", "val", "test")}
        return precompute(model_of("tl_resnet"), replace(splits, augmentation=None, **parts), cache=tmp_path).val.rows

    dark, bright = values(0.0), values(1.0)
    assert not np.allclose(dark, bright)
    assert np.array_equal(values(0.0), dark)
    assert len(files_in(tmp_path)) == 6


def cut_short(data):
    return data[: len(data) // 2]


def one_bit(data):
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


@pytest.mark.parametrize("damage", [cut_short, one_bit, lambda data: b"", lambda data: b"\x93NUMPY" * 9])
def test_damaged_files_are_computed_again(splits, tmp_path, damage):
    model = model_of("tl_resnet")
    good = precompute(model, splits, cache=tmp_path)
    whole = {file: file.read_bytes() for file in files_in(tmp_path)}
    for file, data in whole.items():
        file.write_bytes(damage(data))
    again = precompute(model, splits, cache=tmp_path)
    assert np.array_equal(good.train.rows, again.train.rows)
    assert {file: file.read_bytes() for file in files_in(tmp_path)} == whole


def ready(*blocks):
    return lambda: [torch.tensor(block) for block in blocks]


def test_values_too_large_for_float16_stay_float32(tmp_path):
    large = [[[1.0, 2.0], [3.0, 70_000.0]], [[1e-3, -1e30]]]
    for file in (tmp_path / "a.npy", None, tmp_path / "a.npy"):
        kept = array_store.computed_once(file, (3, 2), ready(*large))
        assert kept.dtype == np.float32
        assert np.array_equal(kept, np.concatenate([np.float32(block) for block in large]))
    for bad in (float("inf"), float("nan")):
        with pytest.raises(FloatingPointError, match="Row 2 of 3"):
            array_store.computed_once(tmp_path / "b.npy", (3, 1), ready([[1.0], [2.0]], [[bad]]))
    assert [file.name for file in files_in(tmp_path)] == ["a.npy"]


def test_activations_too_large_for_float16(splits):
    model = model_of("tl_resnet")
    with torch.no_grad():
        model.bn1.weight.mul_(1e6)
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_var.fill_(1.0)
    cached = precompute(model, splits, cache=False)
    assert cached.train.rows.dtype == np.float32
    assert cached.train.rows.max() > 65_504
    model.bn1.running_mean.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="TLResNet gives"):
        precompute(model, splits, cache=False)


def test_too_few_rows_and_too_little_room(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="3 rows to compute, and 2"):
        array_store.computed_once(tmp_path / "a.npy", (3, 1), ready([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="3 rows to compute, and 2"):
        array_store.computed_once(None, (3, 1), ready([[1.0], [2.0]]))
    usage = type("Usage", (), {"free": 5})
    monkeypatch.setattr(array_store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"6 bytes.* 5 free.*fewer views"):
        array_store.computed_once(tmp_path / "a.npy", (3, 1), ready([[1.0], [2.0], [3.0]]))
    assert not files_in(tmp_path)


def test_processes_that_want_the_same_file_compute_it_once(tmp_path):
    """Threads stand for them: each has a lock of its own."""
    computed = []

    def compute():
        computed.append(1)
        time.sleep(0.2)
        yield torch.ones(3, 2)

    with ThreadPoolExecutor(3) as pool:
        kept = list(pool.map(lambda _: array_store.computed_once(tmp_path / "a.npy", (3, 2), compute), range(3)))
    assert all(np.array_equal(rows, np.ones((3, 2))) for rows in kept)
    assert computed == [1]


def test_large_files_stay_on_disk(splits, tmp_path, monkeypatch):
    model = model_of("tl_resnet", "layer4")
    usual = precompute(model, splits, cache=tmp_path)
    monkeypatch.setattr(array_store, "IN_MEMORY", 0)
    mapped = precompute(model, splits, cache=tmp_path)
    assert isinstance(mapped.train.rows, np.memmap)
    assert not isinstance(usual.train.rows, np.memmap)
    for ours, other in zip(mapped.loaders(8).train, usual.loaders(8).train, strict=True):
        assert torch.equal(ours[0], other[0])
        ours[0].add_(1)  # a batch of one's own, though the file is read-only


def test_order_and_batches_are_those_of_the_images(splits):
    """Two epochs, the last batch of two images; and a last one of one image is left out."""
    model = model_of("tl_resnet")
    plain = splits.plain()
    cached = precompute(model, splits, cache=False)
    frozen_part, _ = split_frozen(model, noise())
    ours, theirs = cached.loaders(8, seed=3), plain.loaders(8, workers=0, seed=3)
    for _ in range(2):
        for (x, labels), (images, others) in zip(ours.train, theirs.train, strict=True):
            assert torch.equal(labels, others)
            with torch.no_grad(), tl.evaluation.evaluation_mode(frozen_part):
                torch.testing.assert_close(x, frozen_part(images), rtol=1e-3, atol=1e-4)
    assert [len(y) for _, y in ours.test] == [len(y) for _, y in theirs.test] == [7]
    assert [len(y) for _, y in cached.loaders(5).train] == [5] * 5
    assert [len(y) for _, y in cached.loaders(4).val] == [8, 1]


def numbered(n, views):
    """Activations that say which image and view they are of."""
    rows = np.arange(n * views, dtype=np.float32)[:, None]
    part = Activations(rows, torch.arange(n))
    return tl.features.Precomputed(nn.Linear(1, 2), part, part, part).loaders(16, seed=2).train


def epoch(loader):
    batches = list(loader)
    row, image = torch.cat([x[:, 0] for x, _ in batches]).long(), torch.cat([y for _, y in batches])
    assert torch.equal(row % len(loader.sampler), image)
    return image, row // len(loader.sampler)


def test_each_epoch_draws_a_view_of_each_image():
    loader = numbered(200, 4)
    before = torch.get_rng_state()
    epochs = [epoch(loader) for _ in range(12)]
    assert torch.equal(torch.get_rng_state(), before)
    for images, views in epochs:
        assert sorted(images.tolist()) == list(range(200))
        assert torch.bincount(views, minlength=4).min() > 25  # 50 expected, each within four deviations
    drawn = torch.stack([views[images.argsort()] for images, views in epochs])
    assert all(len(set(column.tolist())) > 1 for column in drawn.T)
    assert len({tuple(row.tolist()) for row in drawn}) == 12
    single = [epoch(each)[0] for each in [numbered(200, 1)] for _ in range(12)]
    assert all(torch.equal(a, b) for (a, _), b in zip(epochs, single, strict=True))


def test_the_generator_decides_an_epoch():
    """A process that starts anew and puts the state back goes on as if it had not stopped."""
    loader = numbered(50, 3)
    epoch(loader)
    state = loader.generator.get_state()
    expected = [epoch(loader) for _ in range(2)]
    other = numbered(50, 3)
    other.generator.set_state(state)
    for ours, theirs in zip([epoch(other) for _ in range(2)], expected, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert isinstance(loader.sampler, ViewSampler)
    assert loader.sampler.generator is loader.generator


def test_views_are_augmented_and_repeat(splits):
    model = model_of("tl_resnet", "layer4")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = precompute(model, splits, views=3, seed=1, cache=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = precompute(model, splits, views=3, seed=1, cache=False)
    assert np.array_equal(first.train.rows, again.train.rows)
    rows = first.train.rows.reshape(3, 26, -1)
    assert all(not np.array_equal(rows[a], rows[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    other = precompute(model, splits, views=3, seed=2, cache=False)
    assert not np.array_equal(first.train.rows, other.train.rows)
    assert first.val.rows.shape[0] == 9
    assert np.array_equal(first.val.rows, other.val.rows)
    x, labels = next(iter(first.loaders(26).train))
    assert x.shape == (26, 128, 8, 8)
    assert sorted(labels.tolist()) == sorted(splits.train.labels.tolist())


def test_views_that_make_no_sense_are_refused(splits):
    model = model_of("tl_resnet")
    with pytest.raises(ValueError, match="views is 0"):
        precompute(model, splits, views=0)
    with pytest.raises(ValueError, match="nothing augments"):
        precompute(model, splits.plain(), views=2)
    own = replace(splits, augmentation=None, train=splits.train)  # keeps the random transform as its own
    with pytest.raises(ValueError, match="transform is random"):
        precompute(model, own)


def test_evaluate_takes_the_trainable_part(splits):
    """`evaluate` on activations gives what it gives on images."""
    model = model_of("tl_resnet", "layer4")
    cached = precompute(model, splits, cache=False)
    ours = tl.evaluation.evaluate(cached.trainable_part, cached.loaders(8).test)
    theirs = tl.evaluation.evaluate(model, splits.loaders(8).test)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-2, atol=1e-2)
    assert torch.equal(ours.labels, theirs.labels)


class KilledError(Exception):
    """Stands for the death of a process."""


class Dying(tl.train.Checkpoints):
    """Checkpoints whose process dies after its seventh step, in the middle of an epoch."""

    def save(self, step, state):
        file = super().save(step, state)
        if step == 7:
            raise KilledError
        return file


def test_training_on_activations_resumes(splits, tmp_path):
    """The order of images, the views and the weight average of `fit` come back with the checkpoint, to the bit."""

    def train(checkpoints):
        model = model_of("tl_resnet", "layer4")
        cached = precompute(model, splits, views=3, cache=tmp_path / "kept")
        optimizer = torch.optim.AdamW(tl.models.param_groups(cached.trainable_part, lr=1e-3))
        options = {"ema_decay": 0.9, "checkpoints": checkpoints}
        tl.train.fit(cached.trainable_part, cached.loaders(8), optimizer, epochs=3, **options)
        return tensors(model)

    whole = train(None)
    with pytest.raises(KilledError):
        train(Dying(tmp_path / "run", every=1))
    resumed = train(tl.train.Checkpoints(tmp_path / "run", every=1))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_activations_of_an_untraceable_model_are_stored_too(splits, tmp_path):
    """Its key leaves the head out as well."""

    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Conv2d(3, 4, 8, 8), nn.Linear(256, 3)
            self.body.requires_grad_(False)

        def forward(self, images):
            return self.fc(decides(self, self.body(images)).flatten(1))

    model = Deciding()
    cached = precompute(model, splits, cache=tmp_path)
    with torch.no_grad():
        model.fc.weight.add_(1)
    assert np.array_equal(precompute(model, splits, cache=tmp_path).train.rows, cached.train.rows)
    assert len(files_in(tmp_path)) == 3
    with torch.no_grad():
        model.body.weight.add_(1)
    precompute(model, splits, cache=tmp_path)
    assert len(files_in(tmp_path)) == 6


@pytest.mark.parametrize("stage", ["head", "layer4"])
def test_the_benchmark_lets_all_do_the_same_work(stage):
    """Whoever is fastest, all arrive at the same answers."""
    pets = tl.data.load("toypets", train=40, val=20, test=2, augment=False)
    contenders = frozen.compare(model_of("tl_resnet", stage), stage, pets, epochs=2)
    plain, *others = contenders
    assert all(len(one.epochs) == 2 and one.total > 0 for one in contenders)
    assert plain.first == 0 < others[-1].first
    for one in others:
        close = pytest.approx(plain.result.loss, rel=0.05 if "bfloat16" in one.name else 1e-3)
        assert one.result.loss == close
    lines = frozen.rows(stage, contenders)
    assert lines[0].split("|")[6:8] == [" 1.0 ", " 1.0 "]
    assert {line.count("|") for line in lines} == {10}


@pytest.mark.real
@pytest.mark.parametrize("stage", ["head", "features.9"])
def test_real_images_with_real_weights(stage, real_data, real_weights, tmp_path):
    """Dogs vs Cats on SqueezeNet: activations give the same accuracy as images, and a useful one."""
    results = []
    for kept in (True, False):
        torch.manual_seed(0)
        (weights,) = real_weights.glob("squeezenet1_1*.safetensors")
        model = tl.models.unfreeze_from(tl.models.create("squeezenet1_1", 2, weights=weights), stage)
        model.classifier[0].p = 0.0  # its masks differ with the layout of the maps in memory
        images = tl.data.load(real_data / "dogs-vs-cats", model=model, train=100, val=60, test=2, augment=False)
        cached = precompute(model, images, cache=tmp_path) if kept else None
        trained, data = (cached.trainable_part, cached.loaders(20)) if kept else (model, images.loaders(20))
        optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
        results.append(tl.train.fit(trained, data, optimizer, epochs=3, precision="float32"))
    ours, theirs = results
    assert ours.column("train_loss") == pytest.approx(theirs.column("train_loss"), rel=0.01)
    assert ours.best.val_accuracy == pytest.approx(theirs.best.val_accuracy, abs=1 / 60)
    assert ours.best.val_accuracy > 0.8
