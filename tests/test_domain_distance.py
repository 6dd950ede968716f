"""How far a domain is, and how deep features serve: on networks whose statistics are known."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import tlcourse as tl
from tlcourse.features import depth_profile, domain_gap, extract, stage_features


def noise(n=64, *, mean=0.0, deviation=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(mean + deviation * torch.randn(n, 3, 16, 16, generator=generator), torch.arange(n) % 2)


class OneNorm(nn.Module):
    """A batch norm that remembers standard normal images, and a head."""

    def __init__(self):
        super().__init__()
        self.bn1, self.fc = nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.bn1(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("mean", "deviation", "gap"), [(0, 1, 0.0), (1, 1, 1.0), (-2, 1, 2.0), (0, 3, 2.0), (3, 5, 5.0)]
)
def test_the_gap_is_frechet_distance_in_deviations(mean, deviation, gap):
    (row, last) = domain_gap(OneNorm(), noise(mean=mean, deviation=deviation))
    assert row["stage"] == "stem"
    assert row["gap"] == last["gap"] == pytest.approx(gap, abs=0.03)


def test_the_gap_looks_at_all_images_whatever_the_batch_and_changes_nothing():
    model = OneNorm().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    far = torch.utils.data.ConcatDataset([noise(40), noise(40, mean=4)])
    gaps = [domain_gap(model, far, batch_size=size)[-1]["gap"] for size in (7, 64)]
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-6)
    assert gaps[0] > 1.5
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_real_weights_find_digits_further_than_toy_pets():
    model = tl.models.create("tl_resnet", 2)
    sets = {name: tl.data.load(name, model=model, train=100).plain().train for name in ("toypets", "digits")}
    rows = {name: domain_gap(model, images) for name, images in sets.items()}
    assert rows["toypets"][-1]["gap"] < rows["digits"][-1]["gap"] - 0.05
    assert [row["stage"] for row in rows["digits"]] == ["stem", "layer1", "layer2", "layer3", "layer4", "mean"]


def test_without_statistics_or_images_there_is_no_gap():
    vit = tl.models.create("vit_tiny_patch16_224", 2, weights=None)
    with pytest.raises(ValueError, match="no batch norm"):
        domain_gap(vit, noise())
    with pytest.raises(ValueError, match="1 images have no deviation"):
        domain_gap(OneNorm(), noise(1))


@pytest.mark.parametrize("name", ["tl_resnet", "squeezenet1_1", "timm/efficientnet_b0", "vit_tiny_patch16_224"])
def test_stage_features_are_what_the_stages_hand_on(name):
    torch.manual_seed(0)
    model = tl.models.create(name, 2, weights=None).eval()
    size = 224 if name.startswith("vit") else 64
    data = TensorDataset(torch.randn(5, 3, size, size), torch.tensor([0, 1, 0, 1, 1]))
    found = stage_features(model, data, batch_size=2)
    assert list(found) == [stage.name for stage in tl.models.stages(model)][:-1]
    last = list(found.values())[-1]
    torch.testing.assert_close(last.x, extract(model, data, cache=False).x)
    assert all(len(features.x) == 5 for features in found.values())
    assert torch.equal(last.y, data.tensors[1])
    if name == "tl_resnet":
        with torch.no_grad():
            expected = model.layer1(model.act1(model.bn1(model.conv1(data.tensors[0])))).mean((2, 3))
        torch.testing.assert_close(found["layer1"].x, expected)
        assert [features.x.shape[1] for features in found.values()] == [32, 32, 64, 128, 256]


def test_hooks_are_gone_after_an_error():
    model = OneNorm()
    with pytest.raises(RuntimeError):
        domain_gap(model, TensorDataset(torch.zeros(4, 5, 8, 8), torch.zeros(4)))
    assert not model.bn1._forward_pre_hooks


def test_a_profile_has_a_row_for_each_stage_and_reads_the_test_part():
    model = tl.models.create("tl_resnet", 2)
    rows = depth_profile(model, tl.data.load("toypets", model=model, train=100, val=40, test=200))
    assert [row["stage"] for row in rows] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert rows[-1]["test"] > rows[0]["test"]
    splits = tl.data.load("toypets", model=model, train=100, val=40, test=200)
    probe = tl.features.fit_probe(extract(model, splits.plain().train, cache=False))
    again = probe.evaluate(extract(model, splits.test, cache=False)).accuracy
    assert rows[-1]["test"] == pytest.approx(again, abs=0.01)
