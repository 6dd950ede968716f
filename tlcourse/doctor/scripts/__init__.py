"""The rules for scripts and notebooks, which are read and never run: every public function of the modules is one."""

from tlcourse.doctor.scripts import api, data, loop, modes, schedule, setup

RULES = (setup, data, modes, loop, schedule, api)
