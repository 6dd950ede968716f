"""The benchmark of training: every contestant does the same work, or the command ends; the report is complete."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import overhead
import pytest
import torch
import training
from peers import CONTESTANTS
from PIL import Image
from training_report import COMPARISONS, compare, lead, markdown, plot, rates, spread, target_time
from training_work import Contestant, Watch, Work, bare, digest

import tlcourse as tl

WORK = Work("tl_resnet", size=32, train=16, val=6, test=4, batch=8, epochs=2, lr=0.01)


@pytest.fixture(scope="module", autouse=True)
def own_runtime() -> Iterator[None]:
    """Runs in this process choose a runtime, which other tests must not inherit."""
    before = tl.runtime._current
    yield
    tl.runtime._current = before


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise around two colours, with more images than the work takes."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 4), ("test", 3)):
        for name, colour in (("red", (180, 60, 60)), ("blue", (60, 60, 180))):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(colour, 40, (48, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def spec(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the runs of a section have in common."""
    folder = tmp_path_factory.mktemp("section")
    classes = training.prepare(images, WORK, folder / "images")
    assert training.initial(WORK.model, classes, folder / "initial.pt", seed=0) == "pre-trained weights"
    return {
        **{"work": vars(WORK), "folder": str(folder / "images"), "initial": str(folder / "initial.pt")},
        **{"device": "cpu", "seed": 0, "workers": 0},
    }


@pytest.fixture(scope="module")
def runs(spec: dict) -> dict[str, dict]:
    """One run of everybody who is installed, in this process."""
    told = {"section": "speed", "repeat": 0, "precision": "default"}
    here = [name for name, contestant in CONTESTANTS.items() if contestant.installed]
    return {name: told | {"name": name, **training.one(spec | told | {"name": name})} | {"workers": 0} for name in here}


@pytest.fixture
def record(runs: dict[str, dict]) -> dict:
    """What the command keeps, with figures that are easy to check: two epochs of 8 images."""
    kept = {"machine": {"machine": "a machine", "versions": "some"}, "missing": ["timm"], "target": 0.8, "repeats": 1}
    kept |= {
        "works": {"speed": vars(WORK), "accuracy": vars(WORK)},
        "weights": {"speed": "random", "accuracy": "random"},
    }
    base = {"section": "speed", "repeat": 0, "workers": 0, "memory": 500.0, "val_accuracy": [0.7, 0.9]}
    base |= {"test_accuracy": 0.85, "same": {"images": 16}, "computed": "float32, contiguous", "precision": "default"}
    fast = {"computed": "bfloat16, channels-last"}
    mine = [
        base | {"name": "tlcourse", "seconds": [3.0, 1.0], "precision": "float32"},
        base | {"name": "tlcourse", "seconds": [1.5, 0.5], **fast},
    ]
    others = [base | {"name": "plain", "seconds": [2.5, 2.5]}, base | {"name": "fastai", "seconds": [4.0, 4.0]}]
    others.append(base | {"name": "plain", "seconds": [1.5, 1.5], "precision": "bfloat16", **fast})
    others.append(base | {"name": "fastai", "seconds": [0.1, 0.1], "precision": "bfloat16"})  # its switch did nothing
    forms = {"float32, contiguous": 4.0, "bfloat16, channels-last": 20.0}
    measured = {"name": "bare", "section": "speed", "bare": forms, "synthetic": dict.fromkeys(forms, 3.5)}
    again = [run | {"section": "accuracy"} for run in (*mine, *others[:2])]
    return kept | {"runs": [*mine, *others, measured, *again]}


def test_everybody_does_the_same_work(runs: dict[str, dict]) -> None:
    assert {"tlcourse", "plain", "timm"} <= set(runs)
    for name, run in runs.items():
        assert training.differences(run, runs["plain"]) == [], name
        assert len(run["seconds"]) == len(run["val_accuracy"]) == WORK.epochs, name
        assert min(run["seconds"]) > 0, name
    same = runs["tlcourse"]["same"]
    assert (same["images"], same["steps"], same["evaluated"]) == (32, 4, 12)
    assert same["shapes"] == [(8, 3, 32, 32)]
    assert same["optimizer"] == [(0.01, 0.9, 0.0, 0.0)]


