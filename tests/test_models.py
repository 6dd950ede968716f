"""Create models by name, replace heads, read weight files safely."""

import hashlib
import json
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import tlcourse as tl
from tlcourse.assets import OfflineError
from tlcourse.models.tl_resnet import WEIGHTS


def test_resnet50_counts_are_the_reference_numbers():
    model = tl.models.create("resnet50", 2, weights=None)
    assert tl.models.count(model.parameters()) == 23_512_130
    assert tl.models.count(tl.models.head(model).parameters()) == 4_098
    assert {s.name: s.count for s in tl.models.stages(model)} == {
        "stem": 9_536,
        "layer1": 215_808,
        "layer2": 1_219_584,
        "layer3": 7_098_368,
        "layer4": 14_964_736,
        "head": 4_098,
    }


def test_resnet18_with_two_classes():
    assert tl.models.count(tl.models.create("resnet18", 2, weights=None).parameters()) == 11_177_538


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("resnet18", "fc", nn.Linear),
        ("squeezenet1_1", "classifier.1", nn.Conv2d),
        ("efficientnet_b0", "classifier.1", nn.Linear),
        ("vit_b_16", "heads.head", nn.Linear),
        ("timm/resnet18", "fc", nn.Linear),
        ("timm/efficientnet_b0", "classifier", nn.Linear),
        ("vit_tiny_patch16_224", "head", nn.Linear),
        ("tl_resnet", "fc", nn.Linear),
        ("densenet121", "classifier", nn.Linear),
        ("mobilenet_v3_small", "classifier.3", nn.Linear),
        ("swin_t", "head", nn.Linear),
        ("convnext_tiny", "classifier.2", nn.Linear),
        ("vgg11", "classifier.6", nn.Linear),
    ],
)
def test_new_head_is_the_classifier(name, head, kind):
    with torch.device("meta"):
        model = tl.models.create(name, 7, weights=None)
    assert tl.models.head_name(model) == head
    layer = tl.models.head(model)
    assert isinstance(layer, kind)
    assert layer.weight.shape[0] == 7
    x = torch.empty(2, 3, model.preprocessing.size, model.preprocessing.size, device="meta")
    assert model.eval()(x).shape == (2, 7)


def test_squeezenet_gives_negative_logits():
    """torchvision leaves a ReLU behind the classifier, which would cut them off."""
    torch.manual_seed(0)
    model = tl.models.create("squeezenet1_1", 7, weights=None).eval()
    assert model(torch.randn(2, 3, 64, 64)).min() < 0


def test_the_embedded_backbone_is_a_timm_model():
    model = timm.create_model("tl_resnet", pretrained=True, num_classes=3)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    stored = tl.models.read_weights(WEIGHTS)
    assert torch.equal(model.conv1.weight, stored["conv1.weight"].float())
    assert WEIGHTS.stat().st_size <= 6_000_000


def test_the_model_card_is_about_these_weights():
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    report = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    card = WEIGHTS.with_name("README.md").read_text(encoding="utf-8")
    parameters = tl.models.count(tl.models.create("tl_resnet").parameters())
    assert report["weights_sha256"] == digest
    facts = (digest, f"{WEIGHTS.stat().st_size:,} bytes", f"{parameters:,} parameters", f"{report['val_top1']:.3f}")
    assert [fact for fact in facts if fact not in card] == []


def test_the_embedded_backbone_keeps_its_old_head_on_request():
    model = tl.models.create("tl_resnet")
    assert tl.models.head(model).weight.shape == (200, 256)
    assert model.preprocessing.size == 64


def test_features_only_reports_true_reductions():
    model = timm.create_model("tl_resnet", features_only=True)
    sizes = [64 // f.shape[-1] for f in model(torch.zeros(1, 3, 64, 64))]
    assert sizes == model.feature_info.reduction() == [2, 2, 4, 8, 16]


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ValueError, match="resnet50"):
        tl.models.create("resnet5O", 2, weights=None)
    with pytest.raises(ValueError, match="torchvision or timm"):
        tl.models.create("keras/resnet50", 2)


