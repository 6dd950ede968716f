"""The course's figures: one message each, the same colours everywhere."""

from tlcourse.plots.curves import learning_curves, learning_rates, range_test, schedules
from tlcourse.plots.figures import accuracy_by_size, bars, confusion, depth, embedding, images, scatter
from tlcourse.plots.style import COLOURS, OTHERS

__all__ = ["learning_curves", "learning_rates", "range_test", "schedules"]
__all__ += ["accuracy_by_size", "bars", "confusion", "depth", "embedding", "images", "scatter"]
__all__ += ["COLOURS", "OTHERS"]
