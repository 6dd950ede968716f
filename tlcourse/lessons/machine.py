"""Is this machine ready for the course? Each line says OK, or what to do."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from html import escape
from importlib.metadata import version

import psutil
import torch

from tlcourse import data, models
from tlcourse.runtime import cache_folder, cores, get_runtime, shorten

OLDEST = {"torch": (2, 6), "torchvision": (0, 21), "timm": (1, 0)}
FREE_DISK, FREE_MEMORY = 2.0, 2.0  # GB: a downloaded set or backbone; the largest lesson in `mini`


@dataclass(frozen=True)
class Line:
    """One thing that was looked at: what was found, and what to do where it is not OK."""

    ok: bool
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'NOT OK':8}{self.found}" + (f". {self.advice}" if not self.ok else "")


class Machine(list):
    """The lines of `check_machine`."""

    @property
    def ok(self) -> bool:
        """Whether nothing has to be done."""
        return all(line.ok for line in self)

    def __repr__(self) -> str:
        return "\n".join(map(str, self))

    def _repr_html_(self) -> str:
        shown = (("#009E73", "✓ OK") if line.ok else ("#D55E00", "✗ NOT OK") for line in self)
        rows = (
            f'<tr><td style="text-align:left"><b style="color:{colour}">{mark}</b></td>'
            f'<td style="text-align:left">{escape(line.found + (". " + line.advice if not line.ok else ""))}</td></tr>'
            for line, (colour, mark) in zip(self, shown, strict=True)
        )
        return f"<table>{''.join(rows)}</table>"


def check_machine() -> Machine:
    """Look at versions, device, memory, disk, cache, and what the package carries."""
    now, folder = get_runtime(), cache_folder()
    lines = Machine(
        [Line(sys.version_info >= (3, 10), f"Python {platform.python_version()}", "Install 3.10 or newer.")]
    )
    for name, oldest in OLDEST.items():
        found = version(name)
        new = tuple(map(int, found.split("+")[0].split(".")[:2])) >= oldest
        lines.append(Line(new, f"{name} {found}", f"Run: pip install -U {name}"))
    device = torch.cuda.get_device_name(now.device) if now.device.type == "cuda" else now.device.type
    fits = now.profile == "mini" or now.device.type != "cpu"
    advice = "`full` takes hours without a GPU: use tl.setup('mini')."
    lines.append(Line(fits, f"profile {now.profile} on {device}, {cores()} cores", advice))
    memory = psutil.virtual_memory().available / 1e9
    lines.append(Line(memory >= FREE_MEMORY, f"{memory:.1f} GB of memory free", "Close other programs or notebooks."))
    lines.append(_disk(folder))
    lines.append(_carried())
    return lines


def _disk(folder: os.PathLike) -> Line:
    """Say whether the cache can be written, how much room it has, and what is in it."""
    advice = "Set the variable TLCOURSE_CACHE to a folder that you can write, with room."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 1e9
        files = [path for path in folder.rglob("*") if path.is_file()]
    except OSError as error:
        return Line(False, f"the cache {shorten(folder)} cannot be used: {error.strerror}", advice)
    size = sum(path.stat().st_size for path in files) / 1e6
    found = f"cache {shorten(folder)}: {len(files):,} files, {size:,.0f} MB; {free:,.0f} GB of disk free"
    return Line(free >= FREE_DISK and os.access(folder, os.W_OK), found, advice)


def _carried() -> Line:
    """Say whether the package's own backbone and images can be read: all that `mini` needs."""
    try:
        models.create("tl_resnet")
        data.load("toypets").train.raw(0)
    except (OSError, ValueError, RuntimeError) as error:
        return Line(False, f"the package's backbone or images cannot be read: {error}", "Install the package again.")
    return Line(True, "the package's own backbone and images can be read: `mini` needs no network")
