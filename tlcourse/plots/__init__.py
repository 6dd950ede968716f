"""The course's figures: one message each, the same colours everywhere."""

from tlcourse.plots.curves import learning_curves, learning_rates, range_test, schedules
from tlcourse.plots.figures import MARKERS, bars, confusion, depth, images, runs, tradeoff, winners
from tlcourse.plots.style import BLACK, COLOURS, GREY, OTHERS, new_figure

__all__ = ["learning_curves", "learning_rates", "range_test", "schedules"]
__all__ += ["bars", "confusion", "depth", "images", "runs", "tradeoff", "winners"]
__all__ += ["BLACK", "COLOURS", "GREY", "MARKERS", "OTHERS", "new_figure"]
