"""Create a model by name, with weights from a library, a file or the package, and with a new head."""

import difflib
import re
from pathlib import Path

import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from tlcourse.assets import OfflineError
from tlcourse.data.transforms import Preprocessing, preprocessing
from tlcourse.runtime import weights_folder

# ImageNet's mean and standard deviation: what nearly every RGB backbone was trained with.
IMAGENET = Preprocessing(size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def create(
    name: str, num_classes: int | None = None, *, weights: str | Path | None = "default", drop_rate: float = 0.0
) -> nn.Module:
    """Create a model by name and give it a new head.

    The model carries `architecture` (its full name) and `preprocessing` (what its images must look like).
    Shapes: images `(N, 3, H, W)` give logits `(N, num_classes)`.

    Args:
        name: `tl_resnet` (embedded), a torchvision name, or a timm name. Where both have it, torchvision's is
            taken; `timm/resnet50` and `torchvision/resnet50` say which.
        num_classes: outputs of the new, randomly initialised head; `None` keeps the head as it was pre-trained.
        weights: `"default"` for the library's recommended ones, `None` for random ones, the name of a torchvision
            entry such as `"IMAGENET1K_V2"`, or a `.safetensors`, `.pth` or `.pt` file. A file may lack the head.
        drop_rate: dropout in front of the new head, for timm's models.

    Raises:
        ValueError: the name is unknown, the file cannot be read safely, or its weights do not fit the body.
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


def head_name(model: nn.Module) -> str:
    """Return the dotted name of the classifier: the last linear layer, or the convolution that stands for it.

    Raises:
        ValueError: the model has no classifier that can be recognised.
    """
    named = getattr(model, "pretrained_cfg", {}).get("classifier")
    if isinstance(named, str) and isinstance(_get(model, named), nn.Linear | nn.Conv2d):
        return named
    for attribute in ("fc", "heads", "head", "classifier"):
        module = getattr(model, attribute, None)
        for inner, layer in reversed(list(module.named_modules()) if module is not None else []):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                return f"{attribute}.{inner}".rstrip(".")
    raise ValueError(
        f"{type(model).__name__} has no classifier under `fc`, `heads`, `head` or `classifier`. "
        "Create it with a head: num_classes must not be 0."
    )


def head(model: nn.Module) -> nn.Module:
    """Return the classifier itself."""
    return model.get_submodule(head_name(model))


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Put a new, randomly initialised classifier in the place of the old one, and return the model.

    SqueezeNet's classifier is a 1 x 1 convolution followed by ReLU. The ReLU goes: it cuts off negative logits,
    which a thousand classes survive and two do not.
    """
    name = head_name(model)
    parent_name, _, last = name.rpartition(".")
    parent, old = model.get_submodule(parent_name), model.get_submodule(name)
    place = {"device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size, old.stride, old.padding, **place)
        after = str(int(last) + 1)
        if isinstance(getattr(parent, after, None), nn.ReLU):
            setattr(parent, after, nn.Identity())
    else:
        new = nn.Linear(old.in_features, num_classes, **place)
    setattr(parent, last, new)
    if hasattr(model, "num_classes"):
        model.num_classes = num_classes
    return model


def read_weights(file: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of weights without running any code that it may hold.

    Wrappers (`state_dict`, `model`) and the prefixes of `DataParallel` and `torch.compile` are taken off.

    Raises:
        ValueError: the file is missing, damaged, or a pickle that holds more than weights.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"There is no weights file {file}.")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{file} could not be read as weights ({type(error).__name__}). Either it is damaged, or it is a pickle "
            "of a whole model, which may run code and is refused: store `model.state_dict()` instead."
        ) from error
    for wrapper in ("state_dict", "model"):
        state = state[wrapper] if isinstance(state, dict) and isinstance(state.get(wrapper), dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{file} holds no state dict (names with tensors).")
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in state.items()}


def load_weights(model: nn.Module, file: str | Path, *, head: bool = True) -> None:
    """Load a file of weights into the body and, on request, the head; nothing is changed when they do not fit.

    Raises:
        ValueError: names or shapes differ; the message lists them.
    """
    state, own, classifier = read_weights(file), model.state_dict(), head_name(model) + "."
    if not head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(classifier)}
    needed = [n for n in own if (head or not n.startswith(classifier)) and not n.endswith("num_batches_tracked")]
    problems = {
        "missing in the file": [n for n in needed if n not in state],
        "not in the model": [n for n in state if n not in own],
        "of another shape": [
            f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}"
            for n in state
            if n in own and state[n].shape != own[n].shape
        ],
    }
    if any(problems.values()):
        lines = [f"{len(v)} {k}: {', '.join(v[:4])}{', …' if len(v) > 4 else ''}" for k, v in problems.items() if v]
        kind = getattr(model, "architecture", type(model).__name__)
        raise ValueError(f"{file} does not fit {kind}. " + "; ".join(lines) + ". Is it the same architecture?")
    model.load_state_dict(state, strict=False)


