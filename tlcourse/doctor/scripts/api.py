"""Names and arguments that newer versions warn about or refuse, and slips of the pen, as a script shows them."""

import ast
import re

from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.networks import all_networks
from tlcourse.doctor.scripts.nodes import argument, constant, last, owner, quoted
from tlcourse.doctor.scripts.reader import Script

CLOCKS = ("time.time", "time.perf_counter", "time.monotonic")
GONE = {"transforms.Scale": "Resize", "transforms.RandomSizedCrop": "RandomResizedCrop"}


def deprecated_arguments(script: Script) -> Findings:
    """Arguments that current versions warn about or refuse."""
    old = [net.call for net in all_networks(script) if net.library == "torchvision"]
    old = [call for call in old if constant(argument(call, "pretrained")) is True and "models" in script.name(call)]
    if old:
        evidence = listed(f"{quoted(call)} ({script.place(call)})" for call in old)
        yield note("deprecated/pretrained", evidence, script.place(old[0]))
    for call in script.calls:
        name, evidence, where = script.name(call), quoted(call), script.place(call)
        if last(call) == "ReduceLROnPlateau" and argument(call, "verbose") is not None:
            yield wrong("deprecated/verbose", evidence, where)
        if name in ("torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler"):
            yield note("deprecated/amp", evidence, where)
        if name == "torch.save" and call.args and re.fullmatch(r"(model|net)\w*", ast.unparse(call.args[0])):
            yield note("pickle/save", evidence, where)
        if name == "torch.load":
            if constant(argument(call, "weights_only")) is False:
                yield note("pickle/load", evidence, where)
            elif argument(call, "weights_only") is None and argument(call, "pickle_module") is None:
                yield from _whole_model(script, call)


def names_are_there(script: Script) -> Findings:
    """Names that were taken out of PyTorch and torchvision years ago."""
    found: list[tuple[ast.AST, str]] = []
    for call in script.calls:
        short = ".".join(script.name(call).split(".")[-2:])
        found += [(call, f"`{GONE[short]}`")] if short in GONE else []
        found += [(call, "`torch.no_grad()` around it")] if constant(argument(call, "volatile")) is True else []
        made = script.origins(call.func.value) if last(call) == "next" and isinstance(call.func, ast.Attribute) else []
        found += [(call, f"`next({owner(call)})`")] if made and all(last(one) == "iter" for one in made) else []
    for node in script.nodes(ast.Subscript):
        if constant(node.slice) == 0 and re.fullmatch(r"(\w*_)?(loss|err|error)\w*\.data", ast.unparse(node.value)):
            found.append((node, f"`{ast.unparse(node.value)[:-5]}.item()`"))
    for node, instead in found:
        yield wrong("deprecated/gone", quoted(node), script.place(node), instead=instead)


def rates_are_set_in_the_optimizer(script: Script) -> Findings:
    """`state_dict()` gives copies of the groups: a rate that is written there goes nowhere."""
    for name, own in script.bindings.items():
        for one in own:
            target, _, key = name.rpartition("[")
            groups = [b.value for b in script.bindings.get(target, ()) if not b.exact] or [one.at]
            texts = [ast.unparse(node) if node is not one.at else target for node in groups]
            if key in ("'lr']", '"lr"]') and any(re.search(r"\.state_dict\(\)\['param_groups'\]", t) for t in texts):
                yield wrong("rate/written-to-a-copy", quoted(one.at), script.place(one.at))


def numbers_with_commas(script: Script) -> Findings:
    """`{7,102,466:,}` is a tuple, and a tuple takes no format."""
    for node in script.nodes(ast.FormattedValue):
        if isinstance(node.value, ast.Tuple) and node.format_spec is not None:
            yield wrong("tuple-formatted", quoted(node.value), script.place(node))


def clocks_wait_for_the_gpu(script: Script) -> Findings:
    """A GPU computes while Python goes on: the clock must wait for it."""
    if "cuda" not in ast.unparse(script.tree) or script.named("synchronize", "Event", "Timer"):
        return
    clocks = [call for call in script.calls if script.name(call) in CLOCKS]
    for scope in dict.fromkeys(script.scopes[call] for call in clocks):
        own = [call for call in clocks if script.scopes[call] is scope]
        # Whole epochs end by reading a loss, which waits; single forward passes do not.
        between = [call for call in script.inside(scope) if own[0].lineno < call.lineno < own[-1].lineno]
        forward = [call for call in between if re.fullmatch(r"(self\.)?(model|net)\w*", ast.unparse(call.func))]
        if forward and not any(last(call) in ("item", "cpu", "backward", "tolist", "numpy") for call in between):
            evidence = f"{quoted(forward[0])} between two readings of the clock, without `synchronize`"
            yield suspicious("clock", evidence, script.place(own[-1]))


def _whole_model(script: Script, call: ast.Call) -> Findings:
    """A file that is used as a model at once holds a pickled one."""
    parent = script.parents[call]
    names = [ast.unparse(parent.targets[0])] if isinstance(parent, ast.Assign) else []
    uses = [one for one in script.calls if owner(one) in names and last(one) in ("eval", "train", "parameters", "to")]
    chained = isinstance(parent, ast.Attribute) and parent.attr in ("eval", "train", "parameters")
    uses = [one for one in uses if script.scopes[one] is script.scopes[call] and script.origins(one.func.value) == [call]]
    if chained or uses:
        yield wrong("pickle/refused", quoted(call), script.place(call))
