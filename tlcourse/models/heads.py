"""Heads: find the layer of a network that gives the logits, and put a new one in its place."""

import re

from torch import nn

from tlcourse.preprocessing import WRAPPERS

# Where the classifier is in a model that does not say so itself: the last of these.
ATTRIBUTES = ("fc", "heads", "head", "classifier")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
# What a library puts below its classifier into one Sequential of torch's own layers: the network, then the layers.
LIBRARYS = re.compile(
    "AlexNet Dropout Linear4096 ReLU Dropout Linear4096 ReLU |VGG Linear4096 ReLU Dropout Linear4096 ReLU Dropout |"
    "MobileNetV3 Linear(1024|1280) Hardswish Dropout |MaxVit .* LayerNorm Linear512 Tanh |"
    r"EfficientVit(Large)? Linear(1280|1600|2560|3200|6400) LayerNorm \w+ Dropout "
)
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Replace the classifier by a new, randomly initialised one, and return the model.

    SqueezeNet's classifier is a 1 x 1 convolution followed by a ReLU. The ReLU is removed: it cuts off negative logits,
    which does little harm among a thousand classes, and a lot between two.
    """
    inner = unwrap_model(model)
    for name in head_names(inner):
        parent_name, _, last = name.rpartition(".")
        parent, old = inner.get_submodule(parent_name), inner.get_submodule(name)
        setattr(parent, last, _new_layer(old, num_classes))
        after = str(int(last) + 1) if last.isdecimal() else ""
        if isinstance(old, nn.Conv2d) and isinstance(getattr(parent, after, None), nn.ReLU):
            setattr(parent, after, nn.Identity())
    if hasattr(inner, "num_classes"):
        inner.num_classes = num_classes
    return model


def head(model: nn.Module) -> nn.Module:
    """Return the classifier; the first one if there are several."""
    return unwrap_model(model).get_submodule(head_name(model))


def head_name(model: nn.Module) -> str:
    """Return the dotted name of the classifier; the first one of `head_names`."""
    return head_names(model)[0]


def head_names(model: nn.Module) -> list[str]:
    """Return the dotted names of the layers that give the logits: one, or several in parallel.

    Distilled transformers (DeiT, LeViT) average the logits of two heads; CrossViT has one head for each branch.
    In a model with a `stage_plan`, the heads are the last layers of what its plan calls the head.

    Raises:
        ValueError: no classifier was found.
    """
    model = unwrap_model(model)
    if plan := getattr(model, "stage_plan", None):
        found = [name for part in plan.get("head", ()) for name in _layers_in(model, part)[-1:]]
    else:
        usual = [_layers_in(model, name)[-1:] for name, _ in model.named_children() if name in ATTRIBUTES]
        found = _named_by_timm(model) or next(filter(None, reversed(usual)), [])
    if found:
        return found
    raise ValueError(
        f"{type(model).__name__} has no classifier under {', '.join(f'`{a}`' for a in ATTRIBUTES)}. "
        "If it is an encoder, put a head behind it; if the head has another name, say so: "
        'model.stage_plan = {"stem": [...], ..., "head": ["my_head"]}.'
    )


def head_parts(model: nn.Module) -> list[str]:
    """Return the names of what trains as the head: the classifiers, or the whole of a new head with more around it.

    What a library put around its classifier is pre-trained. A head that is not of its layers is new, and its lower
    layers, norms and scales are as random as the last layer.
    """
    model, found = unwrap_model(model), []
    for name in head_names(model):
        around = [name[:end] for end, letter in enumerate(name) if letter == "."]
        found.append(next((part for part in around if _is_new(model, part, name)), name))
    return found


def _is_new(model: nn.Module, name: str, classifier: str) -> bool:
    """Say whether the module of a name learns more than the classifier in it, and no library made it."""
    module = model.get_submodule(name)
    learning = [part for part in module.modules() if any(True for _ in part.parameters())]
    librarys = any(type(part).__module__.startswith(("torchvision.", "timm.")) for part in learning)
    single = [part for part in module.modules() if not any(True for _ in part.children())]
    layers = [f"{type(part).__name__}{len(part.weight) if isinstance(part, LAYERS) else ''}" for part in single]
    more = len([*module.parameters()]) > len([*model.get_submodule(classifier).parameters()])
    if not more or librarys or not LIBRARYS.match(" ".join([type(model).__name__, *layers])):
        return more and not librarys
    if not hasattr(module, "looked_new"):  # a learner's copy: torch draws up to 1 / sqrt(inputs), training goes beyond
        weight = next(part.weight for part in single if isinstance(part, LAYERS)).detach()
        module.looked_new = not weight.is_meta and 0.99 < weight.abs().max() * weight[0].numel() ** 0.5 <= 1.001
    return bool(module.looked_new)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of `torch.compile`, `DistributedDataParallel` and `AveragedModel`."""
    while isinstance(model, WRAPPERS) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, WRAPPERS) else model._orig_mod
    return model


def _new_layer(old: nn.Module, outputs: int) -> nn.Module:
    options = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, outputs, **options)
    kind = nn.Conv1d if isinstance(old, nn.Conv1d) else nn.Conv2d
    return kind(old.in_channels, outputs, old.kernel_size, old.stride, old.padding, **options)


def _named_by_timm(model: nn.Module) -> list[str]:
    """Return the heads that timm's configuration names, and the distillation heads beside them."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = [named] if isinstance(named, str) else named
    # Some of LeViT's configurations name one head of two.
    both = dict.fromkeys([*names, *(name.replace("head", "head_dist", 1) for name in names)])
    return [layer for name in both for layer in _layers_in(model, name)[-1:]]


def _layers_in(model: nn.Module, name: str) -> list[str]:
    """Return the layers at or below a name that could be a classifier; none if the model has no such name."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return []
    return [f"{name}.{inner}".rstrip(".") for inner, layer in module.named_modules() if isinstance(layer, LAYERS)]
