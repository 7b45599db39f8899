"""Synchronizes the batch normalizations of a model over replicas."""

from functools import partial

import keras
from keras.layers import Layer

from keras_norm import arguments
from keras_norm.layers import BatchNormalization, GhostBatchNormalization
from keras_norm.models.conversion import convert
from keras_norm.models.predicates import is_batch_normalization

OWNER = "synchronize_batch_normalization"


def synchronize_batch_normalization(
    model: keras.Model, synchronized: bool | int = True, *, in_place: bool = False
) -> keras.Model:
    """Returns a copy of a model whose batch normalizations use the global batch of all replicas.

    Layers of Keras become `BatchNormalization(synchronized=synchronized)`; layers of this package keep their class.
    All weights and arguments are copied, and predictions do not change. Frozen layers stay as they are, and so does
    `GhostBatchNormalization`, whose sets are smaller than the batch of a replica on purpose. Call it inside
    `strategy.scope()`. The result is not compiled, and `model` does not change.

    Args:
        model: a built model, as in `replace_normalization`.
        synchronized: as in `BatchNormalization`: True, k for groups of k replicas, or False to undo it.
        in_place: whether to convert the model itself.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is not a Keras model.
        ValueError: if `synchronized` is neither a boolean nor a count, the model is not built or cannot be copied, or a
            layer of Keras has `renorm=True`.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(momentum=0.9)])
        >>> layer = synchronize_batch_normalization(model).layers[0]
        >>> layer.synchronized, layer.momentum
        (True, 0.9)
    """
    arguments.boolean_or_count(OWNER, "synchronized", synchronized)
    replacement = partial(_synchronized, synchronized=synchronized)
    return convert(OWNER, model, is_batch_normalization, replacement, in_place)


def _synchronized(layer: Layer, synchronized: bool | int) -> Layer:
    if isinstance(layer, GhostBatchNormalization):
        return layer
    config = layer.get_config() | {"synchronized": synchronized}
    if not isinstance(layer, keras.layers.BatchNormalization):
        return type(layer).from_config(config)
    if getattr(layer, "renorm", False):  # Keras 3.13 does not have it
        raise ValueError(
            f"{OWNER}: a layer of Keras must not have renorm=True, which BatchNormalization does not support. "
            f"Received: layer={layer.name!r} (first replace it by a BatchRenormalization)."
        )
    supported = BatchNormalization().get_config()
    return BatchNormalization.from_config(
        {name: value for name, value in config.items() if name in supported and arguments.is_set(name, value)}
    )
