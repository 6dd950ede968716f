"""Create a model by name, with weights from a library, a file or the package, and with a new head."""

import difflib
from functools import partial
from pathlib import Path

import timm
import torchvision
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg
from torch import nn

from tlcourse.atomic_write import user_path
from tlcourse.models.heads import head, head_names, replace_head
from tlcourse.models.weights import SUFFIXES, hub_or_cache, load_state, load_weights, local_file, torchvision_state
from tlcourse.preprocessing import Preprocessing, get_preprocessing
from tlcourse.runtime import OfflineError


def create(name: str, num_classes: int | None = None, *, weights: str | Path | None = "default") -> nn.Module:
    """Create a model by name and give it a new head.

    The model has the attributes `architecture` (its full name) and `preprocessing` (how its images are prepared).
    Auxiliary heads, which only serve training from scratch, are left out (Inception, GoogLeNet, VOLO), so every model
    returns plain logits; parallel heads stay (distilled DeiT, LeViT, CrossViT).
    Shapes: images `(N, 3, H, W)` give logits `(N, num_classes)`.

    Args:
        name: `tl_resnet` (embedded), a torchvision name, or a timm name. A name of both libraries means torchvision's
            model; `timm/resnet50` and `torchvision/resnet50` are explicit.
        num_classes: outputs of the new, randomly initialised head; `None` keeps the pre-trained head.
        weights: `"default"` for the library's recommended ones, `None` for random ones, the name of a torchvision
            entry such as `"IMAGENET1K_V2"`, or a file: `.safetensors`, `.pth`, a checkpoint. A file may lack the head.

    Raises:
        ValueError: the name is unknown or that of an encoder without a classifier, there are no such weights, the file
            cannot be read safely, or its weights do not fit the backbone.
        OfflineError: the weights are not on this machine and cannot be downloaded.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: a head needs at least one output.")
    library, name = _resolve(name)
    file = None
    given = user_path(weights or "")
    if isinstance(weights, Path) or given.suffix.lower() in SUFFIXES or (weights and given.exists()):
        file = given
    elif library == "timm" and weights == "default" and name != "tl_resnet":
        file = local_file(f"{name}.safetensors", f"{name}.pth")
    build = partial(_create_torchvision, file=file.name if file else "") if library == "torchvision" else _create_timm
    model = build(name, num_classes, None if file else weights)
    model.architecture = f"{library}/{name}"
    model.own_classes = len(head(model).weight) if num_classes is None else None
    if file:
        load_weights(model, file, head=num_classes is None)
    return model


def _resolve(name: str) -> tuple[str, str]:
    library, _, plain = name.rpartition("/")
    ours = torchvision.models.list_models(module=torchvision.models)
    if library in ("", "torchvision") and plain in ours:
        return "torchvision", plain
    if library not in ("", "timm", "torchvision"):
        raise ValueError(f"{name!r}: models come from torchvision or timm, not from {library!r}.")
    architecture, _, tag = plain.partition(".")
    if library in ("", "timm") and timm.is_model(architecture):
        tagged = get_arch_pretrained_cfgs(architecture)
        if tag and plain not in tagged:
            raise ValueError(f"timm's {architecture} has no weights {tag!r}; there is {', '.join(tagged) or 'none'}.")
        return "timm", plain
    names = {"": {*ours, *timm.list_models()}, "timm": timm.list_models(), "torchvision": ours}[library]
    near = difflib.get_close_matches(plain, names, n=4, cutoff=0.5)
    raise ValueError(f"There is no model {name!r}." + (f" Did you mean {', '.join(near)}?" if near else ""))


def _create_torchvision(name: str, num_classes: int | None, weights: str | None, file: str = "") -> nn.Module:
    """Create one of torchvision's models; one of its files, by its name, decides the size and preprocessing."""
    entries = torchvision.models.get_model_weights(name)
    entry = None
    if weights is not None:
        wanted = "DEFAULT" if weights == "default" else weights
        if wanted not in entries.__members__:
            raise ValueError(f"{name} has no weights {weights!r}; it has {', '.join(entries.__members__) or 'none'}.")
        entry = entries[wanted]
    options: dict[str, object] = {}
    if name in ("googlenet", "inception_v3"):
        # Their weights expect another range of values; with `transform_input` the model converts the images itself.
        options = {"aux_logits": False, "transform_input": True, "init_weights": entry is None}
    named = (each for each in entries if file and each.url.endswith(f"/{file}"))
    reference = entry or next(named, getattr(entries, "DEFAULT", None))
    if name.startswith("vit_"):
        options["image_size"] = reference.meta["min_size"][0]  # it takes one size only, and not always 224
    model = torchvision.models.get_model(name, weights=None, **options)
    if entry is not None:
        load_state(model, torchvision_state(entry), str(entry))
    model.preprocessing = get_preprocessing(reference) if reference else Preprocessing(224, 256)
    return model if num_classes is None else replace_head(model, num_classes)


def _create_timm(name: str, num_classes: int | None, weights: str | None) -> nn.Module:
    if weights not in (None, "default"):
        raise ValueError(f"timm names weights in the model: {name.split('.')[0]}.{weights}, with weights='default'.")
    options = {"num_classes": num_classes} | _square(name)
    model = _pretrained_timm(name, options) if weights else timm.create_model(name, **options)
    if getattr(model, "aux_head", None) is not None:
        model.aux_head = None
    known = getattr(model, "pretrained_cfg", None)
    model.preprocessing = get_preprocessing(model) if known else Preprocessing(224, 256)
    try:
        head_names(model)
    except ValueError as error:
        raise ValueError(f"timm's {name} is an encoder without a classifier: take it from timm itself.") from error
    return model


def _square(name: str) -> dict[str, object]:
    """Return timm's options for a model whose images are not square crops, as ours are."""
    config = get_pretrained_cfg(name)
    if config is None:
        return {}
    channels, height, width = config.input_size
    options: dict[str, object] = {}
    overlay = {"crop_mode": "squash"} if config.crop_mode == "border" else {}  # like padding, it cuts nothing off
    if height != width:
        options["img_size"] = min(height, width)
        overlay["input_size"] = (channels, min(height, width), min(height, width))
    return options | ({"pretrained_cfg_overlay": overlay} if overlay else {})


def _pretrained_timm(name: str, options: dict[str, object]) -> nn.Module:
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        others = [tagged for tagged, each in get_arch_pretrained_cfgs(name).items() if each.has_weights]
        raise ValueError(
            f"timm has no weights for {name}: use weights=None for random ones, or give a file."
            + (f" There are weights for {', '.join(others)}." if others else "")
        )
    if config.file:  # the embedded backbone needs no network
        return timm.create_model(name, pretrained=True, **options)
    try:
        with hub_or_cache():
            return timm.create_model(name, pretrained=True, **options)
    except OSError as error:
        raise OfflineError(
            f"The weights of timm's {name} are not on this machine and could not be downloaded: {error}. "
            f"Put {name}.safetensors into a folder and name it in TLCOURSE_WEIGHTS, or use `tl_resnet`."
        ) from error
