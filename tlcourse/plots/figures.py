"""The course's pictures: one message each, the same colours everywhere.

Every function draws on the current figure or a new one and returns nothing, so that a notebook shows it once.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch

from tlcourse.evaluation import Evaluation, mean_and_error
from tlcourse.plots.style import COLOURS, GREY, OTHERS, colour, end_label, spread_labels, style


def images(
    pictures: Sequence[object], labels: Sequence[str] | None = None, *, columns: int = 8, title: str = ""
) -> None:
    """Show pictures in a grid: PIL images, or tensors `(3, H, W)` that are uint8 or floats from 0 to 1."""
    if not len(pictures):
        raise ValueError("There is no picture to show.")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    with style():
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


def accuracy_by_size(
    results: Mapping[str, Mapping[int, Sequence[float]]], *, chance: float | None = None, title: str = ""
) -> None:
    """Draw test accuracy against the number of training images: every run a dot, mean and standard error a line.

    Args:
        results: approach -> number of training images -> accuracy of each repetition.
        chance: accuracy of guessing, drawn as a thin line.
        title: the message, as a sentence.
    """
    with style():
        _, ax = plt.subplots(figsize=(6.4, 3.6))
        for position, (name, by_size) in enumerate(results.items()):
            sizes, shade = sorted(by_size), colour(name, position)
            centre = [mean_and_error(by_size[n]) for n in sizes]
            means = [mean for mean, _ in centre]
            ax.errorbar(sizes, means, yerr=[e for _, e in centre], color=shade, marker="o", ms=5, capsize=3)
            for n in sizes:
                ax.plot([n] * len(by_size[n]), by_size[n], ".", color=shade, alpha=0.35, ms=5)
            end_label(ax, sizes[-1], means[-1], name, shade)
        ax.set_xscale("log")
        ticks = sorted({n for by_size in results.values() for n in by_size})
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        ax.set(xlabel="training images (log scale)", ylabel="test accuracy")
        if chance is not None:
            ax.axhline(chance, color=GREY, lw=0.8)
            # Between the first ticks and below the line, where no label of a line's end can be.
            ax.text(0.25, chance, "chance", transform=ax.get_yaxis_transform(), va="top", color=GREY, fontsize=9)
        spread_labels(ax)
        ax.set_title(title)


def embedding(points: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], *, title: str = "") -> None:
    """Draw features in two dimensions: `points` `(N, 2)`, coloured and marked by class."""
    with style():
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
    with style():
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
    with style():
        _, ax = plt.subplots(figsize=(6.4, 3.8))
        for position, (name, by_stage) in enumerate(profile.items()):
            values = [(accuracy - chance[name]) / (1 - chance[name]) for accuracy in by_stage.values()]
            shade, marker = (*COLOURS.values(), *OTHERS)[position % 7], "o^sDvPX"[position % 7]
            ax.plot(range(len(values)), values, marker=marker, ms=4, color=shade)
            end_label(ax, len(values) - 1, values[-1], name, shade)
        ax.set_xticks(range(len(by_stage)), list(by_stage))
        ax.set(xlabel="stage whose output the probe reads", ylabel="share of the way from\nguessing to perfect")
        ax.axhline(0, color=GREY, lw=0.8)
        spread_labels(ax)
        ax.set_title(title)


def scatter(points: Mapping[str, tuple[float, float]], *, xlabel: str, ylabel: str, title: str = "") -> None:
    """Draw named points, each with its name beside it, and a thin line at 0."""
    with style():
        _, ax = plt.subplots(figsize=(6.4, 3.8))
        ax.axhline(0, color=GREY, lw=0.8)
        for name, (x, y) in points.items():
            ax.plot(x, y, "o", color=COLOURS["frozen"])
            end_label(ax, x, y, name, "black")
        ax.set(xmargin=0.18, ymargin=0.12, xlabel=xlabel, ylabel=ylabel, title=title)


def confusion(evaluation: Evaluation, classes: Sequence[str], *, title: str = "") -> None:
    """Draw how many images of each true class (row) were given each answer (column)."""
    counts = evaluation.confusion().numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with style():
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


def _array(picture: object) -> np.ndarray:
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        if picture.is_floating_point():
            picture = picture.clamp(0, 1)
        return picture.permute(1, 2, 0).numpy()
    return np.asarray(picture)
