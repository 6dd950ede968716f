"""Killed anywhere: processes forked, killed and started again by a fresh process, which has no threads but its own.

A fork of the process that runs the tests, with all that other tests started in it, may wait forever for a lock whose
thread it does not have. So a test starts this file. `python killed.py FOLDER` kills at random moments; with the name
of a function and a number, for example `torch.save 10`, inside that call.
"""

import importlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import resumable
import torch

from tlcourse.train import Checkpoints


def in_a_process(function, *args, wait=None, kill_at=None):
    """Run a function in a forked process, kill it after `wait` seconds, and return how it ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if kill_at is not None:
                _kill_at(*kill_at)
            function(*args)
            status = 0
        finally:
            os._exit(status)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill_at(name, call):
    """Die inside the given call of a function: half of a save is done."""
    module, name = name.split(".")
    module, count = importlib.import_module(module), [0]
    usual = getattr(module, name)

    def dying(*args, **options):
        count[0] += 1
        if count[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(*args, **options)

    setattr(module, name, dying)


def to_the_end(folder, result):
    """Train with a save after every step, and keep the weights in a file."""
    weights, _ = resumable.train(Checkpoints(folder, every=1))
    torch.save(weights, folder / "weights")
    (folder / "weights").rename(result)  # a kill may come while they are written


def fifty_kills_at_random_moments(tmp_path):
    """Each process is killed within the time of a few steps, a good part of which are spent in saving."""
    expected, _ = resumable.train(None)
    rng, kills, saving, reached = random.Random(0), 0, 0, 0
    result = tmp_path / "result.pt"
    while not result.exists():
        # Once there were fifty, the run may come to its end.
        ended = in_a_process(to_the_end, tmp_path / "run", result, wait=rng.uniform(0.02, 0.2) if kills < 50 else None)
        kills += ended == -signal.SIGKILL
        saving += any((tmp_path / "run").glob(".step-*.part"))
        newest = max((int(file.name[5:14]) for file in Checkpoints(tmp_path / "run").files()), default=0)
        assert newest >= reached  # nothing that was saved is lost
        reached = newest
        if result.exists() and kills < 50:  # it was too quick: from the beginning
            assert resumable.same(torch.load(result), expected)
            result.unlink()
            shutil.rmtree(tmp_path / "run")
            reached = 0
    assert kills == 50
    assert resumable.same(torch.load(result), expected)
    print(f"\n{kills} kills, {saving} of them during a save")


def killed_inside_a_save(tmp_path, name, call):
    """The next process goes on to the same weights, and nothing half-written stays."""
    expected, _ = resumable.train(None)
    result = tmp_path / "result.pt"
    assert in_a_process(to_the_end, tmp_path / "run", result, kill_at=(name, call)) == -signal.SIGKILL
    assert in_a_process(to_the_end, tmp_path / "run", result) == 0
    assert resumable.same(torch.load(result), expected)
    assert not list((tmp_path / "run").glob(".step-*.part"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2:]:
        killed_inside_a_save(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        fifty_kills_at_random_moments(Path(sys.argv[1]))
