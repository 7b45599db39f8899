"""The cures: lines of Python that run with the names `keras`, `keras_norm` and `model`."""

from typing import Any

import keras
from keras.layers import Layer

from keras_norm.models.examination.places import Place
from keras_norm.walk import all_layers


def larger_sets(model: keras.Model, *places: Place) -> str:
    """A line that replaces normalizations by Group Normalization, with 8 channels per group if possible."""
    shapes = [place.calls[0].shape if place.calls else (None, None) for place in places]
    if all(size == 1 for shape in shapes for size in shape[1:]):
        return replaced(model, "lambda layer: keras.layers.Identity(name=layer.name)", *places)
    groups = min(_groups(place, shape) for place, shape in zip(places, shapes, strict=True))
    return replaced(model, f"keras_norm.GroupNormalization({groups})", *places)


def _groups(place: Place, shape: tuple[int | None, ...]) -> int:
    axis = getattr(place.norm, "axis", -1)
    channels = shape[axis if isinstance(axis, int) and -len(shape) <= axis < len(shape) else -1] or 1
    return next(g for g in range(max(channels // 8, 1), 0, -1) if channels % g == 0)


def replaced(model: keras.Model, to: str, *places: Place) -> str:
    """A line that replaces normalizations, selected by name if the names are unique, else by path."""
    names = [layer.name for layer in all_layers(model)]
    attribute = "name" if all(names.count(place.layer.name) == 1 for place in places) else "path"
    which = [getattr(place.layer, attribute) for place in places]
    where = f"layer.{attribute} == {which[0]!r}" if len(which) == 1 else f"layer.{attribute} in {which!r}"
    return f"model = keras_norm.models.replace_normalization(model, {to}, where=lambda layer: {where})"


def ours(norm: Layer) -> str:
    """The constructor call of this package's layer with the name of a Keras layer."""
    options = {name: getattr(norm, name) for name in ("groups", "axis") if hasattr(norm, name)}
    return f"keras_norm.{type(norm).__name__}({', '.join(f'{name}={value}' for name, value in options.items())})"


def cloned(changes: str) -> str:
    """A line that rebuilds the model with changed layer arguments."""
    return (
        "model = keras.models.clone_model(model, clone_function=lambda layer: "
        f"type(layer).from_config(layer.get_config() | {changes}))"
    )


def changed(model: keras.Model, place: Place, **changes: Any) -> str:
    """A line that changes arguments of a normalization."""
    return replaced(model, f"lambda layer: type(layer).from_config(layer.get_config() | {changes!r})", place)
