"""Batch normalization over all replicas, all over a model."""

import keras
from keras.layers import Layer

from keras_norm.layers import BatchNormalization
from keras_norm.models.copying import copy_model
from keras_norm.models.kinds import is_batch_normalization


def synchronize_batch_normalization(model: keras.Model) -> keras.Model:
    """A copy of a model whose batch normalizations take the batch of all replicas.

    Those of Keras become `BatchNormalization(synchronized=True)`, those of this package are synchronized in their
    own class; all weights and arguments are carried over, and predictions stay. Frozen ones stay. Call it inside
    `strategy.scope()`. The copy is not compiled, and the model stays as it was.

    Args:
        model: a built Functional or Sequential model; models inside it are converted with it.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is subclassed.
        ValueError: if the model is not built, a layer of it holds normalizations inside itself, or one of Keras has
            `renorm=True`.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(momentum=0.9)])
        >>> layer = synchronize_batch_normalization(model).layers[0]
        >>> layer.synchronized, layer.momentum
        (True, 0.9)
    """
    return copy_model("synchronize_batch_normalization", model, is_batch_normalization, _synchronized)


def _synchronized(layer: Layer) -> Layer:
    config = layer.get_config() | {"synchronized": True}
    if not isinstance(layer, keras.layers.BatchNormalization):
        return type(layer).from_config(config)
    if getattr(layer, "renorm", False):  # Keras 3.13 does not have it
        raise ValueError(
            "synchronize_batch_normalization: a layer of Keras must not have renorm=True, whose statistics are others. "
            f"Received: layer={layer.name!r} (first replace it by a BatchRenormalization)."
        )
    known = BatchNormalization().get_config()
    return BatchNormalization.from_config({name: value for name, value in config.items() if name in known})
