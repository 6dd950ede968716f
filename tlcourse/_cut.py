"""Cut a network in two at the last tensor that only frozen modules have made."""

from collections.abc import Iterator
from inspect import Parameter, signature
from typing import NamedTuple

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn

from tlcourse.evaluate import evaluation_mode
from tlcourse.models.heads import bare, head_names
from tlcourse.models.outline import outline
from tlcourse.models.stages import train_mode

# What draws random numbers has one of these in its name: Dropout2d, DropPath, bernoulli, rand_like, ...
RANDOM = ("drop", "stochastic", "rand", "bernoulli", "multinomial", "rrelu", "fractional")


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
    before it is returned.

    Args:
        model: with frozen stages at the input's end; wrappers are taken off.
        images: two or more, `(N, 3, H, W)`, as the model takes them and on its device.

    Raises:
        ValueError: nothing is frozen, or everything, or there is no such tensor; or there are fewer than two images.
    """
    model = bare(model)
    _check(model, images)
    problems: list[str] = []
    with evaluation_mode(model), torch.no_grad():
        answers = model(images)
        for prefix, rest in _cuts(model, problems):
            model.eval()
            problem = _problem(model, Cut(prefix, rest), images, answers)
            if problem is None:
                rest.stage_plan = _plan_of(rest, model)
                return Cut(prefix, rest)
            problems.append(problem)
    raise ValueError(
        f"{_kind(model)} has no place to cut: from the input up it must be frozen, and hand on one tensor"
        f"{' (' + problems[-1] + ')' if problems else ''}. Freeze its lower stages, "
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
    graph = _trace(model, problems)
    if graph is not None:
        nodes = list(graph.nodes)
        steady = _steady(model, nodes)
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
    if not _close(cut.prefix(images), x):
        return "a frozen part is random in training"
    return None


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


class _Tracer(fx.Tracer):
    """Traces into those modules only in which some parameters train and others do not."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: set[str]):
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.leaves, self.failed = leaves, ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        trains = [p.requires_grad for p in m.parameters()]
        known = isinstance(m, tuple(get_notrace_modules())) or module_qualified_name in self.leaves
        return known or all(trains) or not any(trains) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)  # the innermost one
            raise


def _trace(model: nn.Module, problems: list[str]) -> fx.Graph | None:
    """Trace in both modes. A module that cannot be traced is a leaf, so that the cut comes before it."""
    given = {n: p.default for n, p in signature(model.forward).parameters.items() if p.default is not Parameter.empty}
    leaves: set[str] = set()
    while True:
        tracer = _Tracer(leaves)
        try:
            evaluation = tracer.trace(model.eval(), given)
            graph = tracer.trace(train_mode(model), given)
            break
        except Exception as error:  # the model's own code fails on the tracer's stand-ins in its own ways
            if not tracer.failed:
                problems.append(f"torch.fx cannot trace it: {str(error).splitlines()[0] if str(error) else error!r}")
                return None
            leaves.add(tracer.failed)
    if not _follow_the_mode(graph, evaluation):
        problems.append("it takes other ways in training than in evaluation")
        return None
    return graph


def _follow_the_mode(graph: fx.Graph, evaluation: fx.Graph) -> bool:
    """Put `self.training` in the place of the mode that tracing made a constant; say whether that was all."""
    if len(graph.nodes) != len(evaluation.nodes):
        return False
    for ours, other in zip(list(graph.nodes), evaluation.nodes, strict=True):
        if (ours.op, ours.target, str(ours.args)) != (other.op, other.target, str(other.args)):
            return False
        different = [k for k, v in ours.kwargs.items() if str(v) != str(other.kwargs.get(k))]
        if different == ["training"]:
            with graph.inserting_before(ours):
                ours.update_kwarg("training", graph.create_node("get_attr", "training"))
        elif different:
            return False
    return True


def _steady(model: nn.Module, nodes: list[fx.Node]) -> set[fx.Node]:
    """Return the nodes that give the same for the same images, however far training has gone."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder":
            steady = True
        elif node.op == "get_attr":
            value = model
            for name in str(node.target).split("."):
                value = getattr(value, name)
            steady = isinstance(value, Tensor) and not value.requires_grad
        elif node.op == "call_module":
            steady = _stays(model.get_submodule(node.target))
        else:
            name = getattr(node.target, "__name__", str(node.target)).lower()
            steady = node.op != "output" and not any(word in name for word in RANDOM)
        if steady and all(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _stays(module: nn.Module) -> bool:
    """Say whether a module gives the same in every step: frozen as a whole, or without anything that could change."""
    if any(True for _ in module.parameters()):
        return not any(p.requires_grad for p in module.parameters())  # `train_mode` leaves it in evaluation mode
    return not any(True for _ in module.buffers()) and not any(_is_random(inner) for inner in module.modules())


def _is_random(module: nn.Module) -> bool:
    named = any(word in type(module).__name__.lower() for word in RANDOM)
    return named and getattr(module, "p", getattr(module, "drop_prob", 1.0)) not in (0, None)


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
    plan = getattr(model, "stage_plan", None) or outline(model)
    kept = {stage: [name for name in names if name in there] for stage, names in plan.items()}
    return {stage: names for stage, names in kept.items() if names}


def _kind(model: nn.Module) -> str:
    return type(model).__name__
