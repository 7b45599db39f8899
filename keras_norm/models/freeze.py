"""Freezes the batch normalizations of a model, and unfreezes them."""

import keras
from keras.layers import Layer

from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.models.conversion import convert
from keras_norm.models.predicates import is_batch_normalization, is_frozen


def freeze_batch_normalization(model: keras.Model, affine: bool = True, *, in_place: bool = False) -> keras.Model:
    """Returns a copy of a model whose batch normalizations stay in inference mode, for fine-tuning.

    Each one is wrapped in a `FrozenBatchNormalization`, which `summary()` shows and which is saved with the model.
    Neither `training=True` nor `trainable = True` unfreezes it; `unfreeze_batch_normalization` does. The result is not
    compiled, and `model` does not change.

    Args:
        model: a built model, as in `replace_normalization`.
        affine: whether to freeze gamma and beta too.
        in_place: whether to convert the model itself.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is not a Keras model.
        ValueError: if the model is not built or cannot be copied.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()])
        >>> frozen = freeze_batch_normalization(model)
        >>> len(model.trainable_weights), len(frozen.trainable_weights)
        (2, 0)
    """

    def freeze(layer: Layer) -> Layer:
        return FrozenBatchNormalization(type(layer).from_config(layer.get_config()), affine=affine)

    return convert("freeze_batch_normalization", model, is_batch_normalization, freeze, in_place)


def unfreeze_batch_normalization(model: keras.Model, *, in_place: bool = False) -> keras.Model:
    """Returns a copy of a model whose frozen batch normalizations are unwrapped.

    The inverse of `freeze_batch_normalization`. The weights keep their current values.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()])
        >>> unfrozen = unfreeze_batch_normalization(freeze_batch_normalization(model))
        >>> type(unfrozen.layers[0]) is keras.layers.BatchNormalization
        True
    """

    def unfreeze(layer: FrozenBatchNormalization) -> Layer:
        return type(layer.layer).from_config(layer.layer.get_config())

    return convert("unfreeze_batch_normalization", model, is_frozen, unfreeze, in_place)
