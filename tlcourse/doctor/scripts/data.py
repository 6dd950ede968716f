"""What goes wrong in transforms, splits and loaders, as a script shows it."""

import ast
import re
from typing import NamedTuple

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import all_networks
from tlcourse.doctor.scripts.nodes import Binding, argument, constant, is_random, last, position, quoted
from tlcourse.doctor.scripts.reader import Script

EVALUATED = re.compile(
    r"(?i)^(?!.*(train|aug|tta))(.*[^a-z])?(val|valid(ation)?|test|eval)(_|\d|\b|loader|set|data|dl)"
)
DATASETS = re.compile(r"Folder|Dataset\d?$|^CIFAR|MNIST$|^(STL10|SVHN|Flowers102|OxfordIIITPet|Food101)$")
TO_TENSOR = {"ToTensor", "ToDtype", "ToTensorV2", "ConvertImageDtype", "ToImage", "PILToTensor"}
SPLITS = re.compile(r"((torch\.)?(utils\.)?data\.(dataset\.)?)?(random_split|Subset|DataLoader)")
OTHER_TASKS = re.compile(r"R?CNN|RetinaNet|SSD|FCOS|YOLO|DeepLab|UNet|Segment", re.IGNORECASE)
NAMES = ast.Name | ast.Attribute
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
    accused = {one.call: (one, one.call, one.name) for one in _pipelines(script) if EVALUATED.search(one.name)}
    for call, one in _augmented(script).items():
        words = [] if _set_later(script, "dataset|transforms?") else _words(script, call)
        name = _name(script, call)
        if name and not any("train" in word for word in words):
            words = []  # a path alone does not say what the images are for
        held_out = "test set" if constant(argument(call, "train")) is False else ""
        for part in filter(EVALUATED.search, [held_out, name, *words]):
            accused.setdefault(one.call, (one, call, part))
    for one, at, name in accused.values():
        if one.random:
            yield wrong("augmented-evaluation", one.random, script.place(at), part=f"`{name}`")


def parts_of_a_split_are_not_augmented(script: Script) -> Findings:
    """A part that is measured on does not share the augmented data set of the training part."""
    augmented = {} if _set_later(script, "dataset|transforms?") else _augmented(script)
    for call, data, names in _splits(script):
        found = wrong if any(map(EVALUATED.search, names)) else suspicious
        unnamed = last(call) == "random_split" and "_" not in names
        if data in augmented and (found is wrong or unnamed):
            evidence, made = f"{quoted(call)}; {augmented[data].random}", augmented[data].call
            name = augmented[data].name if any(one.value is made for one in script.every) else "Compose"
            yield found("augmented-evaluation/split", evidence, script.place(call), transform=name)


def parts_have_their_own_transform(script: Script) -> Findings:
    """The parts of a split share one data set: a transform that one of them is given is that of all."""
    given: dict[ast.expr, dict[str, Binding | None]] = {}  # data sets, their parts, and what these are given
    for call, data, names in _splits(script):
        for name in [name for name in names if len(script.bindings.get(name, ())) == 1]:
            part = given.setdefault(data, {})
            part[name] = None
            for one in [one for one in script.every if script.follows(one.at, call)]:
                own, trained = one.name.removesuffix("s"), map(script.trains, script.between(call, one.at))
                if own == f"{name}.transform":
                    yield wrong("shared-transform/part", quoted(one.at), script.place(one.at))
                elif own == f"{name}.dataset.transform" and script.beside(one.at, call) and not any(trained):
                    part[name] = one
    for data, parts in given.items():
        own = [one for one in parts.values() if one]
        texts = {ast.unparse(one.value) for one in own}
        built = argument(data, "transform", 1)
        if len(own) < len(parts) and isinstance(built, ast.Name | ast.Call):
            texts.add(ast.unparse(built))
        if len(texts) > 1:
            name = _name(script, data) or ast.unparse(data)[:60]
            yield wrong("shared-transform", quoted(own[-1].at), script.place(own[-1].at), data=name)


