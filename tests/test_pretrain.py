"""The tool that makes the backbone: what it starts from, what it learns from, and that a stopped run goes on."""

import argparse
import json
from pathlib import Path

import pretrain_backbone as tool
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tlcourse.models.tl_resnet import LAYERS, TLResNet


@pytest.fixture
def teacher(tmp_path):
    """A file with the weights of a network of eight blocks."""
    torch.manual_seed(0)
    file = tmp_path / "teacher.safetensors"
    save_file({k: v.contiguous() for k, v in TLResNet(layers=[2, 2, 2, 2], num_classes=200).state_dict().items()}, file)
    return file


def test_a_student_starts_from_its_teacher_less_two_blocks(teacher):
    assert tool.blocks(teacher) == [2, 2, 2, 2]
    student, theirs = tool.network(LAYERS, "cpu", teacher).state_dict(), load_file(teacher)
    assert all(torch.equal(value, theirs[name]) for name, value in student.items())
    assert {name[:8] for name in theirs if name not in student} == {"layer1.1", "layer2.1"}


def test_mixed_labels_are_shares_and_unmixed_ones_whole():
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 16, 16), torch.arange(8)
    for strength in (0.0, 0.4):
        mixed, target = tool.mix(images, labels, strength)
        torch.testing.assert_close(target.sum(1), torch.ones(8))
        assert (target[torch.arange(8), labels].min() == 1) == (strength == 0)
        assert torch.equal(mixed, images) == (strength == 0)


@pytest.mark.parametrize(("progress", "size"), [(0.0, 40), (0.33, 40), (0.34, 48), (0.66, 48), (0.67, 56), (0.99, 56)])
def test_images_grow_in_steps_of_eight(progress, size):
    assert tool.image_size(progress, 40, 56) == size


def arguments(teacher, **changed):
    kept = {"layers": [1, 1, 1, 1], "start": None, "teacher": teacher, "trust": 0.5, "epochs": 2, "batch_size": 16}
    kept |= {"lr": 0.05, "warm_up": 0.2, "weight_decay": 1e-4, "label_smoothing": 0.0, "mix": 0.4, "smallest": 16}
    return argparse.Namespace(**kept, size=16, seed=0, float32=True, **changed)


def test_a_run_that_was_stopped_goes_on_as_it_was(teacher, tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.arange(48) % 4
    data, args = (images[:32], labels[:32], images[32:], labels[32:]), arguments(teacher)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole, _ = tool.train(args, data, tmp_path / "whole")
    measure, calls = tool.top1, []

    def stop(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(tool, "top1", stop)
    with pytest.raises(KeyboardInterrupt):
        tool.train(args, data, tmp_path / "stopped")
    monkeypatch.setattr(tool, "top1", measure)
    resumed, history = tool.train(args, data, tmp_path / "stopped")
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in resumed.state_dict().items())
    args.lr = 0.1
    with pytest.raises(SystemExit, match="another recipe"):
        tool.train(args, data, tmp_path / "stopped")


def test_both_layouts_of_the_data_are_read(tmp_path):
    for place in ("train/n1/images/a.png", "train/n2/images/b.png", "val/images/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (len(place), 0, 0)).save(tmp_path / place)
    (tmp_path / "val" / "val_annotations.txt").write_text("c.png\tn2\t0\t0\t62\t62\n")
    (tmp_path / "words.txt").write_text("n1\ttabby, cat\nn2\tpug\n")
    wnids, train, val = tool.list_images(tmp_path)
    assert (wnids, [label for _, label in train], [label for _, label in val]) == (["n1", "n2"], [0, 1], [1])
    assert tool.class_names(tmp_path, wnids) == ["tabby", "pug"]
    images, _, digest = tool.decode(train)
    assert images.shape == (2, 3, 64, 64)
    assert digest == tool.decode(train)[2] != tool.decode(val)[2]
    (tmp_path / "val" / "val_annotations.txt").unlink()
    (tmp_path / "val" / "n1").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "val" / "n1" / "d.png")
    assert [label for _, label in tool.list_images(tmp_path)[2]] == [0]


def test_the_recipe_of_the_packaged_weights_is_in_the_card():
    report = json.loads(tool.WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    card = tool.WEIGHTS.with_name("README.md").read_text(encoding="utf-8")
    recipe = report["recipe"]
    assert recipe["layers"] == list(LAYERS)
    for option, value in {"--epochs": recipe["epochs"], "--mix": recipe["mix"], "--size": recipe["size"]}.items():
        assert f"{option} {value:g}" in card
    assert recipe["teacher"] in card
    assert Path(tool.WEIGHTS).stat().st_size <= 6_000_000
