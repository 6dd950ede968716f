"""Names and arguments that newer versions warn about or refuse, and calls that do nothing."""

import ast
import re

from tlcourse.doctor.report import Findings, listed, note, wrong
from tlcourse.doctor.scripts.networks import all_networks
from tlcourse.doctor.scripts.nodes import SCHEDULERS, argument, constant, last, owner, quoted
from tlcourse.doctor.scripts.reader import Script

# How a call begins, with the full name of what it calls; its finding, and what to write instead.
OLD = (
    (rf"((torch|lr_scheduler)\.([\w.]+\.)?)?({'|'.join(SCHEDULERS)})\(.*\bverbose=", wrong, "deprecated/verbose", ""),
    (r"torch\.cuda\.amp\.(autocast|GradScaler)\(", note, "deprecated/amp", ""),
    (r"torch\.save\((model|net)\w*[,)]", note, "pickle/save", ""),
    (r"torch\.load\(.*\bweights_only=False", note, "pickle/load", ""),
    (r"([\w.]*transforms|T|tf)\.Scale\(", wrong, "deprecated/gone", "`Resize`"),
    (r"([\w.]*transforms|T|tf)\.RandomSizedCrop\(", wrong, "deprecated/gone", "`RandomResizedCrop`"),
    (r"([\w.]+\.)?RandomAffine\(.*\bfillcolor=", wrong, "deprecated/gone", "`fill=`"),
    (r"([\w.]+\.)?Variable\(.*\bvolatile=True", wrong, "deprecated/gone", "`torch.no_grad()` around it"),
)


def calls_are_of_today(script: Script) -> Findings:
    """Arguments and functions that current versions warn about, refuse, or no longer have."""
    old = [net.call for net in all_networks(script) if constant(argument(net.call, "pretrained")) is True]
    old = [call for call in old if last(call) not in ("create_model", "load")]
    # What follows `except` is for older versions.
    if old := [call for call in old if not any(isinstance(up, ast.ExceptHandler) for up in script.above(call))]:
        evidence = listed(f"{quoted(call)} ({script.place(call)})" for call in old)
        yield note("deprecated/pretrained", evidence, script.place(old[0]))
    for call in script.calls:
        text = script.name(call) + ast.unparse(call).removeprefix(ast.unparse(call.func))
        for _, found, name, instead in [row for row in OLD if re.match(row[0], text)]:
            yield found(name, quoted(call), script.place(call), instead=instead)
        if text.startswith("torch.load(") and "weights_only=" not in text and "safe_globals" not in script.text:
            models = [one.func for one in script.calls if isinstance(one.func, ast.Name)]
            models += [one.func.value for one in script.named("eval", "parameters") if owner(one)]
            if any(script.origins(model) == [call] for model in models):
                yield wrong("pickle/refused", quoted(call), script.place(call))
        if last(call) == "next" and owner(call) and last(script.origins(call.func.value)[0]) == "iter":
            yield wrong("deprecated/gone", quoted(call), script.place(call), instead=f"`next({owner(call)})`")
    for node in script.nodes(ast.Subscript):
        if match := re.fullmatch(r"((?:\w*_)?(?:loss|err|error)\w*)\.data\[0\]", ast.unparse(node)):
            yield wrong("deprecated/gone", quoted(node), script.place(node), instead=f"`{match[1]}.item()`")


def statements_do_something(script: Script) -> Findings:
    """A method that is named and not called does nothing; a rate that is set in a copy neither."""
    for node in script.nodes(ast.Expr):
        if isinstance(node.value, ast.Attribute) and node.value.attr in ("eval", "zero_grad", "step", "backward"):
            yield wrong("not-called", quoted(node.value), script.place(node), call=f"{ast.unparse(node.value)}()")
    for node in script.nodes(ast.If | ast.IfExp):
        if script.name(node.test) == "torch.cuda.is_available" and not isinstance(node.test, ast.Call):
            yield wrong("not-called/true", quoted(node.test), script.place(node))
    for name, own in script.bindings.items():
        texts = [name, *(ast.unparse(one.value) for one in script.bindings.get(name.partition("[")[0], ()))]
        if name.endswith("['lr']") and any(".state_dict()['param_groups']" in text for text in texts):
            yield wrong("rate/written-to-a-copy", quoted(own[0].at), script.place(own[0].at))