def test_the_work_starts_from_the_weights_given(spec: dict, runs: dict[str, dict]) -> None:
    model = tl.models.create(WORK.model, 2, weights=None)
    model.load_state_dict(torch.load(spec["initial"], weights_only=True))
    start = digest(model)
    assert {run["same"]["start"] for run in runs.values()} == {start}
    assert digest(model.to(memory_format=torch.channels_last)) == start
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert digest(model) != start


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"same": {"images": 24}}, "images is 24, not 32"),
        ({"same": {"steps": 3}}, "steps is 3, not 4"),
        ({"same": {"start": "other"}}, "start is other"),
        ({"same": {"optimizer": [(0.1, 0.9, 0.0, 0.0)]}}, "optimizer is"),
        ({"same": {"shapes": [(8, 3, 64, 64)]}}, "shapes is"),
        ({"pixels": [0.4, 0.2]}, "the pixels' deviation is 0.20"),
        ({"moved": 1e-9}, "the weights moved by 0.0000"),
        ({"precision": "float32", "computed": "bfloat16, contiguous"}, "it computed in bfloat16, contiguous"),
    ],
)
def test_other_work_is_named(runs: dict[str, dict], change: dict, words: str) -> None:
    other = copy.deepcopy(runs["plain"])
    for key, value in change.items():
        other[key] = other[key] | value if isinstance(value, dict) else value
    assert any(words in sentence for sentence in training.differences(other, runs["plain"]))


def test_the_command_ends_when_the_work_differs(runs: dict[str, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    cheat = copy.deepcopy(runs["plain"])
    cheat["same"]["images"] = 8
    given = iter([runs["plain"], cheat])
    monkeypatch.setattr(training, "launch", lambda spec: {k: v for k, v in next(given).items() if k != "name"})
    options = training.argparse.Namespace(repeats=1, seed=0, workers=None, device="cpu")
    with pytest.raises(SystemExit, match=r"timm .* does different work from plain: images is 8, not 32"):
        list(training.measure("speed", {}, [("plain", "default"), ("timm", "default")], options))


def test_a_folder_with_too_few_images_or_half_a_batch_is_refused(images: Path, tmp_path: Path) -> None:
    more = Work("tl_resnet", size=32, train=24, val=6, test=4, batch=8, epochs=2, lr=0.01)
    with pytest.raises(ValueError, match="train/blue has 10 images, 12 are needed"):
        training.prepare(images, more, tmp_path / "a")
    half = Work("tl_resnet", size=32, train=12, val=6, test=4, batch=8, epochs=2, lr=0.01)
    with pytest.raises(ValueError, match="take a multiple of the batch"):
        training.prepare(images, half, tmp_path / "b")
    with pytest.raises(ValueError, match="has no classes in train"):
        training.prepare(tmp_path, WORK, tmp_path / "c")


def test_evaluation_is_no_training_time(spec: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("training_work._now", lambda device: float(next(clock)))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    work = Work("none", size=4, train=4, val=2, test=2, batch=2, epochs=2, lr=0.1)
    watch = Watch(model, work, torch.device("cpu"))
    optimizer = watch.follow(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    watch.start()  # 0
    for _ in range(2):
        model.train()
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 4, 4)).sum().backward()  # the first one looks at the clock twice: 1 and 2
            optimizer.step()  # after the second of an epoch: 3, then 5
        model.eval()
        model(torch.randn(2, 3, 4, 4))  # 4
    # From 0 to 3 less the look at the first batch; from 4 to 5.
    assert watch.seconds == [2.0, 1.0]
    assert watch.report()["computed"] == "float32, contiguous"


def test_a_run_that_is_cut_short_is_no_run() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Flatten())
    watch = Watch(model, WORK, torch.device("cpu"))
    watch.start()
    optimizer = watch.follow(torch.optim.SGD(model.parameters(), lr=0.1))
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="1 optimizer steps were taken, the work has 4"):
        watch.report()


def test_bare_compute_has_every_form() -> None:
    model = tl.models.create("tl_resnet", 2, weights=None)
    measured = bare(model, WORK, torch.device("cpu"))
    forms = {"float32, contiguous", "float32, channels-last", "bfloat16, contiguous", "bfloat16, channels-last"}
    assert set(measured["bare"]) == set(measured["synthetic"]) == forms
    assert all(rate > 0 for kind in measured.values() for rate in kind.values())


