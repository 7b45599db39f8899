"""Replaces layers in a copy of a model, or in the model itself. Every conversion uses it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras.layers import Layer

from keras_norm import arguments
from keras_norm._keras import replace_in_place, uncompile
from keras_norm.layers import GlobalResponseNormalization
from keras_norm.models.copying import Copies, build_like, copy_model, numpy_copy
from keras_norm.models.predicates import is_frozen
from keras_norm.walk import all_layers


def convert(
    owner: str,
    model: keras.Model,
    is_selected: Callable[[Layer], bool],
    replacement: Callable[[Layer], Layer],
    in_place: bool = False,
) -> keras.Model:
    """Returns a copy of `model`, or `model`, with `replacement(layer)` in place of each selected layer.

    A layer stays where `replacement` returns it. New layers get `trainable` and the weights of equal name and shape.
    The result is not compiled.
    """
    check_model(owner, model)
    arguments.boolean(owner, "in_place", in_place)
    with strategy_scope(model):
        layers = all_layers(model, is_leaf=is_frozen)
        result, copies = (model, {id(layer): layer for layer in layers}) if in_place else _copy(owner, model)
        changes = [(copies[id(old)], old, replacement(old)) for old in layers if is_selected(old)]
        changes = [(copy, old, new) for copy, old, new in changes if new is not old]
        _check_changes(owner, changes)
        lost: list[str] = []
        for copy, old, new in changes:
            build_like(old, new, copy.path)
            new.trainable = old.trainable
            lost += _copy_matching_weights(old, new)
    for copy, _, new in changes:
        replace_in_place(copy, new)
    uncompile(result)
    if lost:
        warnings.warn(f"{owner}: weights with another shape are initialized anew: {', '.join(lost)}.", stacklevel=3)
    _warn_if_not_loadable(owner, result, [new for _, _, new in changes])
    return result


def check_model(owner: str, model: keras.Model) -> None:
    """Checks that the model is a built Keras model."""
    if not isinstance(model, keras.Model):
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        hint = " (tf_keras is Keras 2: rebuild the model with keras and copy the weights)"
        raise TypeError(
            f"{owner}: model must be a Keras model. Received: model={model!r} of {name}"
            f"{hint if name.startswith('tf_keras.') else ''}."
        )
    if not model.built:
        raise ValueError(
            f"{owner}: model must be built. "
            f"Received: model={model.name!r}, which is not (give it a keras.Input, or call it once)."
        )


def strategy_scope(model: keras.Model) -> AbstractContextManager:
    """The scope for new variables: the current one, or that of the model's strategy."""
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    return nullcontext() if tf.distribute.has_strategy() else model.distribute_strategy.scope()


def _check_changes(owner: str, changes: list[tuple[Layer, Layer, Layer]]) -> None:
    seen: dict[int, str] = {}
    for _, old, new in changes:
        if any(layer is old for layer in all_layers(new)):
            raise ValueError(
                f"{owner}: a new layer must not hold the old one. Received: {new.name!r} with {old.name!r} inside "
                "(give it a copy, by from_config)."
            )
        if id(new) in seen:
            raise ValueError(
                f"{owner}: each layer must have its own replacement. Received: {new.name!r} for {seen[id(new)]!r} and "
                f"for {old.name!r}."
            )
        seen[id(new)] = old.name


def _copy(owner: str, model: keras.Model) -> tuple[keras.Model, Copies]:
    """`copy_model`, with an error message that suggests `in_place`."""
    try:
        return copy_model(model)
    except Exception as error:
        raise ValueError(
            f"{owner}: model must be one that its get_config and from_config can copy. "
            f"Received: model={model.name!r} of {type(model).__name__}: {str(error).splitlines()[0]} "
            "(in_place=True converts the model itself)."
        ) from error


def _copy_matching_weights(old: Layer, new: Layer) -> list[str]:
    """Copies the weights of equal name and shape. The scale of `keras.layers.RMSNormalization` counts as gamma.

    Returns a description of each weight with equal name and different shape.
    """
    lost = []
    values = {_name(old, weight): weight for weight in old.weights}
    for weight in new.weights:
        value = values.get(_name(new, weight))
        if value is None:
            continue
        if tuple(weight.shape) == tuple(value.shape):
            weight.assign(numpy_copy(value))
        else:
            lost.append(f"{weight.name} {tuple(weight.shape)} for {tuple(value.shape)} of {old.name!r}")
    return lost


def _name(layer: Layer, weight: keras.Variable) -> str:
    if isinstance(layer, GlobalResponseNormalization):
        return f"residual {weight.name}"  # its gamma is 0 for the identity, and 1 in other layers
    return "gamma" if isinstance(layer, keras.layers.RMSNormalization) else weight.name


def _warn_if_not_loadable(owner: str, model: keras.Model, replaced: list[Layer]) -> None:
    """Warns if the config of the model lacks a replaced layer, because its class creates its layers itself."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Keras warns of lambdas, which matter only in a file
            saved = set(_classes_and_names(keras.saving.serialize_keras_object(model)))
    except Exception:
        return  # a model without a config raises when it is saved
    missing = [layer.name for layer in replaced if (type(layer).__name__, layer.name) not in saved]
    if missing:
        warnings.warn(
            f"{owner}: a .keras file of the result will not load, because a class that creates its own layers creates "
            f"the old ones. Received: model={model.name!r} of {type(model).__name__}, with {len(missing)} converted "
            f"layers that its config does not hold, such as {missing[0]!r} (use save_weights; later build the model, "
            "convert it alike, and load_weights).",
            stacklevel=4,
        )


def _classes_and_names(config: Any) -> Iterator[tuple[str, str]]:
    """The class and name of every object in a config."""
    if isinstance(config, dict):
        inner = config.get("config")
        if "class_name" in config and isinstance(inner, dict):
            yield config["class_name"], inner.get("name", "")
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for item in config:
            yield from _classes_and_names(item)