def images_are_prepared(script: Script) -> Findings:
    """Some steps take images and some take tensors; a batch needs one size, and a network its size and its mean."""
    nets, composed = all_networks(script), _pipelines(script)
    other = any(OTHER_TASKS.search(last(call)) for call in script.calls)
    known = nets and not other and all(net.pretrained and not net.timm for net in nets)
    some = any("Normalize" in one.names for one in composed)
    for one in composed:
        where, name = script.place(one.call), f"`{one.name}`" if one.name else "This pipeline"
        elsewhere = PREPARED.search(script.text) and not (some and EVALUATED.search(one.name))
        tensors = one.known and not TO_TENSOR.isdisjoint(one.names)
        if known and tensors and "Normalize" not in one.names and not elsewhere:
            yield suspicious("not-normalised/never", listed(one.names, 6), where, pipeline=name)
        for step in [step for step in one.steps if known and last(step) == "Normalize"]:
            given = script.origins(argument(step, "mean", 0))[:1]
            if {constant(mean) for row in given for mean in getattr(row, "elts", ())} == {0.5}:
                yield suspicious("not-normalised/by-half", quoted(step), script.place(step), pipeline=name)
        turn = next((i for i, name in enumerate(one.names) if name in TO_TENSOR - {"ToTensorV2"}), 0)
        early = [step for step in one.steps[:turn] if last(step) in ("Normalize", "RandomErasing")]
        early = [last(step) for step in early if not script.name(step).startswith("albumentations")]
        if early and "ToPILImage" not in one.names[:turn]:  # which takes tensors, too
            words = {"steps": listed(early), "conversion": one.names[turn]}
            yield wrong("transform-order", listed(one.names, 8), where, **words)
        sizes = [constant(argument(step, "size", 0)) for step in one.steps if last(step) == "Resize"]
        cut = any(re.search(r"Crop|Pad|Affine|Resize\w|Lambda", name) for name in one.names)
        if one.known and sizes and isinstance(sizes[-1], int) and not cut and script.named("ImageFolder"):
            yield note("sizes-differ", quoted(one.call), where, size=sizes[-1])
        inception = {net.name for net in nets} == {"inception_v3"} and "299" not in script.text
        if inception and re.search(r"\b224\b", ast.unparse(one.call)):
            yield suspicious("input-size/inception", listed(one.names, 6), where)


def training_is_shuffled(script: Script) -> Findings:
    """A folder's images are sorted by class: the training loader must shuffle."""
    for call in script.named("DataLoader"):
        name, shuffle = _name(script, call) or " ".join(_words(script, call)), argument(call, "shuffle", 2)
        folder = {last(one) for one in script.origins(argument(call, "dataset", 0))} == {"ImageFolder"}
        drawn = any(word.arg in (None, "sampler", "batch_sampler") for word in call.keywords)
        ordered = not drawn and (shuffle is None or constant(shuffle) is False)
        if not folder or not ordered or not re.search("(?i)^(?!.*(eval|plain|feat|extract)).*train", name):
            continue
        uses = [(use, value) for use in script.nodes(ast.For) for value in script.nodes(NAMES, use.iter)]
        uses += [(use, name) for use in script.calls for value in use.args for name in script.nodes(NAMES, value)]
        uses = [use for use, name in uses if call in script.origins(name)]
        trains = [use for use in uses if any(map(script.trains, script.nodes(ast.Call, use)))]
        # What only computes features may go through the images in order.
        if trains or not uses or any(re.search("train|fit", last(use)) for use in uses):
            sure = any(isinstance(use, ast.For) for use in trains)
            yield (wrong if sure else suspicious)("unshuffled-training", quoted(call), script.place(call))


