"""How the layers of a model are connected, seen in a symbolic call of everything that calls them."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
from keras.layers import Layer

from keras_norm._keras import Node, all_layers, get_keras_mask, node_of, nodes_put_back, set_keras_mask
from keras_norm.arguments import Tensor
from keras_norm.models.kinds import layers_inside, parts_of


class Place(NamedTuple):
    """A layer, and those beside it that nothing else connects to, each called once by what calls them."""

    layer: Layer
    before: Layer | None
    after: Layer | None


def places(model: keras.Model, chosen: Callable[[Layer], bool]) -> dict[int, Place | str]:
    """The place of each chosen layer inside `model`, by its id, or why it has none.

    A model, and each layer that holds a chosen one, is called in inference with symbols for the inputs that it has
    where it stands, so that all that it does with them is seen, as it is in the graph of a Functional model. What
    cannot be called like this is not guessed at: the layers inside it have no place.
    """
    trace = _Trace(model, chosen)
    with nodes_put_back(model):
        trace.enter(model, *_inputs(model))
        return {id(layer): trace.place(layer) for layer in layers_inside(model) if chosen(layer)}


class _Trace:
    """All calls of operations in one symbolic call of a model."""

    def __init__(self, model: keras.Model, chosen: Callable[[Layer], bool]) -> None:
        self.chosen = chosen
        self.leaves = [(part, {id(w) for w in part.weights}) for part in all_layers(model) if not parts_of(part)]
        """The layers without layers inside, each with the ids of its weights."""
        self.nodes: dict[int, Node] = {}
        self.within: dict[int, tuple[int, int]] = {}
        """For each call the id of the layer that made it, and the number of that layer's trace."""
        self.uses: Counter[int] = Counter()
        """How often each tensor is taken or given back, by its id; `kept` keeps the ids from being used again."""
        self.kept: list[Any] = []
        self.hidden: dict[int, str] = {}
        """The layers whose calls are not all seen, by id, and why."""

    def enter(self, layer: Layer, args: Any, kwargs: Any) -> None:
        """Calls what the layer calls, with symbols for the tensors among its arguments."""
        try:
            outputs, read = _called(layer, args, kwargs)
            nodes = _reached(outputs)
        except Exception as error:  # whatever the class of somebody else raises at a symbol
            self._hide(layer, f"it is called by {layer.name}, which cannot be traced ({_first_line(error)})")
            return
        self.kept.append(outputs)
        self.uses.update(map(id, outputs))
        for node in nodes:
            self.nodes[id(node)] = node
            self.within[id(node)] = id(layer), len(self.kept)
            self.uses.update(map(id, node.input_tensors))
            read |= {id(value) for value in _arguments(node) if isinstance(value, keras.Variable)}
        for part, weights in self.leaves:
            if read & weights:
                self.hidden[id(part)] = f"it is used by {layer.name} otherwise than by a call"
        for node in nodes:
            called = node.operation
            if isinstance(called, Layer) and parts_of(called):
                if any(map(self.chosen, layers_inside(called))):
                    self.enter(called, node.arguments.args, node.arguments.kwargs)
                else:
                    self._hide(called, f"it is called by {called.name}, which is not traced")

    def _hide(self, layer: Layer, reason: str) -> None:
        for part in layers_inside(layer)[1:]:
            self.hidden.setdefault(id(part), reason)

    def place(self, layer: Layer) -> Place | str:
        if id(layer) in self.hidden:
            return self.hidden[id(layer)]
        calls = self._calls(layer)
        if not calls:
            return "no output comes from it"
        if not self._once_in_each(calls, calls):
            return f"it is called {len(calls)} times"
        if any(node.arguments.kwargs.get("training") for node in calls):
            return "it is called with training=True"
        found = {self._beside(node, calls) for node in calls}
        return found.pop() if len(found) == 1 else "it is called in several ways"

    def _beside(self, node: Node, calls: list[Node]) -> Place:
        def once(operation: Any) -> Layer | None:
            known = isinstance(operation, Layer) and id(operation) not in self.hidden
            return operation if known and self._once_in_each(self._calls(operation), calls) else None

        taken, given = node.input_tensors[0], node.outputs[0]
        before = node_of(taken) if self.uses[id(taken)] == 1 else None
        takers = [other for other in self.nodes.values() if any(x is given for x in other.input_tensors)]
        after = takers[0] if takers and self.uses[id(given)] == 1 else None
        return Place(node.operation, once(before and before.operation), once(after and after.operation))

    def _calls(self, layer: Layer) -> list[Node]:
        return [node for node in self.nodes.values() if node.operation is layer]

    def _once_in_each(self, calls: list[Node], others: list[Node]) -> bool:
        """Whether there is one call wherever there is one of the others: in each call of one and the same layer."""
        where, elsewhere = ([self.within[id(node)] for node in nodes] for nodes in (calls, others))
        return sorted(where) == sorted(set(elsewhere)) and len({caller for caller, _ in where}) == 1


def _inputs(model: keras.Model) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Symbols for the inputs of a model, as arguments of its call."""
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


def _called(layer: Layer, args: Any, kwargs: Any) -> tuple[list[Tensor], set[int]]:
    """What the layer gives for such arguments in inference, and the ids of the variables that it reads itself."""
    known = inspect.signature(layer.call)
    args, kwargs = keras.tree.map_structure(_fresh, (args, kwargs))
    bound = known.bind(*args, **{name: value for name, value in kwargs.items() if name in known.parameters})
    if "training" in known.parameters and bound.arguments.get("training") is None:
        bound.arguments["training"] = False
    with _Reads() as reads:
        outputs = keras.tree.flatten(layer.call(*bound.args, **bound.kwargs))
    outputs = [output for output in outputs if output is not None]
    if not all(isinstance(output, keras.KerasTensor) for output in outputs):
        raise TypeError("it gives something else than tensors")
    return outputs, reads.seen


class _Reads(keras.StatelessScope):
    """A scope that knows which variables were read in it; what a layer reads in its own call is not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.seen.add(id(variable))
        return super().get_current_value(variable)


def _fresh(value: Any) -> Any:
    """A symbol that nothing is known of but its shape, dtype and mask."""
    if not isinstance(value, keras.KerasTensor):
        return value
    symbol = keras.KerasTensor(value.shape, value.dtype, sparse=value.sparse)
    if get_keras_mask(value) is not None:
        set_keras_mask(symbol, _fresh(get_keras_mask(value)))
    return symbol


def _reached(outputs: Iterable[Tensor]) -> list[Node]:
    """The calls that the outputs come from."""
    found: dict[int, Node] = {}
    ends = [node for node in map(node_of, outputs) if node]
    while ends:
        node = ends.pop()
        if id(node) not in found:
            found[id(node)] = node
            ends += node.parent_nodes
            known = [*_arguments(node), *vars(node.operation).values()]
            if not isinstance(node.operation, Layer) and any(map(callable, known)):
                raise TypeError(f"{node.operation.name} is given a function, whose calls are not seen")
    return list(found.values())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _arguments(node: Node) -> list[Any]:
    return keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
