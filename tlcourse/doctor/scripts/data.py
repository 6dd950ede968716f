"""What goes wrong in transforms, splits and loaders, as a script shows it."""

import ast
import re
from typing import NamedTuple

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import all_networks
from tlcourse.doctor.scripts.nodes import argument, constant, is_random, last, position, quoted
from tlcourse.doctor.scripts.reader import Script

EVALUATED = re.compile(
    r"(?i)^(?!.*(train|aug|tta))(.*[^a-z])?(val|valid|validation|test|eval)(_|\d|\b|loader|set|data|dl)"
)
TO_TENSOR = {"ToTensor", "ToDtype", "ToTensorV2", "ConvertImageDtype", "ToImage", "PILToTensor"}
DATASETS = re.compile(r"Folder$|Dataset\d?$|^CIFAR|MNIST$|^(STL10|SVHN|Flowers102|OxfordIIITPet|Food101)$")
OTHER_TASKS = re.compile(r"R?CNN|RetinaNet|SSD|FCOS|YOLO|DeepLab|UNet|Segment", re.IGNORECASE)
PREPARED = re.compile(r"\.transforms\(|resolve_data_config|create_transform|preprocessing\(|[Nn]ormali[sz]")


class Pipeline(NamedTuple):
    """A `Compose`, the name or key that it is given, the names of its steps, and its random ones; `known`: all are."""

    call: ast.Call
    name: str
    steps: list[ast.Call]
    names: list[str]
    random: str
    known: bool


def evaluation_is_not_augmented(script: Script) -> Findings:
    """Validation and test images are not augmented."""
    pipelines = {one.call: one for one in _pipelines(script)}
    augmented: dict[ast.AST, Pipeline] = {}
    accused = [(one, one.call, one.name) for one in pipelines.values()]
    for call in [call for call in script.calls if DATASETS.search(last(call)) or argument(call, "transform")]:
        given = [argument(call, "transform"), *(one for one in call.args if not isinstance(one, ast.Constant))]
        found = [pipelines[one] for node in given for one in script.origins(node) if one in pipelines]
        if found and all(one.random for one in found):
            augmented[call] = found[0]
            texts = [node.value for node in ast.walk(call) if isinstance(getattr(node, "value", None), str)]
            held_out = constant(argument(call, "train")) is False
            accused.append((found[0], call, "test set" if held_out else _name(script, call) or " ".join(texts)))
    accused = [(one, at, name) for one, at, name in accused if one.random and EVALUATED.search(name)]
    for one, at, name in {one.call: (one, at, name) for one, at, name in accused[::-1]}.values():
        yield wrong("augmented-evaluation", one.random, script.place(at), part=f"`{name}`")
    if any(re.search(r"\w\.(transforms?|dataset)$", name) and "self." not in name for name in script.bindings):
        return  # a part gets its own transform after the split
    for call in script.named("random_split", "Subset", "DataLoader"):
        shared = [augmented[one] for one in script.origins(argument(call, "dataset", 0)) if one in augmented]
        apart = last(call) == "Subset" or argument(call, "sampler", 3) is not None
        names = ast.unparse(getattr(script.parents[call], "targets", [ast.Name("")])[0])
        whole = last(call) == "random_split" and not re.search(r"\b_\b", names)
        if shared and (whole or (apart and EVALUATED.search(_name(script, call)))):
            evidence, name = f"{quoted(call)}; {shared[0].random}", shared[0].name or "Compose"
            found = suspicious if whole and not re.search("val|test|dev", names) else wrong
            yield found("augmented-evaluation/split", evidence, script.place(call), transform=name)


def images_are_normalised(script: Script) -> Findings:
    """Images for pre-trained weights are normalised by the mean and deviation that the weights were trained with."""
    nets = all_networks(script)
    other = any(OTHER_TASKS.search(last(call)) for call in script.calls)
    other = other or (script.named("load_state_dict") and not script.named("backward"))  # own weights, own images
    if other or not nets or not all(net.library == "torchvision" and net.pretrained for net in nets):
        return
    pipelines = _pipelines(script)
    any_normalise = any("Normalize" in one.names for one in pipelines)
    for one in pipelines:
        name = f"`{one.name}`" if one.name else "This pipeline"
        others = PREPARED.search(script.text) and not (EVALUATED.search(one.name) and any_normalise)
        if one.known and TO_TENSOR & set(one.names) and "Normalize" not in one.names and not others:
            yield suspicious("not-normalised/never", listed(one.names, 6), script.place(one.call), pipeline=name)
        for step in [step for step in one.steps if last(step) == "Normalize"]:
            given = script.origins(argument(step, "mean", 0))[0]
            if isinstance(given, ast.List | ast.Tuple) and {constant(mean) for mean in given.elts} == {0.5}:
                yield suspicious("not-normalised/by-half", quoted(step), script.place(step), pipeline=name)


