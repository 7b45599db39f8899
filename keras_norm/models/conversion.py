"""Layers exchanged where they are, in a copy of a model or in the model itself: what every conversion is made of."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras.layers import Layer

from keras_norm import arguments
from keras_norm._keras import all_layers, become, forget_compilation
from keras_norm.models.copying import Twins, build_like, copy_model, own
from keras_norm.models.kinds import layers_inside

Change = Callable[[Layer], Layer]
"""What replaces a layer: another layer, or the layer itself where it is kept."""


def convert(
    owner: str, model: keras.Model, chosen: Callable[[Layer], bool], change: Change, in_place: bool = False
) -> keras.Model:
    """A copy of `model`, or the model, with `change(layer)` in place of each chosen layer, wherever that is held.

    The weights of equal name and shape are carried over, and `trainable`. The result is not compiled.
    """
    check(owner, model)
    arguments.boolean(owner, "in_place", in_place)
    with _strategy(model):
        result, twins = (model, _itself(model)) if in_place else _copy(owner, model)
        changes = [(twins[id(old)], old, change(old)) for old in layers_inside(model) if chosen(old)]
        changes = [(place, old, new) for place, old, new in changes if new is not old]
        _check_changes(owner, changes)
        for place, old, new in changes:
            build_like(old, new, place)
            new.trainable = old.trainable
            _carry_equal_weights(old, new)
    for place, _, new in changes:
        become(place, new)
    forget_compilation(result)
    _warn_of_files(owner, result, [new for _, _, new in changes])
    return result


def check(owner: str, model: keras.Model) -> None:
    """Refuses what no tool for models takes."""
    if not isinstance(model, keras.Model):
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        hint = " (a model of tf_keras, which is Keras 2: build it anew with keras and carry the weights over)"
        raise TypeError(
            f"{owner}: model must be a Keras model. Received: model={model!r} of {name}"
            f"{hint if name.startswith('tf_keras.') else ''}."
        )
    if not model.built:
        raise ValueError(
            f"{owner}: model must be built. "
            f"Received: model={model.name!r}, which is not (give it a keras.Input, or call it once)."
        )


def _check_changes(owner: str, changes: list[tuple[Layer, Layer, Layer]]) -> None:
    seen: dict[int, str] = {}
    for _, old, new in changes:
        if any(part is old for part in all_layers(new)):
            raise ValueError(
                f"{owner}: a new layer must not hold the old one. Received: {new.name!r} with {old.name!r} inside "
                "(give it a copy, by from_config)."
            )
        if id(new) in seen:
            raise ValueError(
                f"{owner}: each layer must get a new one of its own. Received: {new.name!r} for {seen[id(new)]!r} and "
                f"for {old.name!r}."
            )
        seen[id(new)] = old.name


def _copy(owner: str, model: keras.Model) -> tuple[keras.Model, Twins]:
    """`copy_model`, which says what cannot be copied and what then helps."""
    try:
        return copy_model(model)
    except Exception as error:
        raise ValueError(
            f"{owner}: model must be one that its get_config and from_config can copy. "
            f"Received: model={model.name!r} of {type(model).__name__}: {str(error).splitlines()[0]} "
            "(in_place=True converts the model itself)."
        ) from error


def _itself(model: keras.Model) -> Twins:
    return {id(layer): layer for layer in layers_inside(model)}


def _carry_equal_weights(old: Layer, new: Layer) -> None:
    """The weights of equal name and shape."""
    values = {weight.name: weight for weight in old.weights}
    for weight in new.weights:
        if weight.name in values and tuple(weight.shape) == tuple(values[weight.name].shape):
            weight.assign(own(values[weight.name]))


def _strategy(model: keras.Model) -> AbstractContextManager:
    """The scope that variables are to be made in: the one around the call, else that of the model."""
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    return nullcontext() if tf.distribute.has_strategy() else model.distribute_strategy.scope()


def _warn_of_files(owner: str, model: keras.Model, changed: list[Layer]) -> None:
    """Says where a file of the model cannot tell what it holds: where its class builds the layers anew."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of lambdas, for this is no file
            named = set(_named(keras.saving.serialize_keras_object(model)))
    except Exception:
        return  # a model that has no config says so when it is saved
    missing = [layer.name for layer in changed if (type(layer).__name__, layer.name) not in named]
    if missing:
        warnings.warn(
            f"{owner}: a .keras file of the result will not load, for a class that builds its own layers builds the "
            f"old ones. Received: model={model.name!r} of {type(model).__name__}, with {len(missing)} converted layers "
            f"that its config does not hold, such as {missing[0]!r} (use save_weights; later build the model, convert "
            "it alike, and load_weights).",
            stacklevel=4,
        )


def _named(config: Any) -> Iterator[tuple[str, str]]:
    """The class and name of all objects in a config."""
    if isinstance(config, dict):
        inner = config.get("config")
        if "class_name" in config and isinstance(inner, dict):
            yield config["class_name"], inner.get("name", "")
        for part in config.values():
            yield from _named(part)
    elif isinstance(config, (list, tuple)):
        for part in config:
            yield from _named(part)
