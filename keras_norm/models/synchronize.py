"""Batch normalization over all replicas, all over a model."""

from functools import partial

import keras
from keras.layers import Layer

from keras_norm import arguments
from keras_norm.layers import BatchNormalization
from keras_norm.models.conversion import convert
from keras_norm.models.kinds import is_batch_normalization

OWNER = "synchronize_batch_normalization"


def synchronize_batch_normalization(
    model: keras.Model, synchronized: bool | int = True, *, in_place: bool = False
) -> keras.Model:
    """A copy of a model whose batch normalizations take the batch of all replicas.

    Those of Keras become `BatchNormalization(synchronized=synchronized)`, those of this package are synchronized in
    their own class; all weights and arguments are carried over, and predictions stay. Frozen ones stay. Call it inside
    `strategy.scope()`. The result is not compiled, and the model stays as it was.

    Args:
        model: a built model, as in `replace_normalization`.
        synchronized: as in `BatchNormalization`: True, k for the batch of groups of k replicas, or False for the way
            back.
        in_place: whether to convert the model itself.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is no Keras model.
        ValueError: if `synchronized` is no boolean and no count, the model is not built or cannot be copied, or a layer
            of Keras has `renorm=True`.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(momentum=0.9)])
        >>> layer = synchronize_batch_normalization(model).layers[0]
        >>> layer.synchronized, layer.momentum
        (True, 0.9)
    """
    arguments.boolean_or_count(OWNER, "synchronized", synchronized)
    change = partial(_synchronized, synchronized=synchronized)
    return convert(OWNER, model, is_batch_normalization, change, in_place)


def _synchronized(layer: Layer, synchronized: bool | int) -> Layer:
    config = layer.get_config() | {"synchronized": synchronized}
    if not isinstance(layer, keras.layers.BatchNormalization):
        return type(layer).from_config(config)
    if getattr(layer, "renorm", False):  # Keras 3.13 does not have it
        raise ValueError(
            f"{OWNER}: a layer of Keras must not have renorm=True, whose statistics are others. "
            f"Received: layer={layer.name!r} (first replace it by a BatchRenormalization)."
        )
    known = BatchNormalization().get_config()
    return BatchNormalization.from_config({name: value for name, value in config.items() if name in known})
