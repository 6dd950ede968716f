"""The doctor for what lies on the disk: scripts and notebooks are read here, which needs no torch."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlcourse.doctor.report import Finding, Report, note, wrong
from tlcourse.doctor.scripts import data, loop, schedule, setup
from tlcourse.doctor.scripts.reader import Script, read_script
from tlcourse.table import Table

RULES = (*setup.RULES, *data.RULES, *loop.RULES, *schedule.RULES)
SCRIPTS = (".py", ".ipynb")
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def diagnose(path: str | Path) -> Report:
    """Look at a script, a notebook, a checkpoint or a folder of images; nothing is run or changed.

    Raises:
        ValueError: it is none of these, or is not there.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        from tlcourse.doctor.folder import folder  # images and checkpoints need torch, scripts do not

        return folder(path)
    if not path.is_file():
        raise ValueError(f"There is no file or folder {path}. Check the path; a relative one starts at {Path.cwd()}.")
    if path.suffix in SCRIPTS:
        return script(path)
    if path.suffix in WEIGHTS:
        from tlcourse.doctor.checkpoint import checkpoint

        return checkpoint(path)
    raise ValueError(
        f"{path} is no script ({', '.join(SCRIPTS)}), no checkpoint ({', '.join(WEIGHTS)}) and no folder of images. "
        "Give one of these."
    )


def script(path: Path) -> Report:
    """Read a script or notebook, without running it, and look for known mistakes."""
    parsed = read_script(path)
    findings = [*_broken(parsed), *(finding for rule in RULES for finding in _applied(rule, parsed))]
    findings.sort(key=lambda finding: [int(number) for number in re.findall(r"\d+", finding.where)])
    table = Table([{"lines": len(parsed.places) - 1, "calls": len(parsed.calls), "rules": len(RULES)}])
    remark = "A script's text does not show everything: `tl.examine(model, optimizer, data)` looks at what is there."
    return Report(str(path), table, findings, [remark])


def _broken(parsed: Script) -> Iterator[Finding]:
    for line in parsed.broken:
        advice = "Python stops here before it runs anything."
        if "leading zeros" in line:
            advice += " A number is written without commas, as 25557032 or 25_557_032."
        place, _, told = line.partition(": ")
        yield wrong("syntax", "This is not Python.", told, advice, place)


def _applied(rule: Any, parsed: Script) -> Iterator[Finding]:
    try:
        yield from rule(parsed)
    except Exception as error:  # odd code must not hide what other rules find
        told = f"{type(error).__name__}: {error}"
        yield note("check-failed", f"The rule {rule.__name__} stumbled.", told, "Please report it, with this line.")
