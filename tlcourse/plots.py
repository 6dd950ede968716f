"""The course's pictures: one message each, the same colours everywhere.

Every function draws on the current figure or a new one and returns nothing, so that a notebook shows it once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from tlcourse.evaluate import Evaluation, mean_and_error
from tlcourse.models.groups import NO_DECAY
from tlcourse.train import History

# Okabe and Ito's palette: told apart by all common kinds of colour vision. An approach keeps its colour all through.
COLOURS = {"scratch": "#D55E00", "frozen": "#0072B2", "fine-tuned": "#009E73"}
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.frameon": False,
}


@contextmanager
def _style() -> Iterator[None]:
    with plt.rc_context(STYLE):
        yield
        interactive = matplotlib.is_interactive()
    # A notebook's backend starts with the first figure, in here, and turns this on; without it no later figure shows.
    matplotlib.interactive(interactive)


def colour(name: str, position: int = 0) -> str:
    """Return the colour of an approach, or the next free one for anything else."""
    return COLOURS.get(name, OTHERS[position % len(OTHERS)])


def images(
    pictures: Sequence[object], labels: Sequence[str] | None = None, *, columns: int = 8, title: str = ""
) -> None:
    """Show pictures in a grid: PIL images, or tensors `(3, H, W)` that are uint8 or floats from 0 to 1."""
    if not len(pictures):
        raise ValueError("There is no picture to show.")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    with _style():
        # 80 pixels a picture at 100 dpi: two dozen photos stay below 150 kB.
        height = (1.0 if labels is not None else 0.8) * rows + (0.3 if title else 0)
        size = (0.8 * columns, height)
        figure, axes = plt.subplots(rows, columns, figsize=size, dpi=100, squeeze=False)
        for i, ax in enumerate(axes.flat):
            ax.axis("off")
            if i < len(pictures):
                ax.imshow(_array(pictures[i]))
                if labels is not None:
                    ax.set_title(labels[i], fontsize=7.5, loc="center", pad=2)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")


def learning_curves(history: History, *, title: str = "") -> None:
    """Draw loss and accuracy of training and validation by epoch, and mark the epoch whose weights were kept."""
    epochs = history.column("epoch")
    with _style():
        figure, axes = plt.subplots(1, 2, figsize=(8, 2.9))
        for ax, kind, unit in zip(axes, ("loss", "accuracy"), ("cross-entropy (nats)", "accuracy"), strict=True):
            for part, shade in (("train", GREY), ("val", COLOURS["frozen"])):
                values = history.column(f"{part}_{kind}")
                ax.plot(epochs, values, "o-", ms=3, color=shade)
                name = "validation" if part == "val" else "training"
                _end_label(ax, epochs[-1], values[-1], name, shade)
            ax.axvline(history.best.epoch, color=GREY, lw=0.8, ls=":")
            ax.set(xlabel="epoch", ylabel=unit)
            ax.xaxis.get_major_locator().set_params(integer=True)
        _spread_labels(axes[0])
        _spread_labels(axes[1])
        axes[0].set_title(f"dotted: the weights kept, epoch {history.best.epoch}", fontsize=9, color=GREY)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")


def accuracy_by_size(
    results: Mapping[str, Mapping[int, Sequence[float]]], *, chance: float | None = None, title: str = ""
) -> None:
    """Draw test accuracy against the number of training images: every run a dot, mean and standard error a line.

    Args:
        results: approach -> number of training images -> accuracy of each repetition.
        chance: accuracy of guessing, drawn as a thin line.
        title: the message, as a sentence.
    """
    with _style():
        _, ax = plt.subplots(figsize=(6.4, 3.6))
        for position, (name, by_size) in enumerate(results.items()):
            sizes, shade = sorted(by_size), colour(name, position)
            centre = [mean_and_error(by_size[n]) for n in sizes]
            means = [mean for mean, _ in centre]
            ax.errorbar(sizes, means, yerr=[e for _, e in centre], color=shade, marker="o", ms=5, capsize=3)
            for n in sizes:
                ax.plot([n] * len(by_size[n]), by_size[n], ".", color=shade, alpha=0.35, ms=5)
            _end_label(ax, sizes[-1], means[-1], name, shade)
        ax.set_xscale("log")
        ticks = sorted({n for by_size in results.values() for n in by_size})
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        ax.set(xlabel="training images (log scale)", ylabel="test accuracy")
        if chance is not None:
            ax.axhline(chance, color=GREY, lw=0.8)
            # Between the first ticks and below the line, where no label of a line's end can be.
            ax.text(0.25, chance, "chance", transform=ax.get_yaxis_transform(), va="top", color=GREY, fontsize=9)
        _spread_labels(ax)
        ax.set_title(title)


def embedding(points: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], *, title: str = "") -> None:
    """Draw features in two dimensions: `points` `(N, 2)`, coloured and marked by class."""
    with _style():
        _, ax = plt.subplots(figsize=(5.4, 4))
        for i, name in enumerate(classes):
            chosen = labels == i
            shade = (COLOURS["frozen"], OTHERS[1], *OTHERS)[i % 6]
            ax.scatter(*points[chosen].T, s=14, marker="o^sDvP"[i % 6], color=shade, alpha=0.65, lw=0, label=name)
        ax.set(xlabel="one direction", ylabel="another direction", xticks=[], yticks=[])
        ax.legend(loc="best", markerscale=1.5)
        ax.set_title(title)


def bars(values: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "", digits: int = 2) -> None:
    """Draw horizontal bars with their values; several repetitions become mean and standard error."""
    with _style():
        _, ax = plt.subplots(figsize=(6.4, 0.45 * len(values) + 1))
        for i, (name, measured) in enumerate(values.items()):
            mean, error = mean_and_error(measured) if len(measured) > 1 else (measured[0], None)
            ax.barh(i, mean, xerr=error, color=colour(name, i), height=0.6, capsize=3)
            offset = (mean + (error or 0), i)
            ax.annotate(f"{mean:,.{digits}f}", offset, xytext=(5, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(values)), list(values))
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set(xlabel=xlabel)
        ax.set_title(title)


def depth(profile: Mapping[str, Mapping[str, float]], *, chance: Mapping[str, float], title: str = "") -> None:
    """Draw how far above guessing a probe on each stage is: 0 is guessing, 1 is perfect; a line for each domain.

    `profile` is domain -> stage -> accuracy, stages from stem to last; `chance` is domain -> accuracy of guessing.
    """
    with _style():
        _, ax = plt.subplots(figsize=(6.4, 3.8))
        for position, (name, by_stage) in enumerate(profile.items()):
            values = [(accuracy - chance[name]) / (1 - chance[name]) for accuracy in by_stage.values()]
            shade, marker = (*COLOURS.values(), *OTHERS)[position % 7], "o^sDvPX"[position % 7]
            ax.plot(range(len(values)), values, marker=marker, ms=4, color=shade)
            _end_label(ax, len(values) - 1, values[-1], name, shade)
        ax.set_xticks(range(len(by_stage)), list(by_stage))
        ax.set(xlabel="stage whose output the probe reads", ylabel="share of the way from\nguessing to perfect")
        ax.axhline(0, color=GREY, lw=0.8)
        _spread_labels(ax)
        ax.set_title(title)


def scatter(points: Mapping[str, tuple[float, float]], *, xlabel: str, ylabel: str, title: str = "") -> None:
    """Draw named points, each with its name beside it, and a thin line at 0."""
    with _style():
        _, ax = plt.subplots(figsize=(6.4, 3.8))
        ax.axhline(0, color=GREY, lw=0.8)
        for name, (x, y) in points.items():
            ax.plot(x, y, "o", color=COLOURS["frozen"])
            _end_label(ax, x, y, name, "black")
        ax.set(xmargin=0.18, ymargin=0.12, xlabel=xlabel, ylabel=ylabel, title=title)


def confusion(evaluation: Evaluation, classes: Sequence[str], *, title: str = "") -> None:
    """Draw how many images of each true class (row) were given each answer (column)."""
    counts = evaluation.confusion().numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with _style():
        side = 1.6 + 0.6 * len(classes)
        _, ax = plt.subplots(figsize=(side + 0.6, side))
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), n in np.ndenumerate(counts):
            dark = share[row, column] > 0.5
            ax.text(column, row, f"{n:,}", ha="center", va="center", color="white" if dark else "black")
        ax.set_xticks(range(len(classes)), classes)
        ax.set_yticks(range(len(classes)), classes)
        ax.set(xlabel="answer", ylabel="true class")
        ax.spines[:].set_visible(False)
        ax.set_title(title)


def learning_rates(groups: torch.optim.Optimizer | Sequence[dict], *, title: str = "") -> None:
    """Draw the learning rate of each stage, from stem to head: an optimizer's, or those of `param_groups`."""
    groups = getattr(groups, "param_groups", groups)
    named = [(group.get("name", f"group {i}").removesuffix(NO_DECAY), group["lr"]) for i, group in enumerate(groups)]
    rates = {name: rate for name, rate in named if rate > 0}
    if not rates:
        raise ValueError("No group has a positive learning rate: there is nothing to draw.")
    with _style():
        _, ax = plt.subplots(figsize=(6.4, 0.3 * len(rates) + 1.1))
        low = min(rates.values())
        for i, rate in enumerate(rates.values()):
            shade = COLOURS["fine-tuned"] if i < len(rates) - 1 else OTHERS[1]
            ax.hlines(i, low / 2, rate, color=shade, lw=1.2)
            ax.plot(rate, i, "o", color=shade, ms=6)
            ax.annotate(f"{rate:.1e}", (rate, i), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set_xscale("log")
        ax.set_xlim(low / 2, max(rates.values()) * (max(rates.values()) / low) ** 0.15 * 1.6)
        ax.set_yticks(range(len(rates)), list(rates))
        ax.invert_yaxis()
        ax.set(xlabel="learning rate (log scale)", ylabel="stage, from the input up")
        ax.set_title(title)


def _array(picture: object) -> np.ndarray:
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        if picture.is_floating_point():
            picture = picture.clamp(0, 1)
        return picture.permute(1, 2, 0).numpy()
    return np.asarray(picture)


def _end_label(ax: Axes, x: float, y: float, text: str, shade: str) -> None:
    ax.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", color=shade, va="center", fontsize=9)


def _spread_labels(ax: Axes) -> None:
    """Move labels at line ends apart where they would overlap."""
    labels = sorted((t for t in ax.texts if t.get_position()[0] == 7), key=lambda t: t.xy[1])
    low, high = ax.get_ylim()
    gap, height = 11.0, ax.bbox.height * 72 / ax.figure.dpi  # in points: a line of 9-point text needs 11
    previous = -math.inf
    for label in labels:
        natural = (label.xy[1] - low) / (high - low) * height
        wanted = max(natural, previous + gap)
        label.set_position((7, wanted - natural))
        previous = wanted
