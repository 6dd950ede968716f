"""Hints for the steps of exercises: three for each, every one stronger than the one before."""

from tlcourse.lessons.hints import ex2, ex5

HINTS = ex2.HINTS | ex5.HINTS
