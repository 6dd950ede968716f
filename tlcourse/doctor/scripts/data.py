"""What goes wrong in transforms, splits and loaders, as a script shows it."""

import ast
import re
from typing import NamedTuple

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import all_networks
from tlcourse.doctor.scripts.nodes import argument, constant, dotted, is_random, last, position, quoted
from tlcourse.doctor.scripts.reader import Binding, Function, Script

EVALUATED = re.compile(
    r"(?i)^(?!.*(train|aug|tta))(.*[^a-z])?(val|valid(ation)?|test|eval)(_|\d|\b|loader|set|data|dl)"
)
DATASETS = re.compile(r"Folder$|Dataset\d?$|^CIFAR|MNIST$|^(STL10|SVHN|Flowers102|OxfordIIITPet|Food101)$")
TO_TENSOR = {"ToTensor", "ToDtype", "ToTensorV2", "ConvertImageDtype", "ToImage", "PILToTensor"}
SURE = re.compile(r"(random_split|Folder|CIFAR\w+|MNIST|STL10|SVHN|Flowers102|Pet|Food101|Dataset\d?)\(")
COPIES = re.compile(r"(self\.)?(?!self\b)[^.]+\.dataset")
SPLITS = re.compile(r"((torch\.)?(utils\.)?data\.(dataset\.)?)?(random_split|Subset)")
APART = re.compile(r"[Ss]ampler|Subset|_split|Fold\(|perm|idx|\.(samples|imgs|indices|data|targets|labels) = ")
SETTINGS = ("transform", "transforms", "target_transform", "download", "loader")  # they leave the items alone
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
    own = any(re.search(r"[\w\]]\.(transforms?|dataset)$", name) and "self." not in name for name in script.bindings)
    composed = {one.call: one for one in _pipelines(script)}
    augmented: dict[ast.AST, Pipeline] = {}
    accused = [(one, one.call, one.name) for one in composed.values()]
    for call in [call for call in script.calls if DATASETS.search(last(call)) or argument(call, "transform")]:
        given = [argument(call, "transform"), *(one for one in call.args if not isinstance(one, ast.Constant))]
        found = [composed[one] for node in given for one in script.origins(node) if one in composed]
        if found and all(one.random for one in found):
            augmented[call] = found[0]
            texts = [node.value for node in ast.walk(call) if isinstance(getattr(node, "value", None), str)]
            held_out = constant(argument(call, "train")) is False
            accused.append((found[0], call, "test set" if held_out else _name(script, call) or " ".join(texts)))
            accused += [(found[0], call, part) for part in _in_turn(script, call) if not own]
    accused = [(one, at, name) for one, at, name in accused if one.random and EVALUATED.search(name)]
    for one, at, name in {one.call: (one, at, name) for one, at, name in accused[::-1]}.values():
        yield wrong("augmented-evaluation", one.random, script.place(at), part=f"`{name}`")
    if own:
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
    composed = _pipelines(script)
    any_normalise = any("Normalize" in one.names for one in composed)
    for one in composed:
        name = f"`{one.name}`" if one.name else "This pipeline"
        others = PREPARED.search(script.text) and not (EVALUATED.search(one.name) and any_normalise)
        if one.known and TO_TENSOR & set(one.names) and "Normalize" not in one.names and not others:
            yield suspicious("not-normalised/never", listed(one.names, 6), script.place(one.call), pipeline=name)
        for step in [step for step in one.steps if last(step) == "Normalize"]:
            given = [one for one in script.origins(argument(step, "mean", 0)) if isinstance(one, ast.List | ast.Tuple)]
            if given and {constant(mean) for mean in given[0].elts} == {0.5}:
                yield suspicious("not-normalised/by-half", quoted(step), script.place(step), pipeline=name)


