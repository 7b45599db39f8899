"""Wrappers that compute a kernel in each call, replaced by plain layers with that kernel."""

from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from keras_norm.models.copying import copy_model
from keras_norm.reparametrization import KernelReparametrization


def fold_weights(model: keras.Model) -> keras.Model:
    """A copy of a model with plain layers in place of `WeightNormalization` and `SpectralNormalization`.

    Each holds the effective kernel of inference, as `layer.fold()` gives it, by the name of the wrapper. Predictions
    are the same up to rounding: for inference, export, quantization and LoRA. The copy is not compiled, and the model
    stays as it was.

    Args:
        model: a built Functional or Sequential model; models inside it are folded with it, and a shared layer stays
            shared.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is subclassed.
        ValueError: if the model is not built, or a layer of it holds wrappers inside itself.

    Example:
        >>> from keras_norm import WeightNormalization
        >>> model = keras.Sequential([keras.Input((8,)), WeightNormalization(keras.layers.Dense(6))])
        >>> folded = fold_weights(model)
        >>> [type(layer).__name__ for layer in folded.layers]
        ['Dense']
    """
    owner = "fold_weights"
    folded: list[tuple[Layer, list[np.ndarray]]] = []

    def change(wrapper: Layer) -> Layer:
        plain: Any = wrapper
        while _is_wrapper(plain):
            plain = plain._folded(wrapper.name)
        left = [part.name for part in plain._flatten_layers() if _is_wrapper(part)]
        if left:
            raise ValueError(
                f"{owner}: a wrapped layer must not hold wrappers inside itself. "
                f"Received: {wrapper.name!r} around {', '.join(map(repr, left))} (fold() the inner ones first)."
            )
        folded.append((plain, plain.get_weights()))
        return plain

    result = copy_model(owner, model, _is_wrapper, change)
    for plain, weights in folded:  # of equal names, the copy got those that the wrapped layer holds
        plain.set_weights(weights)
    return result


def _is_wrapper(layer: Layer) -> bool:
    return isinstance(layer, KernelReparametrization)
