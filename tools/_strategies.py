"""Strategies within one budget of compute, for the stored runs of exercise 1."""

import torch
from torch.utils.flop_counter import FlopCounterMode

import tlcourse as tl
from tlcourse.lessons.experiments import Probe, Trained

STRATEGIES = {"radiographs": 40, "landuse": 80, "surfaces": 160}
BUDGET = 1920  # forward passes of one image


def last_stage_alone(model, splits):
    """Train the last stage and the head."""
    tl.models.unfreeze_from(model, tl.models.stages(model)[-2].name)


def strategies(name):
    """Frozen features, the last stage, everything: each within the same budget of compute."""
    backbone = tl.models.create("tl_resnet").to(tl.get_runtime().device)
    images = STRATEGIES[name]
    with FlopCounterMode(display=False, depth=2) as counter, torch.no_grad():
        backbone.eval()(torch.zeros(1, 3, 64, 64, device=tl.get_runtime().device))
    work = {module: sum(kinds.values()) for module, kinds in counter.get_flop_counts().items()}
    share = work["TLResNet.layer4"] / work["Global"]  # forward costs one, backward twice the part that trains
    passes = {part: int(BUDGET / images / (1 + 2 * cost)) for part, cost in (("last", share), ("all", 1))}
    ways = {
        "features": Probe(backbone),
        "last stage": Trained(lr=1e-4, passes=passes["last"], start=last_stage_alone),
        "everything": Trained(lr=1e-4, passes=passes["all"]),
    }
    print(name, f"share {share:.3f}", passes, flush=True)
    return tl.data.load(name, model=backbone), ways, (images,)
