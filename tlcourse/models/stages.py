"""A network as an ordered list of stages, from stem to head: the unit of freezing, unfreezing and learning rates."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tlcourse.models.zoo import head_name
from tlcourse.table import Table

NORMS = (nn.modules.batchnorm._BatchNorm,)  # also timm's batch norm with built-in activation

# Which stage a tensor belongs to, by its name. A stage has the name of the module that holds it, where one does.
RULES = (
    # torchvision's and timm's ResNet, ResNeXt and Wide ResNet, and `tl_resnet`
    (r"(conv1|bn1)\.", "stem"),
    (r"(layer\d+)\.", r"\1"),
    # timm's EfficientNet and vision transformers
    (r"(conv_stem\.|cls_token|reg_token|pos_embed|patch_embed\.|norm_pre\.)", "stem"),
    (r"(blocks\.\d+)\.", r"\1"),
    (r"(conv_head|bn2)\.", "conv_head"),
    (r"(norm|fc_norm)\.", "norm"),
    # torchvision's vision transformers
    (r"(class_token|conv_proj\.|encoder\.pos_embedding)", "stem"),
    (r"encoder\.layers\.(encoder_layer_\d+)\.", r"\1"),
    (r"encoder\.ln\.", "norm"),
)


@dataclass(frozen=True)
class Stage:
    """One stage: its name, and its parameters and buffers by their full names."""

    name: str
    parameters: dict[str, nn.Parameter]
    buffers: dict[str, torch.Tensor]

    @property
    def count(self) -> int:
        """Number of values in the parameters."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def trainable(self) -> int:
        """Number of values in the parameters that take gradients."""
        return sum(p.numel() for p in self.parameters.values() if p.requires_grad)


def stages(model: nn.Module) -> list[Stage]:
    """Split a model into stages, in the order of the forward pass; the last one is the head.

    Every parameter and every buffer is in exactly one stage.

    Raises:
        ValueError: a tensor of the model fits no rule; the message names it.
    """
    classifier, features = head_name(model) + ".", _feature_stages(model)
    found: dict[str, Stage] = {}
    tensors = [(name, tensor, True) for name, tensor in model.named_parameters()]
    tensors += [(name, tensor, False) for name, tensor in model.named_buffers()]
    for name, tensor, learnt in tensors:
        stage = "head" if name.startswith(classifier) else _stage_of(name, features)
        if stage is None:
            raise ValueError(
                f"{getattr(model, 'architecture', type(model).__name__)}: no rule says which stage {name!r} is in. "
                "Stages are known for the families of ResNet, SqueezeNet, EfficientNet and ViT."
            )
        entry = found.setdefault(stage, Stage(stage, {}, {}))
        (entry.parameters if learnt else entry.buffers)[name] = tensor
    last = found.pop("head")
    return [*found.values(), last]


def freeze(model: nn.Module) -> nn.Module:
    """Freeze every stage but the head: the model becomes a feature extractor with a trainable classifier."""
    return unfreeze_from(model, "head")


def unfreeze_from(model: nn.Module, stage: str) -> nn.Module:
    """Make a stage and all stages above it trainable, and freeze everything below.

    Raises:
        ValueError: the model has no such stage.
    """
    parts = stages(model)
    names = [part.name for part in parts]
    if stage not in names:
        raise ValueError(f"There is no stage {stage!r}. From stem to head: {', '.join(names)}.")
    for i, part in enumerate(parts):
        for parameter in part.parameters.values():
            parameter.requires_grad_(i >= names.index(stage))
            if not parameter.requires_grad:
                parameter.grad = None  # a gradient left behind would still move it
    return model


def unfreeze(model: nn.Module) -> nn.Module:
    """Make every parameter trainable."""
    return model.requires_grad_(True)


def train_mode(model: nn.Module, *, frozen_norms: str = "eval") -> nn.Module:
    """Call `model.train()`, but leave what is frozen in evaluation mode.

    A frozen module in training mode still changes: batch norm moves its running statistics, and normalises by
    the batch instead of by them; dropout still drops. With `frozen_norms="train"` that is allowed to happen, as
    in a plain loop. Call this again wherever you would call `model.train()`.
    """
    if frozen_norms not in ("eval", "train"):
        raise ValueError(f"frozen_norms is {frozen_norms!r}: choose 'eval' (keep the statistics) or 'train'.")
    model.train()
    if frozen_norms == "eval":
        for module in model.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
    return model


def param_groups(model: nn.Module, lr: float, *, decay: float = 1.0) -> list[dict]:
    """Return one optimizer group for each trainable stage, with rates that fall towards the stem.

    The rate of stage i of n is `lr * decay ** (n - i)`: the head has the base rate `lr`.
    Source: Howard and Ruder 2018 (ULMFiT), discriminative fine-tuning.

    Raises:
        ValueError: nothing is trainable, or a rate or the decay is not positive.
    """
    if lr <= 0 or decay <= 0:
        raise ValueError(f"lr={lr} and decay={decay} must be positive.")
    parts = stages(model)
    groups = []
    for i, part in enumerate(parts, start=1):
        trainable = [p for p in part.parameters.values() if p.requires_grad]
        if trainable:
            groups.append({"params": trainable, "lr": lr * decay ** (len(parts) - i), "name": part.name})
    if not groups:
        raise ValueError("No parameter is trainable. Call `freeze` (head only), `unfreeze_from` or `unfreeze` first.")
    return groups


def summary(model: nn.Module) -> Table:
    """Count each stage: parameters, how many of them train, and the mode of its batch norms."""
    rows, modules = Table(), dict(model.named_modules())
    for stage in stages(model):
        norms = {n.rpartition(".")[0] for n in stage.buffers}
        modes = {"train" if modules[n].training else "eval" for n in norms if isinstance(modules[n], NORMS)}
        rows.append(
            {
                "stage": stage.name,
                "parameters": stage.count,
                "trainable": stage.trainable,
                "batch norm": " and ".join(sorted(modes)) or "none",
            }
        )
    total = {key: sum(row[key] for row in rows) for key in ("parameters", "trainable")}
    rows.append({"stage": "all", **total, "batch norm": ""})
    return rows


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Count the values in some parameters, each parameter once."""
    return sum(p.numel() for p in {id(p): p for p in parameters}.values())


def _feature_stages(model: nn.Module) -> dict[str, str]:
    """Name the stage of each child of `features`: the first is the stem; then a stage begins after each max-pool.

    Where there is no max-pool, every child is a stage. A stage has the name of its first child.
    """
    children = list(getattr(model, "features", nn.Module()).named_children())
    pools = any(isinstance(child, nn.MaxPool2d) for _, child in children)
    names, stage, begins = {}, "stem", False
    for position, (key, child) in enumerate(children):
        if begins or (position and not pools):
            stage = f"features.{key}"
        names[key], begins = stage, isinstance(child, nn.MaxPool2d)
    return names


def _stage_of(name: str, features: dict[str, str]) -> str | None:
    if name.startswith("features."):
        return features.get(name.split(".")[1])
    for pattern, stage in RULES:
        if match := re.match(pattern, name):
            return match.expand(stage)
    return None
