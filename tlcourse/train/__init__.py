"""Train a model: the loop and its history, learning-rate schedules, checkpoints, and gradual unfreezing."""

from tlcourse.evaluation import evaluate
from tlcourse.train import schedules
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.gradual import CHAPTER_PLAN, Phase, fit_gradual, plan
from tlcourse.train.history import Epoch, History
from tlcourse.train.loop import fit
from tlcourse.train.lr_finder import RangeTest, lr_range_test
from tlcourse.train.schedules import Schedule

__all__ = [
    "CHAPTER_PLAN",
    "Checkpoints",
    "Epoch",
    "History",
    "Phase",
    "RangeTest",
    "Schedule",
    "evaluate",
    "fit",
    "fit_gradual",
    "lr_range_test",
    "plan",
    "schedules",
]
