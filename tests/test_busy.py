"""The benchmark beside busy processes: it measures, ends what it started, and says whether its goals are met."""

import subprocess
import sys
from pathlib import Path

import busy
import pytest


def test_a_measurement_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert busy.in_own_process("passive", 1, 0.01) > 0


def test_a_run_measures_everything_as_often_as_asked_and_writes_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(busy, "in_own_process", lambda *job: asked.append(job) or 100 / (1 + job[1]))
    page = tmp_path / "busy.md"
    monkeypatch.setattr(sys, "argv", ["busy.py", "--seconds", "2", "--repeats", "3", "--out", str(page)])
    assert busy.main() == 1, "the speed is halved beside one"
    assert {job: asked.count(job) for job in asked} == {(p, n, 2.0): 3 for p in busy.POLICIES for n in busy.BUSY}
    assert "| 100.0 (1.00) | 50.0 (0.50) | 33.3 (0.33) |" in page.read_text()


def test_a_process_waits_as_its_policy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(command: list[str], *, env: dict[str, str], **options: object) -> subprocess.CompletedProcess:
        seen.append({name: env.get(name) for name in busy.VARIABLES})
        return subprocess.CompletedProcess(command, 0, "1.0\n")

    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setattr(busy.subprocess, "run", run)
    for policy in ("passive", "active"):
        busy.in_own_process(policy, 0, 1)
    nothing = dict.fromkeys(busy.VARIABLES)
    assert seen == [nothing, nothing | {"OMP_WAIT_POLICY": "ACTIVE"}]


def test_the_busy_processes_end_with_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    started, popen = [], subprocess.Popen

    def start(command: list[str], **options: object) -> subprocess.Popen:
        process = popen(command, **options)
        started.extend([process] * (command[-1] == "while True: pass"))
        return process

    monkeypatch.setattr(busy.subprocess, "Popen", start)
    assert busy.measure(0.01, 2) > 0
    ended = [process.poll() is not None for process in started]
    for process in started:
        process.kill()
    assert ended == [True, True]


def test_the_goals_are_judged() -> None:
    good = {"passive": {0: 95.0, 1: 60.0, 2: 40.0}, "active": {0: 100.0, 1: 20.0, 2: 10.0}}
    page, met = busy.report(good, 3, 5)
    assert met
    assert "| 95.0 (1.00) | 60.0 (0.63) | 40.0 (0.42) |" in page
    assert not busy.report(good | {"passive": {0: 95.0, 1: 50.0, 2: 40.0}}, 3, 5)[1]
    assert not busy.report(good | {"passive": {0: 80.0, 1: 60.0, 2: 40.0}}, 3, 5)[1]
