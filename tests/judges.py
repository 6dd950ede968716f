"""The tests that every bank of answers to an exercise has: right ones in any spelling, wrong ones with their fault."""

import pytest

import tlcourse as tl


def bank(exercise, right, wrong, *, each, in_all=(0, 0)):
    """Return the tests of a bank: its size, its right answers, its wrong ones.

    Args:
        exercise: its name, such as "ex2".
        right: step -> answers.
        wrong: step -> pairs of an answer and a phrase that the message must contain.
        each: the fewest right and wrong answers of a step.
        in_all: the fewest of the exercise.
    """
    accepted = [(step, answer) for step, answers in right.items() for answer in answers]
    refused = [(step, *pair) for step, pairs in wrong.items() for pair in pairs]

    def large_enough():
        assert right.keys() == wrong.keys()
        assert min(map(len, right.values())) >= each[0]
        assert min(map(len, wrong.values())) >= each[1]
        assert len(accepted) >= in_all[0]
        assert len(refused) >= in_all[1]

    @pytest.mark.parametrize(("step", "answer"), accepted)
    def are_right(step, answer):
        verdict = tl.check(f"{exercise}/{step}", answer)
        assert verdict.outcome == "right", verdict
        assert f'tl.solution("{exercise}/{step}")' in verdict.message

    @pytest.mark.parametrize(("step", "answer", "reason"), refused)
    def are_refused(step, answer, reason):
        verdict = tl.check(f"{exercise}/{step}", answer)
        assert verdict.outcome == "not right", verdict
        assert reason in verdict.message
        assert f'tl.hint("{exercise}/{step}")' in verdict.message

    return large_enough, are_right, are_refused
