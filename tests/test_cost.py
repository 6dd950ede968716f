"""What a network costs is counted as published, measured in turns, and leaves the network as it was."""

import copy
import time

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

import tlcourse as tl


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16", "swin_t"])
def test_multiply_adds_are_those_that_torchvision_publishes(name, device):
    if (name, device) == ("vit_b_16", "cpu"):  # the same code in a smaller network
        model = timm.create_model("vit_tiny_patch16_224", weight_init="skip")
        with torch.device("meta"):
            wanted = tl.cost.multiply_adds(timm.create_model("vit_tiny_patch16_224", weight_init="skip"), 224)
        assert wanted > 1e9
        assert tl.cost.multiply_adds(model, 224) == wanted
        return
    with torch.device(device):
        model = torchvision.models.get_model(name, weights=None)
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    assert tl.cost.multiply_adds(model, 224) / 1e9 == pytest.approx(published, abs=0.0006)
    assert model.training


def test_attention_is_counted_in_one_piece_or_in_parts():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), _Transposed(), layer)
    tokens, width = 16, 8
    wanted = 3 * 4 * 4 * width * tokens + tokens * width * (4 * width + 2 * 16) + 2 * tokens * tokens * width
    assert tl.cost.multiply_adds(model, 16) == wanted
    assert torch.backends.mha.get_fastpath_enabled()


class _Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class _Sleeper(nn.Module):
    def __init__(self, log, name, durations):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.log, self.name, self.durations = log, name, durations

    def forward(self, images):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.log.append((self.name, len(images)))
        time.sleep(self.durations.pop(0))
        return images


def test_models_take_turns_and_the_first_call_does_not_count():
    log = []
    models = {name: _Sleeper(log, name, [0.2, 0.01, 0.01]) for name in "ab"}
    measured = tl.cost.seconds(models, 8, batch_size=3, repeats=2)
    assert log == [("a", 3), ("b", 3)] * 3
    assert {name: len(times) for name, times in measured.items()} == {"a": 2, "b": 2}
    assert all(0.01 <= t < 0.1 for times in measured.values() for t in times)
    assert models["a"].training  # as it was


def test_a_row_for_each_model():
    with torch.random.fork_rng():
        models = {"small": nn.Conv2d(3, 4, 3, padding=1), "large": nn.Conv2d(3, 64, 3, padding=1)}
    table = tl.cost.measure(models, 16, batch_size=2, repeats=3)
    assert [row["model"] for row in table] == ["small", "large"]
    assert [row["image size"] for row in table] == [16, 16]
    assert table[0]["parameters (M)"] == (27 * 4 + 4) / 1e6
    assert table[1]["multiply-adds (G)"] == 27 * 64 * 256 / 1e9
    assert all(0 < row["least (ms)"] <= row["latency (ms)"] and row["spread (ms)"] >= 0 for row in table)
    assert all(row["images/s, batch 2"] > 0 for row in table)


def test_each_model_may_have_its_own_size():
    models = {"small": nn.Conv2d(3, 4, 3, padding=1), "large": nn.Conv2d(3, 4, 3, padding=1)}
    table = tl.cost.measure(models, {"small": 8, "large": 16}, batch_size=2, repeats=2)
    assert [row["image size"] for row in table] == [8, 16]
    assert table[1]["multiply-adds (G)"] == pytest.approx(4 * table[0]["multiply-adds (G)"])


def test_training_memory_in_closed_form():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 100), nn.ReLU(), nn.Linear(100, 5))
    parameters = 4 * (13 * 100 + 101 * 5)
    found = tl.cost.training_memory(model, 2, batch_size=10)
    # Kept: the input of the first layer, and the ReLU's output, which is the second layer's input.
    assert found == {
        "weights": parameters,
        "gradients": parameters,
        "optimizer": 2 * parameters,
        "activations": 4 * 10 * (12 + 100),
    }
    model[1].requires_grad_(False)
    found = tl.cost.training_memory(model, 2, batch_size=10)
    assert found["gradients"] == 4 * 101 * 5
    assert found["activations"] == 4 * 10 * 100


def test_what_is_kept_once_does_not_grow_with_the_batch():
    """A weight that is made in the forward pass, as by an adapter, is kept once, whatever the batch."""
    layer = nn.Linear(12, 100, bias=False)
    parametrize.register_parametrization(layer, "weight", _Doubled())
    model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(100, 5))
    found = [tl.cost.training_memory(model, 2, batch_size=size)["activations"] for size in (2, 10, 11)]
    assert found[2] - found[1] == 4 * (12 + 100)
    assert found[1] - found[0] == 8 * 4 * (12 + 100)


class _Doubled(nn.Module):
    def forward(self, weight):
        return weight * weight


def test_measuring_memory_leaves_the_model_as_it_was():
    model = tl.models.create("tl_resnet", 2, weights=None).eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    tl.cost.training_memory(model, 64)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_published_accuracies_belong_to_weights_that_timm_knows():
    rows = {row["model"]: row for row in tl.cost.published()}
    assert set(rows) <= set(timm.list_pretrained())
    assert rows["resnet50.tv_in1k"]["top-1"] == pytest.approx(76.13)  # as torchvision publishes them
    assert all(50 < row["top-1"] < 90 for row in rows.values())
    for name, row in rows.items():
        config = timm.get_pretrained_cfg(name)
        assert row["image size"] in (config.input_size[-1], (config.test_input_size or config.input_size)[-1])


def test_the_front_holds_what_nothing_beats():
    points = {"a": (1.0, 5.0), "b": (2.0, 5.0), "c": (2.0, 7.0), "d": (3.0, 6.0), "e": (4.0, 9.0), "f": (4.0, 8.0)}
    assert tl.cost.front(points) == ["a", "c", "e"]
    assert tl.cost.front({}) == []
    assert tl.cost.front({"a": (1, 1), "twin": (1, 1)}) == ["a"]
