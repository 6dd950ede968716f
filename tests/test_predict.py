"""Checkpoints that carry all they need, and predictions that survive bad files."""

import copy
import datetime
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tlcourse as tl
from tlcourse.predict import load_checkpoint, predict_files, save_checkpoint


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tl.models.create("tl_resnet", 2).eval()


@pytest.fixture
def image_file(tmp_path):
    file = tmp_path / "image.jpg"
    Image.effect_noise((120, 90), 60).convert("RGB").save(file)
    return file


def test_a_checkpoint_gives_the_same_answers(model, image_file, tmp_path):
    file = save_checkpoint(tmp_path / "deep" / "m.safetensors", model, ["cats", "dogs"], accuracy=0.9)
    again, about = load_checkpoint(file)
    assert about["classes"] == ["cats", "dogs"]
    assert about["accuracy"] == 0.9
    assert again.preprocessing == model.preprocessing
    assert not again.training
    (one,), (two,) = (predict_files(m, about["classes"], [image_file]) for m in (model, again))
    assert one == two
    assert one.label in ("cats", "dogs")
    assert 0.5 <= one.probability <= 1
    assert [f.name for f in file.parent.iterdir()] == ["m.safetensors"]


def test_the_answer_is_that_of_the_model(model, image_file):
    x = model.preprocessing.evaluation()(Image.open(image_file))[None]
    with torch.no_grad():
        probabilities = model(x).softmax(1)[0]
    (answer,) = predict_files(model, ["cats", "dogs"], [image_file])
    assert answer.label == ["cats", "dogs"][probabilities.argmax()]
    assert answer.probability == pytest.approx(probabilities.max().item())


def test_one_bad_file_does_not_stop_the_others(model, image_file, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(image_file.read_bytes()[:200])
    missing = tmp_path / "missing.jpg"
    answers = predict_files(model, ["cats", "dogs"], [bad, missing, image_file])
    assert [a.label is None for a in answers] == [True, True, False]
    assert "bad.jpg" in answers[0].error
    assert "missing.jpg" in answers[1].error


def test_a_failed_write_keeps_the_old_checkpoint(model, tmp_path, monkeypatch):
    file = save_checkpoint(tmp_path / "m.safetensors", model, ["a", "b"])
    old = file.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("tlcourse.predict.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(file, model, ["a", "b"])
    assert file.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_models_and_classes_that_do_not_fit(model, tmp_path):
    with pytest.raises(ValueError, match="3 different classes for 2 outputs"):
        save_checkpoint(tmp_path / "m.safetensors", model, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"tl\.models\.create"):
        save_checkpoint(tmp_path / "m.safetensors", torch.nn.Linear(2, 2), ["a", "b"])


@pytest.mark.parametrize(("name", "classes"), [("mnasnet0_5", 2), ("squeezenet1_1", None), ("squeezenet1_1", 1000)])
def test_networks_with_versions_and_with_their_own_classes(tmp_path, name, classes):
    torch.manual_seed(0)
    model, x = tl.models.create(name, classes, weights=None).eval(), torch.randn(1, 3, 64, 64)
    file = save_checkpoint(tmp_path / "m.safetensors", model, [f"c{i}" for i in range(len(model(x)[0]))])
    assert torch.equal(load_checkpoint(file)[0](x), model(x))


@pytest.mark.parametrize("classes", [{"a", "b"}, {0: "a", 1: "b"}, ["a", "a", "b"]])
def test_classes_need_an_order(model, tmp_path, classes):
    with pytest.raises(ValueError, match="give a list with each class once"):
        save_checkpoint(tmp_path / "m.safetensors", model, classes)


def test_each_class_has_an_output(model, image_file):
    with pytest.raises(ValueError, match="3 classes for 2 outputs"):
        predict_files(model, ["a", "b", "c"], [image_file])
    with pytest.raises(ValueError, match="classes need one output each"):
        predict_files(tl.models.create("tl_resnet", 1), ["a"], [image_file])


def test_a_model_that_answers_differently_is_not_saved(model, tmp_path):
    changed = copy.deepcopy(model)
    changed.register_forward_pre_hook(lambda _, inputs: (inputs[0].clamp_min(0),))
    with pytest.raises(ValueError, match="would not give this model again"):
        save_checkpoint(tmp_path / "m.safetensors", changed, ["a", "b"])
    vit = tl.models.create("vit_b_32", 2, weights=None)
    vit.preprocessing = model.preprocessing
    with pytest.raises(ValueError, match=r"would not give this model again.*Wrong image height"):
        save_checkpoint(tmp_path / "m.safetensors", vit, ["a", "b"])


def test_facts_are_numbers_or_text(model, tmp_path):
    facts = {"rates": torch.tensor([1.0, 2.0]), "data": tmp_path, "day": datetime.date(2026, 1, 2)}
    file = save_checkpoint(tmp_path / "m.safetensors", model, ["a", "b"], **facts)
    assert load_checkpoint(file)[1].items() >= {"rates": [1, 2], "data": str(tmp_path), "day": "2026-01-02"}.items()
    with pytest.raises(ValueError, match=r"architecture.*give your fact another name"):
        save_checkpoint(file, model, ["a", "b"], architecture="mine")


def test_the_content_of_a_file_decides_not_its_name(model, tmp_path):
    file = save_checkpoint(tmp_path / "m.pth", model, ["a", "b"])
    again = tl.models.create("tl_resnet", weights=file, num_classes=2)
    assert torch.equal(again.conv1.weight, model.conv1.weight)
    assert tl.doctor.diagnose(file).findings == []


def test_files_that_are_no_checkpoints(model, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(text)
    weights = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), weights)
    with pytest.raises(ValueError, match="weights only"):
        load_checkpoint(weights)
    save_file(model.state_dict(), weights, metadata={"tlcourse": json.dumps({"classes": ["a"]})})
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(weights)
    good = save_checkpoint(tmp_path / "good.safetensors", model, ["a", "b"])
    good.write_bytes(good.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(good)
