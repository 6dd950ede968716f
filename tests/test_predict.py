"""Checkpoints that carry all they need, and predictions that survive bad files."""

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
