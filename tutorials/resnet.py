"""A small residual network whose normalization is an argument, and the normalizations to give it."""

from collections.abc import Callable

import keras
from keras import layers

import keras_norm as kn


def soon(first: float, last: float) -> kn.schedules.PiecewiseLinear:
    """The paper's schedule of a correction, for trainings that are a hundred times as short."""
    return kn.schedules.PiecewiseLinear([50, 400], [first, last])


NORMALIZATIONS: dict[str, Callable[[], keras.layers.Layer]] = {
    "batch": kn.BatchNormalization,
    "synchronized": lambda: kn.BatchNormalization(synchronized=True),
    "batch_renorm": lambda: kn.BatchRenormalization(r_max=soon(1.0, 3.0), d_max=soon(0.0, 5.0)),
    "batch_instance": kn.BatchInstanceNormalization,
    "group": lambda: kn.GroupNormalization(groups=8),
    "layer": lambda: kn.LayerNormalization(axis=None),
    "instance": kn.InstanceNormalization,
    "none": layers.Identity,
}


def resnet(
    image_shape: tuple[int, int, int], classes: int, normalization: Callable[[], keras.layers.Layer]
) -> keras.Model:
    """A convolution, then residual blocks, each of which halves the map, until it is one pixel: logits of `classes`.

    8x8 images pass through 2 blocks, 28x28 and 32x32 through 4. In the last block a batch normalization sees as many
    values a channel as the batch has images, and an instance normalization sees one, which it turns into beta.
    """

    def convolution(x, filters, size, strides):
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
        return normalization()(x)

    inputs = keras.Input(image_shape)
    filters = 32
    x = layers.ReLU()(convolution(inputs, filters, 3, 2))
    while max(x.shape[1:3]) > 1:
        filters = min(2 * filters, 64)
        h = layers.ReLU()(convolution(x, filters, 3, 2))
        h = convolution(h, filters, 3, 1)
        x = layers.ReLU()(layers.Add()([convolution(x, filters, 1, 2), h]))
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))
