"""Train a model: the loop, and what it remembers."""

from tlcourse.evaluate import evaluate
from tlcourse.train.loop import Epoch, History, fit

__all__ = ["Epoch", "History", "evaluate", "fit"]
