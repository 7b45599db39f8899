"""Which layers are normalizations, of Keras and of this package, and where a model holds them."""

import keras
from keras.layers import Layer

from keras_norm._keras import parts
from keras_norm.layers.base import Normalization
from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.layers.moving import MovingNormalization

BATCH_NORMALIZATIONS = (keras.layers.BatchNormalization, MovingNormalization)
NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    Normalization,
    FrozenBatchNormalization,
)


def is_batch_normalization(layer: Layer) -> bool:
    """Whether the layer keeps moving statistics of its batches."""
    return isinstance(layer, BATCH_NORMALIZATIONS)


def is_normalization(layer: Layer) -> bool:
    """Whether the layer standardizes its inputs by moments of their own."""
    return isinstance(layer, NORMALIZATIONS)


def layers_inside(layer: Layer) -> list[Layer]:
    """The layer and all that it is made of, outer before inner; what is frozen counts as one."""
    found = {id(layer): layer}
    for part in parts_of(layer):
        found |= {id(inner): inner for inner in layers_inside(part)}
    return list(found.values())


def parts_of(layer: Layer) -> list[Layer]:
    """The layers that a layer holds itself; what is frozen counts as one."""
    return [] if isinstance(layer, FrozenBatchNormalization) else parts(layer)
