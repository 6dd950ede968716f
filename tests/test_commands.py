"""`tlcourse train` and `predict` where the world outside is not as it should be, and what they say at the end."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tlcourse as tl
from tlcourse import cli, commands, runtime
from tlcourse.evaluation import Evaluation

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLCOURSE_PROFILE", "mini")
    monkeypatch.setattr(runtime, "_current", None)


def noise(folder, count=6, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}{suffix}")


@pytest.fixture
def images(tmp_path):
    for name in ("a", "b"):
        noise(tmp_path / "images" / name)
    return tmp_path / "images"


def train(images, out, *options):
    return cli.main(["train", "--data", str(images), "--out", str(out), *options])


def test_weights_that_cannot_be_downloaded_are_one_line(images, tmp_path, monkeypatch, capsys):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    assert train(images, tmp_path / "m.safetensors", "--model", "resnet18") == 1
    assert "TLCOURSE_WEIGHTS" in capsys.readouterr().err


def test_what_cannot_be_written_is_found_before_training(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tlcourse.data.from_folder", lambda *_, **__: pytest.fail("images were read"))
    (tmp_path / "file").touch()
    assert train(images, tmp_path / "file" / "m.safetensors") == 2
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.setenv("TLCOURSE_CACHE", str(images / "a" / "0.png" / "cache"))
    assert train(images, tmp_path / "m.safetensors") == 2
    assert "TLCOURSE_CACHE" in capsys.readouterr().err
    assert train(images, tmp_path / ("m" * 300 + ".safetensors")) == 2
    assert "name too long" in capsys.readouterr().err


def test_a_file_without_room_and_one_among_the_images(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(tl.recipes.RECIPES, "linear-probe", lambda *_, **__: pytest.fail("it was trained"))
    monkeypatch.chdir(images)
    assert cli.main(["train", "--data", "."]) == 2  # the default is runs/, which would be taken for a class
    assert "would lie among the images" in capsys.readouterr().err
    assert sorted(path.name for path in images.iterdir()) == ["a", "b"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5e6}))
    assert train(images, tmp_path / "m.safetensors") == 2
    assert "it needs 11 MB, and 5 are free" in capsys.readouterr().err


STOPPED = """
import sys
class Press:
    def find_spec(name, *_):
        if name == "tlcourse.commands": raise KeyboardInterrupt
