"""Split a network in two at the last tensor that depends on frozen modules only."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from tlcourse.evaluation import evaluation_mode
from tlcourse.features.trace import steady_nodes, trace
from tlcourse.models import head_names, infer_stages, train_mode, unwrap_model
from tlcourse.side_effects import input_hooks, preserve_rng_state


class Cut(NamedTuple):
    """The two parts of a network: `trainable_part(frozen_part(images))` are the network's own outputs."""

    frozen_part: nn.Module
    trainable_part: fx.GraphModule


def split_frozen(model: nn.Module, images: Tensor) -> Cut:
    """Split a network into a frozen part, whose output never changes, and a trainable part, which is all after it.

    Both parts share the modules and parameters of the model, under the same names: training `trainable_part` trains
    the model, and an optimizer made from either fits both. `trainable_part` takes the output of `frozen_part`, one
    tensor `(N, ...)`. Where several tensors would have to cross, as in a block that is trained in part, the network is
    split before that block. Dropout between the frozen layers and the head belongs to `trainable_part`, because it
    differs from step to step.

    The forward pass is traced with `torch.fx`, down to modules that are frozen or trained as a whole. A network that
    cannot be traced is split at the input of its head, if only the head is trained. Each split is tried on `images`
    before it is returned. Run `frozen_part` in evaluation mode.

    Args:
        model: with frozen stages from the input up; wrappers are taken off.
        images: two or more, `(N, 3, H, W)`, as the model takes them and on its device.

    Raises:
        ValueError: nothing is frozen, or everything; or no single tensor leaves the frozen layers; or there are fewer
            than two images.
        FloatingPointError: the model's outputs are infinite or not a number.
    """
    model = unwrap_model(model)
    _check(model, images)
    problems: list[str] = []
    with preserve_rng_state(), evaluation_mode(model), torch.no_grad():
        expected = model(images)
        if not expected.isfinite().all():
            raise FloatingPointError(f"{_kind(model)} gives values that are infinite or not a number.")
        for cut in _cuts(model, problems):
            problem = _problem(model, cut, images, expected)
            if problem is None:
                cut.trainable_part.stage_plan = _stage_plan(cut.trainable_part, model)
                return cut
            problems.append(problem)
    raise ValueError(
        f"{_kind(model)} cannot be split: all layers from the input to some point must be frozen, and a single tensor "
        f"must leave that point{' (' + problems[0] + ')' if problems else ''}. Freeze its lower stages, "
        "`tl.models.unfreeze_from(model, ...)`, or all but its head: `tl.models.freeze(model)`."
    )


def _check(model: nn.Module, images: Tensor) -> None:
    trains = [p.requires_grad for p in model.parameters()]
    if all(trains):
        raise ValueError(
            f"Nothing in {_kind(model)} is frozen, so nothing can be computed beforehand. Freeze first: "
            "`tl.models.freeze(model)` leaves the head, `tl.models.unfreeze_from(model, stage)` more."
        )
    if not any(trains):
        raise ValueError(
            f"Everything in {_kind(model)} is frozen, so there is nothing to train. "
            "`tl.models.freeze(model)` leaves the head trainable."
        )
    if len(images) < 2:
        raise ValueError(f"A split is tried on two images or more, not on {len(images)}.")


def _cuts(model: nn.Module, problems: list[str]) -> Iterator[Cut]:
    """Yield all possible cuts, the one with the largest frozen part first."""
    graph = trace(model, problems)
    model.eval()  # the parts copy its mode
    if graph is not None:
        nodes = list(graph.nodes)
        steady = steady_nodes(model, nodes)
        crossing = [n.name for n in nodes if n in steady and n.op != "get_attr" and not steady.issuperset(n.users)]
        if len(crossing) > 1:
            problems.append(f"{len(crossing)} tensors would cross: {', '.join(crossing)}")
        for node in reversed(nodes):
            if node in steady and node.op.startswith("call"):
                after = _sources(nodes[-1], node)
                if nodes[0] not in after:  # the images reach the output through this node only
                    before = _sources(node, None)
                    frozen_part = _part(model, [n for n in nodes if n in before], None, node)
                    yield Cut(frozen_part, _part(model, [n for n in nodes if n in after], node, None))
    heads = head_names(model)
    inside = {id(p) for name in heads for p in model.get_submodule(name).parameters()}
    if len(heads) == 1 and all(id(p) in inside for p in model.parameters() if p.requires_grad):
        graph = fx.Graph()
        graph.output(graph.call_module(heads[0], (graph.placeholder("x"),)))
        yield Cut(HeadInput(model, heads[0]), fx.GraphModule(model, graph, _kind(model)))


def _problem(model: nn.Module, cut: Cut, images: Tensor, expected: Tensor) -> str | None:
    """Try a cut on images, the model in evaluation mode; return what is wrong with it, if anything."""
    x = cut.frozen_part(images)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or len(x) != len(images):
        return "the frozen part's output is not one tensor with a row for each image"
    if not any(True for _ in cut.frozen_part.parameters()):
        return "no layer with parameters is frozen below the first one that is trained"
    if not _close(cut.frozen_part(images[1:]), x[1:]):
        return "an image's activations depend on the other images"
    if not _close(cut.trainable_part(x.clone()), expected):  # a clone: layers may work in place
        return "the two parts give another result than the whole"
    train_mode(model)
    again = cut.frozen_part(images)
    model.eval()
    return None if _close(again, x) else "a frozen layer is random in training"


def _close(a: Tensor, b: Tensor) -> bool:
    # Sums in another order, as other batch sizes make them, differ in the last digits of the largest values.
    return a.shape == b.shape and bool((a - b).abs().amax() <= 1e-3 * b.abs().amax())


class HeadInput(nn.Module):
    """A network up to the input of its head, for networks that cannot be traced."""

    def __init__(self, model: nn.Module, head: str):
        super().__init__()
        self.model, self.head = model, head

    def forward(self, images: Tensor) -> Tensor:
        """Return the input of the head, `(N, ...)`."""
        inputs: list[Tensor] = []
        head = self.model.get_submodule(self.head)
        with input_hooks([head], lambda _, args: inputs.append(args[0].clone())):
            self.model(images)
        return inputs[0]


def _sources(end: fx.Node, stop: fx.Node | None) -> set[fx.Node]:
    """Return a node and all nodes that it depends on, without those that it reaches only through `stop`, or `stop`."""
    found, left = set(), [end]
    while left:
        node = left.pop()
        if node is not stop and node not in found:
            found.add(node)
            left.extend(node.all_input_nodes)
    return found


def _part(model: nn.Module, nodes: list[fx.Node], start: fx.Node | None, end: fx.Node | None) -> fx.GraphModule:
    """Make a module of some nodes: those after `start`, whose value is the input, or those up to `end`."""
    graph = fx.Graph()
    new = {} if start is None else {start: graph.placeholder("x")}
    for node in nodes:
        new[node] = graph.node_copy(node, lambda source: new[source])
    if end is not None:
        graph.output(new[end])
    return fx.GraphModule(model, graph, _kind(model))


def _stage_plan(part: nn.Module, model: nn.Module) -> dict[str, list[str]]:
    """Return the stages of the model as far as a part has them; they cannot be inferred from the part's containers."""
    there = {name for name, _ in (*part.named_modules(), *part.named_parameters(), *part.named_buffers())}
    plan = getattr(model, "stage_plan", None) or infer_stages(model)
    kept = {stage: [name for name in names if name in there] for stage, names in plan.items()}
    return {stage: names for stage, names in kept.items() if names}


def _kind(model: nn.Module) -> str:
    return type(model).__name__
