"""A model copied as a whole: class, weights, names, what is trainable and what is shared."""

import inspect
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from keras_norm._keras import (
    SafeModeScope,
    all_layers,
    become,
    config_is_a_guess,
    functional_like_constructor,
    parts,
)
from keras_norm.arguments import Tensor
from keras_norm.models.kinds import is_normalization

Twins = dict[int, Layer]
"""The copy of each layer, by the id of the original."""


def is_made_of_its_layers(layer: Layer) -> bool:
    """Whether the layer is a model whose class takes its layers, or its inputs and outputs, and nothing else."""
    if isinstance(layer, keras.Sequential):
        return type(layer).__init__ is keras.Sequential.__init__
    return isinstance(layer, keras.Function) and functional_like_constructor(type(layer))


def copy_model(model: keras.Model) -> tuple[keras.Model, Twins]:
    """A copy of `model`, and the copy of each of its layers.

    Graphs are copied layer by layer, and layers by their class and config, as in a file. Nothing is compiled.
    """
    copies: dict[int, tuple[Layer, Layer]] = {}
    twins: Twins = {}

    def copy(layer: Layer) -> Layer:
        if id(layer) not in copies:
            copies[id(layer)] = layer, _copy_graph(layer, copy) if is_made_of_its_layers(layer) else _recreate(layer)
        return copies[id(layer)][1]

    with SafeModeScope(safe_mode=False), keras.saving.custom_object_scope(_classes(model)):
        result = copy(model)
        with warnings.catch_warnings(action="ignore"):  # that Keras cannot build it as a whole: its layers are, below
            build_like(model, result, model)
        layers = [pair for pair in copies.values() if isinstance(pair[0], Layer)]  # operations have nothing to carry
        for original, twin in reversed(layers):  # models before their layers, for `trainable` reaches down
            is_graph = is_made_of_its_layers(original)
            for a, b in [(original, twin)] if is_graph else _pairs(original, twin):
                if twins.setdefault(id(a), b) is not b and (a.weights or is_normalization(a)):
                    raise ValueError(f"{a.name!r} is held by several layers, which would not share it in a copy")
                _carry(a, b)
            if not is_graph:
                for weight, copied in zip(original.weights, twin.weights, strict=True):
                    copied.trainable = weight.trainable
    return result, twins


def build_like(original: Layer, new: Layer, place: Layer) -> None:
    """Builds `new` for the inputs of `original`, with paths of its weights as those of `place`."""
    config = original.get_build_config() if original.built else None
    if config and not new.built:
        with ExitStack() as scopes:
            for name in (place.path or "").split("/")[:-1]:
                scopes.enter_context(keras.name_scope(name))
            new.build_from_config(config)
        new.built = True  # as Keras says where it loads a file


def own(value: Tensor) -> np.ndarray:
    """A copy of a value: JAX would share the buffer, and a training that gives it away would empty the original."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value)))


def _copy_graph(model: keras.Model, copy: Callable[[Layer], Layer]) -> keras.Model:
    """A model of the same class whose layers are copies."""
    is_sequential = isinstance(model, keras.Sequential)  # its `input` is what another model calls it with
    ends = (model.inputs, model.outputs) if is_sequential else (model.input, model.output)
    # The view is not compiled: `clone_model` would rebuild the optimizer and the loss from their configs.
    view = keras.Model(*ends, name=model.name)
    entries = [layer for layer in view.layers if isinstance(layer, keras.layers.InputLayer)]
    inputs = {id(entry.output): keras.layers.InputLayer.from_config(entry.get_config()) for entry in entries}
    if is_sequential:
        return type(model)([*inputs.values(), *map(copy, model.layers)], name=model.name)
    tensors = keras.tree.map_structure(lambda x: inputs[id(x)].output, view.input)
    twin = keras.models.clone_model(view, input_tensors=tensors, clone_function=copy)
    return type(model)(twin.input, twin.output, name=model.name)


def _recreate(layer: Layer) -> Layer:
    """A new layer of the same class and config."""
    config = layer.get_config()
    if isinstance(layer, keras.Model) and config_is_a_guess(layer):
        # Keras guesses the arguments of a model from the defaults of its constructor, not from what it was given.
        known = inspect.signature(type(layer)).parameters.keys()
        unknown = sorted(known - {"name", "trainable", "dtype"})
        if unknown:
            raise TypeError(f"{type(layer).__name__} has no get_config that gives {', '.join(unknown)}")
        return type(layer)(**{name: config[name] for name in known})
    return type(layer).from_config(config)


def _pairs(original: Layer, twin: Layer) -> Iterator[tuple[Layer, Layer]]:
    """Each layer inside `original` with its copy, outer before inner.

    A class that builds its layers knows nothing of those that were converted or changed since, nor of arguments that
    its config leaves out: these layers are made again.
    """
    if type(original) is not type(twin) or _arguments(original) != _arguments(twin):
        if not (is_normalization(original) or type(original).__module__.startswith("keras.")):
            raise ValueError(f"{original.name!r} ({type(original).__name__}) has another class or arguments in a copy")
        again = _recreate(original)
        build_like(original, again, twin)
        become(twin, again)
    build_like(original, twin, twin)
    yield original, twin
    inner, copied = parts(original), parts(twin)
    if len(inner) != len(copied):
        raise ValueError(f"{original.name!r} has {len(inner)} layers inside, and {len(copied)} in a copy")
    for a, b in zip(inner, copied, strict=True):
        yield from _pairs(a, b)


def _arguments(layer: Layer) -> Any:
    """The arguments of a layer, as far as it gives them; of one with layers inside, these are looked at instead."""
    if parts(layer) and not is_normalization(layer):
        return layer.dtype_policy.name
    try:
        return _without_names(keras.saving.serialize_keras_object(layer.get_config()))
    except NotImplementedError:
        return layer.dtype_policy.name


def _without_names(config: Any) -> Any:
    """A config without what may differ in a copy that is the same."""
    if isinstance(config, dict):
        return {k: _without_names(v) for k, v in config.items() if k not in ("name", "trainable", "build_config")}
    return [_without_names(part) for part in config] if isinstance(config, (list, tuple)) else config


def _carry(original: Layer, twin: Layer) -> None:
    """The name of a layer, whether it is trained, and all that Keras saves of it but for the layers inside."""
    twin.name = original.name
    twin.trainable = original.trainable
    if original.built:
        variables, copied = _own_variables(original), _own_variables(twin)
        if [tuple(value.shape) for value in variables.values()] != [tuple(value.shape) for value in copied.values()]:
            raise ValueError(f"{original.name!r} has weights of other shapes in a copy")
        twin.load_own_variables({name: own(value) for name, value in variables.items()})
    if hasattr(original, "save_assets"):  # Keras' own question: vocabularies are no variables
        with tempfile.TemporaryDirectory() as folder:
            original.save_assets(folder)
            twin.load_assets(folder)


def _own_variables(layer: Layer) -> dict[str, Tensor]:
    variables: dict[str, Tensor] = {}
    layer.save_own_variables(variables)
    return variables


def _classes(model: keras.Model) -> dict[str, type[Layer]]:
    """The class of each layer by its name in configs: Keras cannot find a class that is defined inside a function."""
    classes = {type(layer) for layer in all_layers(model)}
    names = Counter(map(keras.saving.get_registered_name, classes))
    named = {keras.saving.get_registered_name(cls): cls for cls in classes}
    return {name: cls for name, cls in named.items() if names[name] == 1}
