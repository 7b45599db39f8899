"""Residual networks whose normalization is an argument, and the normalizations to give them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import layers

import keras_norm as kn

Normalization = Callable[..., keras.layers.Layer]
"""Makes a normalization layer, of the arguments that all have in common (`gamma_initializer`)."""


def renormalization(r_max: float = 3.0, d_max: float = 5.0, **kwargs: Any) -> keras.layers.Layer:
    """Batch Renormalization with the paper's schedule of its clips, for trainings that are a hundred times as short."""

    def soon(first: float, last: float) -> kn.schedules.PiecewiseLinear:
        return kn.schedules.PiecewiseLinear([50, 400], [first, last])

    return kn.BatchRenormalization(r_max=soon(1.0, r_max), d_max=soon(0.0, d_max), **kwargs)


NORMALIZATIONS: dict[str, Normalization] = {
    "batch": kn.BatchNormalization,
    "synchronized": partial(kn.BatchNormalization, synchronized=True),
    "batch_renorm": renormalization,
    "batch_instance": kn.BatchInstanceNormalization,
    "group": partial(kn.GroupNormalization, groups=8),
    "layer": partial(kn.LayerNormalization, axis=None),
    "instance": kn.InstanceNormalization,
    "none": lambda **_: layers.Identity(),
}


def resnet(image_shape: tuple[int, int, int], classes: int, normalization: Normalization) -> keras.Model:
    """A convolution, then residual blocks, each of which halves the map, until it is one pixel: logits of `classes`.

    8x8 images pass through 2 blocks, 28x28 and 32x32 through 4. In the last block a batch normalization sees as many
    values a channel as the batch has images, and an instance normalization sees one, which it turns into beta.
    """

    inputs = keras.Input(image_shape)
    x = layers.ReLU()(convolution(inputs, 32, 3, 2, normalization))
    while max(x.shape[1:3]) > 1:
        x = residual_block(x, 64, 2, normalization)
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))


def cifar_resnet(
    image_shape: tuple[int, int, int],
    classes: int,
    normalization: Normalization,
    blocks: int,
    strides: int,
    last_gamma: str = "ones",
) -> keras.Model:
    """A convolution, three stages of residual blocks, and the mean of the last map: logits of `classes`.

    With `blocks` a stage it has 6 `blocks` + 2 layers (He et al., Deep Residual Learning, CVPR 2016,
    https://arxiv.org/abs/1512.03385, section 4.2). Of 32x32 pixels it makes a last map of 8x8, with `strides=2` in the
    first convolution one of 4x4. `last_gamma` initializes the gamma at the end of each block.
    """
    inputs = keras.Input(image_shape)
    x = layers.ReLU()(convolution(inputs, 16, 3, strides, normalization))
    for filters in (16, 32, 64):
        for block in range(blocks):
            x = residual_block(x, filters, 2 if filters > 16 and block == 0 else 1, normalization, last_gamma)
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def convolutional(
    image_shape: tuple[int, int, int],
    classes: int,
    normalization: Normalization,
    model_class: type[keras.Model] = keras.Model,
) -> keras.Model:
    """Four convolutions, each with a normalization, and the mean of the last map: logits of `classes`."""
    x = inputs = keras.Input(image_shape)
    for filters, strides in ((16, 1), (32, 2), (32, 2), (64, 2)):
        x = layers.Conv2D(filters, 3, strides, "same", use_bias=False)(x)
        x = layers.ReLU()(normalization()(x))
    return model_class(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def without_residuals(
    image_shape: tuple[int, int, int],
    classes: int,
    normalized: Callable[[keras.layers.Layer], list[keras.layers.Layer]],
) -> keras.Model:
    """Eight convolutions, each of which `normalized` replaces by a list of layers, and the mean of the last map."""
    stack = [keras.Input(image_shape)]
    for filters, strides in ((24, 1), (24, 1), (24, 1), (48, 2), (48, 1), (48, 1), (48, 2), (48, 1)):
        stack += [*normalized(layers.Conv2D(filters, 3, strides, padding="same")), layers.ReLU()]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(classes)])


def residual_block(x: Any, filters: int, strides: int, normalization: Normalization, last_gamma: str = "ones") -> Any:
    """Two convolutions and a shortcut, which is a 1x1 convolution if the shape changes.

    With `last_gamma="zeros"` the block starts as its shortcut (Wu & He 2018, section 4.1, after Goyal et al. 2017).
    """
    h = layers.ReLU()(convolution(x, filters, 3, strides, normalization))
    h = convolution(h, filters, 3, 1, partial(normalization, gamma_initializer=last_gamma))
    changes = strides > 1 or x.shape[-1] != filters
    shortcut = convolution(x, filters, 1, strides, normalization) if changes else x
    return layers.ReLU()(layers.Add()([shortcut, h]))


def convolution(x: Any, filters: int, size: int, strides: int, normalization: Normalization) -> Any:
    """A convolution without bias, and the normalization."""
    x = layers.Conv2D(filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
    return normalization()(x)


def copy(model: keras.Model) -> keras.Model:
    """The same network, with separate weights of the same values."""
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "small": resnet,
    "resnet8": partial(cifar_resnet, blocks=1, strides=2),
    "resnet20": partial(cifar_resnet, blocks=3, strides=1),
}
