"""Optimizer groups named after the stages: a learning rate for each stage, and weight decay where it makes sense."""

import re
from collections.abc import Sequence

import torch
from torch import nn

from tlcourse.models.heads import unwrap_model
from tlcourse.models.stage import count, stages
from tlcourse.table import Table

NO_DECAY = " (no decay)"
# Tokens and tables of positions are added to features, not multiplied with them. timm's models name their own.
EMBEDDINGS = re.compile(
    r"(cls|class|dist|reg|register|mask)_tokens?\d*|(pos|position)_embed\w*|relative_position_bias_table"
)


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    layer_decay: float = 1.0,
    weight_decay: float | None = None,
    max_stages: int | None = None,
) -> list[dict]:
    """Return an optimizer group for each trainable stage, with learning rates that fall towards the stem.

    The learning rate of stage i of n is `lr * layer_decay ** (n - i)`, so the head has `lr`. With a `weight_decay`, a
    stage has up to two groups: `layer4`, and `layer4 (no decay)` for biases, norms, tokens and position embeddings.
    These only shift or scale features, and are few: making them small does not prevent overfitting.
    Sources: Howard and Ruder 2018 (ULMFiT), discriminative fine-tuning; He et al. 2019, Bag of tricks, no bias decay.

    Args:
        model: freeze first; frozen parameters are in no group.
        lr: learning rate of the head.
        layer_decay: factor from each stage to the one below.
        weight_decay: of the weights; `None` leaves it to the optimizer, for all groups alike.
        max_stages: as in `stages`.

    Raises:
        ValueError: nothing is trainable, `lr` or `layer_decay` is not positive, or `weight_decay` is negative.
    """
    if lr <= 0 or layer_decay <= 0:
        raise ValueError(f"lr={lr} and layer_decay={layer_decay} must be positive.")
    if weight_decay is not None and weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay} must not be negative.")
    parts, groups = stages(model, max_stages=max_stages), []
    no_decay = set() if weight_decay is None else no_decay_names(model)
    for i, part in enumerate(parts, start=1):
        trainable = {name: p for name, p in part.parameters.items() if p.requires_grad}
        decayed = [p for name, p in trainable.items() if name not in no_decay]
        others = [p for name, p in trainable.items() if name in no_decay]
        for name, params, amount in ((part.name, decayed, weight_decay), (part.name + NO_DECAY, others, 0.0)):
            group = {"params": params, "lr": lr * layer_decay ** (len(parts) - i), "name": name}
            if weight_decay is not None:
                group["weight_decay"] = amount
            if params:
                groups.append(group)
    if not groups:
        raise ValueError("No parameter is trainable. Call `freeze` (head only), `unfreeze_from` or `unfreeze` first.")
    return groups


def no_decay_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters that get no weight decay."""
    model = unwrap_model(model)
    own = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    return {
        name
        for name, p in model.named_parameters()
        if p.ndim <= 1 or name.endswith("bias") or name in own or EMBEDDINGS.fullmatch(name.rpartition(".")[2])
    }


def extend_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    lr: float,
    *,
    layer_decay: float = 1.0,
    weight_decay: float | None = None,
    max_stages: int | None = None,
) -> torch.optim.Optimizer:
    """Rebuild the optimizer's groups for what is trainable now, as `param_groups` makes them.

    Call it after unfreezing more of the model. It keeps momentum and Adam's moments of parameters that still train; the
    settings of each group, its decay too without a `weight_decay` (new groups take the last one's); and parameters that
    are not the model's, such as a loss's. Schedulers hold the old learning rates: make a new one.

    Raises:
        ValueError: as `param_groups`; without a `weight_decay`, groups differ in theirs.
    """
    own, others = {id(p) for p in model.parameters()}, groups_beside(model, optimizer)
    old = [group for group in optimizer.param_groups if own & {id(p) for p in group["params"]}]
    decays = {g.get("weight_decay") for g in old if not str(g.get("name")).endswith(NO_DECAY)}
    if weight_decay is None and len(decays) > 1:
        found = ", ".join(map(str, sorted(decays)))
        raise ValueError(f"The groups have weight decays of {found}: give weight_decay=, or use `param_groups`.")
    if weight_decay is None and any(str(group.get("name")).endswith(NO_DECAY) for group in old):
        weight_decay = max(decays, default=0.0)
    groups = param_groups(model, lr, layer_decay=layer_decay, weight_decay=weight_decay, max_stages=max_stages)
    settings = {g.get("name"): {key: g[key] for key in optimizer.defaults if key != "lr"} for g in old}
    last = next(reversed(settings.values()), {})
    for parameter in [p for p in optimizer.state if id(p) in own and not p.requires_grad]:
        del optimizer.state[parameter]
    optimizer.param_groups.clear()
    names = {group["name"] for group in groups}  # of which a replaced head may be left
    others = [group for group in others if group.get("name") not in names]
    for group in [*({**settings.get(group["name"], last), **group} for group in groups), *others]:
        optimizer.add_param_group(group)
    return optimizer


def groups_beside(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict]:
    """Return the optimizer's groups of parameters that are not the model's, such as a loss's, at their base rates."""
    own, kept = {id(p) for p in model.parameters()}, {"name", *getattr(optimizer, "defaults", ())} - {"lr"}
    found = []
    for group in optimizer.param_groups:
        if parameters := [p for p in group["params"] if id(p) not in own]:
            base = {"params": parameters, "lr": group.get("initial_lr", group.get("lr"))}
            found.append({key: group[key] for key in kept & group.keys()} | base)
    return found


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless the optimizer has a trainable parameter of this model."""
    if not hasattr(optimizer, "param_groups"):
        raise ValueError(
            f"optimizer is {optimizer!r}: give one optimizer, such as torch.optim.AdamW(groups), not a list or a class."
        )
    own = {id(p) for p in model.parameters() if p.requires_grad}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    replaced = own - held and held - {id(p) for p in model.parameters()}
    if replaced or not own & held:
        raise ValueError(
            f"The optimizer holds {'replaced parameters' if own & held else 'no trainable parameter'} of this model. "
            "Freeze and replace the head first, then build the optimizer from the model's parameters."
        )


def group_table(groups: torch.optim.Optimizer | Sequence[dict]) -> Table:
    """Show the groups of an optimizer, or a list of groups: name, parameters, learning rate, weight decay."""
    groups = getattr(groups, "param_groups", groups)
    return Table(
        {
            "group": group.get("name", f"group {i}"),
            "parameters": count(group["params"]),
            "learning rate": group.get("lr", "the optimizer's"),
            "weight decay": group.get("weight_decay", "the optimizer's"),
        }
        for i, group in enumerate(groups)
    )
