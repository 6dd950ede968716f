"""Cut a network in two at the last tensor that only frozen modules have made."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from tlcourse.evaluation import evaluation_mode
from tlcourse.features.trace import steady_nodes, trace
from tlcourse.models import head_names, infer_stages, train_mode, unwrap_model
from tlcourse.side_effects import preserve_rng_state


class Cut(NamedTuple):
    """The two halves of a network: `rest(prefix(images))` is what the network itself gives."""

    prefix: nn.Module
    rest: fx.GraphModule


def split_frozen(model: nn.Module, images: Tensor) -> Cut:
    """Cut a network in two: `prefix` is frozen and always gives the same, `rest` is what trains and all after it.

    Both halves share the modules and parameters of the model, under the same names: training `rest` trains the
    model, and an optimizer made from either fits both. `rest` takes what `prefix` gives, one tensor `(N, ...)`. Where
    blocks train in part and several tensors would cross, the cut is made before them. Dropout between frozen layers
    and the head belongs to `rest`, because it differs from step to step.

    The forward pass is traced with `torch.fx`, down to the modules that train as a whole or not at all. Where it
    cannot be traced and only the head trains, the cut is made at the input of the head. Each cut is tried on `images`
    before it is returned. Run `prefix` in evaluation mode.

    Args:
        model: with frozen stages at the input's end; wrappers are taken off.
        images: two or more, `(N, 3, H, W)`, as the model takes them and on its device.

    Raises:
        ValueError: nothing is frozen, or everything, or there is no such tensor; or there are fewer than two images.
        FloatingPointError: the model gives values that are infinite or not a number.
    """
    model = unwrap_model(model)
    _check(model, images)
    problems: list[str] = []
    with preserve_rng_state(), evaluation_mode(model), torch.no_grad():
        answers = model(images)
        if not answers.isfinite().all():
            raise FloatingPointError(f"{_kind(model)} gives values that are infinite or not a number.")
        for cut in _cuts(model, problems):
            problem = _problem(model, cut, images, answers)
            if problem is None:
                cut.rest.stage_plan = _plan_of(cut.rest, model)
                return cut
            problems.append(problem)
    raise ValueError(
        f"{_kind(model)} has no place to cut: from the input up it must be frozen, and hand on one tensor"
        f"{' (' + problems[0] + ')' if problems else ''}. Freeze its lower stages, "
        "`tl.models.unfreeze_from(model, ...)`, or only its head: `tl.models.freeze(model)`."
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
        raise ValueError(f"A cut is tried on two images or more, not on {len(images)}.")


def _cuts(model: nn.Module, problems: list[str]) -> Iterator[Cut]:
    """Yield all cuts, the one with the longest prefix first."""
    graph = trace(model, problems)
    model.eval()  # which the halves take over
    if graph is not None:
        nodes = list(graph.nodes)
        steady = steady_nodes(model, nodes)
        crossing = [n.name for n in nodes if n in steady and n.op != "get_attr" and not steady.issuperset(n.users)]
        if len(crossing) > 1:
            problems.append(f"{len(crossing)} would cross: {', '.join(crossing)}")
        for node in reversed(nodes):
            if node in steady and node.op.startswith("call"):
                after = _needed(nodes[-1], node)
                if nodes[0] not in after:  # all that the images do to the output goes through this node
                    before = _needed(node, None)
                    prefix = _part(model, [n for n in nodes if n in before], None, node)
                    yield Cut(prefix, _part(model, [n for n in nodes if n in after], node, None))
    heads = head_names(model)
    inside = {id(p) for name in heads for p in model.get_submodule(name).parameters()}
    if len(heads) == 1 and all(id(p) in inside for p in model.parameters() if p.requires_grad):
        graph = fx.Graph()
        graph.output(graph.call_module(heads[0], (graph.placeholder("x"),)))
        yield Cut(HeadInput(model, heads[0]), fx.GraphModule(model, graph, _kind(model)))


def _problem(model: nn.Module, cut: Cut, images: Tensor, answers: Tensor) -> str | None:
    """Try a cut on images, the model in evaluation mode; say what is wrong with it, if anything."""
    x = cut.prefix(images)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or len(x) != len(images):
        return "what crosses is not one tensor with a row an image"
    if not any(True for _ in cut.prefix.parameters()):
        return "what is frozen below the first layer that trains has no parameters"
    if not _close(cut.prefix(images[1:]), x[1:]):
        return "an image's activations depend on the other images"
    if not _close(cut.rest(x.clone()), answers):  # a clone: the rest may work in place
        return "the two halves give another result than the whole"
    train_mode(model)
    again = cut.prefix(images)
    model.eval()
    return None if _close(again, x) else "a frozen part is random in training"


def _close(a: Tensor, b: Tensor) -> bool:
    # Sums in another order, as other batch sizes make them, differ in the last digits of the largest values.
    return a.shape == b.shape and bool((a - b).abs().amax() <= 1e-3 * b.abs().amax())


class HeadInput(nn.Module):
    """A network up to the input of its head, for networks that cannot be traced."""

    def __init__(self, model: nn.Module, head: str):
        super().__init__()
        self.model, self.unused = model, f"model.{head}."

    def forward(self, images: Tensor) -> Tensor:
        """Return what the head is given, `(N, ...)`."""
        taken: list[Tensor] = []
        layer = self.get_submodule(self.unused.rstrip("."))
        hook = layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].clone()))
        try:
            self.model(images)
        finally:
            hook.remove()
        return taken[0]


def _needed(end: fx.Node, stop: fx.Node | None) -> set[fx.Node]:
    """Return a node and all that it is made of, as far as `stop`, which is left out."""
    found, left = set(), [end]
    while left:
        node = left.pop()
        if node is not stop and node not in found:
            found.add(node)
            left.extend(node.all_input_nodes)
    return found


def _part(model: nn.Module, nodes: list[fx.Node], start: fx.Node | None, end: fx.Node | None) -> fx.GraphModule:
    """Make a module of some nodes: from `start` on, which its input takes the place of, or up to `end`."""
    graph = fx.Graph()
    new = {} if start is None else {start: graph.placeholder("x")}
    for node in nodes:
        new[node] = graph.node_copy(node, lambda source: new[source])
    if end is not None:
        graph.output(new[end])
    return fx.GraphModule(model, graph, _kind(model))


def _plan_of(rest: nn.Module, model: nn.Module) -> dict[str, list[str]]:
    """Return the stages of the model, as far as `rest` has them: it is a chain of other containers."""
    there = {name for name, _ in (*rest.named_modules(), *rest.named_parameters(), *rest.named_buffers())}
    plan = getattr(model, "stage_plan", None) or infer_stages(model)
    kept = {stage: [name for name in names if name in there] for stage, names in plan.items()}
    return {stage: names for stage, names in kept.items() if names}


def _kind(model: nn.Module) -> str:
    return type(model).__name__
