"""The doctor for checkpoints: can the file be read without running code, and can its values be trained weights."""

from collections import Counter
from pathlib import Path

import torch

from tlcourse.doctor.report import Findings, Report, listed, note, suspicious, wrong
from tlcourse.models import read_weights
from tlcourse.predict import load_checkpoint
from tlcourse.table import Table


def diagnose_checkpoint(path: Path) -> Report:
    """Read a file of weights, without running code, and look whether they can be weights."""
    try:
        state = read_weights(path)
    except ValueError as error:
        return Report(str(path), Table(), [wrong("unreadable/weights", str(error))])
    types = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    values = sum(tensor.numel() for tensor in state.values())
    table = Table([{"tensors": len(state), "values": values, "types": listed(types), "bytes": path.stat().st_size}])
    return Report(str(path), table, [*_odd_values(state), *_unknown_model(path, state)])


def _odd_values(state: dict[str, torch.Tensor]) -> Findings:
    # Torch compares neither sparse tensors nor numbers of 8 bits.
    dense = {name: tensor.to_dense() for name, tensor in state.items() if tensor.is_floating_point()}
    floats = {name: tensor.float() if tensor.element_size() == 1 else tensor for name, tensor in dense.items()}
    weights = {name: tensor for name, tensor in floats.items() if tensor.ndim > 1 and tensor.numel() > 1}
    variances = {name: tensor for name, tensor in floats.items() if name.endswith("running_var")}
    means = {name: state.get(name.replace("running_var", "running_mean"), torch.zeros(1)) for name in variances}
    found = [
        (wrong, "not-finite/weights", [n for n, t in floats.items() if not t.isfinite().all()]),
        (suspicious, "all-zero", [n for n, t in weights.items() if not t.any()]),
        (suspicious, "constant", [n for n, t in weights.items() if t.any() and t.min() == t.max()]),
        (wrong, "statistics", [n for n, t in variances.items() if (t < 0).any()]),
        (suspicious, "statistics/new", [n for n, t in variances.items() if (t == 1).all() and not means[n].any()]),
    ]
    for severity, name, names in found:
        if names:
            yield severity(name, f"{len(names)} of {len(state)} tensors: {listed(names)}")


def _unknown_model(path: Path, state: dict[str, torch.Tensor]) -> Findings:
    try:
        load_checkpoint(path)
    except ValueError as error:
        if "weights only" in str(error) or path.suffix != ".safetensors":
            yield note("weights-only", f"{len(state)} tensors")
        else:
            yield wrong("checkpoint", str(error))
