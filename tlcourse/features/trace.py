"""The forward pass as a graph, and which of its nodes give the same values in every step of training."""

from inspect import Parameter, signature

from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn

from tlcourse.models import head_names, train_mode

# The names of layers and functions that draw random numbers contain one of these: Dropout2d, DropPath, rand_like, ...
RANDOM = ("drop", "stochastic", "rand", "bernoulli", "multinomial", "rrelu", "fractional")


class _Tracer(fx.Tracer):
    """Traces into modules that are trained in part, and those around the head, which may pool first."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: set[str], heads: list[str]):
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.leaves, self.heads, self.failed = leaves, heads, ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        trains = [p.requires_grad for p in m.parameters()]
        whole = all(trains) and not any(name.startswith(f"{module_qualified_name}.") for name in self.heads)
        known = isinstance(m, tuple(get_notrace_modules())) or module_qualified_name in self.leaves
        return known or whole or not any(trains) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)  # the innermost one
            raise


def trace(model: nn.Module, problems: list[str]) -> fx.Graph | None:
    """Trace a model in both modes; None, and a problem, where that fails. What cannot be traced inside is a leaf."""
    given = {n: p.default for n, p in signature(model.forward).parameters.items() if p.default is not Parameter.empty}
    leaves: set[str] = set()
    while True:
        tracer = _Tracer(leaves, head_names(model))
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
        problems.append("its forward pass takes other ways in training than in evaluation")
        return None
    return graph


def _follow_the_mode(graph: fx.Graph, evaluation: fx.Graph) -> bool:
    """Replace modes that tracing made constants by `self.training`; say whether the graphs differ in nothing else."""
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


def steady_nodes(model: nn.Module, nodes: list[fx.Node]) -> set[fx.Node]:
    """Return the nodes whose values for the same images never change while the model is trained."""
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
            steady = _is_steady(model.get_submodule(node.target))
        else:
            name = getattr(node.target, "__name__", str(node.target)).lower()
            steady = node.op != "output" and not any(word in name for word in RANDOM)
        if steady and all(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _is_steady(module: nn.Module) -> bool:
    """Say whether a module gives the same in every step: frozen as a whole, or without parameters and buffers."""
    if any(True for _ in module.parameters()):
        return not any(p.requires_grad for p in module.parameters())  # `train_mode` leaves it in evaluation mode
    return not any(True for _ in module.buffers()) and not any(_is_random(inner) for inner in module.modules())


def _is_random(module: nn.Module) -> bool:
    named = any(word in type(module).__name__.lower() for word in RANDOM)
    return named and getattr(module, "p", getattr(module, "drop_prob", 1.0)) not in (0, None)
