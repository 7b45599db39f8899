"""Wrappers that compute a kernel in each call, replaced by plain layers with that kernel."""

from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from keras_norm._keras import all_layers
from keras_norm.models.conversion import convert
from keras_norm.models.kinds import layers_inside
from keras_norm.reparametrization import KernelReparametrization


def fold_weights(model: keras.Model, *, in_place: bool = False) -> keras.Model:
    """A copy of a model with plain layers in place of `WeightNormalization` and `SpectralNormalization`.

    Each holds the effective kernel of inference, as `layer.fold()` gives it, by the name of the wrapper. Predictions
    are the same up to rounding: for inference, export, quantization and LoRA. The result is not compiled, and the model
    stays as it was.

    Args:
        model: a built model, as in `replace_normalization`.
        in_place: whether to convert the model itself.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is no Keras model.
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
    wrapped = {id(part) for layer in layers_inside(model) if _is_wrapper(layer) for part in all_layers(layer)[1:]}

    def change(wrapper: Layer) -> Layer:
        plain: Any = wrapper
        while _is_wrapper(plain):
            plain = plain._folded(wrapper.name)
        left = [part.name for part in all_layers(plain) if _is_wrapper(part)]
        if left:
            raise ValueError(
                f"{owner}: a wrapped layer must not hold wrappers inside itself. "
                f"Received: {wrapper.name!r} around {', '.join(map(repr, left))} (fold() the inner ones first)."
            )
        folded.append((plain, plain.get_weights()))
        return plain

    def chosen(layer: Layer) -> bool:
        return _is_wrapper(layer) and id(layer) not in wrapped

    result = convert(owner, model, chosen, change, in_place)
    for plain, weights in folded:  # of equal names, the copy got those that the wrapped layer holds
        plain.set_weights(weights)
    return result


def _is_wrapper(layer: Layer) -> bool:
    return isinstance(layer, KernelReparametrization)
