"""Weights: read files without running code, check that they fit, and find them on this machine or on the internet."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from tlcourse.models.heads import head_names, unwrap_model
from tlcourse.runtime import OfflineError, weights_folder

TIMEOUT = 5  # seconds to wait for a hub's first answer; the hub's own client keeps trying for about a minute


def read_weights(file: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of weights without running any code that it may hold.

    Wrappers (`state_dict`, `model`) and the prefixes of `DataParallel` and `torch.compile` are removed.

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
    """Load a file of weights into the backbone and, with `head`, the head; if they do not fit, nothing is changed.

    Raises:
        ValueError: names or shapes differ; the message lists them.
    """
    load_state(model, read_weights(file), str(file), head=head)


def load_state(model: nn.Module, state: dict[str, torch.Tensor], source: str, *, head: bool = True) -> None:
    """Load a state dict as `load_weights` does; messages call it `source`."""
    model = unwrap_model(model)
    own, classifier = model.state_dict(), tuple(f"{name}." for name in head_names(model))
    if not head:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(classifier)}
    needed = [n for n in own if (head or not n.startswith(classifier)) and not n.endswith("num_batches_tracked")]
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
    model.load_state_dict(state, strict=False)


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
        state = read_weights(file)
    else:
        try:
            state = entry.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise OfflineError(
                f"The weights {entry} are not on this machine, and {entry.url} could not be reached. "
                f"Put {name} into a folder and name it in TLCOURSE_WEIGHTS, or use `tl_resnet`, whose weights are here."
            ) from error
    # DenseNet's files still have old names, such as `norm.1` for `norm1`.
    return {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name): v for name, v in state.items()}


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
