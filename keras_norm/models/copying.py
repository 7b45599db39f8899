"""Copies a model: class, weights, names, `trainable` and shared layers."""

import inspect
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from keras_norm._keras import (
    SafeModeScope,
    functional_like_constructor,
    has_default_config,
    replace_in_place,
    sublayers,
)
from keras_norm.models.predicates import is_normalization
from keras_norm.tensors import Tensor
from keras_norm.walk import all_layers

Copies = dict[int, Layer]
"""The copy of each layer, by the id of the original."""


def copy_model(model: keras.Model) -> tuple[keras.Model, Copies]:
    """Returns a copy of `model`, and the copy of each of its layers.

    Graphs are copied layer by layer. Layers are made again from class and config, as when Keras loads a file. The copy
    is not compiled.
    """
    memo: dict[int, tuple[Layer, Layer]] = {}
    copies: Copies = {}

    def copy_layer(layer: Layer) -> Layer:
        if id(layer) not in memo:
            memo[id(layer)] = layer, _copy_graph(layer, copy_layer) if _is_graph(layer) else _recreate(layer)
        return memo[id(layer)][1]

    with SafeModeScope(safe_mode=False), keras.saving.custom_object_scope(_classes(model)):
        result = copy_layer(model)
        with warnings.catch_warnings(action="ignore"):  # Keras may fail to build the model; its layers are built below
            build_like(model, result, model.path)
        layers = [pair for pair in memo.values() if isinstance(pair[0], Layer)]  # operations have no state
        for original, copy in reversed(layers):  # models before their layers, because `trainable` propagates
            is_graph = _is_graph(original)
            for a, b in [(original, copy)] if is_graph else _paired_layers(original, copy):
                if copies.setdefault(id(a), b) is not b and (a.weights or is_normalization(a)):
                    raise ValueError(f"{a.name!r} is held by several layers, which would not share it in a copy")
                _copy_state(a, b)
            if not is_graph:
                for weight, copied in zip(original.weights, copy.weights, strict=True):
                    copied.trainable = weight.trainable
    return result, copies


def build_like(original: Layer, new: Layer, path: str | None) -> None:
    """Builds `new` for the inputs of `original`, as the layer at `path` in a model."""
    config = original.get_build_config() if original.built else None
    if config and not new.built:
        with ExitStack() as scopes:
            for name in (path or "").split("/")[:-1]:
                scopes.enter_context(keras.name_scope(name))
            new.build_from_config(config)
        new.built = True  # as Keras does when it loads a file


