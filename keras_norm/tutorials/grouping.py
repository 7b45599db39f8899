"""Groups of Group Normalization that are not neighbors by index, and how alike the channels of a group are."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import keras_norm as kn


class Regrouped(layers.Layer):
    """Group Normalization over groups of channels that are neighbors in `order`, which starts as the index.

    The channels leave the layer in the order in which they come. Gamma and beta belong to a channel, not to its place.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.normalization = kn.GroupNormalization(groups, center=False, scale=False)

    def build(self, input_shape: tuple[int, ...]) -> None:
        channels = input_shape[-1]
        self.normalization.build(input_shape)
        self.gamma = self.add_weight((channels,), "ones", name="gamma")
        self.beta = self.add_weight((channels,), "zeros", name="beta")
        indices = keras.initializers.Constant(np.arange(channels))
        self.order = self.add_weight((channels,), indices, "int32", trainable=False, name="order")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        h = self.normalization(ops.take(inputs, self.order, axis=-1))
        return self.gamma * ops.take(h, ops.argsort(self.order), axis=-1) + self.beta


def network(image_shape: tuple[int, int, int], classes: int, channels: int, groups: int) -> keras.Model:
    """Three convolutions with `Regrouped` and ReLU, and a classifier on the mean of the last map."""
    x = inputs = keras.Input(image_shape)
    for strides in (max(image_shape[0] // 8, 1), 2, 1):
        x = layers.Conv2D(channels, 3, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
        x = layers.ReLU()(Regrouped(groups)(x))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def regrouped_layers(model: keras.Model) -> list[Regrouped]:
    """The `Regrouped` layers of `model`, from the first to the last."""
    return [layer for layer in model.layers if isinstance(layer, Regrouped)]


def channel_statistics(model: keras.Model, images: tf.Tensor) -> list[np.ndarray]:
    """Two rows, mean and standard deviation per channel, of the inputs of each `Regrouped` layer.

    Both are over all `images` and positions.
    """
    inputs = [layer.input for layer in regrouped_layers(model)]
    maps = (x.numpy() for x in keras.Model(model.input, inputs)(images))
    return [np.stack([x.mean((0, 1, 2)), x.std((0, 1, 2))]) for x in maps]


def similar(statistics: np.ndarray, groups: int) -> np.ndarray:
    """An order that puts similar channels together: bands by mean, sorted by standard deviation within a band.

    Args:
        statistics: mean and standard deviation by channel, as rows.
        groups: the number of groups, of which a band holds two.
    """
    mean, deviation = statistics
    bands = np.array_split(np.argsort(mean), max(groups // 2, 1))
    return np.concatenate([band[np.argsort(deviation[band])] for band in bands])


def mixed(statistics: np.ndarray, groups: int) -> np.ndarray:
    """An order in which a group has a channel of each band of means, with large and small deviations in turn."""
    mean, deviation = statistics
    bands = [band[np.argsort(deviation[band])] for band in np.split(np.argsort(mean), len(mean) // groups)]
    return np.stack([band[:: 1 if i % 2 else -1] for i, band in enumerate(bands)], axis=1).ravel()


def variances(values: np.ndarray, order: np.ndarray, groups: int) -> tuple[float, float]:
    """The variance of `values` within groups of neighbors in `order`, and the variance of the means of the groups.

    Both are those of a sample. By chance the second is the first over the number of channels in a group.
    """
    classes = values[order].reshape(groups, -1)
    return float(classes.var(1, ddof=1).mean()), float(classes.mean(1).var(ddof=1))


def intraclass(values: np.ndarray, order: np.ndarray, groups: int) -> float:
    """The intraclass correlation of `values`, one for each channel, in groups of neighbors in `order`.

    It estimates the share of the variance that lies between the groups: 1 if the channels of a group are the same, 0
    by chance. Its lowest value is -1 / (n - 1) for n channels in a group: all groups have the same mean (Shrout &
    Fleiss, Psychological Bulletin 86, 1979, ICC(1,1)).
    """
    within, of_means = variances(values, order, groups)
    size = len(values) // groups
    return (size * of_means - within) / (size * of_means + (size - 1) * within)


def by_chance(values: np.ndarray, groups: int, generator: np.random.Generator, draws: int = 1000) -> np.ndarray:
    """The intraclass correlations of the same `values` in random groups."""
    return np.array([intraclass(values, generator.permutation(len(values)), groups) for _ in range(draws)])
