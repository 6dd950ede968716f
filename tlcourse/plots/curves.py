"""Curves of training: losses per epoch, rates per stage and per step, and the loss against the rate."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes

from tlcourse.models import NO_DECAY
from tlcourse.plots.style import BLACK, GREY, OTHERS, end_label, new_figure
from tlcourse.train import History, RangeTest

FEW = 40  # steps: with more, stairs are too fine to be seen as such


def learning_curves(history: History, *, title: str = "") -> None:
    """Draw loss and accuracy of training and validation per epoch, and mark the epoch whose weights were kept.

    In a run with several phases, thin lines separate them, with their names above.
    """
    epochs = history.column("epoch")
    with new_figure(8, 2.9, title=title, ncols=2) as ((loss, accuracy),):
        for ax, kind, unit in ((loss, "loss", "cross-entropy (nats)"), (accuracy, "accuracy", "accuracy")):
            for part, name, shade in (("train", "training", GREY), ("val", "validation", BLACK)):
                values = history.column(f"{part}_{kind}")
                ax.plot(epochs, values, "o-", ms=3, color=shade)
                end_label(ax, epochs[-1], values[-1], name, shade)
            ax.axvline(history.best.epoch, color=GREY, lw=0.8, ls=":")
            ax.set(xlabel="epoch", ylabel=unit)
            ax.xaxis.get_major_locator().set_params(integer=True)
            if len(history.phases) > 1:
                _phases(ax, history)
        note = f"dotted: the weights kept, epoch {history.best.epoch}"
        loss.set_title(note, pad=22 if len(history.phases) > 1 else 6)


def learning_rates(groups: torch.optim.Optimizer | Sequence[dict], *, low: float = math.inf, title: str = "") -> None:
    """Draw the learning rate of each stage, from stem to head: an optimizer's, or those of `param_groups`.

    The axis begins below the lowest rate, or below `low` where that is lower, so that figures can be compared.
    """
    groups = getattr(groups, "param_groups", groups)
    named = [(group.get("name", f"group {i}").removesuffix(NO_DECAY), group["lr"]) for i, group in enumerate(groups)]
    rates = {name: rate for name, rate in named if rate > 0}
    if not rates:
        raise ValueError("No group has a positive learning rate: there is nothing to draw.")
    low, high = min(low, *rates.values()), max(rates.values())
    with new_figure(6.4, 0.3 * len(rates) + 1.1, title=title) as ((ax,),):
        for i, rate in enumerate(rates.values()):
            shade = GREY if i < len(rates) - 1 else OTHERS[1]
            ax.hlines(i, low / 2, rate, color=shade, lw=1.2)
            ax.plot(rate, i, "o", color=shade, ms=6)
            ax.annotate(f"{rate:.1e}", (rate, i), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set_yticks(range(len(rates)), list(rates))
        ax.invert_yaxis()
        ax.set(xscale="log", xlim=(low / 2, high * (high / low) ** 0.15 * 1.6))
        ax.set(xlabel="learning rate (log scale)", ylabel="stage, input first")


def schedules(curves: Mapping[str, torch.Tensor], *, unit: str = "step", title: str = "") -> None:
    """Draw learning rates against the step, a colour for each schedule.

    The axis of rates is logarithmic where the groups of a schedule are more than a factor of ten apart.

    Args:
        curves: name -> rates `(steps,)` or `(steps, groups)`, as `tl.train.schedules.simulate` returns. The group with
            the highest rate is a thick line, the others are thin.
        unit: what is counted, such as "epoch".
        title: the message, as a sentence.

    Raises:
        ValueError: there is no curve, or one of another shape.
    """
    tables = {name: torch.as_tensor(curve).detach().cpu().double() for name, curve in curves.items()}
    tables = {name: table[:, None] if table.ndim == 1 else table for name, table in tables.items()}
    if not tables or any(table.ndim != 2 or not table.numel() for table in tables.values()):
        shapes = {name: tuple(table.shape) for name, table in tables.items()}
        raise ValueError(f"Give at least one curve, (steps,) or (steps, groups); the shapes are {shapes}.")
    tops = [table.amax(0) for table in tables.values()]
    logarithmic = any(top.max() > 10 * top[top > 0].min() for top in tops if (top > 0).any())
    with new_figure(6.4, 3.4, title=title) as ((ax,),):
        for i, (name, table) in enumerate(tables.items()):
            shade, main = OTHERS[i % len(OTHERS)], int(table.amax(0).argmax())
            if logarithmic:
                table = table.where(table > 0, torch.nan)  # a rate of 0 is below every logarithmic axis
            drawn = "steps-post" if len(table) <= FEW else "default"
            for group in range(table.shape[1]):
                look = {"lw": 1.8, "zorder": 3} if group == main else {"lw": 0.8}
                ax.plot(table[:, group], color=shade, drawstyle=drawn, **look)
            last = int(table[:, main].isfinite().nonzero()[-1])
            end_label(ax, last, table[last, main].item(), name, shade)
        if logarithmic:
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=-0.04 * max(top.max().item() for top in tops))  # room for labels
        ax.set(xmargin=0.01, xlabel=unit, ylabel="learning rate" + " (log scale)" * logarithmic)
        ax.xaxis.get_major_locator().set_params(integer=True)


def range_test(result: RangeTest, *, title: str = "") -> None:
    """Draw the loss of a range test against the rate: a dot per step, the smoothed loss as a line, the suggestion."""
    low, high, start = min(result.losses), max(result.losses), result.smoothed[0]
    note = "the loss did not fall: no suggestion"
    with new_figure(6.4, 3.4, title=title) as ((ax,),):
        ax.plot(result.rates, result.losses, ".", ms=4, color=GREY, alpha=0.6)
        ax.plot(result.rates, result.smoothed, color=BLACK, lw=1.8)
        if high > start + 2 * (start - low):  # one loss of a hundred at the end would press all others flat
            ax.set_ylim(low - 0.08 * (start - low), start + max(start - low, 0.1 * start))
        if result.suggestion is not None:
            ax.axvline(result.suggestion, color=GREY, lw=0.8, ls=":")
            note = f"dotted: the loss falls fastest at a rate of {result.suggestion:.1e}, a place to start"
        ax.set(xscale="log", xlabel="learning rate (log scale)", ylabel="cross-entropy (nats)", title=note)


def _phases(ax: Axes, history: History) -> None:
    """Draw a thin line before the first epoch of every phase but the first, and write the names above the axes."""
    for i, (first, name) in enumerate(history.phases):
        if i:
            ax.axvline(first - 0.5, color=GREY, lw=0.6)
        # Every second name is one line higher: short phases with long names must not run into each other.
        place = {"xycoords": ax.get_xaxis_transform(), "xytext": (0, 1 + 9 * (i % 2)), "textcoords": "offset points"}
        look = {"fontsize": 7, "color": GREY, "va": "bottom", "annotation_clip": False}
        ax.annotate(name, (first - 0.4, 1), **place, **look)
