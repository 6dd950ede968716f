"""The classifier of a network: where it is, and a new one in its place."""

from collections.abc import Sequence

from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
# Where a classifier is, in models that do not say so themselves.
ATTRIBUTES = ("fc", "heads", "head", "classifier")
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of `torch.compile` and `DistributedDataParallel`."""
    while isinstance(model, PARALLEL) or "_orig_mod" in model._modules:
        model = model.module if isinstance(model, PARALLEL) else model._orig_mod
    return model


def head_names(model: nn.Module) -> list[str]:
    """Return the dotted names of the layers that give the logits: one, or several side by side.

    Distilled transformers (DeiT, LeViT) have two, whose answers are averaged; CrossViT has one for each branch.
    A model with a `stage_plan` has what its plan calls the head.

    Raises:
        ValueError: the model has no classifier that can be recognised.
    """
    model = unwrap_model(model)
    if plan := getattr(model, "stage_plan", None):
        found = [name for part in plan.get("head", ()) for name in _layers_in(model, part)[-1:]]
    else:
        found = _named_by_timm(model) or next(filter(None, (_layers_in(model, a)[-1:] for a in ATTRIBUTES)), [])
    if found:
        return found
    raise ValueError(
        f"{type(model).__name__} has no classifier under {', '.join(f'`{a}`' for a in ATTRIBUTES)}. "
        "If it is an encoder, put a head behind it; if the head has another name, say so: "
        'model.stage_plan = {"stem": [...], ..., "head": ["my_head"]}.'
    )


def head_name(model: nn.Module) -> str:
    """Return the dotted name of the classifier, a linear layer or the convolution that stands for it.

    Of several heads side by side (`head_names`) it is the first.

    Raises:
        ValueError: the model has no classifier that can be recognised.
    """
    return head_names(model)[0]


def head(model: nn.Module) -> nn.Module:
    """Return the classifier itself; of several heads side by side, the first."""
    return unwrap_model(model).get_submodule(head_name(model))


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Put new, randomly initialised classifiers in the place of the old, and return the model.

    SqueezeNet's classifier is a 1 x 1 convolution followed by ReLU. The ReLU goes: it cuts off negative logits,
    which a thousand classes survive and two do not.
    """
    inner = unwrap_model(model)
    for name in head_names(inner):
        parent_name, _, last = name.rpartition(".")
        parent, old = inner.get_submodule(parent_name), inner.get_submodule(name)
        setattr(parent, last, _like(old, num_classes))
        after = str(int(last) + 1) if last.isdecimal() else ""
        if isinstance(old, nn.Conv2d) and isinstance(getattr(parent, after, None), nn.ReLU):
            setattr(parent, after, nn.Identity())
    if hasattr(inner, "num_classes"):
        inner.num_classes = num_classes
    return model


def _like(old: nn.Module, outputs: int) -> nn.Module:
    place = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, outputs, **place)
    kind = nn.Conv1d if isinstance(old, nn.Conv1d) else nn.Conv2d
    return kind(old.in_channels, outputs, old.kernel_size, old.stride, old.padding, **place)


def _named_by_timm(model: nn.Module) -> list[str]:
    """Return the heads that timm's configuration names, and the distillation heads beside them."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names: Sequence[str] = [named] if isinstance(named, str) else named
    # Some of LeViT's configurations name one head of two.
    both = dict.fromkeys([*names, *(name.replace("head", "head_dist", 1) for name in names)])
    return [layer for name in both for layer in _layers_in(model, name)[-1:]]


def _layers_in(model: nn.Module, name: str) -> list[str]:
    """Return the layers that may be a classifier at or below a name; none if there is nothing of that name."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return []
    return [f"{name}.{inner}".rstrip(".") for inner, layer in module.named_modules() if isinstance(layer, LAYERS)]
