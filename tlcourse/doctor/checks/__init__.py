"""The checks of a set-up in memory: each is a generator of findings in its module's `CHECKS`."""
