"""Plots draw what they are given, with labels and units, and nothing overlaps at the line ends."""

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

import tlcourse as tl
from tlcourse.evaluation import Evaluation
from tlcourse.plots import figures
from tlcourse.plots.style import LINE_HEIGHT
from tlcourse.train import Epoch, History, RangeTest

LINES = ("training", "validation")


@pytest.fixture(autouse=True)
def agg():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def test_images_of_every_kind_share_a_grid():
    shown = [Image.new("RGB", (8, 8)), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.rand(3, 8, 8) * 3 - 1]
    tl.plots.images(shown, ["a", "b", "c"], columns=2, title="Three")
    axes = plt.gcf().axes
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", ""]
    assert [len(ax.images) for ax in axes] == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="no image"):
        tl.plots.images([])


def test_a_backend_that_turns_interactive_on_keeps_it_on(monkeypatch):
    """As in a notebook, where the first figure starts the backend: later figures would not be shown."""
    plt.ioff()
    subplots = plt.subplots

    def starting(*args, **kwargs):
        plt.ion()
        return subplots(*args, **kwargs)

    monkeypatch.setattr(plt, "subplots", starting)
    tl.plots.images([Image.new("RGB", (8, 8))])
    assert plt.isinteractive()
    plt.ioff()


def test_learning_curves_mark_the_best_epoch():
    epochs = [Epoch(i, 1 / i, i / 4, 1.1 + i, min(i, 2) / 4, 0.1, 1.0) for i in (1, 2, 3)]
    tl.plots.learning_curves(History(epochs))
    loss, accuracy = plt.gcf().axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "cross-entropy (nats)")
    assert list(accuracy.lines[1].get_ydata()) == [0.25, 0.5, 0.5]
    assert accuracy.lines[2].get_xdata()[0] == 2


def test_learning_curves_show_where_phases_begin():
    epochs = [Epoch(i, 1 / i, i / 8, 1.1 / i, i / 9, 0.1, 1.0) for i in range(1, 7)]
    phases = [(1, "head"), (3, "layer4"), (4, "everything above the stem")]
    tl.plots.learning_curves(History(epochs, phases=phases))
    for ax in plt.gcf().axes:
        upright = [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]
        assert upright == [6, 2.5, 3.5]
    plt.gcf().canvas.draw()
    for ax in plt.gcf().axes:
        drawn = [text.get_window_extent() for text in ax.texts if text.get_text() in dict(phases).values()]
        assert len(drawn) == 3
        assert not any(a.overlaps(b) for i, a in enumerate(drawn) for b in drawn[:i])
        assert all(box.y0 >= ax.get_window_extent().y1 for box in drawn)
    plt.close("all")
    tl.plots.learning_curves(History(epochs, phases=[(1, "head")]))  # one phase has no boundary
    assert [text.get_text() for text in plt.gcf().axes[0].texts] == ["training", "validation"]


def test_schedules_are_drawn_by_step_each_in_a_colour_of_its_own():
    curves = {
        name: torch.linspace(1e-3, end, 20) for name, end in (("cosine", 0.0), ("one cycle", 0.0), ("flat", 1e-3))
    }
    tl.plots.schedules(curves, title="Three")
    (ax,) = plt.gcf().axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "learning rate", "linear")
    assert [len(line.get_xdata()) for line in ax.lines] == [20, 20, 20]
    assert len({line.get_color() for line in ax.lines}) == 3
    assert [text.get_color() for text in ax.texts] == [line.get_color() for line in ax.lines]
    plt.gcf().canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(box.overlaps(label.get_window_extent()) for box in boxes for label in ax.get_xticklabels())


def test_groups_far_apart_are_drawn_on_a_logarithmic_axis():
    curve = tl.train.schedules.simulate(lambda o: tl.train.schedules.cosine(o, 10), 11, lr=[1e-5, 1e-3, 1e-4])
    tl.plots.schedules({"cosine": curve}, unit="epoch")
    (ax,) = plt.gcf().axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("epoch", "learning rate (log scale)", "log")
    assert [line.get_linewidth() for line in ax.lines] == [0.8, 1.8, 0.8]  # the highest group stands out
    assert ax.texts[0].xy == (9, pytest.approx(curve[9, 1].item()))  # at step 10 the rate is 0, which has no place
    with pytest.raises(ValueError, match=r"shapes are \{'empty': \(0, 1\)\}"):
        tl.plots.schedules({"empty": torch.empty(0)})
    with pytest.raises(ValueError, match="at least one curve"):
        tl.plots.schedules({})


