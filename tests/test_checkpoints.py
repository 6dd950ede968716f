"""Checkpoints: killed anywhere, a run ends as if nothing had happened; what is damaged is passed over."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import resumable
import torch
from resumable import same
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import tlcourse as tl
from tlcourse.train import Checkpoints

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be killed")


class KilledError(Exception):
    """Stands for the death of a process, where one process is enough."""


class Dying(Checkpoints):
    """Checkpoints whose process dies right after a save."""

    def save(self, step, state):
        file = super().save(step, state)
        if step == int(os.environ["DIE_AT"]):
            raise KilledError
        return file


def die_and_resume(folder, monkeypatch, *, at, every=1, **options):
    monkeypatch.setenv("DIE_AT", str(at))
    with pytest.raises(KilledError):
        resumable.train(Dying(folder, every=every), **options)
    torch.rand(at)  # whatever the new process has drawn before it goes on
    return resumable.train(Checkpoints(folder, every=every), **options)


STEPS = resumable.EPOCHS * resumable.BATCHES


@pytest.mark.parametrize("at", [1, 7, 8, 9, 20, STEPS - 1, STEPS])
def test_a_run_goes_on_to_the_same_weights(tmp_path, monkeypatch, at):
    weights, history = resumable.train(None)
    resumed, its_history = die_and_resume(tmp_path, monkeypatch, at=at)
    assert same(resumed, weights)
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "rates", "images"):
        assert its_history.column(name) == history.column(name)
    assert its_history.best.epoch == history.best.epoch


@pytest.mark.parametrize(
    "options",
    [{"own": False}, {"workers": 1}, {"workers": 2, "own": False}, {"precision": "bfloat16"}, {"precision": "float16"}],
    ids=str,
)
def test_whatever_draws_the_random_numbers(tmp_path, monkeypatch, options):
    assert same(die_and_resume(tmp_path, monkeypatch, at=11, **options)[0], resumable.train(None, **options)[0])


def test_random_numbers_of_apples_gpu_resume_too(tmp_path, monkeypatch):
    """A fake generator, whose state is the number of draws; each loss depends on it, as with dropout on that GPU."""
    draws = [0]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor(draws))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: draws.__setitem__(0, state.item()))

    def loss(logits, labels):
        draws[0] += 1
        return nn.functional.cross_entropy(logits, labels) * (1 + draws[0] % 3)

    whole = resumable.train(None, loss=loss)[0]
    monkeypatch.setenv("DIE_AT", "11")
    draws[0] = 0
    with pytest.raises(KilledError):
        resumable.train(Dying(tmp_path, every=1), loss=loss)
    draws[0] = 1  # of a new process
    assert same(resumable.train(Checkpoints(tmp_path, every=1), loss=loss)[0], whole)


def test_accumulated_steps_resume_too(tmp_path, monkeypatch):
    options = {"accumulate": 3, "ema_decay": None}
    assert same(die_and_resume(tmp_path, monkeypatch, at=5, **options)[0], resumable.train(None, **options)[0])


def pets(checkpoints, *, workers, transform):
    """Fine-tune the embedded backbone on toy pets: our loaders, one worker process where there is any."""
    torch.manual_seed(0)
    model = tl.models.create("tl_resnet", num_classes=2)
    splits = tl.data.load("toypets", model=model).take(train=40, val=16)
    splits = dataclasses.replace(
        splits, train=splits.train.with_transform(transform), augmentation={"rotation": 10, "colour": 0.2}
    )
    groups = tl.models.param_groups(model, 1e-3, layer_decay=0.5)
    optimizer = torch.optim.AdamW(groups)
    loaders = splits.loaders(8, workers=workers, seed=3)
    steps = 3 * len(loaders.train)
    schedule = tl.train.schedules.one_cycle(optimizer, steps)
    tl.train.fit(model, loaders, optimizer, epochs=3, scheduler=schedule, checkpoints=checkpoints)
    return model.state_dict()


def random_crop():
    """A transform of one's own."""
    return v2.Compose([v2.RandomResizedCrop(64), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.mark.parametrize(("workers", "transform"), [(0, None), (2, None), (1, random_crop())], ids=["0", "2", "own"])
def test_our_loaders_and_schedules_resume(tmp_path, monkeypatch, workers, transform):
    options = {"workers": workers, "transform": transform}
    monkeypatch.setenv("DIE_AT", "8")
    with pytest.raises(KilledError):
        pets(Dying(tmp_path, every=4), **options)
    torch.rand(3)
    assert same(pets(Checkpoints(tmp_path, every=4), **options), pets(None, **options))


@pytest.mark.parametrize("at", [3, 11, 16, 20])
def test_a_gradual_run_resumes_in_the_phase_it_was_in(tmp_path, monkeypatch, at):
    """Two phases of two epochs of eight steps; the second one starts from the best weights of the first."""

    class DyingAnywhere(Checkpoints):
        def save(self, step, state):
            file = super().save(step, state)
            monkeypatch.setenv("STEPS", str(int(os.environ["STEPS"]) + 1))
            if int(os.environ["STEPS"]) == at:
                raise KilledError
            return file

    def run(checkpoints):
        resumable.seed_everything()
        names = ["body", "norm", "act", "drop", "flat", "head"]
        model = nn.Sequential(OrderedDict(zip(names, resumable.network(), strict=True)))
        model.stage_plan = {"stem": ["body", "norm"], "head": ["head"]}
        optimizer = torch.optim.Adam(model.parameters())
        phases = [tl.train.Phase({"head": 1e-2}, 2), tl.train.Phase({"stem": 1e-3, "head": 1e-2}, 2)]
        options = {"make_schedule": tl.train.schedules.cosine, "checkpoints": checkpoints}
        history = tl.train.fit_gradual(model, resumable.Data(), optimizer, phases, **options)
        return model.state_dict(), history

    weights, history = run(None)
    monkeypatch.setenv("STEPS", "0")
    with pytest.raises(KilledError):
        run(DyingAnywhere(tmp_path, every=1))
    resumed, its_history = run(Checkpoints(tmp_path, every=1))
    assert same(resumed, weights)
    assert its_history.column("val_loss") == history.column("val_loss")
    assert its_history.phases == history.phases == [(1, "head"), (3, "stem")]


def test_workers_that_stay_are_refused(tmp_path):
    data = resumable.Data(workers=1)
    data.train = DataLoader(data.train.dataset, 8, num_workers=1, persistent_workers=True)
    model = resumable.network()
    with pytest.raises(ValueError, match="persistent_workers=False"):
        tl.train.fit(
            model, data, torch.optim.SGD(model.parameters(), lr=0.1), epochs=1, checkpoints=Checkpoints(tmp_path)
        )


def test_without_a_save_inside_the_epoch_it_begins_again(tmp_path, monkeypatch):
    weights, _ = resumable.train(None)
    assert same(die_and_resume(tmp_path, monkeypatch, at=8, every=None)[0], weights)


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    weights, history = resumable.train(Checkpoints(tmp_path))
    written = [file.stat().st_mtime_ns for file in Checkpoints(tmp_path).files()]
    again, its_history = resumable.train(Checkpoints(tmp_path))
    assert same(again, weights)
    assert its_history.column("seconds") == history.column("seconds")
    assert [file.stat().st_mtime_ns for file in Checkpoints(tmp_path).files()] == written
    assert "Resumed after 6 epochs" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to oneself there")
def test_ctrl_c_saves_the_step_it_was_in(tmp_path, monkeypatch):
    pressed = []

    def loss(logits, labels):
        pressed.append(len(pressed))
        if len(pressed) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return nn.functional.cross_entropy(logits, labels)

    _, history = resumable.train(Checkpoints(tmp_path), loss=loss)
    assert history.interrupted
    assert Checkpoints(tmp_path).files()[0].name.startswith("step-000000013-")
    assert same(resumable.train(Checkpoints(tmp_path))[0], resumable.train(None)[0])


def test_a_run_can_be_made_longer(tmp_path):
    def run(epochs, checkpoints=None):
        resumable.seed_everything()
        model = resumable.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        history = tl.train.fit(model, resumable.Data(), optimizer, epochs=epochs, checkpoints=checkpoints)
        return model.state_dict(), history

    run(2, Checkpoints(tmp_path))
    longer, history = run(4, Checkpoints(tmp_path))
    assert len(history.epochs) == 4
    assert same(longer, run(4)[0])


def test_the_parameters_of_a_loss_are_in_the_checkpoint(tmp_path):
    def run(epochs, checkpoints=None, learns=True):
        resumable.seed_everything()
        model, scale = resumable.network(), torch.nn.Parameter(torch.ones(()))
        optimizer = torch.optim.SGD([*model.parameters(), *[scale] * learns], lr=0.01, momentum=0.9)
        options = {"loss": lambda y, labels: torch.nn.functional.cross_entropy(y * scale, labels)}
        tl.train.fit(model, resumable.Data(), optimizer, epochs=epochs, checkpoints=checkpoints, **options)
        return scale.item()

    assert run(2, Checkpoints(tmp_path)) != 1
    with pytest.raises(ValueError, match="another number of parameters beside the model's"):
        run(4, Checkpoints(tmp_path), learns=False)
    assert run(4, Checkpoints(tmp_path)) == run(4)


def test_the_checkpoint_of_another_run_is_refused_and_nothing_changes(tmp_path):
    resumable.train(Checkpoints(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"another run, with another model.*Give a new folder"):
        tl.train.fit(model, resumable.Data(), optimizer, epochs=1, checkpoints=Checkpoints(tmp_path))
    assert same(model.state_dict(), before)
    with pytest.raises(ValueError, match="another run, with another batches"):
        resumable.train(Checkpoints(tmp_path), accumulate=2)
    assert len(Checkpoints(tmp_path).files()) == 2


@pytest.mark.parametrize("schedule", [None, tl.train.schedules.cosine])
def test_another_rate_or_weight_decay_is_another_run(schedule, tmp_path):
    def run(epochs, **options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})
        made = schedule and schedule(optimizer, epochs * resumable.BATCHES)
        saved = Checkpoints(tmp_path)
        return tl.train.fit(model, resumable.Data(), optimizer, epochs=epochs, scheduler=made, checkpoints=saved)

    run(1)
    for options in ({"lr": 0.2}, {"weight_decay": 0.1}):
        with pytest.raises(ValueError, match="another learning rate or weight decay"):
            run(2, **options)
    with pytest.raises(ValueError, match="another momentum or other setting"):
        run(2, nesterov=True, momentum=0.9)
    assert len(run(2).epochs) == 2


def test_an_optimizer_that_counts_in_its_groups_goes_on(tmp_path):
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["k"] = group.get("k", 0) + 1
            return super().step(closure)

    for epochs in (1, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        optimizer = Counting([{"params": model.parameters(), "k": 0}], lr=0.1)
        history = tl.train.fit(model, resumable.Data(), optimizer, epochs=epochs, checkpoints=Checkpoints(tmp_path))
    assert len(history.epochs) == 2


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written.*Give another folder"):
        Checkpoints(tmp_path / "file" / "run")


# Files.


def state(value):
    return {"weights": torch.full((100_000,), float(value)), "numbers": [value, {"a": (1, "b", None)}]}


def test_files_are_kept_and_the_newest_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "deep" / "er", keep=2)
    assert checkpoints.load() is None
    for step in (1, 2, 30):
        checkpoints.save(step, state(step))
    assert [file.name[:14] for file in checkpoints.files()] == ["step-000000030", "step-000000002"]
    loaded = checkpoints.load()
    assert loaded["numbers"] == state(30)["numbers"]
    assert torch.equal(loaded["weights"], state(30)["weights"])


DAMAGES = {
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit flipped in the middle": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    "a bit flipped at the end": lambda content: content[:-9] + bytes([content[-9] ^ 64]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"more",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_noticed_and_the_one_before_is_used(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state(step))
    newest, before = checkpoints.files()
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoints.load()["numbers"][0] == 1
    before.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoints.load() is None


def test_nothing_in_a_file_is_executed(tmp_path):
    """A file that would run code when it is unpickled, with a name that fits its content."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    checkpoints.save(2, {"trap": Trap()})
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoints.load()["numbers"][0] == 1
    assert not (tmp_path / "sprung").exists()


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, state(2))
    monkeypatch.undo()
    assert [file.name[:14] for file in tmp_path.iterdir()] == ["step-000000001"]
    assert checkpoints.load()["numbers"][0] == 1


def test_bad_settings():
    with pytest.raises(ValueError, match="every=0"):
        Checkpoints("x", every=0)
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints("x", keep=0)


# Killed.


def killed(folder, *arguments):
    """Run killed.py in a fresh process; what it asserts must hold. A pipe would be held open by a child that hangs."""
    command = [sys.executable, Path(__file__).with_name("killed.py"), folder, *map(str, arguments)]
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, (folder / "log").read_text()


@FORKS
def test_fifty_kills_at_random_moments(tmp_path):
    killed(tmp_path)


@FORKS
@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
@pytest.mark.parametrize("call", [1, 10])
def test_killed_inside_a_save(tmp_path, moment, call):
    killed(tmp_path, moment, call)