sys.meta_path.insert(0, Press)
import tlcourse_command
sys.exit(tlcourse_command.main())
"""


def test_ctrl_c_while_the_command_is_imported():
    command, environment = [sys.executable, "-c", STOPPED], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.stderr, done.returncode) == ("tlcourse: stopped by Ctrl-C.\n", 130)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(28, "No space left on device", "m.safetensors"), 1, "No space left"),
        (runtime.OfflineError("no network"), 1, "no network"),
        (FloatingPointError("the loss is nan"), 1, "the loss is nan"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (BrokenPipeError(), 141, ""),
        (ValueError("a wrong request"), 2, "a wrong request"),
    ],
)
def test_every_fault_of_the_world_has_a_line_and_a_status(images, tmp_path, monkeypatch, capsys, error, status, words):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setitem(tl.recipes.RECIPES, "linear-probe", fail)
    assert train(images, tmp_path / "m.safetensors") == status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


def test_a_fault_of_ours_is_not_hidden(images, tmp_path, monkeypatch):
    monkeypatch.setitem(tl.recipes.RECIPES, "linear-probe", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        train(images, tmp_path / "m.safetensors")


def test_a_loss_that_is_not_finite(images, tmp_path, capsys):
    options = ["--recipe", "fine-tune", "--batch-size", "4", "--lr", "1e12", "--epochs", "1"]
    assert train(images, tmp_path / "m.safetensors", *options) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err
    assert train(images, tmp_path / "n.safetensors", "--lr", "inf", "--recipe", "frozen") == 2


def test_features_that_are_not_finite(images, tmp_path, capsys):
    state = tl.models.create("tl_resnet", 2).state_dict()
    state["conv1.weight"].fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    for recipe in ("linear-probe", "fine-tune"):
        options = ["--weights", str(tmp_path / "nan.pth"), "--recipe", recipe]
        assert train(images, tmp_path / "m.safetensors", *options) == 1
        assert "not all finite" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["timm/efficientformer_l1", "torchvision/maxvit_t"])
def test_a_model_that_takes_no_probe_is_refused_before_features_are_computed(name, monkeypatch):
    monkeypatch.setattr("tlcourse.recipes.extract_splits", lambda *_: pytest.fail("features were computed"))
    with torch.device("meta"):
        model = tl.models.create(name, 2, weights=None)
    with pytest.raises(ValueError, match=r"one head with weight and bias.*frozen or fine-tune"):
        tl.recipes.linear_probe(model, None)


def interrupted(recipe, images, after):
    """Run a recipe with Ctrl-C in the training step `after`."""
    model, steps = tl.models.create("tl_resnet", 2), []

    def press(module, *_):
        if module.training:
            steps.append(1)
            if len(steps) == after:
                signal.raise_signal(signal.SIGINT)

    model.register_forward_hook(press)
    return model, recipe(model, tl.data.from_folder(images, model=model), epochs=3, batch_size=4)


def test_ctrl_c_in_the_first_epoch(images):
    with pytest.raises(KeyboardInterrupt, match="No epoch was finished"):
        interrupted(tl.recipes.frozen, images, 1)
    model, result = interrupted(tl.recipes.fine_tune, images, 1)
    assert result.history.interrupted
    assert "the linear probe is kept" in result.note
    probe = tl.features.fit_probe(tl.features.extract(model, tl.data.from_folder(images, model=model).plain().train))
    torch.testing.assert_close(model.fc.weight, probe.linear.weight)


def test_ctrl_c_later_keeps_the_best_epoch(images, tmp_path, monkeypatch, capsys):
    recipe = tl.recipes.frozen
    monkeypatch.setitem(tl.recipes.RECIPES, "frozen", lambda *_, **__: interrupted(recipe, images, 3)[1])
    assert train(images, tmp_path / "m.safetensors", "--recipe", "frozen") == 130
    assert "stopped by Ctrl-C after 1" in capsys.readouterr().out
    assert (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError("the image is gone"), 1)])
def test_a_trained_model_that_cannot_be_measured_is_kept(images, tmp_path, monkeypatch, capsys, error, status):
    def fail(*_):
        raise error

    monkeypatch.setattr("tlcourse.recipes.evaluate", fail)
    assert train(images, tmp_path / "m.safetensors", "--recipe", "frozen", "--epochs", "1") == status
    assert "but could not be measured" in capsys.readouterr().err
    assert tl.predict.load_checkpoint(tmp_path / "m.safetensors")[1]["classes"] == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of Unix")
def test_the_table_is_written_though_nobody_reads_the_lines(images, tmp_path):
    train(images, tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "tlcourse.cli", "predict", str(tmp_path / "m.safetensors"), str(images)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*command, "--csv", str(tmp_path / "t.csv")], stdout=writing, check=False, cwd=ROOT)
    os.close(writing)
    assert done.returncode in (0, 141)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 13


def test_what_a_recipe_does_not_use_is_said(images, tmp_path, capsys):
    assert train(images, tmp_path / "m.safetensors", "--epochs", "3", "--lr", "0.1") == 0
    assert "no training loop: epochs, lr are not used" in capsys.readouterr().out


def test_a_closed_stream_is_no_fault(images, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert train(images, tmp_path / "m.safetensors", "--recipe", "frozen", "--epochs", "1") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="names of Unix")
def test_a_folder_whose_name_is_not_utf_8(images, tmp_path, monkeypatch):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    images.rename(folder)
    next(Path(folder, "a").iterdir()).rename(os.fsdecode(os.fsencode(folder) + b"/a/\xe9.png"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--data", folder]) == 0
    assert cli.main(["train", "--data", folder, "--out", os.fsdecode(b"\xe9.safetensors")]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of Unix")
def test_nobody_reads_the_output(tmp_path):
    (tmp_path / "script.py").write_text("import torch\n")
    command = [sys.executable, "-m", "tlcourse.cli", "doctor", str(tmp_path / "script.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    assert (done.stderr, done.returncode) == ("", 141)
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        assert "Traceback" not in done.stderr
        assert "No space left" in done.stderr
        assert done.returncode == 1


def test_every_path_may_begin_with_the_home_folder(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--data=~/images", "--seed", "3", "--out=~/m.safetensors"]) == 0
    assert "seed 3)" in capsys.readouterr().out
    assert cli.main(["predict", "~/m.safetensors", "~/images", "--csv=~/answers.csv"]) == 0
    assert (tmp_path / "answers.csv").exists()
    torch.save(tl.models.create("tl_resnet", 2).state_dict(), tmp_path / "w.pth")
    assert tl.models.create("tl_resnet", 2, weights="~/w.pth")
    assert tl.predict.load_checkpoint("~/m.safetensors")
    assert not (tmp_path / "~").exists()
    assert cli.main(["train", "--data=~nobody-here/images"]) == 2  # no such home


def test_predictions_as_csv(images, tmp_path, capsys):
    out, table = tmp_path / "m.safetensors", tmp_path / "deep" / "answers.csv"
    train(images, out)
    new = tmp_path / "new"
    noise(new, 2)
    (new / "bad.png").write_bytes(b"no image")
    (new / "._0.png").write_bytes(b"macOS")
    assert cli.main(["predict", str(out), str(new), "--csv", str(table)]) == 1
    with table.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "bad.png"]
    assert list(rows[0]) == ["file", "class", "a", "b"]
    for row in rows[:2]:
        assert float(row["a"]) + float(row["b"]) == pytest.approx(1)
        assert row["class"] == max("ab", key=lambda name: float(row[name]))
    assert (rows[2]["class"], rows[2]["a"]) == ("", "")
    assert cli.main(["predict", str(out), str(new), "--csv", str(new / "0.png")]) == 2
    assert cli.main(["predict", str(out), str(new), "--csv", str(new / "0.png" / "x.csv")]) == 2
    assert Image.open(new / "0.png").size == (24, 24)


def test_classes_called_as_the_columns_of_the_csv(tmp_path):
    answers = [tl.predict.Answer("1.png", "file", 0.9, None, (0.1, 0.9))]
    tl.predict.write_csv(tmp_path / "a.csv", ["class", "file"], answers)
    assert (tmp_path / "a.csv").read_text().splitlines() == ["file,class,P(class),P(file)", "1.png,file,0.1,0.9"]


def by_class(labels, answers, classes):
    logits = torch.nn.functional.one_hot(torch.tensor(answers), len(classes)).float()
    return commands._by_class(Evaluation(torch.tensor(labels), logits), classes)


def test_recall_of_each_class_and_a_word_on_models_that_always_say_the_same():
    text = by_class([0] * 19 + [1], [0] * 20, ["good", "bad"])
    assert text.splitlines()[2].split() == ["bad", "1", "0.000"]
    assert text.splitlines()[3].split() == ["good", "19", "1.000"]
    assert "The model always answers good. To answer good each time is right in 0.950" in text
    no_better = by_class([0, 0, 0, 1], [0, 0, 1, 1], ["good", "bad"])
    assert "always" not in no_better
    assert "To answer good each time is right in 0.750" in no_better
    assert "each time" not in by_class([0, 0, 1, 1], [0, 0, 1, 0], ["good", "bad"])
    many = by_class(list(range(30)), list(range(30)), [f"c{i}" for i in range(30)])
    assert "the 20 lowest of 30 classes" in many


def test_kaggles_layout_from_labels_to_a_submission(tmp_path, capsys):
    root = tmp_path / "contest"
    noise(root / "train", 12)
    noise(root / "test", 3)
    (root / "train.csv").write_text("id,breed\n" + "".join(f"{i},{'cat' if i % 2 else 'dog'}\n" for i in range(12)))
    out = tmp_path / "m.safetensors"
    assert train(root, out, "--labels", str(root / "train.csv")) == 0
    assert "3 images have no label in train.csv" in capsys.readouterr().out
    assert cli.main(["predict", str(out), str(root / "test"), "--csv", str(tmp_path / "a.csv")]) == 0
    assert train(root, tmp_path / "n.safetensors", "--labels", str(root / "no.csv")) == 2
