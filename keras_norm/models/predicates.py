"""Which layers are normalizations, of Keras and of this package."""

import keras
from keras.layers import Layer

from keras_norm.layers import GroupNormalization, LayerNormalization, RMSNormalization
from keras_norm.layers.base import Normalization
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.layers.frozen import FrozenBatchNormalization

BATCH_NORMALIZATIONS = (keras.layers.BatchNormalization, BaseBatchNormalization)
NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    Normalization,
    FrozenBatchNormalization,
)
GROUP_NORMALIZATIONS = (GroupNormalization, keras.layers.GroupNormalization)
ALONG_AXES = (
    LayerNormalization,
    RMSNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def is_batch_normalization(layer: Layer) -> bool:
    """Whether the layer has moving statistics; False for a frozen one."""
    return isinstance(layer, BATCH_NORMALIZATIONS)


def is_frozen(layer: Layer) -> bool:
    """Whether the layer is a frozen batch normalization, which the tools treat as a single layer."""
    return isinstance(layer, FrozenBatchNormalization)


def is_normalization(layer: Layer) -> bool:
    """Whether the layer normalizes its inputs by statistics of activations."""
    return isinstance(layer, NORMALIZATIONS)


def is_group_normalization(layer: Layer) -> bool:
    """Whether the layer has an argument `groups`."""
    return isinstance(layer, GROUP_NORMALIZATIONS)


def is_along_axes(layer: Layer) -> bool:
    """Whether `axis` of the layer lists the axes to reduce, and not the axis of the channels."""
    return isinstance(layer, ALONG_AXES)
