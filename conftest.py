"""The environment of every test, and of the kernels in which nbval runs the notebooks: they inherit it."""

import os
import signal
import tempfile

import matplotlib
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Fix the profile, keep away from the user's own data and cache, and open no windows."""
    matplotlib.use("Agg")  # Only here: in the kernels a set MPLBACKEND would keep figures out of the notebook.
    if hasattr(config, "workerinput"):
        return  # A worker of pytest-xdist has inherited all this.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background; some tests press Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["TLCOURSE_PROFILE"] = "mini"
    os.environ["TQDM_DISABLE"] = "1"
    for name in ("TLCOURSE_DATA", "TLCOURSE_WEIGHTS", "MPLBACKEND"):
        os.environ.pop(name, None)
    cache = tempfile.TemporaryDirectory(prefix="tlcourse-cache-", ignore_cleanup_errors=True)
    os.environ["TLCOURSE_CACHE"] = cache.name
    config.add_cleanup(cache.cleanup)
