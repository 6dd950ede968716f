"""Create models by name, replace heads, read weight files safely."""

import argparse
import hashlib
import json
import pickle
import re
import subprocess
import sys
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import tlcourse as tl
from tlcourse.features import Probe, put_into_head
from tlcourse.models import factory, weights
from tlcourse.models.tl_resnet import WEIGHTS
from tlcourse.runtime import OfflineError


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


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_new_head_updates_the_models_number_of_classes(wrapped):
    """timm's models store it, and so do torchvision's Vision Transformers and SqueezeNets."""
    for name in ("tl_resnet", "squeezenet1_1"):
        model = meta_model(name)
        assert model.num_classes == 2
        tl.models.replace_head(nn.DataParallel(model) if wrapped else model, 5)
        assert model.num_classes == len(tl.models.head(model).weight) == 5


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
    with pytest.raises(ValueError, match="Did you mean convnext_"):
        tl.models.create("torchvision/convnext_atto", 2)
    with pytest.raises(ValueError, match=r"no weights 'a1_in2k'; there is .*resnet18\.a1_in1k"):
        tl.models.create("resnet18.a1_in2k", 2, weights=None)
    with pytest.raises(ValueError, match=r"no model 'qqqqqqqq'\.$"):
        tl.models.create("qqqqqqqq", 2)


def test_unknown_weight_entries_and_class_counts():
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        tl.models.create("resnet50", 2, weights="IMAGENET21K")
    with pytest.raises(ValueError, match="num_classes is 0"):
        tl.models.create("resnet18", 0, weights=None)


def meta_model(name):
    with torch.device("meta"):
        return tl.models.create(name, 2, weights=None)


def test_preprocessing_comes_from_the_weights():
    assert meta_model("resnet50").preprocessing.resize == 232
    assert meta_model("timm/resnet50.a1_in1k").preprocessing.interpolation == "bicubic"
    assert meta_model("inception_v3").preprocessing.size == 299
    assert meta_model("dm_nfnet_f0").preprocessing.squash


@pytest.mark.parametrize(
    ("name", "size", "resize"),
    [
        ("vit_h_14", 518, 518),  # its default weights are of another size than the network's own default
        ("volo_d5_512", 512, 512),  # trained on images smaller than the cut: there is nothing to resize to
        ("vit_base_patch16_sapiens2", 768, 768),  # trained on upright images
        ("deepseek_vit_412m_align", 546, 546),  # trained on images with a border
    ],
)
def test_odd_sizes_get_a_square_that_fits(name, size, resize):
    model = meta_model(name).eval()
    assert (model.preprocessing.size, model.preprocessing.resize) == (size, resize)
    assert model(torch.empty(1, 3, size, size, device="meta")).shape == (1, 2)


def test_a_registered_model_without_a_configuration_gets_imagenets(monkeypatch):
    plain = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: plain)
    assert tl.models.create("timm/resnet18", 2, weights=None).preprocessing == tl.preprocessing.Preprocessing(224, 256)
    del plain.preprocessing
    plain.pretrained_cfg = {"input_size": (1, 28, 28)}
    with pytest.raises(ValueError, match="takes 1 channels"):
        tl.models.create("timm/resnet18", 2, weights=None)


def test_encoders_have_no_classifier_and_say_so():
    with pytest.raises(ValueError, match="gemma4_vit_570m_enc is an encoder without a classifier"):
        meta_model("gemma4_vit_570m_enc")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "volo_d1_224"])
def test_auxiliary_heads_are_left_out(name):
    model = meta_model(name).train()
    size = model.preprocessing.size
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 2)
    assert not [n for n, _ in model.named_modules() if "aux" in n.lower()]


def test_inception_converts_its_input_whatever_its_weights():
    """Its weights want another range than their preprocessing gives, and a checkpoint is read without weights."""
    assert meta_model("inception_v3").transform_input
    assert meta_model("googlenet").transform_input


def test_a_probe_does_not_fit_two_heads():
    with torch.device("meta"):
        model = tl.models.create("deit_tiny_distilled_patch16_224", 2, weights=None)
    with pytest.raises(ValueError, match="this model has head, head_dist"):
        put_into_head(model, Probe(nn.Linear(192, 2), 1.0, ""))


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


def old_densenet(state):
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): t for name, t in state.items()}


def old_vit(state):
    """The names in the files of torchvision's ViTs, which are older than its code."""
    new = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    return {re.sub(r"mlp\.[03]\.", lambda found: new[found[0]], name): t for name, t in state.items()}


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("densenet121", old_densenet),
        ("googlenet", dict),
        ("inception_v3", dict),
        ("vit_b_16", old_vit),
        ("mnasnet0_5", dict),  # asks for the version of its names
    ],
)
def test_torchvisions_own_files_fit_its_models(name, old):
    theirs = torchvision.models.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
    state = theirs.state_dict()
    model = tl.models.create(name, 2, weights=None)
    weights.load_state(model, old(state), "file", head=False)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items() if n not in head_parameters(model))


def head_parameters(model):
    return {f"{name}.{kind}" for name in tl.models.head_names(model) for kind in ("weight", "bias")}


def test_a_file_of_torchvisions_name_decides_size_and_preprocessing():
    with torch.device("meta"):
        larger = factory._create_torchvision("vit_b_16", 2, None, "vit_b_16_swag-9ac1b537.pth")
        usual = factory._create_torchvision("vit_b_16", 2, None, "mine.pth")
    assert (larger.preprocessing.size, larger.image_size) == (384, 384)
    assert (usual.preprocessing.size, usual.image_size) == (224, 224)


