"""Every classifier of torchvision and timm, with the same checks: head, stages, order, freezing, groups.

    python benchmarks/architectures.py                    # all, and write benchmarks/architectures.md
    python benchmarks/architectures.py --only 'swin|vit'  # some, and print only

The models have no storage (device "meta"), so the largest costs no more than the smallest.
"""

import argparse
import logging
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams

import tlcourse as tl
from tlcourse.models.stage import NORMS

CLASSES = 7  # no network has seven of anything else, so that a layer of seven outputs is a classifier
REPORT = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Outcome:
    """The result for one architecture: no problem, some problems, or an error that says why there is no model."""

    name: str
    family: str
    stages: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    refused: str = ""


@contextmanager
def meta() -> Iterator[None]:
    """Create models without storage. RegNet computes its widths with tensors, and needs real ones for that."""
    original = BlockParams.from_init_params

    def on_cpu(*args, **kwargs):
        with torch.device("cpu"):
            return original(*args, **kwargs)

    BlockParams.from_init_params = on_cpu
    try:
        with torch.device("meta"):
            yield
    finally:
        BlockParams.from_init_params = original


def every_name() -> list[str]:
    """Return all names, each with its library."""
    ours = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision/{name}" for name in ours] + [f"timm/{name}" for name in timm.list_models()]


def family(name: str) -> str:
    """Return the module that defines an architecture, such as `swin_transformer`."""
    library, _, plain = name.partition("/")
    if library == "torchvision":
        return "torchvision"
    return timm.model_entrypoint(plain).__module__.rpartition(".")[2]


