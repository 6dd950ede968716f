"""Figures of images, results and features: each makes a new figure and returns nothing; `title` is its message."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from tlcourse.evaluation import Evaluation, mean_and_error
from tlcourse.plots.style import ALL_COLOURS, COLOURS, GREY, OTHERS, colour, end_label, new_figure

MARKERS = "o^sDvPX"


def images(items: Sequence[object], labels: Sequence[str] | None = None, *, columns: int = 8, title: str = "") -> None:
    """Show images in a grid: PIL images, or tensors `(3, H, W)` that are uint8 or floats from 0 to 1."""
    if not len(items):
        raise ValueError("There is no image to show.")
    columns = min(columns, len(items))
    rows = math.ceil(len(items) / columns)
    # 80 pixels for an image at 100 dpi: two dozen photographic ones stay below 150 kB.
    height = (1.0 if labels is not None else 0.8) * rows + (0.3 if title else 0)
    with new_figure(0.8 * columns, height, title=title, nrows=rows, ncols=columns, dpi=100) as axes:
        for i, ax in enumerate(axes.flat):
            ax.axis("off")
            if i < len(items):
                ax.imshow(_array(items[i]))
                if labels is not None:
                    ax.set_title(labels[i], fontsize=7.5, loc="center", pad=2, color="black")


def accuracy_by_size(
    results: Mapping[str, Mapping[int, Sequence[float]]], *, chance: float | None = None, title: str = ""
) -> None:
    """Draw test accuracy against the number of training images: a dot per run, a line for mean and standard error.

    `results` is approach -> number of training images -> accuracy of each run; `chance` is the accuracy of guessing.
    """
    with new_figure(6.4, 3.6, title=title) as ((ax,),):
        for position, (name, by_size) in enumerate(results.items()):
            sizes, shade = sorted(by_size), colour(name, position)
            means, errors = zip(*(mean_and_error(by_size[n]) for n in sizes), strict=True)
            ax.errorbar(sizes, means, yerr=errors, color=shade, marker="o", ms=5, capsize=3)
            for n in sizes:
                ax.plot([n] * len(by_size[n]), by_size[n], ".", color=shade, alpha=0.35, ms=5)
            end_label(ax, sizes[-1], means[-1], name, shade)
        ticks = sorted({n for by_size in results.values() for n in by_size})
        ax.set(xscale="log", xlabel="training images (log scale)", ylabel="test accuracy")
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        if chance is not None:
            ax.axhline(chance, color=GREY, lw=0.8)
            # Between the first ticks and below the line, where no label of a line's end can be.
            ax.text(0.25, chance, "chance", transform=ax.get_yaxis_transform(), va="top", color=GREY, fontsize=9)


def embedding(points: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], *, title: str = "") -> None:
    """Draw features in two dimensions: `points` `(N, 2)`, coloured and marked by class."""
    shades = (COLOURS["frozen"], OTHERS[1], *OTHERS)
    with new_figure(5.4, 4, title=title) as ((ax,),):
        for i, name in enumerate(classes):
            chosen = points[labels == i]
            ax.scatter(*chosen.T, s=14, marker=MARKERS[i % 6], color=shades[i % 6], alpha=0.65, lw=0, label=name)
        ax.set(xlabel="one direction", ylabel="another direction", xticks=[], yticks=[])
        ax.legend(loc="best", markerscale=1.5)


def bars(values: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "", digits: int = 2) -> None:
    """Draw horizontal bars with their values; several runs become mean and standard error."""
    with new_figure(6.4, 0.45 * len(values) + 1, title=title) as ((ax,),):
        for i, (name, measured) in enumerate(values.items()):
            mean, error = mean_and_error(measured) if len(measured) > 1 else (measured[0], 0)
            ax.barh(i, mean, xerr=error or None, color=colour(name, i), height=0.6, capsize=3)
            end = (mean + error, i)
            ax.annotate(f"{mean:,.{digits}f}", end, xytext=(5, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(values)), list(values))
        ax.invert_yaxis()
        ax.set(xmargin=0.12, xlabel=xlabel)


def depth(profile: Mapping[str, Mapping[str, float]], *, chance: Mapping[str, float], title: str = "") -> None:
    """Draw how far above guessing a probe on each stage is: 0 is guessing, 1 is perfect; a line for each domain.

    `profile` is domain -> stage -> accuracy, stages from stem to last; `chance` is domain -> accuracy of guessing.
    """
    with new_figure(6.4, 3.8, title=title) as ((ax,),):
        for i, (name, by_stage) in enumerate(profile.items()):
            shade, marker = ALL_COLOURS[i % len(ALL_COLOURS)], MARKERS[i % len(MARKERS)]
            values = [(accuracy - chance[name]) / (1 - chance[name]) for accuracy in by_stage.values()]
            ax.plot(values, marker=marker, ms=4, color=shade)
            end_label(ax, len(values) - 1, values[-1], name, shade)
        ax.set_xticks(range(len(by_stage)), list(by_stage))
        ax.set(xlabel="stage whose output the probe reads", ylabel="share of the way from\nguessing to perfect")
        ax.axhline(0, color=GREY, lw=0.8)


def scatter(points: Mapping[str, tuple[float, float]], *, xlabel: str, ylabel: str, title: str = "") -> None:
    """Draw named points, each with its name beside it, and a thin line at 0."""
    with new_figure(6.4, 3.8, title=title) as ((ax,),):
        ax.axhline(0, color=GREY, lw=0.8)
        for name, (x, y) in points.items():
            ax.plot(x, y, "o", color=COLOURS["frozen"])
            ax.annotate(name, (x, y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set(xmargin=0.18, ymargin=0.12, xlabel=xlabel, ylabel=ylabel)


def confusion(evaluation: Evaluation, classes: Sequence[str], *, title: str = "") -> None:
    """Draw how many images of each true class (row) were given each answer (column)."""
    counts = evaluation.confusion().numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.6 * len(classes)
    with new_figure(side + 0.6, side, title=title) as ((ax,),):
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), n in np.ndenumerate(counts):
            shade = "white" if share[row, column] > 0.5 else "black"
            ax.text(column, row, f"{n:,}", ha="center", va="center", color=shade)
        ax.set_xticks(range(len(classes)), classes)
        ax.set_yticks(range(len(classes)), classes)
        ax.set(xlabel="answer", ylabel="true class")
        ax.spines[:].set_visible(False)


def _array(image: object) -> np.ndarray:
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().permute(1, 2, 0)
        return (image.clamp(0, 1) if image.is_floating_point() else image).numpy()
    return np.asarray(image)
