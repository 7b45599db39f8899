"""A model copied layer by layer, with other layers in place of some: what every conversion is made of."""

import inspect
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from keras_norm.arguments import Tensor
from keras_norm.models.kinds import layers_inside

Change = Callable[[Layer], Layer | None]
"""What stands for a layer in the copy: another layer, the layer itself for a copy of it, or None for its inputs."""


def is_container(layer: Layer) -> bool:
    """Whether the layer is a model whose layers and their connections Keras knows."""
    return isinstance(layer, (keras.Sequential, keras.Function))


def copy_model(owner: str, model: keras.Model, chosen: Callable[[Layer], bool], change: Change) -> keras.Model:
    """A copy of `model` with `change(layer)` in place of each chosen layer, nested models included.

    Names, weights and `trainable` are carried over: all weights of a copied layer, and those of equal name and shape
    of a changed one. The copy is not compiled. A class of model with a constructor of its own becomes `keras.Model`.
    """
    check(owner, model, chosen)
    copies: dict[int, tuple[Layer, Layer | None]] = {}  # by the id of the original
    changed: set[int] = set()

    def copy(layer: Layer) -> Layer | None:
        if id(layer) not in copies:
            copies[id(layer)] = layer, _copy_container(layer, copy, call) if is_container(layer) else new(layer)
        return copies[id(layer)][1]

    def new(layer: Layer) -> Layer | None:
        replacement: Any = change(layer) if chosen(layer) else layer
        if replacement is layer:
            return type(layer).from_config(layer.get_config())
        changed.add(id(replacement))
        return replacement

    def call(layer: Layer | None, *args: Any, **kwargs: Any) -> Tensor:
        if layer is None:
            return args[0]
        if id(layer) in changed:  # Keras recorded what the call of the original takes.
            known = inspect.signature(layer.call).parameters
            kwargs = {name: value for name, value in kwargs.items() if name in known}
        return layer(*args, **kwargs)

    result = copy(model)
    for original, twin in reversed(copies.values()):  # models before their layers, for `trainable` reaches down
        if isinstance(twin, Layer):
            twin.trainable = original.trainable
            if id(twin) in changed:
                _carry_equal_weights(original, twin)
            elif not is_container(twin):
                _carry_state(original, twin)
    return result


def _copy_container(model: keras.Model, copy: Change, call: Callable[..., Tensor]) -> keras.Model:
    """A model of the same class, if that can be, whose layers are copies."""
    is_sequential = isinstance(model, keras.Sequential)  # its `input` is what another model calls it with
    ends = (model.inputs, model.outputs) if is_sequential else (model.input, model.output)
    # The view is not compiled: `clone_model` would rebuild the optimizer and the loss from their configs.
    view = keras.Model(*ends, name=model.name)
    entries = [layer for layer in view.layers if isinstance(layer, keras.layers.InputLayer)]
    inputs = {id(entry.output): keras.layers.InputLayer.from_config(entry.get_config()) for entry in entries}
    if is_sequential:
        layers = [twin for twin in map(copy, model.layers) if twin is not None]
        return keras.Sequential([*inputs.values(), *layers], name=model.name)
    tensors = keras.tree.map_structure(lambda x: inputs[id(x)].output, view.input)
    twin = keras.models.clone_model(view, input_tensors=tensors, clone_function=copy, call_function=call)
    if type(model).__init__ is not type(view).__init__:
        return twin
    return type(model)(twin.input, twin.output, name=model.name)


def _carry_state(original: Layer, twin: Layer) -> None:
    """All that Keras saves of a layer, and which of its parts are trainable."""
    for a, b in zip(original._flatten_layers(), twin._flatten_layers(), strict=True):
        b.trainable = a.trainable
        variables: dict[str, Tensor] = {}
        a.save_own_variables(variables)
        b.load_own_variables({name: _own(value) for name, value in variables.items()})
        if hasattr(a, "save_assets"):  # Keras' own question: vocabularies are no variables
            with tempfile.TemporaryDirectory() as folder:
                a.save_assets(folder)
                b.load_assets(folder)
    for a, b in zip(original.weights, twin.weights, strict=True):
        b.trainable = a.trainable


def _carry_equal_weights(original: Layer, twin: Layer) -> None:
    """The weights of equal name and shape."""
    values = {weight.name: weight for weight in original.weights}
    for weight in twin.weights:
        if weight.name in values and tuple(weight.shape) == tuple(values[weight.name].shape):
            weight.assign(_own(values[weight.name]))


def _own(value: Tensor) -> np.ndarray:
    """A copy of a value: JAX would share the buffer, and a training that gives it away would empty the original."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value)))


def check(owner: str, model: keras.Model, chosen: Callable[[Layer], bool]) -> None:
    """Refuses what cannot be taken apart."""
    if not is_container(model):
        raise TypeError(
            f"{owner}: model must be Functional or Sequential, whose layers Keras can tell apart. "
            f"Received: model of {type(model).__name__} (change the layers where the class makes them)."
        )
    if not model.built:
        raise ValueError(
            f"{owner}: model must be built. "
            f"Received: model={model.name!r}, which is not (give it a keras.Input, or call it once)."
        )
    for layer in model.layers:
        if is_container(layer):
            check(owner, layer, chosen)
        elif not chosen(layer):
            inner = [part.name for part in layers_inside(layer)[1:] if chosen(part)]
            if inner:
                raise ValueError(
                    f"{owner}: a layer must not hold normalizations inside itself. Received: {layer.name!r} "
                    f"({type(layer).__name__}) with {', '.join(map(repr, inner))} "
                    "(make it of layers that the model itself calls, or change them where its class makes them)."
                )
