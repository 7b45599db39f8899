"""The private names of Keras that this package needs, each with its reason. Checked on Keras 3.13 and 3.15."""

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras.layers import Layer
from keras.src.backend.common import global_state

# The mask that Keras passes on with a tensor: layers take it from there.
from keras.src.backend.common.masking import get_keras_mask as get_keras_mask
from keras.src.backend.common.masking import set_keras_mask as set_keras_mask

# While Keras infers shapes, made-up sizes stand for unknown ones and no other replica takes part: nothing may be summed
# over replicas. `keras.SymbolicScope` is public, but not the question whether it is open.
from keras.src.backend.common.symbolic_scope import in_symbolic_scope as in_symbolic_scope

# Whether a class is called with inputs and outputs, as `keras.Model` is: nothing public tells.
from keras.src.models.functional import functional_like_constructor as functional_like_constructor

# A call of an operation with symbols, as Functional models record it.
from keras.src.ops.node import Node as Node

# A model in memory is trusted: its Lambda layers may be copied. The public switch is for the whole process.
from keras.src.saving.serialization_lib import SafeModeScope as SafeModeScope


def parts(layer: Layer) -> list[Layer]:
    """The layers that a layer holds directly. `_flatten_layers`, because `layers` is there in models only."""
    return layer._flatten_layers(include_self=False, recursive=False)


def all_layers(layer: Layer) -> list[Layer]:
    """The layer and all layers inside it."""
    return layer._flatten_layers()


def takes_training(layer: Layer) -> bool:
    """Whether `call` has an argument `training`. `_call_has_training_arg`: Keras looks behind decorators, too."""
    return bool(layer._call_has_training_arg)


def in_export() -> bool:
    """Whether a graph is traced to leave this process. Neither Keras nor TensorFlow tells a layer, but they call it."""
    callers = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_stack(None))
    return any(name.startswith(("keras.src.export", "tensorflow.python.saved_model")) for name in callers)


def config_is_a_guess(model: keras.Model) -> bool:
    """Whether the class leaves its config to Keras, which does not know the arguments of a model's class."""
    return bool(type(model).get_config.__module__.startswith("keras.src."))


def become(old: Layer, new: Layer) -> None:
    """Makes `old` the layer that `new` is, wherever it is held: attributes, lists, trackers, closures, graphs.

    Both are the same layer afterwards: `new` keeps its state, in which its own `build` is bound, and `old` shares it.
    The calls of `old` in graphs are kept (`_inbound_nodes`, `_outbound_nodes`), but for arguments, such as a mask,
    that `new` does not take.
    """
    known = inspect.signature(new.call).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for node in old._inbound_nodes:
            given = node.arguments
            kwargs = {name: value for name, value in given.kwargs.items() if name in known}
            if len(kwargs) < len(given.kwargs):
                node.arguments = type(given)(*given.args, **kwargs)
    calls = {name: vars(old)[name] for name in ("_inbound_nodes", "_outbound_nodes")}
    # Past the bookkeeping of Keras and of torch, which take a new value for a part.
    object.__setattr__(old, "__dict__", vars(new))
    object.__setattr__(old, "__class__", type(new))
    vars(old).update(calls)


def node_of(tensor: keras.KerasTensor) -> Node | None:
    """The call that gave a symbol, or None for an input."""
    history = getattr(tensor, "_keras_history", None)
    return history.operation._inbound_nodes[history.node_index] if history and history.operation else None


@contextmanager
def nodes_put_back(model: Layer) -> Iterator[None]:
    """Restores the layers of a model, and the operations of its graphs, when the block ends.

    A symbolic call adds nodes to them, and may set attributes.
    """
    operations = {id(layer): layer for layer in all_layers(model)}
    for layer in list(operations.values()):
        if isinstance(layer, keras.Function):
            operations |= {id(operation): operation for operation in layer.operations}
    before = [(vars(operation), dict(vars(operation))) for operation in operations.values()]
    calls = [
        (nodes, len(nodes))
        for operation in operations.values()
        for nodes in (operation._inbound_nodes, operation._outbound_nodes)
    ]
    try:
        yield
    finally:
        for nodes, count in calls:
            del nodes[count:]
        for now, then in before:
            now.update(then)
            for name in now.keys() - then.keys():
                del now[name]


def forget_compilation(model: keras.Model) -> None:
    """Drops what a model keeps of its former weights: the optimizer, compiled functions, torch's parameters."""
    for part in all_layers(model):
        if isinstance(part, keras.Model):
            part.compiled = False
            part.train_function = part.test_function = part.predict_function = None
            if hasattr(part, "optimizer"):
                del part.optimizer
        if hasattr(part, "_torch_params"):  # the parameters that a torch.nn.Module lists are found when it is built
            part._track_variables()


def in_legacy_h5_file() -> bool:
    """Whether the config of a model is written to a `.h5` file, or read from one: no public name tells a layer."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))
