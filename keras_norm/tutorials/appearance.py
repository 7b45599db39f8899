"""Changes of contrast, brightness and stroke that leave the content of an image as it is, and what learns from them."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_norm as kn

CHANGES = ("contrast", "brightness", "stroke")
"""What can differ from image to image, in the order in which `changed` draws it."""
LARGEST_FACTOR = 4.0
"""At strength 1 contrast is divided or multiplied by up to this."""
LARGEST_SHIFT = 2.0
"""At strength 1 up to this is added to or subtracted from all pixels; 1 is the standard deviation of all pixels."""

Normalization = Callable[[], keras.layers.Layer]


def changed(images: tf.Tensor, seed: Any, strength: float = 1.0, changes: Collection[str] = CHANGES) -> tf.Tensor:
    """Changes contrast, brightness and stroke of each image by random amounts.

    Args:
        images: standardized images of shape (n, height, width, channels), bright strokes on a dark ground.
        seed: two integers, which determine what is drawn.
        strength: from 0, which changes nothing, to 1.
        changes: which of `CHANGES` to make.
    """
    contrast, brightness, stroke = tf.unstack(
        tf.random.stateless_uniform([len(CHANGES), len(images), 1, 1, 1], seed, -strength, strength)
    )
    if "stroke" in changes:
        images = with_stroke(images, stroke)
    if "contrast" in changes:
        images *= LARGEST_FACTOR**contrast
    if "brightness" in changes:
        images += LARGEST_SHIFT * brightness
    return images


def with_stroke(images: tf.Tensor, stroke: tf.Tensor) -> tf.Tensor:
    """The images blended with their dilation over 3x3 pixels, or with their erosion if `stroke` is negative.

    At 1 and -1 nothing but the dilation and the erosion is left.
    """
    dilated = tf.nn.max_pool2d(images, 3, 1, "SAME")
    eroded = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    share = tf.abs(stroke)
    return (1 - share) * images + share * tf.where(stroke > 0, dilated, eroded)


def augmentation(images: tf.Tensor) -> tf.Tensor:
    """All changes at full strength, drawn anew in each call."""
    return changed(images, tf.random.uniform([2], maxval=2**30, dtype=tf.int32))


def network(image_shape: tuple[int, int, int], classes: int, normalization: Normalization) -> keras.Model:
    """Four normalized convolutions and the mean of the last map: logits of `classes`.

    The maps have 8x8, 4x4, 4x4 and 4x4 pixels for images of 8x8, and 14x14, 7x7, 7x7 and 7x7 for 28x28: none is a
    single pixel, which an instance normalization would turn into beta.
    """
    inputs = x = keras.Input(image_shape)
    for filters, strides in ((16, 1 if image_shape[0] < 16 else 2), (32, 2), (32, 1), (32, 1)):
        x = layers.Conv2D(filters, 3, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.ReLU()(normalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


@keras.saving.register_keras_serializable("keras_norm")
class FastGates(keras.optimizers.SGD):
    """SGD with ten times the learning rate for the gates of Batch-Instance Normalization, as in the paper.

    A gradient ten times as large has the same effect in SGD, with momentum or without.
    """

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]) -> None:
        pairs = zip(grads, trainable_variables, strict=True)
        grads = [10 * grad if variable.name == "rho" else grad for grad, variable in pairs]
        super().apply(grads, trainable_variables)


def compile_with_fast_gates(model: keras.Model, learning_rate: float, steps: int, jit_compile: bool = True) -> None:
    """Compiles a classifier for `FastGates`, with a learning rate that falls from `learning_rate` to 0 over `steps`.

    Compiling for XLA, with `jit_compile`, takes seconds and pays from some hundred steps on.
    """
    model.compile(
        optimizer=FastGates(keras.optimizers.schedules.CosineDecay(learning_rate, steps), momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
        steps_per_execution=16,
    )


def gates(model: keras.Model) -> list[np.ndarray]:
    """rho of each Batch-Instance Normalization of `model`, from the first layer to the last."""
    normalizations = (layer for layer in model.layers if isinstance(layer, kn.BatchInstanceNormalization))
    return [layer.rho.numpy() for layer in normalizations]
