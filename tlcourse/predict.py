"""Save a trained classifier in one safe file, and classify image files with it."""

import copy
import csv
import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tlcourse.atomic_write import atomic_write, user_path
from tlcourse.data import class_list, images_below, read_image
from tlcourse.evaluation import check_outputs, evaluation_mode, run
from tlcourse.models import create, head, unwrap_model
from tlcourse.preprocessing import Preprocessing, get_preprocessing
from tlcourse.side_effects import no_side_effects


@dataclass(frozen=True)
class Answer:
    """The predicted class of one file with its probability and all classes', or why the file could not be read."""

    file: str
    label: str | None
    probability: float | None
    error: str | None = None
    probabilities: tuple[float, ...] | None = None


def save_checkpoint(file: str | Path, model: nn.Module, classes: Sequence[str], **facts: object) -> Path:
    """Write a model from `tl.models.create` with everything that is needed to use it again.

    The file is safetensors: weights, and a header in JSON with architecture, classes, preprocessing and `facts`, as
    text where they are neither numbers nor lists. It is loaded again and has to give the model's outputs before it
    takes its place. Wrappers (`torch.compile`, `DataParallel`) are left out.

    Raises:
        ValueError: the model has no architecture name, or another number of outputs than there are classes; its weights
            are not finite; or the file would not give this model again, because parts of it were replaced.
    """
    file, model = user_path(file), unwrap_model(model)
    if not (hasattr(model, "architecture") and hasattr(model, "preprocessing")):
        raise ValueError("The model carries no architecture name: create it with `tl.models.create`.")
    outputs = len(head(model).weight)
    if len({*classes}) != outputs:
        raise ValueError(f"There are {len({*classes})} different classes for {outputs} outputs.")
    # A copy of each: safetensors refuses tensors that share their memory, as tied weights do.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"The weights are not finite ({broken[0]}): training has diverged, use a lower rate.")
    about = {"architecture": model.architecture, "classes": class_list(classes)}
    about |= {"own_head": getattr(model, "own_classes", None) == outputs, "preprocessing": asdict(model.preprocessing)}
    if taken := [name for name in facts if name in about]:
        raise ValueError(f"`{taken[0]}` is in the file's header already: give your fact another name.")
    with atomic_write(file) as part:
        plain = json.dumps(about | facts, default=lambda value: getattr(value, "tolist", lambda: str(value))())
        save_file(state, part, metadata={"tlcourse": plain})
        _check_saved(model, part)
    return file


def _check_saved(model: nn.Module, file: Path) -> None:
    """Raise a ValueError unless a file gives the model's outputs for two images of noise."""
    advice = (
        f"Saved as {model.architecture}, the file would not give this model again: parts of it were replaced, or "
        "parametrized. Nothing was written. Keep the weights with torch.save(model.state_dict(), FILE), and make the "
        "model again with the code that made it."
    )
    size, first = model.preprocessing.size, next(model.parameters())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))  # the range of normalised images
    same = model if first.dtype == torch.float32 else copy.deepcopy(model).float()
    try:
        loaded = load_checkpoint(file)[0]
        with no_side_effects(same):
            ours, theirs = run(same, images.to(first.device)).float().cpu(), run(loaded, images)
    except (ValueError, AssertionError) as error:  # the second: a transformer for images of another size
        raise ValueError(f"{advice} ({error})") from error
    tolerance = 1e-4 if first.device.type == "cpu" else 1e-2  # a GPU may compute in TF32
    if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * ours.abs().max().item()):
        raise ValueError(advice)


def load_checkpoint(file: str | Path) -> tuple[nn.Module, dict]:
    """Read a file of `save_checkpoint`: the model in evaluation mode, and the header, with `classes` in it.

    Raises:
        ValueError: there is no such file, it is damaged, or it is no checkpoint of `save_checkpoint`.
    """
    file = user_path(file)
    if not file.is_file():
        raise ValueError(f"There is no checkpoint {file}.")
    file.open("rb").close()  # raises where it may not be read, and safetensors says that it is not there
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads((opened.metadata() or {}).get("tlcourse", "null"))
            state = OrderedDict((name, opened.get_tensor(name)) for name in opened.keys())  # noqa: SIM118 (no mapping)
        if about is None:
            raise ValueError("it holds weights only, and a checkpoint also names model and classes")
        model = create(about["architecture"], None if about.get("own_head") else len(about["classes"]), weights=None)
        model.preprocessing = Preprocessing(**about["preprocessing"])
        state._metadata = model.state_dict()._metadata  # which version of its layers: MNASNet asks for it
        model.load_state_dict(state)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{file} is no checkpoint of `tlcourse train`, or is damaged: {error}.") from error
    return model.eval(), about


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files that paths stand for: a file for itself, a folder for all images that training would read.

    Raises:
        ValueError: a folder holds no image.
    """
    files = []
    for path in map(user_path, paths):
        inside = images_below(path) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"The folder {path} holds no image that Pillow reads (.jpg, .png and so on).")
        files += inside
    return files


@torch.no_grad()
def predict_files(model: nn.Module, classes: Sequence[str], files: Sequence[str | Path]) -> list[Answer]:
    """Classify image files one by one; a file that cannot be read gives an answer with the reason."""
    transform, device, answers = get_preprocessing(model).evaluation(), next(model.parameters()).device, []
    with evaluation_mode(model):
        for file in files:
            try:
                if isinstance(file, str | Path) and not Path(file).exists():
                    raise ValueError(f"there is no file {Path(file).name}")
                image = transform(read_image(file))
            except (ValueError, OSError) as error:
                answers.append(Answer(str(file), None, None, str(error)))
                continue
            outputs = run(model, image[None].to(device))
            check_outputs(outputs, torch.zeros(1, dtype=torch.long))
            probabilities = tuple(outputs.softmax(1)[0].tolist())
            if len(probabilities) != len(classes):
                raise ValueError(f"There are {len(classes)} classes for {len(probabilities)} outputs.")
            if not math.isfinite(sum(probabilities)):
                answers.append(Answer(str(file), None, None, "the model's outputs are not finite: train it anew"))
                continue
            highest = max(probabilities)
            label = classes[probabilities.index(highest)]
            answers.append(Answer(str(file), label, highest, probabilities=probabilities))
    return answers


def write_csv(file: str | Path, classes: Sequence[str], answers: Sequence[Answer]) -> None:
    """Write a row for each file: its name, its class, and a column of probabilities for each class."""
    rows = [[one.file, one.label, *(one.probabilities or [None] * len(classes))] for one in answers]
    names = [f"P({name})" if name in ("file", "class") else name for name in classes]  # a column's name is there once
    text = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with atomic_write(user_path(file)) as part, part.open("w", **text) as opened:
        csv.writer(opened).writerows([["file", "class", *names], *rows])
