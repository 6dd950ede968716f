"""Which modules of a network make up which stage, read from its tree of modules in the order of their definition."""

import re
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from tlcourse.models.heads import head_names

Plan = dict[str, list[str]]  # stage -> names of modules and tensors, each of which stands for all that is below it
Counts = dict[nn.Module, int]
Unit = tuple[str, nn.Module | None]  # what stages are made of: a module with its name, or a single tensor and None

# A module that holds more than this share of all layers is taken apart, unless it is one of a series of siblings.
TRUNK = 0.25
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


def outline(model: nn.Module) -> Plan:
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
    most = max(1, TRUNK * max(counts.values()))
    for name in (*module._parameters, *module._buffers):
        yield prefix + name, None
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
    units = [(n, m) for n, m in units if m is None or isinstance(m, nn.MaxPool2d) or any(True for _ in tensors(m))]
    if not units:
        return {}
    names, modules = zip(*units, strict=True)
    layers = [0 if module is None else counts[module] for module in modules]
    ends = [i for i, module in enumerate(modules) if isinstance(module, nn.MaxPool2d)]
    if len(ends) < POOLS:
        layered = [i for i, count in enumerate(layers) if count]
        # Without a block every layer but the first is one.
        blocks = [i for i in layered[1:] if layers[i] > 1] or layered[1:]
        ends = [blocks[0] - 1, *blocks] if blocks else []
    plan: Plan = {}
    for start, end in pairwise([-1, *ends, len(units) - 1]):
        group = range(start + 1, end + 1)
        learning = [i for i in group if modules[i] is None or any(True for _ in modules[i].parameters())]
        if not plan:
            name = "stem"
        elif learning:
            name = names[max(learning, key=lambda i: layers[i] > 1)]  # the first block, or the first of all
            name = "neck" if name == "head" else name
        plan.setdefault(name, []).extend(names[i] for i in group if not isinstance(modules[i], nn.MaxPool2d))
    return plan


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