class Settings(dict):
    """A class that whoever reads the file does not have."""


def checkpoints(state):
    """What other tools write around the same weights."""
    lightning = {f"model.{k}": t for k, t in state.items()} | {
        "criterion.weight": torch.ones(2),
        "acc.tp": torch.ones(1),
    }
    headless = {f"net.body.{k}": t for k, t in state.items() if not k.startswith("fc.")} | {
        "net.top.weight": torch.ones(2)
    }
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "tutorial.pth": {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()},
        "step-1.pt": {"model": {k: t + 1 for k, t in state.items()}, "best_weights": state, "ema": None},
        "lightning.ckpt": {"state_dict": lightning, "hyper_parameters": Settings(lr=1), "callbacks": {}},
        "headless.ckpt": {"state_dict": headless},
        "model_best.pth.tar": {"epoch": 1, "state_dict": state, "best": np.float64(0.9), "when": datetime.now()},
        "timm.pth": {"state_dict": state, "args": argparse.Namespace(lr=1, out=Path("x")), "state_dict_ema": state},
        "swa.pth": {"n_averaged": torch.tensor(3)} | {f"module.{k}": t for k, t in state.items()},
        "own.pth": {"my_net": state, "optimizer": optimizer.state_dict(), "log": defaultdict(list, a=[1])},
        "flat.th": {"epoch": 1, **state},
    }


@pytest.mark.parametrize(
    "name", ["tutorial.pth", "step-1.pt", "lightning.ckpt", "headless.ckpt", "model_best.pth.tar", "timm.pth"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_other_tools_load(small, name, zipped):
    state, folder = small
    torch.save(checkpoints(state)[name], folder / name, _use_new_zipfile_serialization=zipped)
    model = tl.models.create("tl_resnet", 2, weights=str(folder / name))
    assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


@pytest.mark.parametrize("name", ["swa.pth", "own.pth", "flat.th"])
def test_checkpoints_with_names_of_their_own_load(small, name):
    test_checkpoints_of_other_tools_load(small, name, True)


def test_code_beside_the_weights_is_not_run(small, monkeypatch):
    state, folder = small
    file = folder / "w.pth"
    torch.save({"state_dict": state, "more": [Bomb()], "args": argparse.Namespace(bomb=Bomb())}, file)
    assert tl.models.read_weights(file).keys() == state.keys()
    monkeypatch.setattr(Bomb, "__reduce__", lambda self: (torch.storage._load_from_bytes, (file.read_bytes(),)))
    torch.save({"state_dict": state, "more": Bomb()}, folder / "again.pth")
    assert tl.models.read_weights(folder / "again.pth").keys() == state.keys()


@pytest.mark.parametrize(("wrapped", "words"), [(False, "refused"), (True, "holds no state dict")])
def test_a_whole_model_is_refused(tmp_path, wrapped, words):
    model = tl.models.create("tl_resnet", 2, weights=None)
    torch.save({"epoch": 1, "model": model} if wrapped else model, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"{words}.*model\.state_dict\(\)"):
        tl.models.read_weights(tmp_path / "w.pth")


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


def test_without_a_network_timm_gives_up_at_once(monkeypatch, tmp_path):
    """The hub's own client tries for about a minute; what is in its cache is still found."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: pytest.fail("no download is expected"))
    offline = []
    original = timm.create_model

    def watched(*args, **kwargs):
        offline.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        return original(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", watched)
    start = time.process_time(), time.perf_counter()
    with pytest.raises(OfflineError, match=r"timm's test_resnet.*test_resnet\.safetensors.*TLCOURSE_WEIGHTS"):
        tl.models.create("test_resnet", 2)
    # On a busy machine waiting looks like work: what is not spent computing is bounded loosely.
    assert time.perf_counter() - start[1] < 20
    assert offline == [True]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_with_a_network_timm_may_download(monkeypatch):
    monkeypatch.setattr("requests.head", lambda address, timeout: None)  # any answer means that there is a network
    with weights.hub_or_cache():
        assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_the_embedded_backbone_needs_no_network(monkeypatch):
    monkeypatch.setattr("requests.head", lambda *_, **__: pytest.fail("no network is needed"))
    assert torch.equal(tl.models.create("tl_resnet", 2).conv1.weight, tl.models.read_weights(WEIGHTS)["conv1.weight"])
    assert timm.models.get_pretrained_cfg("tl_resnet").mean == tl.preprocessing.IMAGENET_MEAN


def test_timm_models_without_weights_say_so():
    with pytest.raises(ValueError, match=r"timm has no weights for convnextv2_small.*weights=None"):
        tl.models.create("convnextv2_small", 2)


def test_densenets_old_names_are_read(monkeypatch, tmp_path):
    with torch.device("meta"):
        model = tl.models.create("densenet121", weights=None)
    state = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in model.state_dict().items()}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor for name, tensor in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    monkeypatch.setenv("TLCOURSE_WEIGHTS", str(tmp_path))
    assert not tl.models.create("densenet121", 2).features.denseblock1.denselayer1.conv1.weight.any()


def test_a_file_of_torchvisions_name_with_other_weights_is_refused(monkeypatch, tmp_path):
    torch.save(tl.models.create("resnet34", weights=None).state_dict(), tmp_path / "resnet18-f37072fd.pth")
    monkeypatch.setenv("TLCOURSE_WEIGHTS", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"ResNet18_Weights.* does not fit .*not in the model: layer1\.2\.conv1\.weight"
    ):
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
