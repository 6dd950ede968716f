"""Optimizer groups named after stages: discriminative rates, what decays, and an optimizer that grows."""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from tlcourse.models.heads import unwrap_model
from tlcourse.models.stage import Stage, count, stages
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
    decay: float = 1.0,
    weight_decay: float | None = None,
    max_stages: int | None = None,
) -> list[dict]:
    """Return optimizer groups for the trainable stages, with rates that fall towards the stem.

    The rate of stage i of n is `lr * decay ** (n - i)`: the head has the base rate `lr`. Each stage is one group of
    its name. With a `weight_decay` it is up to two: `layer4`, and `layer4 (no decay)` for biases, norms, and tokens
    and positions of transformers, which are no weights of a sum and gain nothing from being small.
    Sources: Howard and Ruder 2018 (ULMFiT), discriminative fine-tuning; He et al. 2019, Bag of tricks, no bias decay.

    Args:
        model: freeze first: what does not train is in no group.
        lr: rate of the head.
        decay: factor from each stage to the next one below.
        weight_decay: of the weights; without it, every group takes the optimizer's own.
        max_stages: so many stages, as in `stages`; each has one rate.

    Raises:
        ValueError: nothing is trainable, a rate or the decay is not positive, or a weight decay is negative.
    """
    if lr <= 0 or decay <= 0:
        raise ValueError(f"lr={lr} and decay={decay} must be positive.")
    if weight_decay is not None and weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay} must not be negative.")
    parts, groups = stages(model, max_stages=max_stages), []
    vectors = set() if weight_decay is None else _no_decay(model)
    for i, part in enumerate(parts, start=1):
        rate = lr * decay ** (len(parts) - i)
        for name, chosen in _split(part, vectors):
            group = {"params": chosen, "lr": rate, "name": name}
            if weight_decay is not None:
                group["weight_decay"] = 0.0 if name.endswith(NO_DECAY) else weight_decay
            if chosen:
                groups.append(group)
    if not groups:
        raise ValueError("No parameter is trainable. Call `freeze` (head only), `unfreeze_from` or `unfreeze` first.")
    return groups


def extend_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    lr: float,
    *,
    decay: float = 1.0,
    weight_decay: float | None = None,
    max_stages: int | None = None,
) -> torch.optim.Optimizer:
    """Give an optimizer the groups that the model has now, and keep what it knows of parameters that trained before.

    Call it after unfreezing more of the model. The groups become those of `param_groups`, so all rates follow the
    formula. Momentum and second moments of parameters that stay are untouched; those that are new start without;
    those that are frozen now are forgotten. A scheduler made earlier holds the old rates: make a new one.

    Raises:
        ValueError: as `param_groups`.
    """
    groups = param_groups(model, lr, decay=decay, weight_decay=weight_decay, max_stages=max_stages)
    held = {id(p) for group in groups for p in group["params"]}
    for parameter in [p for p in optimizer.state if id(p) not in held]:
        del optimizer.state[parameter]
    optimizer.param_groups.clear()
    for group in groups:
        optimizer.add_param_group(group)
    return optimizer


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless an optimizer holds something of this model that trains."""
    mine = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(p.requires_grad and id(p) in mine for p in held):
        raise ValueError(
            "The optimizer holds no trainable parameter of this model. Freeze and replace the head first, "
            "then build the optimizer from the model's parameters."
        )


def group_table(groups: torch.optim.Optimizer | Sequence[dict]) -> Table:
    """Show an optimizer's groups, or a list of them: name, parameters, learning rate, weight decay."""
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


def _split(part: Stage, vectors: set[str]) -> Iterable[tuple[str, list[nn.Parameter]]]:
    trainable = {name: p for name, p in part.parameters.items() if p.requires_grad}
    yield part.name, [p for name, p in trainable.items() if name not in vectors]
    yield part.name + NO_DECAY, [p for name, p in trainable.items() if name in vectors]


def _no_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters that by the field's custom are not decayed."""
    model = unwrap_model(model)
    own = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    return {
        name
        for name, p in model.named_parameters()
        if p.ndim <= 1 or name.endswith("bias") or name in own or EMBEDDINGS.fullmatch(name.rpartition(".")[2])
    }
