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
    """Stands for any class, function or object in a file, such as `argparse.Namespace`: made without effect."""

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    __init__ = __setstate__ = append = extend = add = _nothing

    def __new__(cls, *_: object, **__: object) -> "Inert":
        return super().__new__(cls)

    def __call__(self, *_: object, **__: object) -> "Inert":
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
    """Return the content of a file of `torch.save`, with an `Inert` for what is no tensor or plain value."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # TorchScript, which holds code, raises another error
        content = torch.load(file, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])
    if type(content) is Inert and not content:
        raise pickle.UnpicklingError("it is a single object, such as a whole model")
    return content
