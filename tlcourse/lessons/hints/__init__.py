"""Hints for the steps of exercises: three for each, every one stronger than the one before."""

from tlcourse.lessons.hints import ex1, ex2, ex3, ex4, ex5

HINTS = ex1.HINTS | ex2.HINTS | ex3.HINTS | ex4.HINTS | ex5.HINTS