def test_unknown_weight_entries_and_class_counts():
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        tl.models.create("resnet50", 2, weights="IMAGENET21K")
    with pytest.raises(ValueError, match="num_classes is 0"):
        tl.models.create("resnet18", 0, weights=None)


def test_preprocessing_comes_from_the_weights():
    assert tl.models.create("resnet50", 2, weights=None).preprocessing.resize == 232


@pytest.fixture
def small(tmp_path):
    """A file of weights for tl_resnet with five classes."""
    torch.manual_seed(1)
    state = tl.models.create("tl_resnet", 5, weights=None).state_dict()
    return state, tmp_path


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped", "parallel"])
def test_weight_files_of_every_kind_load_into_the_body(small, kind):
    state, folder = small
    file = folder / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, file)
    elif kind == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, file)
    elif kind == "parallel":
        torch.save({f"module.{k}": v for k, v in state.items()}, file)
    else:
        torch.save(state, file)
    model = tl.models.create("tl_resnet", 2, weights=file)
    assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert model.fc.weight.shape == (2, 256)


def test_the_new_head_is_new_even_when_the_file_has_one_of_its_shape(small):
    state, folder = small
    torch.save(state, folder / "w.pth")
    model = tl.models.create("tl_resnet", 5, weights=folder / "w.pth")
    assert not torch.equal(model.fc.weight, state["fc.weight"])


def test_a_file_without_head_is_enough(small):
    state, folder = small
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, folder / "w.pth")
    tl.models.create("tl_resnet", 2, weights=folder / "w.pth")
    with pytest.raises(ValueError, match=r"missing in the file: fc\.weight"):
        tl.models.create("tl_resnet", weights=folder / "w.pth")


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(small):
    state, folder = small
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    del state["conv1.weight"]
    state["extra"] = torch.zeros(1)
    torch.save(state, folder / "w.pth")
    model = tl.models.create("tl_resnet", 2, weights=None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"missing in the file: conv1\.weight.*not in the model: extra.*\(1, 2, 3, 3\)"
    ):
        tl.models.load_weights(model, folder / "w.pth", head=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Bomb:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (pytest.fail, ("code ran while weights were read",))


def test_files_that_are_not_plain_weights_are_refused(tmp_path):
    file = tmp_path / "w.pth"
    with pytest.raises(ValueError, match="no weights file"):
        tl.models.read_weights(file)
    file.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(ValueError, match="refused"):
        tl.models.read_weights(file)
    torch.save(Bomb(), file)
    with pytest.raises(ValueError, match="refused"):
        tl.models.read_weights(file)
    file.write_bytes(b"half a file")
    with pytest.raises(ValueError, match="damaged"):
        tl.models.read_weights(file)
    torch.save({"epoch": 3}, file)
    with pytest.raises(ValueError, match="no state dict"):
        tl.models.read_weights(file)


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(OfflineError, match=r"resnet18-.*\.pth.*TLCOURSE_WEIGHTS"):
        tl.models.create("resnet18", 2)


def test_weights_from_a_folder_given_by_the_user(monkeypatch, tmp_path):
    state = tl.models.create("resnet18", weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18-f37072fd.pth")
    monkeypatch.setenv("TLCOURSE_WEIGHTS", str(tmp_path))
    model = tl.models.create("resnet18", 2)
    assert torch.equal(model.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])


@pytest.mark.parametrize(
    "first",
    [
        "import tlcourse, timm",
        "import timm, tlcourse",
        "import tlcourse.models.tl_resnet, timm",
        "import tlcourse.cli, timm",
    ],
)
def test_timm_knows_the_backbone_in_whatever_order_things_are_imported(first):
    code = f"{first}; assert timm.is_model('tl_resnet'); timm.create_model('tl_resnet')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_takes_little_more_than_torch_and_torchvision():
    """Half a second at most; the quickest of three, since other work on the machine only adds to it."""
    code = "import time, torch, torchvision; t = time.perf_counter(); import tlcourse; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert min(times) <= 0.5
