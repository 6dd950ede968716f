"""Comparisons: paired differences, no test image read, stored runs that can be repeated, settings that must agree."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
from scipy import stats

import tlcourse as tl
from tlcourse.evaluation import Evaluation
from tlcourse.lessons import experiments
from tlcourse.lessons.batch_statistics import new_statistics
from tlcourse.lessons.experiments import Difference, Probe, Runs, Trained, WithNewStatistics, compare
from tlcourse.table import Table


def runs_of(values, way="frozen", images=20, data="toypets", first_seed=0):
    rows = enumerate(values, first_seed)
    columns = experiments.COLUMNS
    return Runs(Table(dict(zip(columns, (data, way, images, seed, v, 0.5, 1.0), strict=True)) for seed, v in rows))


@pytest.fixture(scope="module")
def pets():
    return tl.data.load("toypets", model=tl.models.create("tl_resnet"), train=60, val=40, test=40)


def test_a_difference_is_paired_with_the_interval_of_students_t():
    values = (0.02, 0.05, 0.03, 0.06)
    difference = Difference(values)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert difference.mean == pytest.approx(0.04)
    assert difference.mean - difference.margin == pytest.approx(interval.low)
    assert difference.clear
    assert "± 0.029 (95 % interval, 4 seeds)" in str(difference)
    noisy = Difference((0.02, -0.05, 0.03, 0.04))
    assert not noisy.clear
    assert "no difference that these runs can show" in str(noisy)


def test_pairs_have_the_same_seed():
    runs = runs_of([0.5, 0.6, 0.7], "a") + runs_of([0.6, 0.7, 0.9], "b", first_seed=1)
    difference = runs.difference("a", "b")
    assert difference.values == pytest.approx((0.6 - 0.6, 0.7 - 0.7))
    with pytest.raises(ValueError, match="1 seeds in common"):
        (runs_of([0.5], "a") + runs_of([0.5], "b")).difference("a", "b")
    with pytest.raises(ValueError, match="several runs of a seed"):
        (runs_of([0.5], "a") + runs_of([0.5], "a", images=80)).accuracies("a")
    with pytest.raises(ValueError, match="way: a, b"):
        runs.accuracies("c")


def test_a_way_is_measured_in_two_places():
    runs = runs_of([0.8, 0.9], data="new") + runs_of([0.7, 0.6], data="old", first_seed=0)
    assert runs.shift("frozen", "new", "old").values == pytest.approx((0.1, 0.3))


def test_differences_are_drawn_with_live_ones_over_them():
    found = {"a": Difference((0.1, 0.2, 0.3)), "b": Difference((0.0, -0.1))}
    experiments.plot_differences(found, title="a is above 0", live={"a": Difference((0.25,))})
    (ax,) = plt.gcf().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    diamonds = [line.get_xdata() for line in ax.lines if line.get_marker() == "D"]
    assert [list(values) for values in diamonds] == [[0.25], []]
    plt.close()


def test_runs_are_drawn_against_what_they_cost():
    runs = runs_of([0.8, 0.82]) + runs_of([0.9, 0.92], "rank 1")
    runs.plot_against({"frozen": 500, "rank 1": 16_000}, title="rank 1 is better", live=runs_of([0.85], "rank 1"))
    (ax,) = plt.gcf().axes
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["frozen", "rank 1"]
    diamonds = [list(line.get_ydata()) for line in ax.lines if line.get_marker() == "D"]
    assert diamonds == [[], [0.85]]
    plt.close()


def test_new_statistics_are_those_of_the_images_and_the_model_stays(pets):
    model, images = tl.models.create("tl_resnet", 2), pets.plain().val
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    renewed = new_statistics(model, images)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not renewed.training
    seen = model.conv1(torch.stack([image for image, _ in images]))
    assert torch.allclose(renewed.bn1.running_mean, seen.mean((0, 2, 3)), atol=1e-3)
    assert torch.allclose(renewed.bn1.running_var, seen.var((0, 2, 3)), rtol=0.02)
    assert renewed.conv1.weight.equal(model.conv1.weight)


def test_a_way_is_measured_with_old_and_new_statistics_on_other_images(pets):
    way = WithNewStatistics(Trained(1e-3, 1), (replace(pets.plain(), name="a style"),))
    found = way(pets, 20, 0)
    assert list(found) == [f"{name}{new}" for name in ("toypets", "unseen styles") for new in ("", ", new statistics")]
    assert [one.n for one in found.values()] == [40, 40, 80, 80]  # at home, the test set is not read
    assert experiments.describe(way).startswith("WithNewStatistics(way=Trained(lr=0.001")


def test_a_probe_reads_the_stage_that_is_asked_for(pets):
    model = tl.models.create("tl_resnet")
    few = pets.plain().take(train=20, seed=3)
    train, val = (tl.features.stage_features(model, part)["layer2"] for part in (few.train, few.val))
    by_hand = tl.features.fit_probe(train, seed=3).evaluate(val)
    assert torch.allclose(Probe(model, "layer2")(pets, 20, 3).logits, by_hand.logits, atol=1e-4)


def test_runs_agree_where_repeats_would_lie():
    rng = np.random.default_rng(0)
    stored = Runs(runs_of(rng.normal(0.8, 0.02, 10)).rows)
    agreed = [runs_of(rng.normal(0.8, 0.02, 2)).agree_with(stored) for _ in range(200)]
    assert np.mean(agreed) > 0.95
    assert not runs_of([0.95]).agree_with(stored)
    assert not runs_of([0.8, 0.6]).agree_with(stored)


def test_runs_with_other_settings_are_not_compared(pets):
    stored = compare({"a": Trained(1e-3, 1)}, pets, sizes=[20], seeds=[0, 1], bar=False)
    other = compare({"a": Trained(1e-2, 1)}, pets, sizes=[20], seeds=[0], bar=False)
    with pytest.raises(ValueError, match=r"lr=0\.01.*was.*lr=0\.001"):
        other.agree_with(stored)


def test_a_winner_is_named_with_what_is_not_clearly_worse():
    runs = runs_of([0.8, 0.82, 0.81], "a") + runs_of([0.79, 0.83, 0.8], "b") + runs_of([0.5, 0.52, 0.51], "c")
    assert runs.winners() == {"toypets": {20: ["a", "b"]}}


def test_comparing_never_reads_the_test_set(pets, monkeypatch):
    reads = []
    usual = tl.data.ImageSet.__getitem__
    monkeypatch.setattr(
        tl.data.ImageSet, "__getitem__", lambda self, i: reads.append(self.sources[i]) or usual(self, i)
    )
    probe = Probe(tl.models.create("tl_resnet"))
    runs = compare({"frozen": probe, "fine-tuned": Trained(1e-3, 1)}, pets, sizes=[20], seeds=[0, 1], bar=False)
    assert len(runs.rows) == 4
    assert not set(reads) & set(pets.test.sources)
    assert {row["data"] for row in runs.rows} == {"toypets"}


def test_a_probe_learns_from_the_images_that_take_chooses(pets):
    model = tl.models.create("tl_resnet")
    few = pets.plain().take(train=20, seed=3)
    probe = tl.features.fit_probe(tl.features.extract(model, few.train, cache=False), seed=3)
    by_hand = probe.evaluate(tl.features.extract(model, few.val, cache=False))
    assert torch.allclose(Probe(model)(pets, 20, 3).logits, by_hand.logits, atol=1e-4)


def test_training_goes_through_the_images_as_often_as_said(pets, monkeypatch):
    seen = []
    usual = experiments.fit
    monkeypatch.setattr(
        experiments, "fit", lambda m, d, o, **k: seen.append((len(d.train), k["epochs"])) or usual(m, d, o, **k)
    )
    way = Trained(1e-3, passes=3, start=lambda model, splits: tl.models.freeze(model), weights=None)
    model, few = way.fit(pets, 20, 0)
    assert seen == [(6, 1)]  # 3 passes of 2 batches
    assert len(few.train) == 20
    again, _ = way.fit(pets, 20, 0)
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_function_of_the_readers_is_a_way_and_may_measure_twice(pets):
    def constant(splits, images, seed):
        few = splits.take(train=images, seed=seed)
        answer = Evaluation(
            few.val.labels, torch.nn.functional.one_hot(torch.zeros(len(few.val), dtype=int), 2).float()
        )
        return {splits.name: answer, "elsewhere": answer}

    runs = compare({"cats": constant}, pets, sizes=[20, 30], seeds=[0], bar=False)
    assert [(r["data"], r["images"], r["accuracy"]) for r in runs.rows] == [
        (data, n, 0.5) for n in (20, 30) for data in ("toypets", "elsewhere")
    ]
    with pytest.raises(ValueError, match="returned float"):
        compare({"cats": lambda *given: 0.5}, pets, sizes=[20], seeds=[0], bar=False)
    for nothing in ({"sizes": []}, {"seeds": []}):
        with pytest.raises(ValueError, match="Nothing to compare"):
            compare({"cats": constant}, pets, **{"sizes": [20], "seeds": [0], "bar": False} | nothing)


def test_stored_runs_come_back_with_when_and_how(pets, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "STORED", tmp_path)
    ways = {"frozen": Trained(1e-3, 1)}
    first = runs_of([0.5, 0.6])
    experiments.add("small", first, ways)
    experiments.add("small", runs_of([0.7], data="digits"), ways)
    experiments.add("small", runs_of([0.8, 0.9]), ways)  # instead of those of its set
    stored = experiments.stored("small")
    assert stored.only(data="toypets").accuracies("frozen") == {0: 0.8, 1: 0.9}
    assert stored.only(data="digits").accuracies("frozen") == {0: 0.7}
    made = stored.about["toypets"]
    assert made["ways"]["frozen"].startswith("Trained(lr=0.001, passes=1")
    assert {"date", "torch", "torchvision", "timm", "machine"} <= made.keys()
    json.loads((tmp_path / "small.json").read_text())
    with pytest.raises(ValueError, match="Choose among small"):
        experiments.stored("large")


@pytest.mark.parametrize("file", sorted(experiments.STORED.glob("*.json")), ids=lambda file: file.stem)
def test_what_the_package_carries_is_whole(file):
    runs = experiments.stored(file.stem)
    groups = {(row["data"], row["way"], row["images"]) for row in runs.rows}
    for data, way, images in groups:
        accuracies = runs.only(data=data).accuracies(way, images)
        assert len(accuracies) >= 5
        assert all(0 <= value <= 1 for value in accuracies.values())
        assert way in runs.about[data]["ways"]
    assert file.stat().st_size < 100_000


def test_drop_path_is_what_timm_makes_of_its_rate():
    ours, theirs = tl.models.create("tl_resnet", 2), timm.create_model("tl_resnet", num_classes=2, drop_path_rate=0.4)
    tl.experiments.DropPath(0.4)(ours, None)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(8, 3, 64, 64)
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        outputs.append(model.train()(x))
    assert torch.allclose(*outputs, atol=1e-5)
    assert not torch.allclose(ours(x), outputs[0])  # it draws anew
    assert torch.equal(ours.eval()(x), ours(x))
