"""Train a model: the loop and what it remembers, schedules of its rates, and plans that thaw it phase by phase."""

from tlcourse.evaluate import evaluate
from tlcourse.train import schedules
from tlcourse.train.loop import Epoch, History, fit
from tlcourse.train.phases import CHAPTER_PLAN, Phase, gradual, plan
from tlcourse.train.rates import RangeTest, range_test
from tlcourse.train.schedules import Schedule

__all__ = [
    "CHAPTER_PLAN",
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
