"""What all figures share: colours, a new figure in the course's style, and labels at the ends of lines."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# Okabe and Ito's palette, which people with any common kind of colour vision can tell apart. A way of learning has the
# same colour in every figure, and nothing else has it.
COLOURS = {"scratch": "#D55E00", "frozen": "#0072B2", "fine-tuned": "#009E73"}
BLACK = "#000000"
GREY = "#767676"
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", BLACK, GREY)
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titlecolor": GREY,
    "axes.labelsize": 10,
    "legend.frameon": False,
}
END_LABEL = "end label"
LINE_HEIGHT = 11.0  # points that a line of 9-point text needs


@contextmanager
def new_figure(width: float, height: float, *, title: str = "", **layout: int) -> Iterator[np.ndarray]:
    """Make a figure of a size in inches, give its axes `(rows, columns)`, finish it; `layout` is for `plt.subplots`."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height), squeeze=False, **layout)
        yield axes
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        _spread_end_labels(axes)
        interactive = matplotlib.is_interactive()
    # A notebook's backend starts with the first figure, in here, and turns this on; without it no later figure shows.
    matplotlib.interactive(interactive)


def colour(name: str, position: int) -> str:
    """Return the colour of an approach, or the next free one for anything else."""
    return COLOURS.get(name, OTHERS[position % len(OTHERS)])


def end_label(ax: Axes, x: float, y: float, text: str, shade: str) -> None:
    """Write a line's name to the right of its last point, instead of a legend."""
    look = {"color": shade, "va": "center", "fontsize": 9, "gid": END_LABEL}
    ax.annotate(literal(text), (x, y), xytext=(7, 0), textcoords="offset points", **look)


def literal(text: str) -> str:
    """Return a user's text so that matplotlib takes no $ in it for the sign of a formula."""
    return text.replace("$", r"\$")


def _spread_end_labels(axes: np.ndarray) -> None:
    """Move end labels up where they would overlap."""
    figure = axes.flat[0].figure
    labels = {ax: [text for text in ax.texts if text.get_gid() == END_LABEL] for ax in axes.flat}
    if any(labels.values()):
        figure.draw_without_rendering()  # the layout decides how high the axes are
    for ax, texts in labels.items():
        heights = {text: ax.transData.transform(text.xy)[1] * 72 / figure.dpi for text in texts}
        lowest = -np.inf
        for text in sorted(heights, key=heights.get):
            height = max(heights[text], lowest)
            text.set_y(height - heights[text])
            lowest = height + LINE_HEIGHT
