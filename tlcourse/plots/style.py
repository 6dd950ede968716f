"""What all figures share: colours, style, and labels at the ends of lines that do not overlap."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

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
def style() -> Iterator[None]:
    with plt.rc_context(STYLE):
        yield
        interactive = matplotlib.is_interactive()
    # A notebook's backend starts with the first figure, in here, and turns this on; without it no later figure shows.
    matplotlib.interactive(interactive)


def colour(name: str, position: int = 0) -> str:
    """Return the colour of an approach, or the next free one for anything else."""
    return COLOURS.get(name, OTHERS[position % len(OTHERS)])


def end_label(ax: Axes, x: float, y: float, text: str, shade: str) -> None:
    ax.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", color=shade, va="center", fontsize=9)


def spread_labels(ax: Axes) -> None:
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