def steps_fit_together(script: Script) -> Findings:
    """Some steps take images and some take tensors, a batch needs one size, and a network its own."""
    nets = {net.name for net in all_networks(script)}
    for one in _pipelines(script):
        turn = next((i for i, name in enumerate(one.names) if name in TO_TENSOR - {"ToTensorV2"}), 0)
        if early := [name for name in one.names[:turn] if name in ("Normalize", "RandomErasing")]:
            values = {"steps": listed(early), "conversion": one.names[turn]}
            yield wrong("transform-order", listed(one.names, 8), script.place(one.call), **values)
        sizes = [constant(argument(step, "size", 0)) for step in one.steps if last(step) == "Resize"]
        cut = any(re.search(r"Crop|Pad|Affine|Resize\w|Lambda", name) for name in one.names)
        if one.known and sizes and isinstance(sizes[-1], int) and not cut and script.named("ImageFolder"):
            yield note("sizes-differ", quoted(one.call), script.place(one.call), size=sizes[-1])
        if nets == {"inception_v3"} and re.search(r"\b224\b", ast.unparse(one.call)) and "299" not in script.text:
            yield suspicious("input-size/inception", listed(one.names, 6), script.place(one.call))


def training_is_shuffled(script: Script) -> Findings:
    """A folder's images are sorted by class: the training loader must shuffle."""
    for call in script.named("DataLoader"):
        name, dataset, shuffle = _name(script, call), argument(call, "dataset", 0), argument(call, "shuffle", 2)
        made = script.origins(dataset)
        if isinstance(dataset, ast.Subscript) and made == [dataset]:
            made = [one.value for one in script.origins(dataset.value) if isinstance(one, ast.DictComp)]
        ordered = shuffle is None or (isinstance(shuffle, ast.Constant) and not shuffle.value)
        options = len(call.args) > 3 or any(word.arg in (None, "sampler", "batch_sampler") for word in call.keywords)
        used = [one for one in script.calls if any(ast.unparse(arg) == name for arg in one.args)]
        used = [last(one) for one in used if last(one) not in ("len", "iter", "enumerate", "tqdm", "print")]
        trains = script.named("backward") or not used or re.search("train|fit", " ".join(used))
        folder = made and all(last(one) == "ImageFolder" for one in made)
        if folder and ordered and not options and "train" in name.lower() and trains:
            loops = [one for one in script.nodes(ast.For) if re.search(rf"\b{re.escape(name)}", ast.unparse(one.iter))]
            found = wrong if any(script.named("backward", within=one) for one in loops) else suspicious
            yield found("unshuffled-training", quoted(call), script.place(call))


def _pipelines(script: Script) -> list[Pipeline]:
    composed = script.named("Compose")
    composed += [call for call in script.named("Sequential") if any(is_random(last(one)) for one in call.args)]
    inner = {node for call in composed for node in ast.walk(call) if node is not call}
    found = []
    for call in [call for call in composed if call not in inner]:
        given = script.origins(call.args[0])[0] if len(call.args) == 1 else None
        items = given.elts if isinstance(given, ast.List | ast.Tuple) else call.args
        made = [one for item in items for one in script.origins(item)[:1]]
        steps = [node for one in made for node in sorted(script.nodes(ast.Call, one), key=position)]
        fixed = re.search(r"Resize\(\((\w+), \1\)[^(]*\)[^(]*RandomCrop\(\1\)", ast.unparse(call))  # there is one crop
        random = listed(n for n in map(last, steps) if is_random(n) and not (n == "RandomCrop" and fixed))
        known = bool(made) and all(isinstance(one, ast.Call) for one in made)
        found.append(Pipeline(call, _name(script, call), steps, list(map(last, steps)), random, known))
    return found


def _name(script: Script, node: ast.AST) -> str:
    """Return the name or the key that a value is given; for a comprehension, the keys that it runs over."""
    parent = script.parents[node]
    if isinstance(parent, ast.Dict) and node in parent.values:
        return str(constant(parent.keys[parent.values.index(node)]) or "")
    if isinstance(parent, ast.keyword):
        parent = script.parents[parent]
    if last(parent) in ("DataLoader", "Subset") or DATASETS.search(last(parent)):
        return _name(script, parent)
    if isinstance(parent, ast.DictComp):
        return ast.unparse(script.origins(parent.generators[0].iter)[0])
    return next((one.name for one in script.every if one.value is node), "")
