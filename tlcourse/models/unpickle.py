"""Read what `torch.save` wrote without running code: tensors and plain values come out, the rest stands still."""

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

# What rebuilds a tensor, and runs nothing else. `torch.storage._load_from_bytes` is not here: it unpickles anything.
REBUILD = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"}
SAFE = {("torch._utils", name) for name in REBUILD} | {("collections", "OrderedDict"), ("torch", "Size")}


class Inert(dict):
    """Stands for an object of any class in a file, such as timm's `argparse.Namespace`: made and filled without effect.

    A class that is a dictionary, such as `defaultdict`, keeps its items.
    """

    def __new__(cls, *_: object, **__: object) -> "Inert":
        """Take any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object):
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Forget the state."""

    append = extend = add = __setstate__

    def __call__(self, *_: object, **__: object) -> "Inert":
        """Give another one: a class may be an object, too."""
        return Inert()


class Unpickler(pickle.Unpickler):
    """Finds what rebuilds tensors, and `Inert` for every other class and function."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the file stands for."""
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        return super().find_class(module, name) if is_type or (module, name) in SAFE else Inert


def load(file: Any, **options: Any) -> Any:
    """Stand in for `pickle.load`, which `torch.load` calls for files of its old format."""
    return Unpickler(file, **options).load()


def load_inert(file: Path) -> Any:
    """Return the content of a file of `torch.save`, with an `Inert` for each object that is no tensor or plain value.

    Raises:
        pickle.UnpicklingError: it is a single object, such as a whole model; other errors for a damaged file.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # before this, a file of TorchScript has raised another error
        content = torch.load(file, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])
    if type(content) is Inert and not content:
        raise pickle.UnpicklingError("it is one object of a class of its own")
    return content
