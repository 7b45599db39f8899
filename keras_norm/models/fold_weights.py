"""Replaces wrappers that compute a kernel in each call by plain layers with that kernel."""

from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from keras_norm.models.conversion import convert
from keras_norm.reparametrization import KernelReparametrization
from keras_norm.walk import all_layers


def fold_weights(model: keras.Model, *, in_place: bool = False) -> keras.Model:
    """Returns a copy of a model with plain layers in place of wrappers that compute a kernel in each call.

    These are `WeightNormalization`, `SpectralNormalization`, `WeightStandardization` and `ScaledWeightStandardization`.
    Each plain layer has the effective kernel of inference, as from `layer.fold()`, and the name of the wrapper. Use it
    for inference, export, quantization and LoRA. Predictions stay the same up to rounding. The result is not compiled,
    and `model` does not change.

    Args:
        model: a built model, as in `replace_normalization`.
        in_place: whether to convert the model itself.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is not a Keras model.
        ValueError: if the model is not built or cannot be copied, or a wrapped layer holds wrappers inside itself.

    Example:
        >>> from keras_norm import WeightNormalization
        >>> model = keras.Sequential([keras.Input((8,)), WeightNormalization(keras.layers.Dense(6))])
        >>> folded = fold_weights(model)
        >>> [type(layer).__name__ for layer in folded.layers]
        ['Dense']
    """
    owner = "fold_weights"
    folded: list[tuple[Layer, list[np.ndarray]]] = []
    wrapped = {id(inner) for layer in all_layers(model) if _is_wrapper(layer) for inner in all_layers(layer)[1:]}

    def replacement(wrapper: Layer) -> Layer:
        plain: Any = wrapper
        while _is_wrapper(plain):
            plain = plain._folded(wrapper.name)
        left = [layer.name for layer in all_layers(plain) if _is_wrapper(layer)]
        if left:
            raise ValueError(
                f"{owner}: a wrapped layer must not hold wrappers inside itself. "
                f"Received: {wrapper.name!r} around {', '.join(map(repr, left))} (fold() the inner ones first)."
            )
        folded.append((plain, plain.get_weights()))
        return plain

    def is_selected(layer: Layer) -> bool:
        return _is_wrapper(layer) and id(layer) not in wrapped

    result = convert(owner, model, is_selected, replacement, in_place)
    for plain, weights in folded:  # `convert` has copied the stored kernel, which has the same name
        plain.set_weights(weights)
    return result


def _is_wrapper(layer: Layer) -> bool:
    return isinstance(layer, KernelReparametrization)