def _get(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _resolve(name: str) -> tuple[str, str]:
    library, _, plain = name.rpartition("/")
    ours = torchvision.models.list_models(module=torchvision.models)
    if library in ("", "torchvision") and plain in ours:
        return "torchvision", plain
    if library in ("", "timm") and timm.is_model(plain.split(".")[0]):
        return "timm", plain
    if library not in ("", "timm", "torchvision"):
        raise ValueError(f"{name!r}: models come from torchvision or timm, not from {library!r}.")
    near = difflib.get_close_matches(plain, {*ours, *timm.list_models()}, n=4, cutoff=0.5)
    raise ValueError(f"There is no model {name!r}. " + (f"Did you mean {', '.join(near)}?" if near else ""))


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
    # Auxiliary heads serve pre-training from scratch only; without them every model returns plain logits.
    auxiliary = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **auxiliary)
    if entry is not None:
        wanted = model.state_dict()
        state = _torchvision_state(entry)
        model.load_state_dict({k: v for k, v in state.items() if k in wanted or not auxiliary})
    reference = entry or getattr(entries, "DEFAULT", None)
    model.preprocessing = preprocessing(reference) if reference else IMAGENET
    return model if num_classes is None else replace_head(model, num_classes)


def _torchvision_state(entry: torchvision.models.WeightsEnum) -> dict[str, torch.Tensor]:
    file = entry.url.rpartition("/")[2]
    folder = weights_folder()
    if folder and (folder / file).is_file():
        return read_weights(folder / file)
    try:
        return entry.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise OfflineError(
            f"The weights {entry} are not on this machine, and {entry.url} could not be reached. "
            f"Put {file} into a folder and name it in TLCOURSE_WEIGHTS, or use `tl_resnet`, whose weights are here."
        ) from error


def _create_timm(name: str, num_classes: int | None, weights: str | None, drop_rate: float) -> nn.Module:
    if weights not in (None, "default"):
        raise ValueError(f"timm names weights in the model: {name.split('.')[0]}.{weights}, with weights='default'.")
    options = {"num_classes": num_classes, "drop_rate": drop_rate}
    options = {key: value for key, value in options.items() if value}
    folder, file = weights_folder(), None
    if weights == "default" and folder and name != "tl_resnet":
        file = next((f for f in (folder / f"{name}.safetensors", folder / f"{name}.pth") if f.is_file()), None)
    try:
        model = timm.create_model(name, pretrained=weights == "default" and not file, **options)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "pretrained" not in str(error).lower():
            raise
        raise OfflineError(
            f"The weights of timm's {name} are not on this machine and could not be downloaded: {error}. "
            f"Put {name}.safetensors into a folder and name it in TLCOURSE_WEIGHTS, or use `tl_resnet`."
        ) from error
    if file:
        load_weights(model, file, head=num_classes is None)
    model.preprocessing = preprocessing(model)
    return model
