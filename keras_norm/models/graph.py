"""Finds the neighbors of layers by tracing a model with symbolic inputs."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
from keras.layers import Layer

from keras_norm._keras import Node, get_keras_mask, graph_restored_on_exit, node_of, set_keras_mask, sublayers
from keras_norm.models.predicates import is_frozen
from keras_norm.tensors import Tensor
from keras_norm.walk import all_layers


class Neighbors(NamedTuple):
    """A layer and its neighbors: layers that connect to nothing else and are called once wherever it is called."""

    layer: Layer
    before: Layer | None
    after: Layer | None


def find_neighbors(model: keras.Model, is_selected: Callable[[Layer], bool]) -> dict[int, Neighbors | str]:
    """Maps the id of each selected layer inside `model` to its neighbors, or to the reason why they are unknown.

    The model, and each layer that holds a selected one, is called in inference mode with symbolic inputs, as Keras
    calls the layers of a Functional model. The neighbors of layers inside a layer that cannot be traced are unknown.
    """
    with traced(model, is_selected) as trace:
        layers = filter(is_selected, all_layers(model, is_leaf=is_frozen))
        return {id(layer): trace.neighbors(layer) for layer in layers}


@contextmanager
def traced(model: keras.Model, is_selected: Callable[[Layer], bool]) -> Iterator["Trace"]:
    """Yields the trace of the model, which is gone when the block ends."""
    trace = Trace(model, is_selected)
    with graph_restored_on_exit(model):
        trace.call(model, *_symbolic_inputs(model))
        yield trace


class Trace:
    """All calls of operations in a symbolic call of a model."""

    def __init__(self, model: keras.Model, is_selected: Callable[[Layer], bool]) -> None:
        self.is_selected = is_selected
        layers = filter(is_leaf, all_layers(model, is_leaf=is_frozen))
        self.leaf_weights = [(layer, {id(weight) for weight in layer.weights}) for layer in layers]
        self.nodes: dict[int, Node] = {}
        self.callers: dict[int, tuple[int, int]] = {}
        """For each node, the id of the layer that called the operation, and the number of that layer's call."""
        self.uses: Counter[int] = Counter()
        """How often each tensor is consumed or returned, by id."""
        self.outputs: list[Any] = []
        """The outputs of each traced call. They keep the tensors alive, so that their ids stay unique."""
        self.unknown: dict[int, str] = {}
        """For each layer whose calls are not all traced, by id, the reason."""

    def call(self, layer: Layer, args: Any, kwargs: Any) -> None:
        """Calls a layer with symbolic tensors, and then the layers inside it."""
        try:
            outputs, variables = _call_symbolically(layer, args, kwargs)
            nodes = _nodes_up_to(outputs)
        except Exception as error:  # a custom layer may raise anything
            self._skip(layer, f"it is called by {layer.name}, which cannot be traced ({_first_line(error)})")
            return
        self.outputs.append(outputs)
        self.uses.update(map(id, outputs))
        for node in nodes:
            self.nodes[id(node)] = node
            self.callers[id(node)] = id(layer), len(self.outputs)
            self.uses.update(map(id, node.input_tensors))
            variables |= {id(value) for value in _flat_arguments(node) if isinstance(value, keras.Variable)}
        for leaf, weights in self.leaf_weights:
            if variables & weights:
                self.unknown[id(leaf)] = f"it is used by {layer.name} otherwise than by a call"
        for node in nodes:
            called = node.operation
            if isinstance(called, Layer) and not is_leaf(called):
                if any(map(self.is_selected, all_layers(called, is_leaf=is_frozen))):
                    self.call(called, node.arguments.args, node.arguments.kwargs)
                else:
                    self._skip(called, f"it is called by {called.name}, which is not traced")

    def _skip(self, layer: Layer, reason: str) -> None:
        for inner in all_layers(layer, is_leaf=is_frozen)[1:]:
            self.unknown.setdefault(id(inner), reason)

    def neighbors(self, layer: Layer) -> Neighbors | str:
        """The neighbors of a layer, or the reason why they are unknown."""
        if id(layer) in self.unknown:
            return self.unknown[id(layer)]
        calls = self.calls(layer)
        if not calls:
            return "no output depends on it"
        if not self._one_per_caller(calls, calls):
            return f"it is called {len(calls)} times"
        if any(node.arguments.kwargs.get("training") for node in calls):
            return "it is called with training=True"
        found = {self._neighbors_in_call(node, calls) for node in calls}
        return found.pop() if len(found) == 1 else "it is called in several ways"

    def _neighbors_in_call(self, node: Node, calls: list[Node]) -> Neighbors:
        def neighbor(other: Node | None) -> Layer | None:
            layer = other and other.operation
            known = isinstance(layer, Layer) and id(layer) not in self.unknown
            return layer if known and self._one_per_caller(self.calls(layer), calls) else None

        inputs, outputs = node.input_tensors[0], node.outputs[0]
        producer = node_of(inputs) if self.uses[id(inputs)] == 1 else None
        consumers = [other for other in self.nodes.values() if any(x is outputs for x in other.input_tensors)]
        consumer = consumers[0] if consumers and self.uses[id(outputs)] == 1 else None
        return Neighbors(node.operation, neighbor(producer), neighbor(consumer))

    def calls(self, layer: Layer) -> list[Node]:
        """The traced calls of a layer."""
        return [node for node in self.nodes.values() if node.operation is layer]

    def _one_per_caller(self, calls: list[Node], others: list[Node]) -> bool:
        """Whether one layer makes all calls, and makes one in each of its calls that has one of the others."""
        callers, other_callers = ([self.callers[id(node)] for node in nodes] for nodes in (calls, others))
        return sorted(callers) == sorted(set(other_callers)) and len({layer for layer, _ in callers}) == 1


