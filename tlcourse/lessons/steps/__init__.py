"""The steps of the lessons' tasks: each looks at what an answer does, and says what is right or wrong with it."""

from tlcourse.lessons.checks import STEPS
from tlcourse.lessons.steps import beyond, choosing, fine_tuning, smaller, transfer

__all__ = ["STEPS_OF_LESSONS", "beyond", "choosing", "fine_tuning", "smaller", "transfer"]

STEPS_OF_LESSONS = tuple(STEPS)
