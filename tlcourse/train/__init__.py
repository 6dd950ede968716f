"""Train a model: the loop, what it remembers, and how it survives."""

from tlcourse.evaluate import evaluate
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.history import Epoch, History
from tlcourse.train.loop import fit
from tlcourse.train.schedules import Schedule

__all__ = ["Checkpoints", "Epoch", "History", "Schedule", "evaluate", "fit"]
