"""The private names of Keras that this package uses, with the reason for each. Checked on Keras 3.13 and 3.15."""

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.layers import Layer
from keras.src.backend.common import global_state

# Keras attaches a mask to its tensor; there is no public getter or setter.
from keras.src.backend.common.masking import get_keras_mask as get_keras_mask
from keras.src.backend.common.masking import set_keras_mask as set_keras_mask

# While Keras infers shapes, unknown sizes have placeholder values and no other replica runs, so nothing may be summed
# over replicas. `keras.SymbolicScope` is public, but there is no public way to ask whether one is open.
from keras.src.backend.common.symbolic_scope import in_symbolic_scope as in_symbolic_scope

# Whether the constructor of a class takes inputs and outputs, like that of `keras.Model`.
from keras.src.models.functional import functional_like_constructor as functional_like_constructor

# A symbolic call of an operation, as Functional models record it.
from keras.src.ops.node import Node as Node

# Allows Lambda layers in a copy: a model in memory is trusted. The public switch affects the whole process.
from keras.src.saving.serialization_lib import SafeModeScope as SafeModeScope


def sublayers(layer: Layer) -> list[Layer]:
    """The direct sublayers of a layer. Only models have the public attribute `layers`."""
    return layer._flatten_layers(include_self=False, recursive=False)


def layers_in_file_order(layer: Layer) -> list[Layer]:
    """The layer and all layers inside it, in Keras' order, which reverses the levels below the first.

    Saved wrappers list the vectors of their kernels in this order.
    """
    return layer._flatten_layers()


def takes_training(layer: Layer) -> bool:
    """Whether `call` has an argument `training`. Keras also looks through decorators."""
    return bool(layer._call_has_training_arg)


def in_export() -> bool:
    """Whether we are tracing for export. There is no public flag, so we inspect the call stack."""
    callers = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_stack(None))
    return any(name.startswith(("keras.src.export", "tensorflow.python.saved_model")) for name in callers)


def has_default_config(model: keras.Model) -> bool:
    """Whether the class does not define `get_config`. The default one cannot know the constructor's arguments."""
    return bool(type(model).get_config.__module__.startswith("keras.src."))


def replace_in_place(old: Layer, new: Layer) -> None:
    """Turns `old` into `new` for everything that refers to `old`: attributes, lists, trackers, closures, graphs.

    Afterwards both objects are the same layer. They share the state of `new`, whose methods are bound to that state.
    `old` keeps its calls in graphs (`_inbound_nodes`, `_outbound_nodes`), without the arguments that `new` does not
    take, such as a mask.
    """
    parameters = inspect.signature(new.call).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for node in old._inbound_nodes:
            arguments = node.arguments
            kwargs = {name: value for name, value in arguments.kwargs.items() if name in parameters}
            if len(kwargs) < len(arguments.kwargs):
                node.arguments = type(arguments)(*arguments.args, **kwargs)
    nodes = {name: vars(old)[name] for name in ("_inbound_nodes", "_outbound_nodes")}
    # Bypasses the attribute tracking of Keras and torch, which would register the value as a sublayer.
    object.__setattr__(old, "__dict__", vars(new))
    object.__setattr__(old, "__class__", type(new))
    vars(old).update(nodes)


def node_of(tensor: keras.KerasTensor) -> Node | None:
    """The call that returned a symbolic tensor, or None for an input."""
    history = getattr(tensor, "_keras_history", None)
    return history.operation._inbound_nodes[history.node_index] if history and history.operation else None


@contextmanager
def graph_restored_on_exit(model: Layer) -> Iterator[None]:
    """Restores the layers of a model and the operations of its graphs when the block ends.

    A symbolic call adds nodes to them and may set attributes.
    """
    operations = {id(layer): layer for layer in model._flatten_layers()}
    for layer in list(operations.values()):
        if isinstance(layer, keras.Function):
            operations |= {id(operation): operation for operation in layer.operations}
    attributes = [(vars(operation), dict(vars(operation))) for operation in operations.values()]
    node_counts = [
        (nodes, len(nodes))
        for operation in operations.values()
        for nodes in (operation._inbound_nodes, operation._outbound_nodes)
    ]
    try:
        yield
    finally:
        for nodes, count in node_counts:
            del nodes[count:]
        for current, before in attributes:
            current.update(before)
            for name in current.keys() - before.keys():
                del current[name]


def uncompile(model: keras.Model) -> None:
    """Removes the optimizer, compiled functions and torch's parameters, which refer to the old weights."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model):
            layer.compiled = False
            layer.train_function = layer.test_function = layer.predict_function = None
            if hasattr(layer, "optimizer"):
                del layer.optimizer
        if hasattr(layer, "_torch_params"):  # a torch.nn.Module registers its parameters when it is built
            layer._track_variables()


def in_legacy_h5_file() -> bool:
    """Whether Keras is reading or writing the config of a model in a `.h5` file. There is no public flag."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))


def uses_weight_decay(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether the optimizer decays a variable. Only `exclude_from_weight_decay` is public."""
    return bool(optimizer.weight_decay) and bool(optimizer._use_weight_decay(variable))


def loss_weights_of(model: keras.Model) -> Any:
    """The `loss_weights` that a model was compiled with. Its public config serializes the losses too."""
    return model._compile_loss._user_loss_weights
