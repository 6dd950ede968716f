"""The steps of the exercises: each module checks the answers to one exercise."""

from tlcourse.lessons import steps  # noqa: F401  (the lessons' steps come first)
from tlcourse.lessons.exercises import ex1, ex1_train, ex2, ex3, ex3_choice, ex4, ex5, ex5_quiet

__all__ = ["ex1", "ex1_train", "ex2", "ex3", "ex3_choice", "ex4", "ex5", "ex5_quiet"]
