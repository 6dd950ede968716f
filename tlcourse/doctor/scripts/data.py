"""What goes wrong in transforms and splits, as far as the text of a script shows it."""

import ast
import re
from collections.abc import Iterator

from tlcourse.doctor.report import Finding, listed, suspicious, wrong
from tlcourse.doctor.scripts.reader import RANDOM, Script, argument, constant, last

MEASURED = re.compile(r"(^|_)(val|valid|validation|test|eval)(_|\d|$)", re.IGNORECASE)
TRAINING = re.compile(r"train|aug", re.IGNORECASE)
TO_TENSOR = {"ToTensor", "ToDtype", "ToTensorV2", "ConvertImageDtype"}
ON_TENSORS = {"Normalize", "RandomErasing"}
LIBRARIES = re.compile(r"\bmodels\.\w+\(|timm\.create_model|torch\.hub\.load")


def measured_images_hold_still(script: Script) -> Iterator[Finding]:
    """What validates or tests is not augmented."""
    random = {name: steps for name, pipeline in _pipelines(script) if (steps := _random(pipeline))}
    advice = "Resize, crop at the centre, ToTensor, Normalize; take them from the weights' own transforms."
    for name, pipeline in _pipelines(script):
        steps = _random(pipeline)
        if steps and MEASURED.search(name) and not TRAINING.search(name):
            what = f"`{name}` is augmented: what is measured changes from time to time."
            yield wrong("augmented-evaluation", what, listed(steps), advice, script.place(pipeline))
    made = {}
    for target, value, _ in script.assignments:
        transform = argument(value, "transform") if isinstance(value, ast.Call) else None
        name = ast.unparse(transform) if transform is not None else ""
        if name and name in random:
            made[target] = name
            if MEASURED.search(target) and not TRAINING.search(target):
                what = f"`{target}` has the training transform: what is measured changes from time to time."
                yield wrong(
                    "augmented-evaluation", what, f"`{name}`: {listed(random[name])}", advice, script.place(value)
                )
    for _, value, at in script.assignments:
        if last(value) == "random_split" and value.args and (name := made.get(ast.unparse(value.args[0]))):
            yield wrong(
                "augmented-evaluation",
                f"Both parts of this split share one data set, and with it the training transform `{name}`.",
                f"`{ast.unparse(at)[:90]}`; {listed(random[name])}",
                "Make two data sets over the same folder, one for each transform, and take the indices of one split.",
                script.place(at),
            )


def images_are_normalised(script: Script) -> Iterator[Finding]:
    """Pre-trained weights want the mean and deviation that they were trained with."""
    if not _pretrained(script) or re.search(
        r"\.transforms\(|resolve_data_config|create_transform|preprocessing\(", script.source
    ):
        return
    tensors = [(n, p) for n, p in _pipelines(script) if TO_TENSOR & {last(step) for step in _steps(p)}]
    without = [(n, p) for n, p in tensors if "Normalize" not in {last(step) for step in _steps(p)}]
    nowhere = not re.search(r"normali[sz]e", script.source, re.IGNORECASE)
    for name, pipeline in without:
        finding = wrong if nowhere else suspicious
        yield finding(
            "not-normalised",
            f"`{name or 'This pipeline'}` does not normalise, and the weights are pre-trained.",
            listed((last(step) for step in _steps(pipeline)), 6),
            "End with Normalize by the weights' mean and deviation; `weights.transforms()` has all of it.",
            script.place(pipeline),
        )
    if re.search(r"\bvit_|deit|beit|inception|mixer", script.source, re.IGNORECASE):
        return  # some of theirs do want 0.5
    for name, pipeline in tensors:
        for step in [step for step in _steps(pipeline) if last(step) == "Normalize"]:
            mean = constant(argument(step, "mean", 0))
            if mean and all(value == 0.5 for value in (mean if isinstance(mean, list | tuple) else [mean])):
                yield suspicious(
                    "not-normalised",
                    f"`{name or 'This pipeline'}` normalises by 0.5; most weights were trained with ImageNet's mean.",
                    f"`{ast.unparse(step)}`",
                    "Take mean and deviation from the weights: `weights.transforms()`.",
                    script.place(step),
                )