def numpy_copy(value: Tensor) -> np.ndarray:
    """A copy of a value. JAX would share the buffer, and training deletes the buffers that it donates."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value)))


def _is_graph(layer: Layer) -> bool:
    """Whether the layer is a model whose constructor takes only its layers, or only inputs and outputs."""
    if isinstance(layer, keras.Sequential):
        return type(layer).__init__ is keras.Sequential.__init__
    return isinstance(layer, keras.Function) and functional_like_constructor(type(layer))


def _copy_graph(model: keras.Model, copy_layer: Callable[[Layer], Layer]) -> keras.Model:
    """A model of the same class with copies of the layers."""
    is_sequential = isinstance(model, keras.Sequential)  # its `input` is what another model calls it with
    ends = (model.inputs, model.outputs) if is_sequential else (model.input, model.output)
    # The view is not compiled: `clone_model` would rebuild the optimizer and the loss from their configs.
    view = keras.Model(*ends, name=model.name)
    entries = [layer for layer in view.layers if isinstance(layer, keras.layers.InputLayer)]
    inputs = {id(entry.output): keras.layers.InputLayer.from_config(entry.get_config()) for entry in entries}
    if is_sequential:
        return type(model)([*inputs.values(), *map(copy_layer, model.layers)], name=model.name)
    tensors = keras.tree.map_structure(lambda x: inputs[id(x)].output, view.input)
    clone = keras.models.clone_model(view, input_tensors=tensors, clone_function=copy_layer)
    return type(model)(clone.input, clone.output, name=model.name)


def _recreate(layer: Layer) -> Layer:
    """A new layer of the same class and config."""
    config = layer.get_config()
    if isinstance(layer, keras.Model) and has_default_config(layer):
        # Keras fills this config with the defaults of the constructor, not with the arguments that it was given.
        parameters = inspect.signature(type(layer)).parameters.keys()
        unknown = sorted(parameters - {"name", "trainable", "dtype"})
        if unknown:
            raise TypeError(f"{type(layer).__name__} has no get_config that gives {', '.join(unknown)}")
        return type(layer)(**{name: config[name] for name in parameters})
    return type(layer).from_config(config)


def _paired_layers(original: Layer, copy: Layer) -> Iterator[tuple[Layer, Layer]]:
    """Yields each layer inside `original` with its copy, outer before inner.

    A class that creates its own layers does not know that they were converted or changed, nor the arguments that its
    config lacks. Such layers are made again.
    """
    if type(original) is not type(copy) or _comparable_config(original) != _comparable_config(copy):
        if not (is_normalization(original) or type(original).__module__.startswith("keras.")):
            raise ValueError(f"{original.name!r} ({type(original).__name__}) has another class or arguments in a copy")
        recreated = _recreate(original)
        build_like(original, recreated, copy.path)
        replace_in_place(copy, recreated)
    build_like(original, copy, copy.path)
    yield original, copy
    inner, copied = sublayers(original), sublayers(copy)
    if len(inner) != len(copied):
        raise ValueError(f"{original.name!r} has {len(inner)} layers inside, and {len(copied)} in a copy")
    for a, b in zip(inner, copied, strict=True):
        yield from _paired_layers(a, b)


def _comparable_config(layer: Layer) -> Any:
    """The config without names, or only the dtype policy of a layer with sublayers, which are compared themselves."""
    if not sublayers(layer) or is_normalization(layer):
        with suppress(NotImplementedError):
            return _without_names(keras.saving.serialize_keras_object(layer.get_config()))
    return layer.dtype_policy.name


def _without_names(config: Any) -> Any:
    """A config without the entries that may differ between a layer and its copy."""
    if isinstance(config, dict):
        return {k: _without_names(v) for k, v in config.items() if k not in ("name", "trainable", "build_config")}
    return [_without_names(item) for item in config] if isinstance(config, (list, tuple)) else config


def _copy_state(original: Layer, copy: Layer) -> None:
    """Copies the name, `trainable`, and the variables and assets that Keras saves, without those of sublayers."""
    copy.name = original.name
    copy.trainable = original.trainable
    if original.built:
        variables, copied = _own_variables(original), _own_variables(copy)
        if [tuple(value.shape) for value in variables.values()] != [tuple(value.shape) for value in copied.values()]:
            raise ValueError(f"{original.name!r} has weights of other shapes in a copy")
        copy.load_own_variables({name: numpy_copy(value) for name, value in variables.items()})
    if hasattr(original, "save_assets"):  # Keras asks the same way; vocabularies are not variables
        with tempfile.TemporaryDirectory() as folder:
            original.save_assets(folder)
            copy.load_assets(folder)


def _own_variables(layer: Layer) -> dict[str, Tensor]:
    variables: dict[str, Tensor] = {}
    layer.save_own_variables(variables)
    return variables


def _classes(model: keras.Model) -> dict[str, type[Layer]]:
    """The class of each layer by its name in configs. Keras cannot find a class that is defined inside a function."""
    classes = {type(layer) for layer in all_layers(model)}
    names = Counter(map(keras.saving.get_registered_name, classes))
    named = {keras.saving.get_registered_name(cls): cls for cls in classes}
    return {name: cls for name, cls in named.items() if names[name] == 1}
