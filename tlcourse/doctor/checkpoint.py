"""The doctor for a file of weights, which is read without running code."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from tlcourse.doctor.report import Finding, Report, listed, note, suspicious, wrong
from tlcourse.models import read_weights
from tlcourse.predict import load_checkpoint
from tlcourse.table import Table


def checkpoint(path: Path) -> Report:
    """Read a file of weights, without running code, and look whether they can be weights."""
    try:
        state = read_weights(path)
    except ValueError as error:
        advice = "Get the file again, or save `model.state_dict()` where the model was trained."
        return Report(str(path), Table(), [wrong("unreadable", "The weights cannot be read.", str(error), advice)])
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    values = sum(tensor.numel() for tensor in state.values())
    table = Table([{"tensors": len(state), "values": values, "types": listed(counts), "bytes": path.stat().st_size}])
    return Report(str(path), table, [*_values(state), *_statistics(state), *_facts(path, state)])


def _values(state: dict[str, torch.Tensor]) -> Iterator[Finding]:
    floats = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    broken = [name for name, tensor in floats.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        advice = "The training diverged before it was saved: use an earlier checkpoint."
        evidence = f"{len(broken)} of {len(state)}: {listed(broken)}"
        yield wrong("not-finite", "Tensors hold NaN or infinite values.", evidence, advice)
    dead = [n for n, t in floats.items() if t.ndim > 1 and t.numel() and not bool(t.any())]
    if dead:
        advice = "See whether the file was written by a program that had not loaded weights."
        yield suspicious("all-zero", "Whole weight tensors are zero.", f"{len(dead)}: {listed(dead)}", advice)
    still = [
        n
        for n, t in floats.items()
        if t.ndim > 1 and t.numel() > 1 and bool((t == t.flatten()[0]).all()) and bool(t.any())
    ]
    if still:
        advice = "A weight whose values are all the same has not been initialised or trained."
        yield suspicious("constant", "Whole weight tensors hold one value.", f"{len(still)}: {listed(still)}", advice)


def _statistics(state: dict[str, torch.Tensor]) -> Iterator[Finding]:
    variances = {name: tensor for name, tensor in state.items() if name.endswith("running_var")}
    negative = [name for name, tensor in variances.items() if bool((tensor < 0).any())]
    if negative:
        advice = "A variance cannot be negative: the file is damaged, or was averaged wrongly."
        yield wrong("statistics", "Batch-norm variances are negative.", listed(negative), advice)
    fresh = [
        name
        for name, tensor in variances.items()
        if bool((tensor == 1).all()) and not bool(state.get(name.replace("running_var", "running_mean"), tensor).any())
    ]
    if fresh:
        evidence = f"{len(fresh)} of {len(variances)}: {listed(fresh)}"
        advice = (
            "The network never ran in training mode, or these were not saved: it will answer nonsense in evaluation."
        )
        yield suspicious("statistics", "Batch norms have the statistics of a new network.", evidence, advice)


def _facts(path: Path, state: dict[str, torch.Tensor]) -> Iterator[Finding]:
    try:
        load_checkpoint(path)
    except ValueError as error:
        if "weights only" in str(error) or path.suffix != ".safetensors":
            advice = "`tl.predict.save_checkpoint` writes architecture, classes and preprocessing with the weights."
            what = "The file holds weights alone: it does not say which model, classes or preprocessing they belong to."
            yield note("weights-only", what, f"{len(state)} tensors", advice)
        else:
            advice = "Save it again with `tl.predict.save_checkpoint`."
            what = "The file says what it is, and its weights do not fit that."
            yield wrong("checkpoint", what, str(error), advice)
