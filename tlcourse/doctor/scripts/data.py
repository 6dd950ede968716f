"""What goes wrong in transforms, splits and loaders, as a script shows it."""

import ast
import re
from typing import NamedTuple

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import all_networks
from tlcourse.doctor.scripts.nodes import argument, constant, is_random, last, position, quoted
from tlcourse.doctor.scripts.reader import Script

EVALUATED = re.compile(r"(^|[_/'\"\[.])(val|valid|validation|test|eval)(_|\d|$|['\"/])", re.IGNORECASE)
TRAINING = re.compile(r"train|aug|tta", re.IGNORECASE)
TO_TENSOR = {"ToTensor", "ToDtype", "ToTensorV2", "ConvertImageDtype"}
ON_TENSORS = {"Normalize", "RandomErasing"}
DATASETS = re.compile(r"ImageFolder|DatasetFolder|Dataset$|^CIFAR|MNIST$|^(STL10|SVHN|Flowers102|OxfordIIITPet|Food101)$")
OTHER_TASKS = re.compile(r"R?CNN|RetinaNet|SSD|FCOS|YOLO|DeepLab|UNet|Segment", re.IGNORECASE)
PREPARED = re.compile(r"\.transforms\(|resolve_data_config|create_transform|preprocessing\(|normali[sz]e", re.IGNORECASE)


class Pipeline(NamedTuple):
    """A `Compose`, the name or key that it is given, and its steps in order; `known` where all of them are."""

    call: ast.Call
    name: str
    steps: list[ast.Call]
    known: bool

    @property
    def names(self) -> list[str]:
        """The names of the steps."""
        return [last(step) for step in self.steps]

    @property
    def random(self) -> str:
        """The random steps, or nothing."""
        return listed(name for name in self.names if is_random(name))


def evaluation_is_not_augmented(script: Script) -> Findings:
    """Validation and test images are not augmented."""
    pipelines = {pipeline.call: pipeline for pipeline in _pipelines(script)}
    accused = [(pipeline, pipeline.call, pipeline.name) for pipeline in pipelines.values()]
    augmented = {}
    for call in [call for call in script.calls if DATASETS.search(last(call)) or argument(call, "transform")]:
        given = [argument(call, "transform")] + [one for one in call.args if not isinstance(one, ast.Constant)]
        found = [pipelines[one] for node in given for one in script.origins(node) if one in pipelines]
        if found and all(pipeline.random for pipeline in found):
            augmented[call] = found[0]
            held_out = constant(argument(call, "train")) is False
            names = [_name(script, call), *("/".join(re.findall(r"\w+", str(t))) for t in _texts(call))]
            accused += [(found[0], call, "test set" if held_out else name) for name in names[: 1 if names[0] else None]]
    seen = set()
    for pipeline, at, name in accused:
        part = "the test set" if name == "test set" else f"`{name}`"
        evaluated = name == "test set" or _is_evaluated(name)
        if pipeline.random and evaluated and pipeline.call not in seen:
            seen.add(pipeline.call)
            yield wrong("augmented-evaluation", pipeline.random, script.place(at), part=part)
    repaired = [name for name in script.bindings if re.search(r"\w\.(transforms?|dataset)$", name) and "self." not in name]
    for call in script.named("random_split", "Subset", "DataLoader"):
        name, sampled = _name(script, call), argument(call, "sampler", 3) is not None
        shared = [augmented[one] for one in script.origins(argument(call, "dataset", 0)) if one in augmented]
        apart = last(call) == "random_split" or (_is_evaluated(name) and (sampled or last(call) == "Subset"))
        if shared and apart and not repaired:
            values = {"transform": shared[0].name or "Compose"}
            evidence = f"{quoted(call)}; {shared[0].random}"
            yield wrong("augmented-evaluation/split", evidence, script.place(call), **values)


def images_are_normalised(script: Script) -> Findings:
    """Images for pre-trained weights are normalised by the mean and deviation that the weights were trained with."""
    nets = all_networks(script)
    mine = [net for net in nets if net.library == "torchvision" and net.pretrained]
    if not mine or len(mine) < len(nets) or any(OTHER_TASKS.search(last(call)) for call in script.calls):
        return
    nowhere = not PREPARED.search(ast.unparse(script.tree))
    for pipeline in _pipelines(script):
        normalising = [step for step in pipeline.steps if last(step) == "Normalize"]
        name = f"`{pipeline.name}`" if pipeline.name else "This pipeline"
        if nowhere and pipeline.known and TO_TENSOR & set(pipeline.names):
            evidence = listed(pipeline.names, 6)
            yield suspicious("not-normalised/never", evidence, script.place(pipeline.call), pipeline=name)
        for step in normalising:
            given = script.origins(argument(step, "mean", 0))[0]
            if isinstance(given, ast.List | ast.Tuple) and {constant(one) for one in given.elts} == {0.5}:
                yield suspicious("not-normalised/by-half", quoted(step), script.place(step), pipeline=name)


