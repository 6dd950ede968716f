"""The course's figures: one message each, the same colours everywhere."""

from tlcourse.plots.curves import learning_curves, learning_rates, range_test, schedules
from tlcourse.plots.figures import accuracy_by_size, bars, confusion, depth, embedding, images, scatter
from tlcourse.plots.style import COLOURS, GREY, OTHERS, STYLE, colour

__all__ = [
    "COLOURS",
    "GREY",
    "OTHERS",
    "STYLE",
    "accuracy_by_size",
    "bars",
    "colour",
    "confusion",
    "depth",
    "embedding",
    "images",
    "learning_curves",
    "learning_rates",
    "range_test",
    "scatter",
    "schedules",
]
