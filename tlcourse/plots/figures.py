"""Figures of images, results and features: each makes a new figure and returns nothing; `title` is its message."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from tlcourse.evaluation import Evaluation, mean_and_error
from tlcourse.plots.style import BLACK, COLOURS, GREY, OTHERS, colour, end_label, literal, new_figure

MARKERS = "o^sDvPX"
MOST = 24  # classes in a confusion matrix


def images(items: Sequence[object], labels: Sequence[str] | None = None, *, columns: int = 5, title: str = "") -> None:
    """Show images in a grid: PIL images, or tensors `(3, H, W)` that are uint8 or floats from 0 to 1."""
    if not len(items):
        raise ValueError("There is no image to show.")
    columns = min(columns, len(items))
    rows = math.ceil(len(items) / columns)
    # At 100 dpi, 15 noisy images of 52 pixels stay below 150 kB.
    height = (1.5 if labels is not None else 1.25) * rows + (0.3 if title else 0)
    width = max(1.25 * columns, 0.075 * len(title))
    with new_figure(width, height, title=title, nrows=rows, ncols=columns, dpi=100) as axes:
        for i, ax in enumerate(axes.flat):
            ax.axis("off")
            if i < len(items):
                ax.imshow(
                    _array(items[i], side=96 if len(items) <= 6 else 64 if len(items) <= 10 else 52),
                    interpolation="nearest",
                )
                if labels is not None:
                    ax.set_title(literal(str(labels[i])), fontsize=9, loc="center", pad=2, color="black")


def runs(
    results: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    live: Mapping[str, Mapping[int, Sequence[float]]] | None = None,
    chance: float | None = None,
    measured: str = "validation accuracy",
    title: str = "",
) -> None:
    """Draw accuracy against the number of training images, or as rows where there is one number: every run is a dot.

    Args:
        results: way -> number of training images -> accuracy of each run; lines and bars go through the means.
        live: runs to draw over them as open diamonds, of the same form.
        chance: the accuracy of guessing.
        measured: what the accuracy was measured on.
        title: the message, as a sentence.
    """
    sizes = sorted({n for by_size in results.values() for n in by_size})
    if len(sizes) == 1:
        one = {name: by_size[sizes[0]] for name, by_size in results.items()}
        with new_figure(6.4, 0.5 * len(one) + 1.1, title=title) as ((ax,),):
            _rows(ax, one, {name: by_size.get(sizes[0], []) for name, by_size in (live or {}).items()}, chance)
            ax.set_xlabel(f"{measured} with {sizes[0]:,} training images")
        return
    with new_figure(6.4, 3.6, title=title) as ((ax,),):
        for position, (name, by_size) in enumerate(results.items()):
            own, shade = sorted(by_size), colour(name, position)
            means = [float(np.mean(by_size[n])) for n in own]
            ax.plot(own, means, color=shade, lw=1.8)
            for n in own:
                ax.plot([n] * len(by_size[n]), by_size[n], "o", color=shade, alpha=0.4, ms=4, mew=0)
            for n, values in (live or {}).get(name, {}).items():
                ax.plot([n] * len(values), values, "D", color=shade, mfc="none", ms=7, zorder=4)
            end_label(ax, own[-1], means[-1], name, shade)
        ax.set(xscale="log", xlabel="training images (log scale)", ylabel=measured)
        ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
        ax.minorticks_off()
        if chance is not None:
            ax.axhline(chance, color=GREY, lw=0.8)
            # Between the first ticks and below the line, where no label of a line's end can be.
            ax.text(0.25, chance, "chance", transform=ax.get_yaxis_transform(), va="top", color=GREY, fontsize=9)


def _rows(
    ax: Axes, results: Mapping[str, Sequence[float]], live: Mapping[str, Sequence[float]], chance: float | None
) -> None:
    """Draw a row for each way: a dot for each run, a line at their mean."""
    for i, (name, values) in enumerate(results.items()):
        shade, mean = colour(name, i), float(np.mean(values))
        ax.plot(values, [i] * len(values), "o", color=shade, alpha=0.45, ms=6, mew=0)
        ax.vlines(mean, i - 0.28, i + 0.28, color=shade, lw=2.5)
        ax.annotate(f"{mean:.3f}", (mean, i - 0.32), ha="center", fontsize=9, color=shade)
        ax.plot(live.get(name, []), [i] * len(live.get(name, [])), "D", color=shade, mfc="none", ms=7, zorder=4)
    ax.set_yticks(range(len(results)), [*map(literal, results)])
    ax.set_ylim(len(results) - 0.5, -0.75)
    if chance is not None:
        ax.axvline(chance, color=GREY, lw=0.8)
        ax.text(chance, len(results) - 0.5, " chance", va="bottom", color=GREY, fontsize=9)


def winners(best: Mapping[str, Mapping[int, Sequence[str]]], gaps: Mapping[str, float], *, title: str = "") -> None:
    """Draw a map: image sets by their gap, near to far, against the number of images; each cell names the best ways.

    Args:
        best: image set -> number of images -> the best way, then those that are not clearly worse.
        gaps: image set -> distance from the images of pre-training, as `tl.features.domain_gap` measures it.
        title: the message, as a sentence.
    """
    names = sorted(best, key=lambda name: gaps[name])
    sizes = sorted({n for row in best.values() for n in row})
    with new_figure(1.6 + 1.55 * len(sizes), 0.6 * len(names) + 1.0, title=title) as ((ax,),):
        for y, name in enumerate(names):
            for n, ways in best[name].items():
                for part, way in enumerate(ways):  # a cell is shared by the ways that are in it
                    left = sizes.index(n) - 0.48 + 0.96 * part / len(ways)
                    ax.add_patch(
                        Rectangle((left, y - 0.45), 0.96 / len(ways), 0.9, color=colour(way, part), alpha=0.25)
                    )
                ax.text(sizes.index(n), y, "\n".join(ways), ha="center", va="center", fontsize=8, linespacing=1.0)
        ax.set_xticks(range(len(sizes)), [f"{n:,}" for n in sizes])
        ax.set_yticks(range(len(names)), [f"{name}, gap {gaps[name]:.2f}" for name in names])
        ax.set(xlim=(-0.5, len(sizes) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="training images")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)


def bars(values: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "", digits: int = 2) -> None:
    """Draw horizontal bars with their values; several runs become mean and standard error."""
    with new_figure(6.4, 0.45 * len(values) + 1, title=title) as ((ax,),):
        for i, (name, measured) in enumerate(values.items()):
            mean, error = mean_and_error(measured) if len(measured) > 1 else (measured[0], 0)
            ax.barh(i, mean, xerr=error or None, color=COLOURS.get(name, GREY), height=0.6, capsize=3)
            end = (mean + error, i)
            ax.annotate(f"{mean:,.{digits}f}", end, xytext=(5, 0), textcoords="offset points", va="center")
        ax.set_yticks(range(len(values)), [*map(literal, values)])
        ax.invert_yaxis()
        ax.set(xmargin=0.12, xlabel=xlabel)


def tradeoff(
    points: Mapping[str, tuple[float, float]],
    front: Sequence[str],
    *,
    xlabel: str,
    ylabel: str,
    named: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draw points `(cost, value)`, with a line through those on the front; the names in `named` are written.

    Without `named`, all on the front are.
    """
    with new_figure(6.4, 4.2, title=title) as ((ax,),):
        ax.plot(*zip(*points.values(), strict=True), "o", color=GREY, alpha=0.5, ms=4, mew=0)
        if front:
            ax.plot(*zip(*(points[name] for name in front), strict=True), "o-", color=BLACK, lw=1, ms=4)
        costs = [cost for cost, _ in points.values()]
        for name in front if named is None else named:
            if name in front and points[name][0] ** 2 > min(costs) * max(costs):  # no point lies above the front
                ax.annotate(literal(name), points[name], (-6, 5), textcoords="offset points", ha="right", fontsize=9)
            else:
                end_label(ax, *points[name], name, BLACK if name in front else GREY)
        ax.set(xscale="log", xlabel=f"{xlabel} (log scale)", ylabel=ylabel, xmargin=0.12)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(costs) < 100 * min(costs) else (1,)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")