def steps_are_in_order(script: Script) -> Findings:
    """Some steps take images and some take tensors, some take two numbers, and a batch needs one size."""
    pipelines = _pipelines(script)
    for one in pipelines:
        turn = next((i for i, name in enumerate(one.names) if name in TO_TENSOR | {"ToImage", "PILToTensor"}), 0)
        if early := [name for name in one.names[:turn] if name in ON_TENSORS]:
            values = {"steps": listed(early), "conversion": one.names[turn]}
            yield wrong("transform-order", listed(one.names, 8), script.place(one.call), **values)
        sizes = [constant(argument(step, "size", 0)) for step in one.steps if last(step) == "Resize"]
        cut = any(re.search(r"Crop|Pad|Affine|Resize\w|Letter|Lambda", name) for name in one.names)
        if one.known and sizes and isinstance(sizes[-1], int) and not cut and script.named("ImageFolder"):
            yield note("sizes-differ", quoted(one.call), script.place(one.call), size=sizes[-1])
    for call in script.named("RandomRotation"):
        angles = constant(argument(call, "degrees", 0))
        if isinstance(angles, list | tuple) and len(angles) != 2:
            yield wrong("rotation", quoted(call), script.place(call), count=len(angles))
    nets = {net.name for net in all_networks(script)}
    steps = [step for one in pipelines for step in one.steps]
    numbers = {node.value for step in steps for node in script.nodes(ast.Constant, step) if type(node.value) is int}
    if nets == {"inception_v3"} and 224 in numbers and not any(constant(n) == 299 for n in script.nodes(ast.Constant)):
        at = next(step for step in steps if any(constant(n) == 224 for n in ast.walk(step)))
        yield suspicious("input-size/inception", quoted(at), script.place(at))


def training_is_shuffled(script: Script) -> Findings:
    """A folder's images are sorted by class: the training loader must shuffle."""
    for call in script.named("DataLoader"):
        name, dataset = _name(script, call), argument(call, "dataset", 0)
        shuffle, others = argument(call, "shuffle", 2), [argument(call, n) for n in ("sampler", "batch_sampler")]
        ordered = shuffle is None or (isinstance(shuffle, ast.Constant) and not shuffle.value)
        options = any(word.arg is None for word in call.keywords) or len(call.args) > 3 or any(others)
        if not ordered or options or not TRAINING.search(name) or (EVALUATED.search(name) and "'train" not in name):
            continue
        made = [one for node in _made(script, dataset) for one in script.origins(node)]
        used = [one for one in script.calls if any(ast.unparse(arg) == name for arg in one.args)]
        used = [one for one in used if last(one) not in ("len", "iter", "enumerate", "tqdm", "print")]
        trains = bool(script.named("backward")) or any(re.search("train|fit", last(one)) for one in used)
        if made and all(last(one) == "ImageFolder" for one in made) and (trains or not used):
            yield (wrong if script.named("backward") else suspicious)("unshuffled-training", quoted(call), script.place(call))


def _pipelines(script: Script) -> list[Pipeline]:
    composed = script.named("Compose")
    composed += [call for call in script.named("Sequential") if any(is_random(last(one)) for one in call.args)]
    inner = {node for call in composed for node in ast.walk(call) if node is not call}
    found = []
    for call in composed:
        given = script.origins(call.args[0])[0] if len(call.args) == 1 and not isinstance(call.args[0], ast.Call) else None
        items = given.elts if isinstance(given, ast.List | ast.Tuple) else call.args
        made = [one for item in items for one in script.origins(item)[:1]]
        steps = [node for one in made for node in sorted(script.nodes(ast.Call, one), key=position)]
        known = bool(made) and all(isinstance(one, ast.Call) for one in made)
        if call not in inner:
            found.append(Pipeline(call, _name(script, call), steps, known))
    return found


def _made(script: Script, node: ast.expr | None) -> list[ast.expr]:
    """Return what a data set is made by, also where `data[x]` stands for an item of a dictionary of them."""
    made = script.origins(node)
    if isinstance(node, ast.Subscript) and made == [node]:
        made = [one.value for one in script.origins(node.value) if isinstance(one, ast.DictComp)]
    return made


def _name(script: Script, node: ast.AST) -> str:
    """Return the name or the key that a value is given; for a comprehension, the keys that it runs over."""
    parent = script.parents[node]
    if isinstance(parent, ast.Dict) and node in parent.values:
        return str(constant(parent.keys[parent.values.index(node)]) or "")
    if isinstance(parent, ast.DictComp):
        return ast.unparse(script.origins(parent.generators[0].iter)[0])
    found = [one.name for own in script.bindings.values() for one in own if one.exact and one.value is node]
    return found[0] if found else ""


def _texts(call: ast.Call) -> list[object]:
    """Return the texts in a call's arguments, such as the name of its folder."""
    return [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _is_evaluated(name: str) -> bool:
    return bool(EVALUATED.search(name)) and not TRAINING.search(name)
