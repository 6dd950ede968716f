"""Which modules of a network form which stage, read from its tree of modules in the order of definition."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from tlcourse.models.heads import head_parts

StagePlan = dict[str, list[str]]  # stage -> names of modules and tensors; a module stands for everything below it

# A module with more than this share of all layers is split into its children, unless it is one of a series of siblings.
CONTAINER_SHARE = 0.25
# From this many max-pools side by side, they mark the ends of the stages (VGG, SqueezeNet, AlexNet, GoogLeNet).
POOLS = 3

# Models whose forward pass goes back and forth between lists of modules, and so differs from the order of definition.
INTERLEAVED: dict[str, StagePlan] = {
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


class Unit(NamedTuple):
    """What stages are made of: a module, or a tensor outside of these modules."""

    name: str
    layers: int
    learns: bool  # has parameters, not only buffers
    pool: bool


def infer_stages(model: nn.Module) -> StagePlan:
    """Return the stages of a network, from stem to head, as names of modules and tensors.

    The tree of modules is read in the order of definition, which is that of the forward pass except for the models
    listed above. Large modules are split until only blocks and single layers are left. Each module with several layers
    (a block or a group of blocks) ends a stage, which takes its name. Single layers in front of it, such as a
    transition or a norm, belong to that stage. Everything before the first block is the stem. What follows the last
    block, such as a norm or the lower layers of a classifier, is one more stage.

    Raises:
        ValueError: no classifier was found, or nothing else.
    """
    heads = head_parts(model)
    known = INTERLEAVED.get(type(model).__name__)
    container_size = max(1, CONTAINER_SHARE * _layers(model))
    plan = _present(model, known) if known else _grouped(list(_units(model, heads, container_size)))
    if not plan:
        raise ValueError(f"{type(model).__name__} has nothing below its head {', '.join(heads)}: there are no stages.")
    return {**plan, "head": heads}


def check_plan(model: nn.Module, plan: StagePlan) -> None:
    """Check that a user's plan ends with the head, and that each name is in the model and in one stage only."""
    if not isinstance(plan, dict) or any(isinstance(names, str) for names in plan.values()):
        raise ValueError(f"The plan is {plan!r}: give each stage a list of names, as {{'head': ['fc']}}.")
    kind, there = getattr(model, "architecture", type(model).__name__), _all_names(model)
    named = Counter(name for names in plan.values() for name in names)
    if [*plan][-1] != "head":
        raise ValueError(f"The last stage of a plan is the classifier and is called 'head', not {[*plan][-1]!r}.")
    if unknown := [name for name in named if name not in there]:
        raise ValueError(f"{kind} has no module or tensor {', '.join(map(repr, unknown))}.")
    if repeated := sorted(name for name, times in named.items() if times > 1):
        raise ValueError(f"{', '.join(map(repr, repeated))} is in two stages of the plan; name it once.")


def tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all parameters, then all buffers, with their names; each tensor once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _units(module: nn.Module, heads: list[str], container_size: float, prefix: str = "") -> Iterator[Unit]:
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield Unit(prefix + name, layers=0, learns=isinstance(tensor, nn.Parameter), pool=False)
    children = [(name, child, _layers(child)) for name, child in module.named_children()]
    siblings = Counter(_without_numbers(name) for name, _, layers in children if layers > 1)
    for name, child, layers in children:
        full = prefix + name
        around_head = any(head.startswith(full + ".") for head in heads)
        pool, learns = isinstance(child, nn.MaxPool2d), any(True for _ in child.parameters())
        if full in heads:
            continue
        if around_head or (layers > container_size and siblings[_without_numbers(name)] == 1):
            yield from _units(child, heads, container_size, full + ".")
        elif pool or any(True for _ in tensors(child)):
            yield Unit(full, layers, learns, pool)


def _grouped(units: list[Unit]) -> StagePlan:
    plan: StagePlan = {}
    for start, end in pairwise([-1, *_ends(units), len(units) - 1]):
        group = [unit for unit in units[start + 1 : end + 1] if not unit.pool]
        learning = [unit.name for unit in group if unit.learns]
        blocks = [unit.name for unit in group if unit.layers > 1]
        if not plan:
            stage = "stem"
        elif learning:  # buffers alone belong to the stage before
            stage = (blocks or learning)[0]
            stage = "neck" if stage == "head" else stage
        plan.setdefault(stage, []).extend(unit.name for unit in group)
    return {stage: names for stage, names in plan.items() if names}


def _ends(units: list[Unit]) -> list[int]:
    """Return the positions of the units that end a stage; the last unit ends the last stage anyway."""
    pools = [i for i, unit in enumerate(units) if unit.pool]
    if len(pools) >= POOLS:
        return pools
    layers = [i for i, unit in enumerate(units) if unit.layers]
    # The first layer is in the stem, whatever it is. Without any block, each further layer counts as one.
    blocks = [i for i in layers[1:] if units[i].layers > 1] or layers[1:]
    return [blocks[0] - 1, *blocks] if blocks else []


def _layers(module: nn.Module) -> int:
    """Count the modules at and below this one that hold a matrix or a kernel: no norms, no activations."""
    return sum(any(p.ndim > 1 for p in each.parameters(recurse=False)) for each in module.modules())


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _all_names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_modules()} | {name for name, _ in tensors(model)}


def _present(model: nn.Module, plan: StagePlan) -> StagePlan:
    """Keep the names of a plan that this variant of the architecture has, each in the first stage that lists it."""
    left = _all_names(model)
    kept: StagePlan = {}
    for stage, names in plan.items():
        if found := [name for name in names if name in left]:
            kept[stage] = found
            left -= set(found)
    return kept
