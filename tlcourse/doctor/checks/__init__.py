"""The checks of `examine`: every public function of these modules is one. A check changes nothing in the set-up."""

from tlcourse.doctor.checks import data, model, results, schedule

__all__ = ["data", "model", "results", "schedule"]