def _pipelines(script: Script) -> list[Pipeline]:
    found = []
    composed = script.named("Compose")
    composed += [call for call in script.named("Sequential") if any(is_random(last(one)) for one in call.args)]
    for call in composed:
        lists = script.origins(call.args[0]) if len(call.args) == 1 else [call]
        items = [script.origins(item) for item in getattr(lists[0], "elts", call.args)]
        steps = [node for one in items for node in sorted(script.nodes(ast.Call, one[0]), key=position)]
        # Steps that are there and random whatever the conditions say.
        sure = {node for one in items if len(one) == len(lists) == 1 for node in ast.walk(one[0])}
        sure = {node for node in sure if script.branches(node) <= script.branches(call) and _is_drawn(script, node)}
        if re.search(r"Resize\(\((\w+), \1\)[^(]*\)[^(]*RandomCrop\(\1\)", ast.unparse(call)):
            sure = {node for node in sure if last(node) != "RandomCrop"}  # there is one crop
        random = listed(last(step) for step in steps if step in sure)
        known = bool(items) and all(isinstance(one[0], ast.Call) for one in items)
        found.append(Pipeline(call, _name(script, call), steps, list(map(last, steps)), random, known))
    return found


def _is_drawn(script: Script, step: ast.AST) -> bool:
    """Whether a step draws random numbers, and its probability cannot be 0."""
    given = argument(step, "p", 0 if last(step).endswith("Flip") else None)
    drawn = is_random(last(step)) and not re.search(r"min_size=(.+), max_size=\1\b", ast.unparse(step))
    return drawn and last(step) not in script.classes and all(map(constant, script.origins(given)))


def _augmented(script: Script) -> dict[ast.AST, Pipeline]:
    """Return the data sets whose transform is random in any case, with that transform."""
    composed, found = {one.call: one for one in _pipelines(script)}, {}
    for call in [call for call in script.calls if DATASETS.search(last(call)) or argument(call, "transform")]:
        origins = [one for node in [argument(call, "transform"), *call.args] for one in script.origins(node)]
        own = [composed[one] for one in origins if one in composed]
        if own and all(one.random for one in own):
            found[call] = own[0]
    return found


def _splits(script: Script) -> list[tuple[ast.Call, ast.expr, list[str]]]:
    """Return PyTorch's splits with the data set and the names of the parts, where no part gets one of its own later."""
    found = []
    for call in [] if _set_later(script, "dataset") else script.calls:
        sampled = last(call) != "DataLoader" or argument(call, "sampler", 3) is not None
        if sampled and SPLITS.fullmatch(script.name(call)) and not script.function(call):
            parts = [name for name, own in script.bindings.items() for one in own if one.value is call]
            found.append((call, script.origins(argument(call, "dataset", 0))[0], parts or [_name(script, call)]))
    return found


def _set_later(script: Script, attributes: str) -> bool:
    """Whether something gets another transform, or another data set, after it was made."""
    return any(re.fullmatch(rf"(self\.)?(?!self\b)[^.]+(\.dataset)?\.({attributes})", name) for name in script.bindings)


def _words(script: Script, call: ast.Call) -> list[str]:
    """Return the words in a call, also those that a name stands for in turn where no condition tells them apart."""
    left = [node for node in script.nodes(ast.Return | ast.Continue, script.scopes[call]) if script.chosen(node)]
    kinds = ast.Constant if left or script.chosen(call) else ast.Constant | ast.Name
    values = [constant(one) for node in script.nodes(kinds, call) for one in script.origins(node)]
    return [value for value in values if isinstance(value, str)]


def _name(script: Script, node: ast.AST) -> str:
    """Return the name or the key that a value is given."""
    parent = script.parents[node]
    if isinstance(parent, ast.Dict) and node in parent.values:
        return str(constant(parent.keys[parent.values.index(node)]) or "")
    if isinstance(parent, ast.keyword):
        parent = script.parents[parent]
    if last(parent) in ("DataLoader", "Subset") or DATASETS.search(last(parent)):
        return _name(script, parent)
    return next((one.name for one in script.every if one.value is node), "")
