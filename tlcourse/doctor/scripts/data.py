"""What goes wrong in transforms and splits, as far as the text of a script shows it."""

import ast
import re
from collections.abc import Iterator

from tlcourse.doctor.report import Findings, listed, suspicious, wrong
from tlcourse.doctor.scripts.reader import Script, argument, constant, is_random, last, quoted

EVALUATED = re.compile(r"(^|_)(val|valid|validation|test|eval)(_|\d|$)", re.IGNORECASE)
TRAINING = re.compile(r"train|aug", re.IGNORECASE)
TO_TENSOR = {"ToTensor", "ToDtype", "ToTensorV2", "ConvertImageDtype"}
ON_TENSORS = {"Normalize", "RandomErasing"}
LIBRARIES = re.compile(r"\bmodels\.\w+\(|timm\.create_model|torch\.hub\.load")
NORMALISING = re.compile(r"\.transforms\(|resolve_data_config|create_transform|preprocessing\(")


def evaluation_is_not_augmented(script: Script) -> Findings:
    """Validation and test images are not augmented."""
    random = {}
    for name, pipeline in _pipelines(script):
        if steps := [step for step in _steps(pipeline) if is_random(step)]:
            random[name] = listed(steps)
            if _is_evaluated(name):
                yield wrong("augmented-evaluation", listed(steps), script.place(pipeline), part=f"`{name}`")
    shared = {}
    for target, value, at in script.assignments:
        transform = argument(value, "transform")
        name = ast.unparse(transform) if transform is not None else ""
        if name and name in random:
            shared[target] = name
            if _is_evaluated(target):
                evidence = f"`{name}`: {random[name]}"
                yield wrong("augmented-evaluation", evidence, script.place(value), part=f"`{target}`")
        whole = argument(value, "dataset", 0) if last(value) == "random_split" else None
        if whole is not None and (name := shared.get(ast.unparse(whole))):
            evidence = f"{quoted(at)}; {random[name]}"
            yield wrong("augmented-evaluation/split", evidence, script.place(at), transform=name)


def images_are_normalised(script: Script) -> Findings:
    """Images for pre-trained weights are normalised by the mean and deviation that the weights were trained with."""
    if not any(_is_pretrained(call) for call in script.calls) or NORMALISING.search(script.source):
        return
    nowhere = not re.search(r"normali[sz]e", script.source, re.IGNORECASE)
    others = re.search(r"\bvit_|deit|beit|inception|mixer", script.source, re.IGNORECASE)  # some of them do want 0.5
    for name, pipeline in _pipelines(script):
        if not TO_TENSOR & set(_steps(pipeline)):
            continue
        pipeline_name = f"`{name}`" if name else "This pipeline"
        normalising = [node for node in script.nodes(ast.Call, pipeline) if last(node) == "Normalize"]
        if not normalising:
            found, evidence = (wrong if nowhere else suspicious), listed(_steps(pipeline), 6)
            yield found("not-normalised/never", evidence, script.place(pipeline), pipeline=pipeline_name)
        for step in normalising:
            mean = constant(argument(step, "mean", 0))
            if not others and mean and set(mean if isinstance(mean, list | tuple) else [mean]) == {0.5}:
                yield suspicious("not-normalised/by-half", quoted(step), script.place(step), pipeline=pipeline_name)


def steps_are_in_order(script: Script) -> Findings:
    """Some steps take images and some take tensors, and some take two numbers."""
    for _, pipeline in _pipelines(script):
        names = _steps(pipeline)
        turn = next((i for i, name in enumerate(names) if name in TO_TENSOR | {"ToImage", "PILToTensor"}), 0)
        if early := [name for name in names[:turn] if name in ON_TENSORS]:
            values = {"steps": listed(early), "conversion": names[turn]}
            yield wrong("transform-order", listed(names, 8), script.place(pipeline), **values)
    for call in script.named("RandomRotation"):
        angles = constant(argument(call, "degrees", 0))
        if isinstance(angles, list | tuple) and len(angles) != 2:
            yield wrong("rotation", quoted(call), script.place(call), count=len(angles))


def training_is_shuffled(script: Script) -> Findings:
    """A folder's images are sorted by class: the training loader must shuffle."""
    folders = {target for target, _, _ in script.made("ImageFolder")}
    for target, value, _ in script.made("DataLoader"):
        dataset = argument(value, "dataset", 0)
        if dataset is None or not TRAINING.search(target) or EVALUATED.search(target):
            continue
        shuffle, other = argument(value, "shuffle", 2), argument(value, "sampler") or argument(value, "batch_sampler")
        ordered = other is None and (shuffle is None or (isinstance(shuffle, ast.Constant) and not shuffle.value))
        if ordered and ast.unparse(dataset) in folders:
            yield wrong("unshuffled-training", quoted(value), script.place(value))


def _pipelines(script: Script) -> Iterator[tuple[str, ast.Call]]:
    """Yield every `Compose`, with the name or the dictionary key that it is given."""
    composed = script.named("Compose")
    composed += [call for call in script.named("Sequential") if any(map(is_random, _steps(call)))]
    inner = {node for call in composed for node in ast.walk(call) if node is not call}
    for call in composed:
        if call in inner:
            continue
        parent = script.parents[call]
        owner = script.parents[parent] if isinstance(parent, ast.keyword) and parent.arg == "transform" else call
        name = next((target for target, value, _ in script.assignments if value is owner), "")
        if isinstance(parent, ast.Dict):
            name = str(constant(parent.keys[parent.values.index(call)]) or "")
        yield name, call


def _steps(pipeline: ast.Call) -> list[str]:
    return [last(node) for node in ast.walk(pipeline) if isinstance(node, ast.Call) and node is not pipeline]


def _is_evaluated(name: str) -> bool:
    return bool(EVALUATED.search(name)) and not TRAINING.search(name)


def _is_pretrained(call: ast.Call) -> bool:
    weights = argument(call, "weights")
    named = weights is not None and not (isinstance(weights, ast.Constant) and weights.value is None)
    return bool(LIBRARIES.search(ast.unparse(call))) and (named or constant(argument(call, "pretrained")) is True)