def steps_fit_together(script: Script) -> Findings:
    """Some steps take images and some take tensors, a batch needs one size, and a network its own."""
    nets = {net.name for net in all_networks(script)}
    for one in _pipelines(script):
        turn = next((i for i, name in enumerate(one.names) if name in TO_TENSOR - {"ToTensorV2"}), 0)
        early = [name for name in one.names[:turn] if name in ("Normalize", "RandomErasing")]
        if early and not script.name(one.call).startswith("albumentations"):
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
        trains = trains and not re.search("(?i)eval|plain|feat|extract", name)
        folder = made and all(last(one) == "ImageFolder" for one in made)
        if folder and ordered and not options and "train" in name.lower() and trains:
            loops = [one for one in script.nodes(ast.For) if re.search(rf"\b{re.escape(name)}", ast.unparse(one.iter))]
            found = wrong if any(script.named("backward", within=one) for one in loops) else suspicious
            yield found("unshuffled-training", quoted(call), script.place(call))


def parts_have_their_own_transform(script: Script) -> Findings:
    """The parts of a split share one data set: a transform that one of them is given is that of all."""
    given: dict[str, tuple[Binding, ast.expr, dict[str, Binding]]] = {}  # splits, their data sets, transforms
    if "random_split" in script.functions or any(map(COPIES.fullmatch, script.bindings)):
        return  # the parts have data sets of their own
    for one in [one for one in script.every if re.fullmatch(r"\w+\.transforms?", one.name)]:
        own = script.given(next(n.value for n in script.nodes(ast.Attribute, one.at) if ast.unparse(n) == one.name))
        if len(own) == 1 and SPLITS.fullmatch(script.name(own[0].value)):
            yield wrong("shared-transform/part", quoted(one.at), script.place(one.at))
    for one in [one for one in script.every if re.search(r"\.dataset\.transforms?$", one.name)]:
        part = next(n.value.value for n in script.nodes(ast.Attribute, one.at) if ast.unparse(n) == one.name)
        own = [(b, argument(b.value, "dataset", 0)) for b in script.given(part)]
        if len(own) != 1 or None in own[0] or not SPLITS.fullmatch(script.name(own[0][0].value)):
            continue
        ((split, data),) = own
        loops = {up for up in script.above(one.at) if isinstance(up, ast.For)} - {*script.above(split.at)}
        before = [c for c in script.inside(script.scopes[split.at]) if position(split.at) < position(c)]
        trained = any(script.trains(c) for c in before if position(c) < position(one.at))
        if script.scopes[split.at] is script.scopes[one.at] and not loops and not trained:
            key = f"{ast.unparse(data)} {[id(b.at) for b in script.given(data)] or id(split.at)}"
            given.setdefault(key, (split, data, {}))[2][ast.unparse(part)] = one
    for split, data, parts in given.values():
        texts, made = {ast.unparse(b.value) for b in parts.values()}, script.origins(data)[0]
        built = argument(made, "transform", 1 if last(made).endswith("Folder") else None)
        other = isinstance(built, ast.Name | ast.Call) and ast.unparse(built) not in texts
        twins = [c for c in script.named("Subset") if ast.unparse(argument(c, "dataset", 0) or c) == ast.unparse(data)]
        several = len(twins) > 1 if split.exact else not re.search(r"\b_\b", ast.unparse(split.at))
        if len(texts) > 1 or (len(parts) == 1 and other and several):
            at = list(parts.values())[-1].at
            yield wrong("shared-transform", quoted(at), script.place(at), data=ast.unparse(data)[:60])


def parts_hold_other_items(script: Script) -> Findings:
    """What the model is measured on is not what it was trained on."""
    calls = [call for call in script.calls if last(call) == "DataLoader" or DATASETS.search(last(call))]
    parts = [(call, _name(script, call), _items(script, call)) for call in calls]
    for call, name, items in parts:
        for other, theirs, own in parts if EVALUATED.search(name) else []:
            if items and items == own and re.search("(?i)train", theirs) and not re.search("(?i)val|test", theirs):
                found = wrong if SURE.search(items) and re.search("(?i)(?<!e)val|test", name) else suspicious
                evidence = f"{quoted(call)} at {script.place(call)}, {quoted(other)} at {script.place(other)}"
                yield found("same-item", evidence, script.place(call), a=f"`{theirs}`", b=f"`{name}`")
                return