def test_labels_at_line_ends_stay_apart_in_the_layout_that_is_drawn():
    curves = {name: torch.tensor([[1e-5, 1.0], [1e-5, end]]) for name, end in (("a", 1e-3), ("b", 1.4e-3))}
    tl.plots.schedules(curves, title="Two of nearly the same rate, on a logarithmic axis")
    tl.plots.depth({name: {"stem": 0.5, "head": 0.9} for name in "cdefghijk"}, chance=dict.fromkeys("cdefghijk", 0.5))
    epochs = [Epoch(i, 1 - end, end - 0.05, 1 - end, end, 0.1, 1.0) for i, end in ((1, 0.1), (2, 0.9))]
    history = History(epochs, phases=[(1, "head"), (2, "all")])
    tl.plots.learning_curves(history, title="Two lines above the axes make them much lower")
    for figure, names in zip(map(plt.figure, plt.get_fignums()), ("ab", "cdefghijk", LINES), strict=True):
        figure.canvas.draw()
        ax = figure.axes[-1]
        labels = sorted((text for text in ax.texts if text.get_text() in names), key=lambda text: text.xy[1])
        heights = sorted(text.get_window_extent().y0 * 72 / figure.dpi for text in labels)
        gaps = [high - low for low, high in itertools.pairwise(heights)]
        assert gaps == pytest.approx([LINE_HEIGHT] * (len(names) - 1), abs=0.3)
        lowest = min(text.get_window_extent().y0 for text in labels)
        assert 0 < ax.transData.transform(labels[0].xy)[1] - lowest < LINE_HEIGHT * figure.dpi / 72  # at its line


def test_the_title_is_the_figures_message():
    tl.plots.bars({"frozen": [0.8]}, xlabel="accuracy", title="Frozen is enough")
    assert plt.gcf().get_suptitle() == "Frozen is enough"


def test_a_range_test_is_drawn_with_its_suggestion():
    rates = tuple(10.0 ** (i / 4 - 4) for i in range(12))
    smoothed = (0.7,) * 5 + (0.6, 0.4, 0.3, 0.3, 0.6, 3.0, 90.0)
    result = RangeTest(rates, tuple(loss + 0.01 for loss in smoothed), smoothed, rates[6], True)
    tl.plots.range_test(result, title="Which rate?")
    (ax,) = plt.gcf().axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == (
        "learning rate (log scale)",
        "cross-entropy (nats)",
        "log",
    )
    assert list(ax.lines[1].get_ydata()) == list(smoothed)
    assert ax.lines[2].get_xdata()[0] == rates[6]
    assert "3.2e-03" in ax.get_title("left")
    assert ax.get_ylim()[1] < 2  # the loss of 90 does not press the others flat
    tl.plots.range_test(replace(result, suggestion=None))
    assert "no suggestion" in plt.gca().get_title("left")
    assert len(plt.gca().lines) == 2


def test_runs_are_dots_their_means_lines_and_live_runs_diamonds():
    results = {"scratch": {20: [0.5, 0.6], 100: [0.6, 0.7]}, "frozen": {20: [0.51, 0.61], 100: [0.6, 0.71]}}
    tl.plots.runs(results, live={"frozen": {20: [0.55]}}, chance=0.5)
    (ax,) = plt.gcf().axes
    line, *dots = ax.lines[:3]
    assert list(line.get_ydata()) == pytest.approx([0.55, 0.65])
    assert line.get_color() == tl.plots.COLOURS["scratch"]
    assert [list(d.get_ydata()) for d in dots] == [[0.5, 0.6], [0.6, 0.7]]
    (diamond,) = [drawn for drawn in ax.lines if drawn.get_marker() == "D"]
    assert list(diamond.get_ydata()) == [0.55]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["20", "100"]
    plt.gcf().canvas.draw()
    ends = [t.get_window_extent() for t in ax.texts if t.get_text() in ("scratch", "frozen")]
    assert not ends[0].overlaps(ends[1])


def test_runs_with_one_number_of_images_are_rows():
    tl.plots.runs({"frozen": {20: [0.8, 0.9]}, "other": {20: [0.5]}}, live={"frozen": {20: [0.7]}}, measured="accuracy")
    (ax,) = plt.gcf().axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["frozen", "other"]
    assert [t.get_text() for t in ax.texts] == ["0.850", "0.500"]
    assert ax.get_xlabel() == "accuracy with 20 training images"
    assert [list(drawn.get_xdata()) for drawn in ax.lines if drawn.get_marker() == "D" and len(drawn.get_xdata())] == [
        [0.7]
    ]


def test_a_map_sorts_by_gap_and_shares_a_cell():
    best = {"far": {20: ["frozen"], 80: ["scratch", "frozen"]}, "near": {20: ["fine-tuned"]}}
    tl.plots.winners(best, {"far": 2.0, "near": 0.5})
    (ax,) = plt.gcf().axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["near, gap 0.50", "far, gap 2.00"]
    assert sorted(t.get_text() for t in ax.texts) == ["fine-tuned", "frozen", "scratch\nfrozen"]
    assert len(ax.patches) == 4