def is_leaf(layer: Layer) -> bool:
    """Whether the tools treat the layer as a single one: it is frozen, or has no layers inside."""
    return is_frozen(layer) or not sublayers(layer)


def _symbolic_inputs(model: keras.Model) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Symbolic inputs of a model, as positional and keyword arguments of its call."""
    if isinstance(model, keras.Function):
        return (model.input,), {}
    if isinstance(model, keras.Sequential):
        return tuple(model.inputs), {}
    config = model.get_build_config() or {}

    def symbol(shape: Any) -> Tensor:
        return keras.KerasTensor(shape, model.compute_dtype)

    if "shapes_dict" in config:
        names = {name.removesuffix("_shape"): shape for name, shape in config["shapes_dict"].items()}
        return (), {name: keras.tree.map_shape_structure(symbol, shape) for name, shape in names.items()}
    return (keras.tree.map_shape_structure(symbol, config.get("input_shape", ())),), {}


def _call_symbolically(layer: Layer, args: Any, kwargs: Any) -> tuple[list[Tensor], set[int]]:
    """The outputs of a layer in inference mode, and the ids of the variables that its own `call` reads."""
    signature = inspect.signature(layer.call)
    args, kwargs = keras.tree.map_structure(_detached, (args, kwargs))
    accepted = {name: value for name, value in kwargs.items() if name in signature.parameters}
    bound = signature.bind(*args, **accepted)
    if "training" in signature.parameters and bound.arguments.get("training") is None:
        bound.arguments["training"] = False
    with _ReadRecorder() as reads:
        outputs = keras.tree.flatten(layer.call(*bound.args, **bound.kwargs))
    outputs = [output for output in outputs if output is not None]
    if not all(isinstance(output, keras.KerasTensor) for output in outputs):
        raise TypeError("it returns something other than tensors")
    return outputs, reads.variables


class _ReadRecorder(keras.StatelessScope):
    """Records the variables that a layer reads itself. Layers that it calls open other scopes."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: set[int] = set()

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.variables.add(id(variable))
        return super().get_current_value(variable)


def _detached(value: Any) -> Any:
    """A symbolic tensor of the same shape, dtype and mask, without the history of calls."""
    if not isinstance(value, keras.KerasTensor):
        return value
    symbol = keras.KerasTensor(value.shape, value.dtype, sparse=value.sparse)
    if get_keras_mask(value) is not None:
        set_keras_mask(symbol, _detached(get_keras_mask(value)))
    return symbol


def _nodes_up_to(outputs: Iterable[Tensor]) -> list[Node]:
    """All nodes that the outputs depend on."""
    found: dict[int, Node] = {}
    pending = [node for node in map(node_of, outputs) if node]
    while pending:
        node = pending.pop()
        if id(node) not in found:
            found[id(node)] = node
            pending += node.parent_nodes
            values = [*_flat_arguments(node), *vars(node.operation).values()]
            if not isinstance(node.operation, Layer) and any(map(callable, values)):
                raise TypeError(f"{node.operation.name} is given a function, which is not traced")
    return list(found.values())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _flat_arguments(node: Node) -> list[Any]:
    return keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
