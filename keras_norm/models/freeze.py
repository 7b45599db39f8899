"""Statistics that no training changes, all over a model, and back."""

import keras
from keras.layers import Layer

from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.models.copying import copy_model
from keras_norm.models.kinds import is_batch_normalization


def freeze_batch_normalization(model: keras.Model, affine: bool = True) -> keras.Model:
    """A copy of a model whose batch normalizations stay in inference mode, to fine-tune it with.

    Each is put into a `FrozenBatchNormalization`, which `summary()` shows, which is saved with the model, and which
    neither `training=True` nor `trainable = True` thaws; `unfreeze_batch_normalization` does. The copy is not
    compiled, and the model stays as it was.

    Args:
        model: a built Functional or Sequential model; models inside it are converted with it.
        affine: whether gamma and beta are fixed too.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is subclassed.
        ValueError: if the model is not built, or a layer of it holds normalizations inside itself.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()])
        >>> frozen = freeze_batch_normalization(model)
        >>> len(model.trainable_weights), len(frozen.trainable_weights)
        (2, 0)
    """

    def freeze(layer: Layer) -> Layer:
        return FrozenBatchNormalization(type(layer).from_config(layer.get_config()), affine=affine)

    return copy_model("freeze_batch_normalization", model, is_batch_normalization, freeze)


def unfreeze_batch_normalization(model: keras.Model) -> keras.Model:
    """A copy of a model whose frozen batch normalizations are again what they were.

    The inverse of `freeze_batch_normalization`, with the weights as they are now.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()])
        >>> thawed = unfreeze_batch_normalization(freeze_batch_normalization(model))
        >>> type(thawed.layers[0]) is keras.layers.BatchNormalization
        True
    """

    def thaw(layer: FrozenBatchNormalization) -> Layer:
        return type(layer.layer).from_config(layer.layer.get_config())

    return copy_model(
        "unfreeze_batch_normalization", model, lambda layer: isinstance(layer, FrozenBatchNormalization), thaw
    )
