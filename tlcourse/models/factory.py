"""Create a model by name, with weights from a library, a file or the package, and with a new head."""

import difflib
from pathlib import Path

import timm
import torchvision
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg
from torch import nn

from tlcourse.models.heads import head_names, replace_head
from tlcourse.models.weights import hub_or_cache, load_state, load_weights, timm_file, torchvision_state
from tlcourse.preprocessing import Preprocessing, get_preprocessing
from tlcourse.runtime import OfflineError

# ImageNet's mean and standard deviation: what nearly every RGB backbone was trained with.
IMAGENET = Preprocessing(size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def create(
    name: str, num_classes: int | None = None, *, weights: str | Path | None = "default", drop_rate: float = 0.0
) -> nn.Module:
    """Create a model by name and give it a new head.

    The model carries `architecture` (its full name) and `preprocessing` (what its images must look like).
    Auxiliary heads, which serve pre-training from scratch only, are left out (Inception, GoogLeNet, VOLO), so every
    model returns plain logits; heads side by side stay (distilled DeiT, LeViT, CrossViT).
    Shapes: images `(N, 3, H, W)` give logits `(N, num_classes)`.

    Args:
        name: `tl_resnet` (embedded), a torchvision name, or a timm name. Where both have it, torchvision's is
            taken; `timm/resnet50` and `torchvision/resnet50` say which.
        num_classes: outputs of the new, randomly initialised head; `None` keeps the head as it was pre-trained.
        weights: `"default"` for the library's recommended ones, `None` for random ones, the name of a torchvision
            entry such as `"IMAGENET1K_V2"`, or a `.safetensors`, `.pth` or `.pt` file. A file may lack the head.
        drop_rate: dropout in front of the new head, for timm's models.

    Raises:
        ValueError: the name is unknown or an encoder's without a classifier, there are no such weights, the file
            cannot be read safely, or its weights do not fit the body.
        OfflineError: the weights are not on this machine and cannot be downloaded.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: a head needs at least one output.")
    library, name = _resolve(name)
    file = _weights_file(weights)
    build = _create_torchvision if library == "torchvision" else _create_timm
    model = build(name, num_classes, None if file else weights, drop_rate)
    model.architecture = f"{library}/{name}"
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


def _weights_file(weights: str | Path | None) -> Path | None:
    if isinstance(weights, Path) or (weights and Path(weights).suffix in (".safetensors", ".pth", ".pt", ".bin")):
        return Path(weights)
    return None


def _create_torchvision(name: str, num_classes: int | None, weights: str | None, drop_rate: float) -> nn.Module:
    entries = torchvision.models.get_model_weights(name)
    entry = None
    if weights is not None:
        wanted = "DEFAULT" if weights == "default" else weights
        if wanted not in entries.__members__:
            raise ValueError(f"{name} has no weights {weights!r}; it has {', '.join(entries.__members__) or 'none'}.")
        entry = entries[wanted]
    auxiliary = name in ("googlenet", "inception_v3")
    options: dict[str, object] = {}
    if auxiliary:
        # Their weights expect images in another range, and with this the model converts them itself.
        options = {"aux_logits": False, "transform_input": True, "init_weights": entry is None}
    reference = entry or getattr(entries, "DEFAULT", None)
    if name.startswith("vit_"):
        options["image_size"] = reference.meta["min_size"][0]  # one size only, and not 224 for all weights
    model = torchvision.models.get_model(name, weights=None, **options)
    if entry is not None:
        own = model.state_dict()
        state = {k: v for k, v in torchvision_state(entry).items() if k in own or not auxiliary}
        load_state(model, state, str(entry))
    model.preprocessing = get_preprocessing(reference) if reference else IMAGENET
    return model if num_classes is None else replace_head(model, num_classes)


def _create_timm(name: str, num_classes: int | None, weights: str | None, drop_rate: float) -> nn.Module:
    if weights not in (None, "default"):
        raise ValueError(f"timm names weights in the model: {name.split('.')[0]}.{weights}, with weights='default'.")
    options = {"num_classes": num_classes, "drop_rate": drop_rate}
    options = {key: value for key, value in options.items() if value} | _square(name)
    file = timm_file(name) if weights == "default" and name != "tl_resnet" else None
    if weights is None or file or name == "tl_resnet":
        model = timm.create_model(name, pretrained=weights == "default" and not file, **options)
    else:
        model = _downloaded(name, options)
    if getattr(model, "aux_head", None) is not None:
        model.aux_head = None
    model.preprocessing = get_preprocessing(model) if getattr(model, "pretrained_cfg", None) else IMAGENET
    try:
        head_names(model)
    except ValueError as error:
        raise ValueError(f"timm's {name} is an encoder without a classifier: take it from timm itself.") from error
    if file:
        load_weights(model, file, head=num_classes is None)
    return model


def _square(name: str) -> dict[str, object]:
    """Return what timm has to be told where a model's images are not cut out as squares, which ours are."""
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


def _downloaded(name: str, options: dict[str, object]) -> nn.Module:
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        others = [tagged for tagged, each in get_arch_pretrained_cfgs(name).items() if each.has_weights]
        raise ValueError(
            f"timm has no weights for {name}: use weights=None for random ones, or give a file."
            + (f" There are weights for {', '.join(others)}." if others else "")
        )
    try:
        with hub_or_cache():
            return timm.create_model(name, pretrained=True, **options)
    except OSError as error:
        raise OfflineError(
            f"The weights of timm's {name} are not on this machine and could not be downloaded: {error}. "
            f"Put {name}.safetensors into a folder and name it in TLCOURSE_WEIGHTS, or use `tl_resnet`."
        ) from error
