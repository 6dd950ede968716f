"""tlcourse: transfer learning and fine-tuning, measured."""

from tlcourse import data, doctor, evaluate, features, models, plots, predict, train
from tlcourse.claims import ClaimError, claim
from tlcourse.doctor import examine
from tlcourse.runtime import Runtime, current, setup
from tlcourse.table import Table

__version__ = "0.1.0"
__all__ = [
    "ClaimError",
    "Runtime",
    "Table",
    "claim",
    "current",
    "data",
    "doctor",
    "evaluate",
    "examine",
    "features",
    "models",
    "plots",
    "predict",
    "setup",
    "train",
]
