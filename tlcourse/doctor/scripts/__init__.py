"""The rules for scripts and notebooks, which are read and never run: every public function of the modules is one."""

from tlcourse.doctor.scripts import data, loop, setup

__all__ = ["data", "loop", "setup"]
