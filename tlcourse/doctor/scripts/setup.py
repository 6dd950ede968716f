"""What goes wrong before the loop: heads, losses, optimizers and schedulers, as a script's text shows it."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.scripts.reader import OPTIMIZERS, SCHEDULERS, Script, argument, constant, dotted, in_order, last

HEADS = re.compile(r"^(?P<model>\w+)\.(fc|classifier|head|heads)\b")
REWRITING = {"OneCycleLR", "CyclicLR"}


def softmax_before_cross_entropy(script: Script) -> Iterator[Finding]:
    """Cross-entropy applies softmax itself."""
    losses = {target for target, value, _ in script.assignments if last(value) == "CrossEntropyLoss"}
    if not losses and not any(last(call) in ("cross_entropy", "CrossEntropyLoss") for call in script.calls):
        return
    found = []
    for call in script.calls:
        direct = isinstance(call.func, ast.Call) and last(call.func) == "CrossEntropyLoss"
        if call.args and (direct or last(call) == "cross_entropy" or dotted(call) in losses):
            given = call.args[0]
            value = script.assigned(given.id, call) if isinstance(given, ast.Name) else given
            if _softmax(script, value):
                found.append(call)
        if last(call) == "Sequential" and call.args and last(call.args[-1]) == "Softmax":
            found.append(call.args[-1])
    for node in ast.walk(script.tree):
        inside = isinstance(node, ast.Return) and getattr(script.scope(node), "name", "") == "forward"
        attention = inside and "attention" in getattr(script.parents[script.scope(node)], "name", "").lower()
        if inside and not attention and _softmax(script, node.value):
            found.append(node)
    for node in in_order(iter(found)):
        yield wrong(
            "softmax-before-cross-entropy",
            "Softmax is applied before cross-entropy, which applies it again: gradients get small and stay small.",
            f"`{ast.unparse(node)[:90]}`",
            "Give cross-entropy the logits; apply softmax where probabilities are shown.",
            script.place(node),
        )


def optimizer_after_head(script: Script) -> Iterator[Finding]:
    """An optimizer built before the head was replaced holds the old head."""
    built = [(t, v, at) for t, v, at in script.assignments if last(v) in OPTIMIZERS]
    for target, value, at in script.assignments:
        match = HEADS.match(target)
        if not match or not isinstance(value, ast.Call) or last(value) in ("to", "cuda", "half"):
            continue
        model, scope = match["model"], script.scope(at)
        own = [(n, a) for n, v, a in built if script.scope(a) is scope and re.search(rf"\b{model}\.", ast.unparse(v))]
        before, after = [p for p in own if p[1].lineno < at.lineno], [p for p in own if p[1].lineno > at.lineno]
        if before and not after:
            yield wrong(
                "foreign-parameters",
                "The head is replaced after the optimizer was built, which holds the old one: the new one never moves.",
                f"`{before[-1][0]}` is built at {script.place(before[-1][1])}; then `{ast.unparse(at)[:70]}`",
                "Build the optimizer after this line.",
                script.place(at),
            )


def head_frozen_with_the_rest(script: Script) -> Iterator[Finding]:
    """Freezing everything after the head was replaced freezes the new head too."""
    for loop in ast.walk(script.tree):
        match = isinstance(loop, ast.For) and re.fullmatch(r"(\w+)\.(named_)?parameters\(\)", ast.unparse(loop.iter))
        if not match or not re.search(r"requires_grad(_\(| = )False", ast.unparse(loop)) or "if " in ast.unparse(loop):
            continue
        model, scope = match[1], script.scope(loop)
        heads = [(t, at) for t, v, at in script.assignments if script.scope(at) is scope and isinstance(v, ast.Call)]
        heads = [(t, at) for t, at in heads if (m := HEADS.match(t)) and m["model"] == model]
        later = "\n".join(script.source.splitlines()[loop.end_lineno :])
        thawed = re.search(r"requires_grad\s*=\s*True|requires_grad_\(\s*(True)?\s*\)|unfreeze", later)
        replaced_later = any(at.lineno > loop.lineno for _, at in heads)
        if heads and not replaced_later and not thawed:
            yield wrong(
                "head-frozen",
                "Everything is frozen after the head was replaced: the new head keeps its random values.",
                f"`{heads[-1][0]}` is set at {script.place(heads[-1][1])}, and frozen here with the rest",
                f"Freeze first and replace then, or unfreeze `{heads[-1][0]}` again.",
                script.place(loop),
            )


def one_scheduler_each(script: Script) -> Iterator[Finding]:
    """Each scheduler's constructor rewrites its optimizer's rates."""
    built: dict[tuple, list[tuple[str, ast.Call]]] = {}
    for target, value, at in script.assignments:
        if last(value) in OPTIMIZERS:  # a new optimizer of this name starts anew
            built.pop((target, script.scope(at)), None)
        if last(value) not in SCHEDULERS or not isinstance(value, ast.Call):
            continue
        optimizer = argument(value, "optimizer", 0)
        if optimizer is None or last(value) in ("SequentialLR", "ChainedScheduler") or _branch(script, at):
            continue
        found = built.setdefault((ast.unparse(optimizer), script.scope(at)), [])
        found.append((target, value))
        others = [(name, own) for name, own in found if not _chained(script, name)]
        if len(others) > 1 and not _chained(script, target):
            kinds = [last(v) for _, v in others]
            finding = wrong if REWRITING & set(kinds) else suspicious
            yield finding(
                "several-schedulers",
                f"Scheduler number {len(others)} is built on `{ast.unparse(optimizer)}`; each one rewrites its rates.",
                f"{listed(kinds)}, with no new optimizer in between",
                "Build a new optimizer for each scheduler that you try; chain schedulers with SequentialLR.",
                script.place(at),
            )


def optimizer_per_stage(script: Script) -> Iterator[Finding]:
    """A new optimizer for each stage of unfreezing forgets the moments of what was training."""
    if not re.search(r"requires_grad\s*=\s*True|requires_grad_\(|unfreeze", script.source):
        return
    made = [(target, value, at) for target, value, at in script.assignments if last(value) in OPTIMIZERS - {"SGD"}]
    pieces = [(t, v, at, set(re.findall(r"(\w+\.\w+)\.parameters\(\)", ast.unparse(v)))) for t, v, at in made]
    for (_, _, at, own), (name, _, later, more) in pairwise(pieces):
        both = own & more
        if both and script.scope(at) is script.scope(later):
            yield note(
                "moments-forgotten",
                f"A new optimizer starts with no memory of {listed(sorted(both))}, which was training already.",
                f"`{name}` holds what the optimizer of {script.place(at)} held",
                "Add the new stage with `optimizer.add_param_group`, and rebuild the scheduler.",
                script.place(later),
            )


def arguments_that_are_gone(script: Script) -> Iterator[Finding]:
    """Names and arguments that current versions warn about or refuse."""
    for call in script.calls:
        where, text = script.place(call), ast.unparse(call)[:90]
        pretrained = constant(argument(call, "pretrained"))
        if pretrained is True and not re.search(r"timm|create_model", dotted(call)) and "hub" not in dotted(call):
            yield suspicious(
                "deprecated",
                "`pretrained=True` does not say which weights, and torchvision is giving it up.",
                f"`{text}`",
                "Name them: `weights=ResNet50_Weights.IMAGENET1K_V2`, or `weights='DEFAULT'`.",
                where,
            )
        verbose = last(call) == "ReduceLROnPlateau" and argument(call, "verbose") is not None
        if verbose and not _plateau_takes_verbose():
            advice = "Leave it out, and print `scheduler.get_last_lr()`."
            yield wrong("deprecated", "`verbose` is gone: this raises a TypeError.", f"`{text}`", advice, where)
        if dotted(call) in ("torch.cuda.amp.autocast", "torch.cuda.amp.GradScaler"):
            yield note("deprecated", "`torch.cuda.amp` is given up.", f"`{text}`", "Use `torch.amp`.", where)
        if dotted(call) == "torch.save" and call.args and re.fullmatch(r"(model|net)\w*", ast.unparse(call.args[0])):
            advice = (
                "Save `model.state_dict()`; a whole model is a pickle, tied to its source files, that can run code."
            )
            yield note("pickle", "A whole model is saved.", f"`{text}`", advice, where)
        if dotted(call) == "torch.load" and constant(argument(call, "weights_only")) is False:
            advice = "Leave weights_only at True, or use safetensors."
            yield suspicious("pickle", "This runs whatever code the file holds.", f"`{text}`", advice, where)


def _plateau_takes_verbose() -> bool:
    """Look into the source of the installed torch, which takes far less time than importing it."""
    source = (Path(find_spec("torch").origin).parent / "optim" / "lr_scheduler.py").read_text(encoding="utf-8")
    signature = source.partition("class ReduceLROnPlateau")[2].partition("def __init__(")[2].partition(":\n        ")[0]
    return "verbose" in signature.partition(") ->")[0]


def numbers_with_commas(script: Script) -> Iterator[Finding]:
    """`{7,102,466:,}` is a tuple, and a tuple takes no format."""
    for node in in_order(n for n in ast.walk(script.tree) if isinstance(n, ast.FormattedValue)):
        if isinstance(node.value, ast.Tuple) and node.format_spec is not None:
            text = ast.unparse(node.value)
            what = "A number written with commas is a tuple: this raises a TypeError."
            yield wrong(
                "tuple-formatted", what, f"`{text}`", "Write it without commas, or 7_102_466.", script.place(node)
            )


def clocks_wait_for_the_gpu(script: Script) -> Iterator[Finding]:
    """A GPU computes while Python goes on: the clock must wait for it."""
    if "cuda" not in script.source or re.search(r"synchronize|Event\(|Timer\(", script.source):
        return
    clocks = [
        c for c in script.calls if dotted(c) in ("time.time", "time.perf_counter", "perf_counter", "time.monotonic")
    ]
    for scope in dict.fromkeys(script.scope(call) for call in clocks):
        own = [call for call in clocks if script.scope(call) is scope]
        # Whole epochs end by reading a loss, which waits; single forward passes do not.
        between = [c for c in script.inside(scope) if own[0].lineno < c.lineno < own[-1].lineno]
        forward = [c for c in between if re.fullmatch(r"(self\.)?(model|net)\w*", dotted(c))]
        if len(own) > 1 and forward and not any(last(c) in ("item", "cpu", "backward", "tolist") for c in between):
            yield suspicious(
                "clock",
                "A forward pass is timed without waiting for the GPU: that measures how fast work is handed over.",
                f"`{ast.unparse(forward[0])}` between two readings of the clock, without `synchronize`",
                "Call `torch.cuda.synchronize()` before each reading, or use CUDA events.",
                script.place(own[-1]),
            )


def _softmax(script: Script, value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call):
        return False
    if isinstance(value.func, ast.Call):
        return last(value.func) == "Softmax"
    made = next((v for t, v, _ in script.assignments if t == dotted(value)), None)
    return (last(value) == "softmax" and last(made or value) in ("softmax", "Softmax")) or last(
        made or value
    ) == "Softmax"


def _chained(script: Script, name: str) -> bool:
    """Whether a scheduler is a piece of a sequence."""
    chains = [c for c in script.calls if last(c) in ("SequentialLR", "ChainedScheduler")]
    return any(isinstance(n, ast.Name) and n.id == name for chain in chains for n in ast.walk(chain))


def _branch(script: Script, node: ast.AST) -> bool:
    """Whether a statement is one of several choices."""
    return any(isinstance(one, ast.If | ast.Match) for one in script.above(node))


RULES = (
    softmax_before_cross_entropy,
    optimizer_after_head,
    head_frozen_with_the_rest,
    one_scheduler_each,
    optimizer_per_stage,
    arguments_that_are_gone,
    numbers_with_commas,
    clocks_wait_for_the_gpu,
)
