"""Names and arguments that newer versions warn about or refuse, and calls that do nothing."""

import ast
import re

from tlcourse.doctor.report import Findings, listed, note, wrong
from tlcourse.doctor.scripts.networks import all_networks
from tlcourse.doctor.scripts.nodes import SCHEDULERS, argument, constant, last, owner, quoted
from tlcourse.doctor.scripts.reader import Script

GONE = {"Scale": "Resize", "RandomSizedCrop": "RandomResizedCrop"}


def calls_are_of_today(script: Script) -> Findings:
    """Arguments and functions that current versions warn about, or refuse."""
    old = [net.call for net in all_networks(script) if constant(argument(net.call, "pretrained")) is True]
    old = [call for call in old if last(call) not in ("create_model", "load")]
    # What follows `except` is for older versions.
    if old := [call for call in old if not any(isinstance(up, ast.ExceptHandler) for up in script.above(call))]:
        evidence = listed(f"{quoted(call)} ({script.place(call)})" for call in old)
        yield note("deprecated/pretrained", evidence, script.place(old[0]))
    for call in script.calls:
        name, evidence, where = script.name(call), quoted(call), script.place(call)
        torchs = re.match(r"(torch|lr_scheduler)\.|\w+$", name)  # other libraries have schedulers of these names
        if torchs and script.kind(call) in SCHEDULERS and argument(call, "verbose") is not None:
            yield wrong("deprecated/verbose", evidence, where)
        if name in ("torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler"):
            yield note("deprecated/amp", evidence, where)
        if name == "torch.save" and call.args and re.fullmatch(r"(model|net)\w*", ast.unparse(call.args[0])):
            yield note("pickle/save", evidence, where)
        if name == "torch.load" and constant(argument(call, "weights_only")) is False:
            yield note("pickle/load", evidence, where)
        elif name == "torch.load" and argument(call, "weights_only") is None and "safe_globals" not in script.text:
            models = [one.func for one in script.calls if isinstance(one.func, ast.Name)]
            models += [one.func.value for one in script.named("eval", "parameters") if owner(one)]
            if any(script.origins(model) == [call] for model in models):
                yield wrong("pickle/refused", evidence, where)


def names_are_of_today(script: Script) -> Findings:
    """Names that were taken out of PyTorch and torchvision years ago."""
    found: list[tuple[ast.AST, str]] = []
    for call in script.calls:
        if last(call) in GONE and re.search(r"transforms$|^T$|^tf$", script.name(getattr(call.func, "value", None))):
            found.append((call, f"`{GONE[last(call)]}`"))
        if last(call) == "RandomAffine" and argument(call, "fillcolor") is not None:
            found.append((call, "`fill=`"))
        if last(call) == "Variable" and constant(argument(call, "volatile")) is True:
            found.append((call, "`torch.no_grad()` around it"))
        if last(call) == "next" and owner(call) and last(script.origins(call.func.value)[0]) == "iter":
            found.append((call, f"`next({owner(call)})`"))
    for node in script.nodes(ast.Subscript):
        if constant(node.slice) == 0 and re.fullmatch(r"(\w*_)?(loss|err|error)\w*\.data", ast.unparse(node.value)):
            found.append((node, f"`{ast.unparse(node.value)[:-5]}.item()`"))
    for node, instead in found:
        yield wrong("deprecated/gone", quoted(node), script.place(node), instead=instead)


def statements_do_something(script: Script) -> Findings:
    """A method that is named and not called does nothing; a rate that is set in a copy neither."""
    for node in script.nodes(ast.Expr):
        if isinstance(node.value, ast.Attribute) and node.value.attr in ("eval", "zero_grad", "step", "backward"):
            yield wrong("not-called", quoted(node.value), script.place(node), call=f"{ast.unparse(node.value)}()")
    for node in script.nodes(ast.If | ast.IfExp):
        if script.name(node.test) == "torch.cuda.is_available" and not isinstance(node.test, ast.Call):
            yield wrong("not-called/true", quoted(node.test), script.place(node))
    for name, own in script.bindings.items():
        groups = script.bindings.get(name.partition("[")[0], []) if name.endswith("['lr']") else []
        texts = [name, *(ast.unparse(one.value) for one in groups)]
        if name.endswith("['lr']") and any(".state_dict()['param_groups']" in text for text in texts):
            yield wrong("rate/written-to-a-copy", quoted(own[0].at), script.place(own[0].at))
