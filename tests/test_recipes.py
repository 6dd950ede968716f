"""`tlcourse train` and `predict`, from a folder to an answer, and what goes wrong on the way."""

import pytest
import torch

import tlcourse as tl
from tlcourse import cli
from tlcourse.predict import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images with two classes, split in three."""
    splits = tl.data.load("toypets").take(train=60, val=20, test=40)
    return tl.data.export_folder(splits, tmp_path_factory.mktemp("images") / "pets")


@pytest.mark.parametrize("recipe", ["linear-probe", "frozen", "fine-tune"])
def test_from_a_folder_to_an_answer(recipe, folder, tmp_path, capsys):
    out = tmp_path / "deep" / f"{recipe}.safetensors"
    arguments = ["train", "--data", str(folder), "--recipe", recipe, "--epochs", "2", "--out", str(out)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "95 % interval" in printed
    assert ("of 2, highest learning rate 0.001" in printed) == (recipe != "linear-probe")
    model, about = load_checkpoint(out)
    assert about["recipe"] == recipe
    assert about["test"]["images"] == 40
    # The stored model is the one that was measured.
    splits = tl.data.from_folder(folder, model=model)
    assert tl.train.evaluate(model, splits.loaders().test).accuracy == pytest.approx(
        about["test"]["accuracy"], abs=0.026
    )
    cats = sorted((folder / "test" / "cats").iterdir())[:3]
    assert cli.main(["predict", str(out), *map(str, cats)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(c) for c in cats]
    assert all(line.split()[1] in ("cats", "dogs") and 0 <= float(line.split()[2]) <= 1 for line in lines)


def test_frozen_trains_the_head_only_and_fine_tuning_everything(folder, monkeypatch):
    monkeypatch.setattr(
        "tlcourse.recipes.put_into_head", lambda model, probe: model
    )  # from a start that is easily beaten
    frozen, fine_tune = tl.recipes.frozen, tl.recipes.fine_tune
    for recipe, moved in ((frozen, {"fc"}), (fine_tune, {"conv1", "layer1", "layer4", "fc"})):
        torch.manual_seed(0)
        model = tl.models.create("tl_resnet", 2)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        recipe(model, tl.data.from_folder(folder, model=model), epochs=1)
        changed = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert moved <= changed
        assert recipe is fine_tune or changed == moved


def test_the_linear_probe_is_measured_before_it_learns_from_the_validation_set(folder):
    model = tl.models.create("tl_resnet", 2)
    splits = tl.data.from_folder(folder, model=model)
    train, val, test = tl.features.extract_splits(model, splits)
    result = tl.recipes.linear_probe(model, splits)
    on_train = tl.features.fit_probe(train)
    both = tl.features.Features(torch.cat([train.x, val.x]), torch.cat([train.y, val.y]))
    on_both = tl.features.fit_probe(both)
    assert torch.equal(result.val.logits, on_train.evaluate(val).logits)
    assert torch.equal(result.test.logits, on_both.evaluate(test).logits)
    assert torch.equal(model.fc.weight, on_both.linear.weight)


@pytest.mark.parametrize(("recipe", "probed"), [("fine_tune", True), ("frozen", False)])
def test_fine_tuning_starts_from_a_probe_on_the_training_set(recipe, probed, folder, monkeypatch):
    model = tl.models.create("tl_resnet", 2)
    splits = tl.data.from_folder(folder, model=model)
    probe, before = tl.features.fit_probe(tl.features.extract(model, splits.plain().train)), model.fc.weight.clone()
    seen = {}

    def stop(model, loaders, optimizer, *, scheduler, **_):
        seen.update(head=model.fc.weight.clone(), rates=[group["initial_lr"] for group in optimizer.param_groups])
        seen["simulated"] = tl.train.schedules.simulate(scheduler, 2 * len(loaders.train))[:, -1]
        raise KeyboardInterrupt

    monkeypatch.setattr("tlcourse.recipes.fit", stop)
    with pytest.raises(KeyboardInterrupt):
        getattr(tl.recipes, recipe)(model, splits, epochs=2, lr=0.01, batch_size=4)
    assert torch.equal(seen["head"], probe.linear.weight if probed else before)
    assert seen["rates"] == pytest.approx([0.01 * 0.7**i for i in range(5, -1, -1)] if probed else [0.01])
    assert seen["simulated"].max() == pytest.approx(0.01)
    assert seen["simulated"].argmax() == 5  # of 30 steps, the first six rise


def test_fine_tuning_that_ruins_a_network_gives_the_probe_it_started_from(folder):
    model = tl.models.create("tl_resnet", 2)
    splits = tl.data.from_folder(folder, model=model)
    probe = tl.features.fit_probe(tl.features.extract(model, splits.plain().train))
    right = probe.evaluate(tl.features.extract(model, splits.val))
    result = tl.recipes.fine_tune(model, splits, epochs=2, lr=3.0)
    assert result.history.best.val_loss > 2 * result.val.loss
    assert result.val.accuracy == right.accuracy
    assert result.note.endswith("so that is kept: try a lower rate")
    assert torch.equal(model.fc.weight, probe.linear.weight)
    assert tl.train.evaluate(model, splits.loaders().test).accuracy == result.test.accuracy


def test_one_seed_one_result(folder):
    results = []
    for _ in range(2):
        tl.setup("mini", seed=3)
        model = tl.models.create("tl_resnet", 2)
        results.append(tl.recipes.frozen(model, tl.data.from_folder(folder, model=model), epochs=1, seed=3))
    assert torch.equal(results[0].test.logits, results[1].test.logits)


def test_an_existing_checkpoint_is_not_overwritten_by_accident(folder, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"precious")
    arguments = ["train", "--data", str(folder), "--out", str(out)]
    assert cli.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert load_checkpoint(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no-such-folder"], "no-such-folder"),
        (["--recipe", "magic"], "linear-probe, frozen, fine-tune"),
        (["--model", "resnet999"], "Did you mean"),
        (["--weights", "nothing.pth"], "no weights file nothing.pth"),
        (["--epochs", "0"], "epochs=0"),
        (["--lr", "-1"], "lr=-1"),
        (["--out", "model.bin"], "ends in .safetensors"),
    ],
)
def test_wrong_requests_say_what_to_do(arguments, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in arguments else ["--data", str(folder)]
    assert cli.main(["train", *data, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_predict_goes_on_after_a_bad_file(folder, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    cli.main(["train", "--data", str(folder), "--out", str(out)])
    capsys.readouterr()
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.JPG").write_bytes(b"not an image")
    good = sorted((folder / "test" / "dogs").iterdir())[0]
    (images / "b.png").write_bytes(good.read_bytes())
    (images / "notes.txt").write_text("not meant")
    assert cli.main(["predict", str(out), str(images)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "not read" in first
    assert second.split()[1] in ("cats", "dogs")
    (tmp_path / "empty").mkdir()
    assert cli.main(["predict", str(out), str(tmp_path / "empty")]) == 2
    assert "no image" in capsys.readouterr().err
    assert cli.main(["predict", str(good), str(good)]) == 2
    assert "no checkpoint" in capsys.readouterr().err
