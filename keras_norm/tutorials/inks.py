"""Images of one channel, drawn again with an ink on patterned paper: contents and styles for style transfer."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

PERIOD = 6.0
"""Of the patterns, in pixels."""


class Inks(NamedTuple):
    """A style for each of n images."""

    ink: tf.Tensor
    """A bright color for each, of shape (n, 3)."""
    paper: tf.Tensor
    """A dark color for each, of shape (n, 3)."""
    pattern: tf.Tensor
    """The color of the pattern on the paper, of shape (n, 3)."""
    kind: tf.Tensor
    """0 for no pattern, 1 for stripes, 2 for checks, of shape (n,)."""
    angle: tf.Tensor
    """The direction in which the pattern repeats, in radians, of shape (n,)."""


def shapes(split: tf.data.Dataset, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The images of `split`, enlarged to smooth shapes of `side` pixels with values from 0 to 1, and the labels."""
    images, labels = next(iter(split.batch(int(split.cardinality()))))
    enlarged = tf.image.resize(tf.cast(images, tf.float32), (side, side), "bicubic")
    enlarged /= tf.reduce_max(enlarged, (1, 2, 3), keepdims=True)
    return tf.sigmoid(12 * (enlarged - 0.45)).numpy(), labels.numpy()


def plain(images: tf.Tensor) -> tf.Tensor:
    """The shapes in white on black, with three channels."""
    return tf.repeat(images, 3, axis=-1)


def random(number: int, seed: Any) -> Inks:
    """Random styles, which `seed`, two integers, determines."""
    u = tf.random.stateless_uniform([11, number], seed)
    ink = _color(u[0], 0.1 + 0.5 * u[1], 0.85 + 0.15 * u[2])
    paper = _color(u[3], 0.5 + 0.5 * u[4], 0.15 + 0.2 * u[5])
    pattern = _color((u[3] + 0.15 * (u[6] - 0.5)) % 1, 0.5 + 0.5 * u[7], 0.45 + 0.25 * u[8])
    return Inks(ink, paper, pattern, tf.floor(3 * u[10]), tf.floor(4 * u[9]) * math.pi / 4)


def drawn(images: tf.Tensor, inks: Inks) -> tf.Tensor:
    """The shapes `images`, of shape (n, side, side, 1), in color, each in its style."""
    ink, paper, pattern = (color[:, None, None] for color in (inks.ink, inks.paper, inks.pattern))
    share = _pattern(images.shape[1], inks.kind, inks.angle)
    ground = (1 - share) * paper + share * pattern
    return (1 - images) * ground + images * ink


def _color(hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    return tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], -1))


def _pattern(side: int, kind: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """How much of the pattern's color each pixel has, of shape (n, side, side, 1)."""
    rows, columns = tf.meshgrid(tf.range(float(side)), tf.range(float(side)), indexing="ij")
    kind, sine, cosine = (values[:, None, None] for values in (kind, tf.sin(angle), tf.cos(angle)))
    stripes = tf.sin(2 * math.pi / PERIOD * (columns * cosine + rows * sine))
    across = tf.sin(2 * math.pi / PERIOD * (rows * cosine - columns * sine))
    wave = tf.where(kind == 1, stripes, stripes * across)
    return tf.where(kind == 0, 0.0, tf.sigmoid(6 * wave))[..., None]
