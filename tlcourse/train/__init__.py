"""Train a model: the loop and what it remembers, schedules of its rates, and plans that thaw it phase by phase."""

from tlcourse.evaluate import evaluate
from tlcourse.train import schedules
from tlcourse.train.checkpoints import Checkpoints
from tlcourse.train.history import Epoch, History
from tlcourse.train.loop import fit
from tlcourse.train.phases import CHAPTER_PLAN, Phase, gradual, plan
from tlcourse.train.rates import RangeTest, range_test
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
    "gradual",
    "plan",
    "range_test",
    "schedules",
]