def depth(profile: Mapping[str, Mapping[str, float]], *, chance: Mapping[str, float], title: str = "") -> None:
    """Draw how far above guessing a probe on each stage is: 0 is guessing, 1 is perfect; a line for each domain.

    `profile` is domain -> stage -> accuracy, stages from stem to last; `chance` is domain -> accuracy of guessing.
    """
    with new_figure(6.4, 3.8, title=title) as ((ax,),):
        for i, (name, by_stage) in enumerate(profile.items()):
            shade, marker = OTHERS[i % len(OTHERS)], MARKERS[i % len(MARKERS)]
            values = [(accuracy - chance[name]) / (1 - chance[name]) for accuracy in by_stage.values()]
            ax.plot(values, marker=marker, ms=4, color=shade)
            end_label(ax, len(values) - 1, values[-1], name, shade)
        ax.set_xticks(range(len(by_stage)), list(by_stage))
        ax.set(xlabel="stage whose output the probe reads", ylabel="share of the way from\nguessing to perfect")
        ax.axhline(0, color=GREY, lw=0.8)


def confusion(evaluation: Evaluation, classes: Sequence[str], *, title: str = "") -> None:
    """Draw how many images of each true class (row) were given each answer (column).

    Of many classes, those with the most mistakes are shown, and the others together in the last row and column.
    """
    counts = evaluation.confusion().numpy()
    if len(classes) > MOST:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        chosen = np.sort(np.argsort(-wrong, kind="stable")[: MOST - 1])
        group = np.full(len(classes), MOST - 1)
        group[chosen] = range(MOST - 1)
        merged = np.zeros((MOST, MOST), counts.dtype)
        np.add.at(merged, np.ix_(group, group), counts)
        counts, classes = merged, [*(classes[i] for i in chosen), f"{len(classes) - MOST + 1} others"]
    names = [literal(str(name)) for name in classes]
    turn = 90 if max(map(len, names)) > 8 else 0  # degrees
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.6 + 0.6 * len(classes)
    with new_figure(side + 0.6, side, title=title) as ((ax,),):
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), n in np.ndenumerate(counts):
            shade = "white" if share[row, column] > 0.5 else "black"
            ax.text(column, row, f"{n:,}", ha="center", va="center", color=shade)
        ax.set_xticks(range(len(classes)), names, rotation=turn)
        ax.set_yticks(range(len(classes)), names)
        ax.set(xlabel="answer", ylabel="true class")
        ax.spines[:].set_visible(False)


def _array(image: object, side: int) -> np.ndarray:
    """Return an image as an array, its longer side at most `side` pixels where it is a PIL image."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().permute(1, 2, 0)
        return (image.clamp(0, 1) if image.is_floating_point() else image).numpy()
    image = image.copy()
    image.thumbnail((side, side))
    return np.asarray(image)
