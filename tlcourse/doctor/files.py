"""The doctor for files: a script or notebook, a folder of images, a checkpoint. Each kind loads only what it needs."""

import re
from pathlib import Path

from tlcourse.doctor.report import Report, functions, listed, run_checks, wrong
from tlcourse.doctor.scripts import RULES as MODULES
from tlcourse.doctor.scripts.nodes import OPTIMIZERS
from tlcourse.doctor.scripts.source import read_script
from tlcourse.table import Table

RULES = functions(*MODULES)
SCRIPTS = (".py", ".ipynb")
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def diagnose(path: str | Path) -> Report:
    """Look at a script, a notebook, a checkpoint or a folder of images; nothing is run or changed.

    Raises:
        ValueError: it is none of these, or is not there.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        from tlcourse.doctor.image_folder import diagnose_folder

        return diagnose_folder(path)
    if not path.is_file():
        raise ValueError(f"There is no file or folder {path}. Check the path; a relative one starts at {Path.cwd()}.")
    if path.suffix in SCRIPTS:
        return diagnose_script(path)
    if path.suffix in WEIGHTS:
        from tlcourse.doctor.checkpoint import diagnose_checkpoint

        return diagnose_checkpoint(path)
    kinds = f"no script ({', '.join(SCRIPTS)}), no checkpoint ({', '.join(WEIGHTS)}) and no folder of images"
    raise ValueError(f"{path} is {kinds}. Give one of these.")


def diagnose_script(path: Path) -> Report:
    """Read a script or notebook, without running it, and look for known mistakes."""
    script = read_script(path)
    modules = {name.partition(".")[0] for name in script.imports.values()}
    other = modules & {"tensorflow", "keras", "mxnet", "paddle", "jax"} and "torch" not in modules
    findings = [] if other else run_checks(RULES, script)
    findings += [wrong("syntax", evidence, place) for place, evidence in script.errors.items()]
    findings.sort(key=lambda finding: [int(number) for number in re.findall(r"\d+", finding.where)])
    table = Table([{"lines": len(script.places), "calls": len(script.calls), "rules": len(RULES)}])
    remarks = ["A script's text does not show everything: `tl.examine(model, optimizer, data)` looks at what is there."]
    if other or not script.named("backward", "Trainer", "fit", "fine_tune", "create_model", "DataLoader", *OPTIMIZERS):
        remarks.insert(0, "I found no PyTorch training here.")
    beside = [f"{module}.py" for module in sorted(modules) if (path.parent / f"{module}.py").is_file()]
    if unread := [*script.skipped, *beside]:
        remarks.append(f"Not read, and not checked: {listed(unread, 6)}.")
    return Report(str(path), table, findings, remarks)
