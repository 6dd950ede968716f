"""Features: the input of the head, computed once for each image, cached, and probed."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import tlcourse as tl
from tlcourse.data import ImageSet
from tlcourse.features import Features, Probe, extract, fit_probe, put_into_head
from tlcourse.features.probe import CS
from tlcourse.preprocessing import Preprocessing


def image_set(n=20, seed=0, transform=None):
    """Images of noise, in two classes."""
    generator = np.random.default_rng(seed)
    arrays = [generator.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(n)]
    transform = transform or Preprocessing(64, 64, interpolation="nearest").evaluation()
    return ImageSet(arrays, [i % 2 for i in range(n)], ["a", "b"], transform)


@pytest.fixture
def reads(monkeypatch):
    """Counts how often an image is read."""
    count, raw = [0], ImageSet.raw
    monkeypatch.setattr(ImageSet, "raw", lambda self, i: count.__setitem__(0, count[0] + 1) or raw(self, i))
    return count


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tl.models.create("tl_resnet", 2)


@pytest.mark.parametrize(
    "name", ["tl_resnet", "squeezenet1_1", "efficientnet_b0", "vit_b_16", "timm/vit_tiny_patch16_224"]
)
def test_the_head_of_the_features_is_the_model(name):
    """Whatever the architecture: head(features(x)) gives the model's own logits."""
    torch.manual_seed(0)
    model = tl.models.create(name, 3, weights=None if name != "tl_resnet" else "default").eval()
    size = model.preprocessing.size
    x = torch.randn(2, 3, size, size)
    features = extract(model, TensorDataset(x, torch.tensor([0, 1])), cache=False)
    head = tl.models.head(model)
    weight = head.weight.flatten(1)
    with torch.no_grad():
        torch.testing.assert_close(features.x @ weight.T + head.bias, model(x), rtol=1e-4, atol=1e-4)


def test_each_image_is_computed_once_and_then_read(model, tmp_path, reads):
    a = extract(model, image_set(), cache=tmp_path)
    assert reads[0] > 20
    reads[0] = 0
    b = extract(model, image_set(), cache=tmp_path)
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert reads[0] < 20  # those that are read twice, to see whether the transform is random
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_stale_is_read(model, tmp_path):
    """Other images, another body, other statistics: each gets its own file. Another head or other labels do not."""
    extract(model, image_set(), cache=tmp_path)
    extract(model, image_set(seed=1), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with torch.no_grad():
        model.fc.weight.add_(1)
    extract(model, image_set(), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    others = torch.ones(20, dtype=torch.long)
    assert torch.equal(extract(model, image_set().relabelled(others), cache=tmp_path).y, others)
    assert len(list(tmp_path.iterdir())) == 2
    before = model.bn1.running_mean.clone()
    model.bn1.running_mean.add_(0.1)
    extract(model, image_set(), cache=tmp_path)
    model.bn1.running_mean.copy_(before)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_cache_file_is_computed_again(model, tmp_path):
    good = extract(model, image_set(), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(extract(model, image_set(), cache=tmp_path).x, good.x)
    assert torch.equal(extract(model, image_set(), cache=tmp_path).x, good.x)


def test_a_cache_that_cannot_be_written_costs_no_features(model, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    features = extract(model, image_set(), cache=tmp_path / "file")
    assert len(features.x) == len(image_set())
    assert "not kept" in capsys.readouterr().out


def test_without_a_key_or_a_cache_nothing_is_stored(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path))
    tl.setup("mini")
    images = torch.utils.data.Subset(image_set(), range(20))
    extract(model, images)
    assert "not kept on disk: Subset does not say which images" in capsys.readouterr().out
    extract(model, images)
    extract(model, image_set(), cache=False)
    assert "kept" not in capsys.readouterr().out  # once is enough
    assert not list(tmp_path.rglob("*.safetensors"))
    extract(model, image_set())
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_random_transforms_are_refused(model):
    with pytest.raises(ValueError, match=r"splits\.plain\(\)"):
        extract(model, image_set(transform=Preprocessing(64, 64).training()))
    with pytest.raises(ValueError, match="empty"):
        extract(model, image_set(0))


def test_extraction_leaves_model_and_modes_alone(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    extract(model, image_set(), cache=False)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not tl.models.head(model)._forward_pre_hooks


def separable(n, classes, seed, d=20, distance=2.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, d))
    x[np.arange(n), y] += distance
    x = x * rng.uniform(0.01, 100, d) + rng.normal(size=d)  # scales that a probe has to standardise
    return Features(torch.tensor(x, dtype=torch.float32), torch.tensor(y))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_probe_separates_and_folds_its_standardisation(classes):
    both = separable(600, classes, 0)
    probe = fit_probe(Features(both.x[:300], both.y[:300]))
    result = probe.evaluate(Features(both.x[300:], both.y[300:]))
    assert result.accuracy > 0.75
    assert "5-fold" in probe.C_chosen_by


def test_a_probe_says_nothing_where_there_is_nothing():
    both = separable(800, 2, 0, distance=0.0)
    probe = fit_probe(Features(both.x[:400], both.y[:400]))
    assert probe.C <= 1e-3  # the strongest penalties
    assert 0.4 < probe.evaluate(Features(both.x[400:], both.y[400:])).accuracy < 0.6


def test_probes_of_tiny_and_impossible_sets():
    probe = fit_probe(separable(2, 2, 0))
    assert "fixed" in probe.C_chosen_by
    with pytest.raises(ValueError, match="every class"):
        fit_probe(Features(torch.randn(4, 3), torch.zeros(4, dtype=torch.long)))
    with pytest.raises(ValueError, match="every class"):
        fit_probe(Features(torch.randn(4, 3), torch.tensor([0, 2, 0, 2])))


@pytest.mark.parametrize("name", ["tl_resnet", "squeezenet1_1"])
def test_a_probe_in_the_head_answers_from_images(name):
    torch.manual_seed(0)
    model = tl.models.create(name, 2, weights=None)
    data = TensorDataset(torch.randn(20, 3, 64, 64), torch.arange(20) % 2)
    features = extract(model, data, cache=False)
    probe = fit_probe(features)
    put_into_head(model, probe)
    with torch.no_grad():
        logits = model.eval()(data.tensors[0])
    torch.testing.assert_close(logits, probe.evaluate(features).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_probe_does_not_fit_a_weight_that_is_computed(change):
    model = tl.models.create("tl_resnet", 2, weights=None)
    change(model.fc)
    with pytest.raises(ValueError, match="fc has no bias, or weight norm"):
        put_into_head(model, Probe(nn.Linear(256, 2), 1.0, ""))
    with pytest.raises(ValueError, match=r"not fc .or weight norm"):
        tl.recipes.linear_probe(model, None)


def test_a_confident_mistake_in_a_fold_is_a_finite_loss():
    """Far outliers with the wrong label: their probability rounds to 0 in the folds that have not seen them."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    x = torch.randn(60, 2000, generator=generator) * 0.01 + y[:, None] * 2 - 1
    x[0], x[1] = 4000 * x[1], 4000 * x[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = fit_probe(Features(x, y))
    assert probe.C in CS