def sample(size: int) -> list[str]:
    """Return some of timm's architectures: one of each family, the rest at equal steps among the others."""
    names = [name for name in every_name() if name.startswith("timm/")]
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(family(name), name)
    rest = [name for name in names if name not in first.values()]
    more = size - len(first)
    return [*first.values(), *(rest[i * len(rest) // more] for i in range(more))] if more > 0 else [*first.values()]


def examine(name: str) -> Outcome:
    """Create an architecture with seven classes, and check all that the package promises."""
    try:
        with meta():
            model = tl.models.create(name, CLASSES, weights=None).eval()
    except ValueError as error:
        return Outcome(name, family(name), refused=str(error))
    checks = (_head, _partition, _order, _freezing, _groups, _joined)
    try:
        problems = tuple(problem for check in checks for problem in check(model))
        return Outcome(name, family(name), tuple(part.name for part in tl.models.stages(model)), problems)
    except Exception as error:  # in a model's own forward pass, say
        return Outcome(name, family(name), problems=(f"{type(error).__name__}: {error}",))


def _head(model: nn.Module) -> Iterator[str]:
    names = tl.models.head_names(model)
    sevens = [n for n, module in model.named_modules() if _outputs(module) == CLASSES]
    if sorted(names) != sorted(sevens):
        yield f"the heads are {names}, but the layers with {CLASSES} outputs are {sevens}"
    inside = {f"{n}.{key}" for n in names for key, _ in model.get_submodule(n).named_parameters()}
    if inside != set(tl.models.stages(model)[-1].parameters):
        yield "the last stage is not exactly the heads"


def _outputs(module: nn.Module) -> int | None:
    return getattr(module, "out_features", getattr(module, "out_channels", None)) if _matrix(module) else None


def _matrix(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.ndim > 1


def _partition(model: nn.Module) -> Iterator[str]:
    parts = tl.models.stages(model)
    held = Counter(name for part in parts for name in (*part.parameters, *part.buffers))
    own = Counter(name for name, _ in (*model.named_parameters(), *model.named_buffers()))
    if held != own:
        yield f"not in exactly one stage: {[*((held - own) + (own - held))][:3]}"
    names = [part.name for part in parts]
    if (names[0], names[-1]) != ("stem", "head") or len(set(names)) != len(names) or len(names) < 4:
        yield f"the stages are {names}"
    if empty := [part.name for part in parts if not part.parameters]:
        yield f"without a parameter: {empty}"


def _order(model: nn.Module) -> Iterator[str]:
    """Run the model and see in which order the stages are used: each module counts when it is first used."""
    parts = tl.models.stages(model)
    stage_of = {name: i for i, part in enumerate(parts) for name in (*part.parameters, *part.buffers)}
    used: dict[str, int] = {}
    hooks = []
    for name, module in model.named_modules():
        own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False) if f"{name}.{key}" in stage_of]
        if name and own:
            hooks.append(module.register_forward_pre_hook(partial(_note, used, name, stage_of[own[0]])))
    side = model.preprocessing.size
    with torch.no_grad():
        logits = model(torch.empty(2, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, CLASSES):
        yield f"the logits are {getattr(logits, 'shape', type(logits))}"
    body = [stage for stage in used.values() if stage < len(parts) - 1]
    heads = [stage for stage in used.values() if stage == len(parts) - 1]
    # Heads side by side may have a norm each, so that one head comes before the other's norm.
    order = [*used.values()] if len(heads) == 1 else [*body, *heads]
    if order != sorted(order):
        first = next(i for i, (a, b) in enumerate(pairwise(order)) if a > b)
        yield f"{parts[order[first]].name} is used before {parts[order[first + 1]].name}"
    if unused := {part.name for i, part in enumerate(parts) if i not in used.values()}:
        yield f"no module is used of {sorted(unused)}"


def _note(used: dict[str, int], name: str, stage: int, *_: object) -> None:
    used.setdefault(name, stage)


def _freezing(model: nn.Module) -> Iterator[str]:
    parts = tl.models.stages(model)
    for start in (len(parts) - 1, len(parts) // 2, 0):
        tl.models.train_mode(tl.models.unfreeze_from(model, parts[start].name))
        wrong = [part.name for i, part in enumerate(parts) if part.trainable != (part.count if i >= start else 0)]
        if wrong:
            yield f"unfrozen from {parts[start].name}, these train or do not, against the plan: {wrong}"
        modules = dict(model.named_modules())
        frozen = {n.rpartition(".")[0] for part in parts[:start] for n in part.buffers}
        moving = [n for n in frozen if isinstance(modules[n], NORMS) and modules[n].training]
        if moving:
            yield f"unfrozen from {parts[start].name}, batch norms in training mode below: {moving[:3]}"
    if not all(module.training for module in model.modules()):
        yield "unfrozen from the stem, something is still in evaluation mode"
    model.eval()


def _groups(model: nn.Module) -> Iterator[str]:
    parts = tl.models.stages(tl.models.unfreeze(model))
    groups = tl.models.param_groups(model, 1.0, layer_decay=0.5, weight_decay=0.1)
    held = Counter(id(p) for group in groups for p in group["params"])
    if held != Counter(id(p) for p in model.parameters()):
        yield "a parameter is not in exactly one group"
    rates = {part.name: 0.5 ** (len(parts) - i) for i, part in enumerate(parts, start=1)}
    for group in groups:
        name, plain = group["name"], group["name"].removesuffix(" (no decay)")
        if group["lr"] != rates.get(plain):
            yield f"the group {name} has the learning rate {group['lr']}, its stage {rates.get(plain)}"
        if (name == plain) != (group["weight_decay"] == 0.1):
            yield f"the group {name} has the weight decay {group['weight_decay']}"
        if name == plain and any(p.ndim <= 1 for p in group["params"]):
            yield f"the group {name} decays a vector"


def _joined(model: nn.Module) -> Iterator[str]:
    fine, coarse = tl.models.stages(model), tl.models.stages(model, max_stages=6)
    if len(coarse) != min(6, len(fine)):
        yield f"max_stages=6 gives {len(coarse)} stages of {len(fine)}"
    if [n for part in fine for n in part.parameters] != [n for part in coarse for n in part.parameters]:
        yield "joined stages hold other parameters, or in another order"


def report(outcomes: list[Outcome]) -> str:
    """Return counts, refusals and problems as Markdown, and a table of families with their stages."""
    versions = f"timm {timm.__version__}, torchvision {torchvision.__version__.partition('+')[0]}"
    lines = ["# Every classifier of torchvision and timm", ""]
    lines += [f"{versions}. Made by `python benchmarks/architectures.py`.", ""]
    for library in ("torchvision", "timm"):
        mine = [o for o in outcomes if o.name.startswith(library)]
        good = [o for o in mine if not o.problems and not o.refused]
        there = sum(name.startswith(library) for name in every_name())
        if mine:
            share = f"{len(good)} of {len(mine)} pass ({100 * len(good) / len(mine):.1f} %)"
            rest = f"; {there - len(mine)} more were not examined in this run" if len(mine) < there else ""
            lines.append(f"- {library}: {share}{rest}")
    refused, failed = [o for o in outcomes if o.refused], [o for o in outcomes if o.problems]
    lines += ["", f"## Refused with a clear error: {len(refused)}", ""] + [
        f"- `{o.name}`: {o.refused}" for o in refused
    ]
    lines += ["", f"## With a problem: {len(failed)}", ""] + [f"- `{o.name}`: {'; '.join(o.problems)}" for o in failed]
    lines += [
        "",
        "## Stages",
        "",
        "| family | architectures | stages | an example | its stages |",
        "|---|--:|--:|---|---|",
    ]
    families: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.stages:
            families.setdefault(outcome.family, []).append(outcome)
    for name, members in families.items():
        counts = sorted(len(o.stages) for o in members)
        span = str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
        shown = members[0].stages
        text = ", ".join(shown if len(shown) <= 9 else (*shown[:4], "…", *shown[-3:]))
        lines.append(f"| {name} | {len(members)} | {span} | `{members[0].name}` | {text} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Examine what is asked for; return 0 when nothing has a problem and enough of it passes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="names to examine, printed and not written")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    start, outcomes = time.perf_counter(), []
    for name in [name for name in every_name() if re.search(only, name)]:
        outcomes.append(examine(name))
        if outcomes[-1].problems or outcomes[-1].refused:
            print(name, outcomes[-1].refused, *outcomes[-1].problems, sep="\n  ", flush=True)
    text = report(outcomes)
    if not only:
        REPORT.write_text(text, encoding="utf-8")
    print(text.partition("## Stages")[0])
    print(f"{len(outcomes)} architectures in {time.perf_counter() - start:.0f} s")
    good = sum(not o.problems and not o.refused for o in outcomes)
    return 0 if not any(o.problems for o in outcomes) and good >= 0.99 * len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