def test_bars_show_values_and_errors():
    tl.plots.bars({"frozen": [0.8, 0.9], "other": [0.5]}, xlabel="accuracy")
    (ax,) = plt.gcf().axes
    assert [t.get_text() for t in ax.texts] == ["0.85", "0.50"]
    assert ax.get_xlabel() == "accuracy"


def test_confusion_counts():
    result = Evaluation(torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0], [0, 1], [0, 1]]))
    tl.plots.confusion(result, ["cats", "dogs"])
    assert [t.get_text() for t in plt.gcf().axes[0].texts] == ["1", "1", "0", "1"]


def test_confusion_of_many_classes_shows_those_with_the_most_mistakes():
    labels = torch.arange(300).repeat(2)
    answers = labels.clone()
    answers[[7, 307, 11]] = torch.tensor([8, 8, 12])
    result = Evaluation(labels, torch.nn.functional.one_hot(answers, 300).float())
    tl.plots.confusion(result, [f"class number {i}" for i in range(300)])
    (ax,) = plt.gcf().axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == figures.MOST
    assert {"class number 7", "class number 8", "class number 11", "class number 12"} < set(names)
    assert names[-1] == "277 others"
    counts = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert sum(counts.values()) == 600
    assert counts[names.index("class number 8"), names.index("class number 7")] == 2
    assert max(plt.gcf().get_size_inches()) < 20
    plt.gcf().draw_without_rendering()


def test_dollars_in_names_are_no_formulas():
    names = ["$5 and $10", "a$b", "100 %"]
    result = Evaluation(torch.tensor([0, 1, 2]), torch.eye(3))
    tl.plots.confusion(result, names)
    tl.plots.images([Image.new("RGB", (8, 8))] * 3, names)
    tl.plots.bars({name: [1.0] for name in names}, xlabel="x")
    for number in plt.get_fignums():
        plt.figure(number).draw_without_rendering()
    for text in (plt.figure(1).axes[0].get_xticklabels()[0], plt.figure(2).axes[0].title):
        assert text._preprocess_math(text.get_text()) == (names[0], False)


def test_tables_read_in_a_terminal_and_in_a_notebook():
    table = tl.Table(
        [{"stage": "stem", "parameters": 9536, "ok": True}, {"stage": "<b>", "parameters": 1, "ok": False}]
    )
    assert str(table).splitlines()[2].split() == ["stem", "9,536", "yes"]
    assert "&lt;b&gt;" in table._repr_html_()
    assert str(tl.Table()) == ""


def test_learning_rates_are_drawn_once_a_stage():
    model = tl.models.unfreeze_from(tl.models.create("tl_resnet", 2, weights=None), "layer3")
    groups = tl.models.param_groups(model, 1e-2, layer_decay=0.1, weight_decay=0.1)
    tl.plots.learning_rates(groups, title="Rates fall towards the stem")
    (ax,) = plt.gcf().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["layer3", "layer4", "head"]
    assert [float(line.get_xdata()[0]) for line in ax.lines] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "learning rate (log scale)"
    plt.close("all")
    tl.plots.learning_rates(torch.optim.SGD(model.parameters(), lr=0.5))
    assert [text.get_text() for text in plt.gca().texts] == ["5.0e-01"]
    lefts = []
    for rate in (1e-3, 1e-7):  # two figures with one axis, unless a rate would lie outside
        tl.plots.learning_rates([{"params": [], "lr": rate}], low=1e-6)
        lefts.append(plt.gca().get_xlim()[0])
    assert lefts == pytest.approx([5e-7, 5e-8])
    with pytest.raises(ValueError, match="No group has a positive"):
        tl.plots.learning_rates([{"params": [], "lr": 0.0}])


def test_depth_puts_domains_with_more_or_fewer_classes_on_one_scale():
    profile = {"two": {"stem": 0.5, "layer1": 0.75}, "ten": {"stem": 0.1, "layer1": 1.0}}
    tl.plots.depth(profile, chance={"two": 0.5, "ten": 0.1}, title="Depth")
    (ax,) = plt.gcf().axes
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [pytest.approx([0, 0.5]), pytest.approx([0, 1])]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["stem", "layer1"]


def test_a_tradeoff_draws_its_front_and_names_what_is_asked_for():
    points = {"small": (0.1, 60.0), "large": (10.0, 80.0), "beaten": (20.0, 70.0)}
    tl.plots.tradeoff(points, ["small", "large"], xlabel="cost", ylabel="value", title="A message")
    ax = plt.gcf().axes[0]
    assert [text.get_text() for text in ax.texts] == ["small", "large"]
    assert ax.get_xlabel() == "cost (log scale)"
    assert list(ax.lines[1].get_ydata()) == [60.0, 80.0]
    tl.plots.tradeoff(points, [], named=["beaten"], xlabel="cost", ylabel="value")
    ax = plt.gcf().axes[0]
    assert [text.get_text() for text in ax.texts] == ["beaten"]
    assert len(ax.lines) == 1
    assert ax.get_ylim()[0] > 50  # an empty front doesn't change the axes
