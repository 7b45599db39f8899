"""Statistics that no training changes, all over a model, and back."""

import keras
from keras.layers import Layer

from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.models.conversion import convert
from keras_norm.models.kinds import is_batch_normalization


def freeze_batch_normalization(model: keras.Model, affine: bool = True, *, in_place: bool = False) -> keras.Model:
    """A copy of a model whose batch normalizations stay in inference mode, to fine-tune it with.

    Each is put into a `FrozenBatchNormalization`, which `summary()` shows, which is saved with the model, and which
    neither `training=True` nor `trainable = True` thaws; `unfreeze_batch_normalization` does. The result is not
    compiled, and the model stays as it was.

    Args:
        model: a built model, as in `replace_normalization`.
        affine: whether gamma and beta are fixed too.
        in_place: whether to convert the model itself.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is no Keras model.
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
    """A copy of a model whose frozen batch normalizations are again what they were.

    The inverse of `freeze_batch_normalization`, with the weights as they are now.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization()])
        >>> thawed = unfreeze_batch_normalization(freeze_batch_normalization(model))
        >>> type(thawed.layers[0]) is keras.layers.BatchNormalization
        True
    """

    def is_frozen(layer: Layer) -> bool:
        return isinstance(layer, FrozenBatchNormalization)

    def thaw(layer: FrozenBatchNormalization) -> Layer:
        return type(layer.layer).from_config(layer.layer.get_config())

    return convert("unfreeze_batch_normalization", model, is_frozen, thaw, in_place)
