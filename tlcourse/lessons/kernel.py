"""Run a notebook's cells in a clean kernel."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from nbformat import NotebookNode

from tlcourse.lessons.claims import CLAIM_MIME

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Step:
    """A code cell that is about to run (`seconds` is None) or has run."""

    number: int
    total: int
    label: str
    seconds: float | None = None


class _ThisPython(KernelSpecManager):
    """Starts kernels with the running interpreter, whatever kernels are installed and whatever is activated."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


def execute(
    nb: NotebookNode,
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> str:
    """Run every code cell of a notebook in place, in a clean kernel; return the error that stopped the run, or "".

    False claims, and errors in cells tagged `raises-exception`, do not stop it.
    """
    cells = [(index, cell) for index, cell in enumerate(nb.cells) if cell.cell_type == "code" and cell.source.strip()]
    for _, cell in cells:
        cell.outputs, cell.execution_count = [], None
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisPython())
    # Errors are checked here, after each cell. The client's own way makes the kernel abort the requests that follow an
    # error, which after a false claim can be the next cell.
    client = NotebookClient(
        nb, km=manager, timeout=timeout, allow_errors=True, record_timing=False, store_widget_state=False
    )
    report = on_step or (lambda step: None)
    step = Step(0, len(cells), "start of the kernel")
    # What the kernel's own process prints (warnings, messages when it is stopped) is no cell's output; it is read only
    # when the kernel died.
    with tempfile.TemporaryFile() as log:
        try:
            # Progress bars are of no use in a stored notebook, and questions have nobody to answer them.
            quiet = {"TQDM_DISABLE": "1", "TLCOURSE_UNATTENDED": "1"}
            with client.setup_kernel(cleanup_kc=True, env={**env, **quiet}, cwd=str(cwd), stderr=log):
                for number, (index, cell) in enumerate(cells, 1):
                    step = Step(number, len(cells), _label(nb.cells, index))
                    report(step)
                    start = time.perf_counter()
                    client.execute_cell(cell, index)
                    _join_streams(cell)
                    report(Step(step.number, step.total, step.label, time.perf_counter() - start))
                    if error := _error(cell):
                        return f"{_where(step)}\n{error}"
        except CellTimeoutError:
            return f"{_where(step)}\nThe cell took longer than {timeout:g} seconds. Allow more with --timeout."
        except RuntimeError as error:
            log.seek(0)
            last = log.read().decode(errors="replace")[-2000:]
            return f"{_where(step)}\n{last}\n{error}. Too little memory is the usual reason."
    return ""


def _where(step: Step) -> str:
    return f"cell {step.number}/{step.total} ({step.label})"


def _error(cell: NotebookNode) -> str:
    """Return the traceback that ended a cell; "" after success, a false claim, or an error that its tag allows."""
    if "raises-exception" in cell.metadata.get("tags", []):
        return ""
    for output in cell.outputs:
        if output.output_type == "error" and not (output.ename == "ClaimError" and _shows_false_claim(cell)):
            return _ANSI.sub("", "\n".join(output.traceback))
    # A kernel that aborts a cell reports no error.
    return "" if cell.execution_count else "The kernel did not run this cell."


def _shows_false_claim(cell: NotebookNode) -> bool:
    records = [output.data[CLAIM_MIME] for output in cell.outputs if CLAIM_MIME in output.get("data", {})]
    return not all(record["holds"] for record in records)


def _join_streams(cell: NotebookNode) -> None:
    """Join consecutive pieces of one stream: where the kernel splits them depends on timing."""
    joined: list[NotebookNode] = []
    for output in cell.outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" == last.output_type and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    cell.outputs = joined


def _label(cells: list[NotebookNode], index: int) -> str:
    """Return the heading directly above a code cell, else the cell's first line of code."""
    above = cells[index - 1] if index else None
    lines = above.source.splitlines() if above and above.cell_type == "markdown" else []
    headings = [line.lstrip("#").strip() for line in lines if re.match(r"#{1,6} ", line)]
    code = [line.strip() for line in cells[index].source.splitlines()]
    code = [line for line in code if line and not line.startswith("#")] or code
    text = (headings[-1:] or code)[0]
    return text if len(text) <= 48 else text[:47] + "…"
