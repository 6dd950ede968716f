"""Weights: read files without running code, check that they fit, and find them on this machine or on the internet."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from tlcourse.atomic_write import user_path
from tlcourse.models.heads import head_names, unwrap_model
from tlcourse.models.unpickle import load_inert
from tlcourse.runtime import OfflineError, weights_folder

TIMEOUT = 5  # seconds to wait for a hub's first answer; the hub's own client keeps trying for about a minute
# What weights lie under in a checkpoint of ours, of PyTorch's tutorials, Lightning and timm.
WRAPPERS = ("best_weights", "state_dict", "model_state_dict", "model", "module", "net", "weights")
WRAPPERS += ("state_dict_ema", "model_ema")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".th", ".pkl", ".model")
# Names in torchvision's files of DenseNet and of ViT that its code no longer has.
OLD_NAMES = {r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.": r"\1\2."}
OLD_NAMES |= {r"mlp\.linear_1\.": "mlp.0.", r"mlp\.linear_2\.": "mlp.3."}
AUXILIARY = re.compile(r"(aux\d?|AuxLogits|aux_head)\.")  # heads that only serve training from scratch


def read_weights(file: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of weights without running any code that it may hold.

    They may lie in a checkpoint, beside other things. The prefixes of `DataParallel`, `AveragedModel` and
    `torch.compile` are removed.

    Raises:
        ValueError: the file is missing, damaged, or holds no weights.
    """
    file = user_path(file)
    if not file.is_file():
        raise ValueError(f"There is no weights file {file}.")
    try:
        with file.open("rb") as opened:  # the content decides, not the name: safetensors have a length, and JSON
            content = load_file(file) if opened.read(9)[8:] == b"{" else load_inert(file)
    except PermissionError as error:
        raise ValueError(f"{file} may not be read: mend its rights.") from error
    except Exception as error:
        raise ValueError(
            f"{file} could not be read as weights ({type(error).__name__}). Either it is damaged, or it is a pickle "
            "of a whole model, which may run code and is refused: store `model.state_dict()` instead."
        ) from error
    if (state := _find_state(content)) is None:
        found = f", but {', '.join(map(str, [*content][:6]))}" if isinstance(content, dict) and content else ""
        raise ValueError(f"{file} holds no state dict (names with tensors){found}. Store `model.state_dict()`.")
    state.pop("n_averaged", None)
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in state.items()}


def _find_state(content: object) -> dict[str, torch.Tensor] | None:
    """Return the weights in a checkpoint: the only names with tensors, or those under the most usual key."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return None
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor) and not value.is_meta}
    if tensors and (len(tensors) == len(content) or any("." in name for name in tensors)):
        return tensors
    inner = {key: state for key, value in content.items() if (state := _find_state(value))}
    usual = [key for key in WRAPPERS if key in inner] or ([*inner] if len(inner) == 1 else [])
    return inner[usual[0]] if usual else None


def load_weights(model: nn.Module, file: str | Path, *, head: bool = True) -> None:
    """Load a file of weights into the backbone and, with `head`, the head; if they do not fit, nothing is changed.

    Raises:
        ValueError: names or shapes differ; the message lists them.
    """
    load_state(model, read_weights(file), str(file), head=head)


def load_state(model: nn.Module, state: dict[str, torch.Tensor], source: str, *, head: bool = True) -> None:
    """Load a state dict as `load_weights` does; messages call it `source`."""
    model = unwrap_model(model)
    own, classifier = model.state_dict(), tuple(f"{name}." for name in head_names(model))
    needed = [n for n in own if (head or not n.startswith(classifier)) and not n.endswith("num_batches_tracked")]
    # Lightning and others put a model below a name, `model.`, beside metrics and the tensors of the loss.
    prefixes = ["", *(name.removesuffix(needed[0]) for name in state if name.endswith(f".{needed[0]}"))]
    prefix = max(prefixes, key=lambda prefix: sum(prefix + name in state for name in needed))
    state = {_new_name(n.removeprefix(prefix), own): tensor for n, tensor in state.items() if n.startswith(prefix)}
    state = {n: tensor for n, tensor in state.items() if n in own or not AUXILIARY.match(n)}
    if not head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(classifier)}
    other_shape = [n for n in state if n in own and state[n].shape != own[n].shape]
    problems = {
        "missing in the file": [n for n in needed if n not in state],
        "not in the model": [n for n in state if n not in own],
        "of another shape": [f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}" for n in other_shape],
    }
    if any(problems.values()):
        lines = [f"{len(v)} {k}: {', '.join(v[:4])}{', …' if len(v) > 4 else ''}" for k, v in problems.items() if v]
        kind = getattr(model, "architecture", type(model).__name__)
        raise ValueError(f"{source} does not fit {kind}. " + "; ".join(lines) + ". Is it the same architecture?")
    fitting = OrderedDict(state)
    fitting._metadata = own._metadata  # which version of its layers the names are of: MNASNet asks for it
    model.load_state_dict(fitting, strict=False)


def _new_name(name: str, own: Mapping[str, torch.Tensor]) -> str:
    for old, new in OLD_NAMES.items() if name not in own else ():
        name = re.sub(old, new, name)
    return name


def local_file(*names: str) -> Path | None:
    """Return the first of these files that is in the user's folder of weights, `TLCOURSE_WEIGHTS`."""
    folder = weights_folder()
    return next((folder / name for name in names if (folder / name).is_file()), None) if folder else None


def torchvision_state(entry: torchvision.models.WeightsEnum) -> dict[str, torch.Tensor]:
    """Return torchvision's weights, from the user's folder, torch's cache or the internet.

    Raises:
        OfflineError: they cannot be found; the message says which file to put where.
    """
    name = entry.url.rpartition("/")[2]
    if file := local_file(name):
        return read_weights(file)
    try:
        return entry.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # the second: another hash than expected
        raise OfflineError(
            f"The weights {entry} are not on this machine, and {entry.url} could not be reached. "
            f"Put {name} into a folder and name it in TLCOURSE_WEIGHTS, or use `tl_resnet`, whose weights are here."
        ) from error


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Without a network, let timm's hub use only its cache, instead of trying again and again.

    It took 50 s to give up on weights that were not on this machine; now it takes at most `TIMEOUT`, and weights in the
    cache are used at once.
    """
    from huggingface_hub import constants  # takes a while to import, and only timm's downloads need it

    before = constants.HF_HUB_OFFLINE
    try:
        requests.head(constants.ENDPOINT, timeout=TIMEOUT)
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