def _items(script: Script, call: ast.Call) -> str:
    """Tell which items a loader, or a data set of torchvision's, holds; "" where the file does not say."""
    words = [word.value for word in call.keywords if word.arg not in SETTINGS]
    fixed = call.args[: 1 if last(call).endswith("Folder") else 2] + words
    if last(call) == "DataLoader":
        drawn = len(call.args) > 3 or any(word.arg in (None, "sampler", "batch_sampler") for word in call.keywords)
        data = argument(call, "dataset", 0)
        turned = re.search(rf"{re.escape(ast.unparse(data or call))}\.\w*(split|mode|val|train)", script.text)
        fixed = [] if drawn or turned or data is None else [data]
    elif "Dataset" in last(call) or APART.search(script.text):
        return ""
    inner = [n for one in fixed for n in script.nodes(ast.Name | ast.Attribute, one)]
    inner = [n for n in inner if dotted(n).partition(".")[0] not in script.imports and dotted(n) != "self"]
    given = [[(ast.unparse(b.value), id(b.at)) for b in script.given(n)] or [id(script.scopes[n])] for n in inner]
    texts = [ast.unparse(origin) for one in fixed for origin in script.origins(one)]
    return f"{last(call)}({texts} {given})" if fixed and all(len(one) == 1 for one in given) else ""


def _pipelines(script: Script) -> list[Pipeline]:
    composed = script.named("Compose")
    composed += [call for call in script.named("Sequential") if any(is_random(last(one)) for one in call.args)]
    inner = {node for call in composed for node in ast.walk(call) if node is not call}
    found = []
    for call in [call for call in composed if call not in inner]:
        lists = script.origins(call.args[0]) if len(call.args) == 1 else [call]
        made = [script.origins(item) for item in getattr(lists[0], "elts", call.args)]
        steps = [node for one in made for node in sorted(script.nodes(ast.Call, one[0]), key=position)]
        fixed = re.search(r"Resize\(\((\w+), \1\)[^(]*\)[^(]*RandomCrop\(\1\)", ast.unparse(call))  # there is one crop
        sure = {node for one in made if len(one) == len(lists) == 1 for node in ast.walk(one[0])}
        sure = {node for node in sure if script.branches(node) <= script.branches(call) and _is_drawn(script, node)}
        random = listed(n for n in map(last, filter(sure.__contains__, steps)) if n != "RandomCrop" or not fixed)
        known = bool(made) and all(isinstance(one[0], ast.Call) for one in made)
        found.append(Pipeline(call, _name(script, call), steps, list(map(last, steps)), random, known))
    return found


def _is_drawn(script: Script, step: ast.AST) -> bool:
    """Whether a step draws random numbers, and its probability cannot be 0."""
    given = argument(step, "p", 0 if last(step).endswith("Flip") else None)
    return is_random(last(step)) and all(map(constant, script.origins(given)))


def _in_turn(script: Script, call: ast.Call) -> list[str]:
    """Return the parts, "train" and "val", that one call makes in turn, where no condition tells them apart."""
    found: list[str] = []
    for name in script.nodes(ast.Name, call):
        for up in script.above(call):
            loops = [up] if isinstance(up, ast.For) else getattr(up, "generators", [])
            lists = [script.origins(loop.iter)[0] for loop in loops if ast.unparse(loop.target) == name.id]
            values = [value for one in lists for value in getattr(one, "elts", [])]
            if isinstance(up, Function):
                values = [o for b in script.given(name) if isinstance(b.at, ast.Call) for o in script.origins(b.value)]
            tests = str([ast.unparse(node.test) for node in script.nodes(ast.If | ast.IfExp, up) if values])
            told = re.search(rf"\b{name.id}\b", tests) or (tests != "[]" and isinstance(up, Function))
            found += [str(constant(value)) for value in values if not (told or script.chosen(call, up))]
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
    if isinstance(parent, ast.Return):
        return getattr(script.scopes[parent], "name", "")
    return next((one.name for one in script.every if one.value is node), "")
