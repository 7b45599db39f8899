"""Clips in motion: each image of a `tensorflow_datasets` set moves over its frame, in noise."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import tensorflow as tf
from keras import layers

import keras_norm as kn
from keras_norm.tutorials import data

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Rows and columns per frame: up, down, left, right."""

Normalization = Callable[[], keras.layers.Layer]

NORMALIZATIONS: dict[str, Normalization] = {
    "batch": kn.BatchNormalization,
    "group": partial(kn.GroupNormalization, groups=4),
}
"""The normalizations to compare: over (N, T, H, W) for a channel, and over (T, H, W) and the channels of a group."""


@dataclass(frozen=True)
class Clips:
    """Clips of the images of a training and a test split, made as they are asked for."""

    classes: int
    frame_shape: tuple[int, int, int]
    train_size: int
    noise: float
    train_split: tf.data.Dataset
    test_split: tf.data.Dataset

    def train(self, frames: int, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches of exactly `batch_size` clips of training images, with other motions and noise in each epoch."""
        if batch_size > self.train_size:
            raise ValueError(
                f"train: batch_size must be at most the number of training clips. "
                f"Received: batch_size={batch_size} of {self.train_size} clips."
            )
        batches = self.train_split.shuffle(self.train_size, seed=seed).batch(batch_size, drop_remainder=True)
        seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
        return self._clips(batches, seeds, frames)

    def test(self, frames: int, batch_size: int = 100) -> tf.data.Dataset:
        """A clip of each test image, with the same motion and noise each time."""
        batches = self.test_split.batch(batch_size)
        return self._clips(batches, tf.data.Dataset.range(10**9).batch(2), frames)

    def _clips(self, batches: tf.data.Dataset, seeds: tf.data.Dataset, frames: int) -> tf.data.Dataset:
        def made(batch: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images, labels = batch
            return in_motion(images, frames, self.noise, tf.cast(seed, tf.int32)), labels

        pairs = tf.data.Dataset.zip(batches, seeds)
        return pairs.map(made, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def load(
    name: str, noise: float, train_images: int | None = None, data_dir: str | None = None, side: int = 16
) -> Clips:
    """Clips of the data set `name`.

    Args:
        name: a set that `data.load` takes.
        noise: the standard deviation of the noise in each pixel of each frame, in units of that of the images.
        train_images: how many training images to use, from the first on; all if None.
        data_dir: as in `data.load`.
        side: larger images are resized to so many pixels in height and width.
    """
    images = data.load(name, train_images, data_dir)
    side = min(side, *images.image_shape[:2])

    def standardized(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (tf.image.resize(tf.cast(image, tf.float32), (side, side)) - images.mean) / images.deviation, label

    splits = (data.in_memory(split.map(standardized)) for split in (images.train_split, images.test_split))
    return Clips(images.classes, (side, side, images.image_shape[-1]), images.train_size, noise, *splits)


def in_motion(images: tf.Tensor, frames: int, noise: float, seed: tf.Tensor) -> tf.Tensor:
    """One clip per image, which moves by one pixel per frame and wraps around at the sides.

    Args:
        images: of shape (n, height, width, channels).
        frames: the number of frames.
        noise: the standard deviation of what is added to each pixel of each frame.
        seed: two integers, which determine the motions and the noise.

    Returns:
        Clips of shape (n, frames, height, width, channels).
    """
    number, height, width, _ = tf.unstack(tf.shape(images))
    chosen = tf.random.stateless_uniform([number], seed, maxval=len(MOVES), dtype=tf.int32)
    places = tf.range(frames)[:, None] * tf.gather(MOVES, chosen)[:, None, :]
    rows = (tf.range(height) - places[..., 0, None]) % height
    columns = (tf.range(width) - places[..., 1, None]) % width
    moving = tf.gather(tf.gather(images, rows, axis=1, batch_dims=1), columns, axis=3, batch_dims=2)
    clips = moving + noise * tf.random.stateless_normal(tf.shape(moving), seed + 1)
    return tf.ensure_shape(clips, (images.shape[0], frames, *images.shape[1:]))


def network(frame_shape: tuple[int, int, int], classes: int, normalization: Normalization) -> keras.Model:
    """A small 3-D convolutional network, from clips of any number of frames to logits of `classes`.

    Of frames of 8x8 pixels the last maps have one pixel, and a quarter of the frames.
    """
    x = inputs = keras.Input((None, *frame_shape))
    for filters, strides in ((16, (1, 2, 2)), (32, (2, 2, 2)), (32, (2, 2, 2)), (32, (1, 2, 2))):
        x = layers.Conv3D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(normalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling3D()(x)))
