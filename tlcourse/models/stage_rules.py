"""Which modules of a network make up which stage, read from its tree of modules in the order of their definition."""

import re
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from tlcourse.models.heads import head_names

Plan = dict[str, list[str]]  # stage -> names of modules and tensors, each of which stands for all that is below it
Counts = dict[nn.Module, int]
Unit = tuple[str, nn.Module | torch.Tensor]  # what stages are made of, by name: modules, and tensors outside of them

# A module that holds more than this share of all layers is taken apart, unless it is one of a series of siblings.
CONTAINER_SHARE = 0.25
# From this many max-pools side by side on, they mark the stages (VGG, SqueezeNet, AlexNet, GoogLeNet).
POOLS = 3

# Models whose forward pass goes back and forth between lists of modules: the order of definition is not theirs.
INTERLEAVED: dict[str, Plan] = {
    "Twins": {
        "stem": ["patch_embeds.0"],
        **{f"blocks.{i}": [f"{part}.{i}" for part in ("patch_embeds", "blocks", "pos_block")] for i in range(4)},
        "norm": ["norm"],
    },
    "CoaT": {
        "stem": ["patch_embed1"],
        **{
            f"serial_blocks{i}": [f"{part}{i}" for part in ("cls_token", "patch_embed", "cpe", "crpe", "serial_blocks")]
            for i in range(1, 5)
        },
        "parallel_blocks": ["parallel_blocks"],
        "norm4": ["norm2", "norm3", "norm4", "aggregate"],
    },
    "EfficientViM": {
        "stem": ["patch_embed"],
        **{f"stages.{i}": [f"stages.{i}", f"norm.{i}"] for i in range(3)},
        "norm": ["norm", "weights", "weights_dist"],
    },
    "HighResolutionNet": {
        "stem": ["conv1", "bn1", "conv2", "bn2"],
        "layer1": ["layer1"],
        **{f"stage{i}": [f"transition{i - 1}", f"stage{i}"] for i in range(2, 5)},
        "incre_modules": ["incre_modules", "downsamp_modules", "final_layer"],
    },
}
INTERLEAVED["EfficientViMDistilled"] = INTERLEAVED["EfficientViM"]


def infer_stages(model: nn.Module) -> Plan:
    """Return the stages of a network, from stem to head, as names of modules and tensors.

    The tree of modules is walked in the order of definition, which is that of the forward pass, with the exceptions
    listed above. A module that holds a large share of the layers is taken apart, down to its blocks. A stage ends with
    each module of several layers (a block, a group of blocks) and has its name; what stands alone before it (a
    transition, a norm) belongs to it. Before the first comes the stem, after the last one more stage (norms, the
    layers of a classifier below the last).

    Raises:
        ValueError: the model has no classifier that can be recognised, or nothing else.
    """
    heads = head_names(model)
    known = INTERLEAVED.get(type(model).__name__)
    counts = _layers(model, {})
    plan = _present(model, known) if known else _grouped(list(_units(model, heads, counts)), counts)
    if not plan:
        raise ValueError(f"{type(model).__name__} has nothing below its head {', '.join(heads)}: there are no stages.")
    return {**plan, "head": heads}


def _units(module: nn.Module, heads: list[str], counts: Counts, prefix: str = "") -> Iterator[Unit]:
    most = max(1, CONTAINER_SHARE * max(counts.values()))
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield prefix + name, tensor
    children = list(module.named_children())
    series = [_series(name) for name, child in children if counts[child] > 1]
    for name, child in children:
        full = prefix + name
        above_head = any(head.startswith(full + ".") for head in heads)
        if above_head or (counts[child] > most and series.count(_series(name)) == 1):
            yield from _units(child, heads, counts, full + ".")
        elif full not in heads:
            yield full, child


def _grouped(units: list[Unit], counts: Counts) -> Plan:
    units = [(n, u) for n, u in units if not isinstance(u, nn.Module) or _is_pool(u) or any(True for _ in tensors(u))]
    plan: Plan = {}
    for start, end in pairwise([-1, *_ends(units, counts), len(units) - 1]):
        group = [(name, unit) for name, unit in units[start + 1 : end + 1] if not _is_pool(unit)]
        learning = [name for name, unit in group if _learns(unit)]
        blocks = [name for name, unit in group if _size(unit, counts) > 1]
        if not plan:
            stage = "stem"
        elif learning:  # what only has buffers belongs to the stage before
            stage = (blocks or learning)[0]
            stage = "neck" if stage == "head" else stage
        plan.setdefault(stage, []).extend(name for name, _ in group)
    return {stage: names for stage, names in plan.items() if names}


def _ends(units: list[Unit], counts: Counts) -> list[int]:
    """Return the positions of the units that are the last of their stage; the last stage needs none."""
    pools = [i for i, (_, unit) in enumerate(units) if _is_pool(unit)]
    if len(pools) >= POOLS:
        return pools
    layers = [i for i, (_, unit) in enumerate(units) if _size(unit, counts)]
    # The first layer is in the stem, whatever it is. Where there is no block, every other layer is one.
    blocks = [i for i in layers[1:] if _size(units[i][1], counts) > 1] or layers[1:]
    return [blocks[0] - 1, *blocks] if blocks else []


def _is_pool(unit: nn.Module | torch.Tensor) -> bool:
    return isinstance(unit, nn.MaxPool2d)


def _learns(unit: nn.Module | torch.Tensor) -> bool:
    return any(True for _ in unit.parameters()) if isinstance(unit, nn.Module) else isinstance(unit, nn.Parameter)


def _size(unit: nn.Module | torch.Tensor, counts: Counts) -> int:
    return counts[unit] if isinstance(unit, nn.Module) else 0


def tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all parameters, then all buffers, with their names; each tensor once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _layers(module: nn.Module, counts: Counts) -> Counts:
    """Count in every module, itself included, those that hold a matrix or a kernel: no norms, no activations."""
    own = any(p is not None and p.ndim > 1 for p in module._parameters.values())
    counts[module] = own + sum(_layers(child, counts)[child] for child in module.children())
    return counts


def _series(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _present(model: nn.Module, plan: Plan) -> Plan:
    """Keep of a plan what this variant of the architecture has, each name where it comes first."""
    left = {name for name, _ in model.named_modules()} | {name for name, _ in tensors(model)}
    kept: Plan = {}
    for stage, names in plan.items():
        if found := [name for name in names if name in left]:
            kept[stage] = found
            left -= set(found)
    return kept