def test_rates_and_target() -> None:
    run = {"seconds": [4.0, 1.0, 1.0], "same": {"images": 24}, "val_accuracy": [0.5, 0.8, 0.7]}
    assert rates(run) == {"whole": 4.0, "first": 2.0, "later": 8.0}
    assert target_time(run, 0.8) == 5.0
    assert target_time(run, 0.9) == math.inf
    assert spread([3.0, 1.0, 2.0]) == "2.0 (1.0–3.0)"
    assert spread([math.inf, math.inf, 2.0]) == "not reached in 2 of 3"


def test_the_comparisons_take_the_right_runs(record: dict) -> None:
    found = {title: compare(record, "speed", wanted) for title, wanted in COMPARISONS.items()}
    kept = {title: {name: run[0]["seconds"][0] for name, run in table.items()} for title, table in found.items()}
    assert kept["Everybody in float32"] == {"tlcourse": 3.0, "plain": 2.5, "fastai": 4.0}
    assert kept["Everybody's own defaults"] == {"tlcourse": 1.5, "plain": 2.5, "fastai": 4.0}
    assert kept["Everybody in bfloat16"] == {"tlcourse": 1.5, "plain": 1.5}
    assert lead(found["Everybody in float32"]) == pytest.approx(5 / 4)
    assert lead(found["Everybody's own defaults"]) == pytest.approx(5 / 2)
    assert lead({"plain": found["Everybody in float32"]["plain"]}) is None


def test_the_report_says_what_was_measured(record: dict, tmp_path: Path) -> None:
    record["runs"].append({"name": "lightning", "section": "speed", "failed": "ImportError: no such thing"})
    text = markdown(record)
    assert "| tlcourse | 0 | bfloat16, channels-last | 8.0 | 5.3 | 16.0 | 0.80 | 500 |" in text
    assert "tlcourse / fastest peer: 2.50" in text
    assert "default (bfloat16, channels-last), later epochs: 0.80 of the bare forward and backward, 4.57 of it" in text
    assert "| plain loop | 0 | float32, contiguous | 5.0 | 3.2 | 0.900 | 0.850 |" in text
    assert "The switch to bfloat16 has no effect here: fastai's Learner." in text
    assert "Not installed: timm's loop." in text
    assert "Failed: lightning: ImportError: no such thing" in text
    plot(record, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["training.py", "--images", "images", "--only", "plain,keras"])
    with pytest.raises(SystemExit):
        training.arguments()
    assert "keras: choose among tlcourse, plain" in capsys.readouterr().err


def test_what_is_not_installed_is_left_out(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {name: Contestant(c.title, c.run, "no_such_library") for name, c in CONTESTANTS.items() if name != "plain"}
    everybody = {name: absent.get(name, contestant) for name, contestant in CONTESTANTS.items()}
    for module in ("training", "training_report"):
        monkeypatch.setattr(f"{module}.CONTESTANTS", everybody)
    monkeypatch.setattr(training, "ACCURACY", WORK)
    command = ["training.py", "--images", str(images), "--sections", "accuracy", "--repeats", "1", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path)])
    assert training.main() == 0  # a real process for the plain loop
    kept = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert [(run["name"], run["same"]["images"]) for run in kept["runs"]] == [("plain", 32)]
    assert "Not installed: tlcourse, fastai's Learner" in (tmp_path / "training.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in json.dumps(kept)


def test_the_overhead_is_measured_beside_bare_compute(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, value in (("SIZE", 32), ("BATCH", 8), ("IMAGES", 16), ("REPORT", tmp_path / "overhead.md")):
        monkeypatch.setattr(overhead, name, value)
    monkeypatch.setattr("sys.argv", ["overhead.py", "--images", str(images), "--rounds", "2"])
    monkeypatch.setattr(overhead, "pairs", lambda loaders, precision, rounds: [(2.0, 1.92)] * rounds)
    assert overhead.main() == 0
    monkeypatch.setattr(overhead, "pairs", lambda loaders, precision, rounds: [(2.0, 1.8)] * rounds)
    assert overhead.main() == 1
    assert "| float32 | 8.0 | 8.9 | 10.0% (10.0% to 10.0%) |" in (tmp_path / "overhead.md").read_text()
    monkeypatch.undo()
    monkeypatch.setattr(overhead, "BATCH", 8)
    pets = tl.data.from_folder(images, model=tl.preprocessing.Preprocessing(32, 36)).take(train=16, val=2, test=2)
    measured = overhead.pairs(pets.loaders(8), "float32", 2)
    assert len(measured) == 2
    assert all(fit > 0 and bare > 0 for fit, bare in measured)
