"""The doctor: looks at a set-up and says what is wrong with it."""

from tlcourse.doctor.examination import examine
from tlcourse.doctor.files import diagnose
from tlcourse.doctor.report import Finding, Report

__all__ = ["Finding", "Report", "diagnose", "examine"]