def steps_are_in_order(script: Script) -> Iterator[Finding]:
    """Some steps take images and some take tensors, and some take two numbers."""
    for _, pipeline in _pipelines(script):
        names = [last(step) for step in _steps(pipeline)]
        turn = next((i for i, name in enumerate(names) if name in TO_TENSOR | {"ToImage", "PILToTensor"}), None)
        early = [name for name in names[:turn] if name in ON_TENSORS] if turn is not None else []
        if early:
            what = f"{listed(early)} stands before {names[turn]}, and works on tensors only."
            yield wrong("transform-order", what, listed(names, 8), "Put it after.", script.place(pipeline))
    for call in script.calls:
        angles = constant(argument(call, "degrees", 0)) if last(call) == "RandomRotation" else None
        if isinstance(angles, list | tuple) and len(angles) != 2:
            yield wrong(
                "rotation",
                f"RandomRotation takes one number or a range of two, not {len(angles)} angles: a ValueError.",
                f"`{ast.unparse(call)}`",
                "Choose among angles with RandomChoice of RandomRotation((90, 90)) and the like.",
                script.place(call),
            )


def order_is_right(script: Script) -> Iterator[Finding]:
    """A folder's images come sorted by class: the training loader must shuffle."""
    folders = {target for target, value, _ in script.assignments if last(value) == "ImageFolder"}
    for target, value, _ in script.assignments:
        if last(value) != "DataLoader" or not isinstance(value, ast.Call) or not value.args:
            continue
        training = TRAINING.search(target) and not MEASURED.search(target)
        shuffle, other = argument(value, "shuffle", 2), argument(value, "sampler") or argument(value, "batch_sampler")
        if training and ast.unparse(value.args[0]) in folders and other is None and constant(shuffle) in (None, False):
            if shuffle is not None and not isinstance(shuffle, ast.Constant):
                continue
            yield wrong(
                "unshuffled-training",
                f"`{target}` does not shuffle, and ImageFolder gives one class after the other.",
                f"`{ast.unparse(value)[:90]}`",
                "Add shuffle=True.",
                script.place(value),
            )


def _pipelines(script: Script) -> list[tuple[str, ast.Call]]:
    """Return every `Compose`, with the name or the dictionary's key that it is given."""
    found = []
    for call in script.calls:
        if last(call) not in ("Compose", "Sequential") or (last(call) == "Sequential" and not _random(call)):
            continue
        if any(call is not other and call in ast.walk(other) for other in script.calls if last(other) == "Compose"):
            continue
        parent = script.parents[call]
        name = next((target for target, value, _ in script.assignments if value is call), "")
        if isinstance(parent, ast.Dict):
            name = str(constant(parent.keys[parent.values.index(call)]) or "")
        if isinstance(parent, ast.keyword) and parent.arg == "transform":
            target = next((t for t, value, _ in script.assignments if value is script.parents[parent]), "")
            name = target
        found.append((name, call))
    return found


def _steps(pipeline: ast.Call) -> list[ast.Call]:
    return [node for node in ast.walk(pipeline) if isinstance(node, ast.Call) and node is not pipeline]


def _random(pipeline: ast.Call) -> list[str]:
    return [last(step) for step in _steps(pipeline) if last(step).startswith("Random") or last(step) in RANDOM]


def _pretrained(script: Script) -> bool:
    for call in script.calls:
        if not LIBRARIES.search(ast.unparse(call)):
            continue
        weights, pretrained = argument(call, "weights"), argument(call, "pretrained")
        if (weights is not None and constant(weights) is not None) or constant(pretrained) is True:
            return True
        if weights is not None and not isinstance(weights, ast.Constant):
            return True
    return False


RULES = (measured_images_hold_still, images_are_normalised, steps_are_in_order, order_is_right)
