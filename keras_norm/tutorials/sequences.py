"""Sequences of integers to learn from, the digits pixel by pixel and a text, and the networks that read them."""

from collections.abc import Callable
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import keras_norm as kn
from keras_norm.functional import layer_norm
from keras_norm.tutorials import data

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""The characters of a text: the line break and those of ASCII that print."""

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Sequences:
    """Sequences of integers below `tokens`, and their targets, integers below `classes`.

    `train` and `test` are pairs of arrays. The first has shape `(N, T)`. The second has shape `(N,)` for one target
    per sequence, `(N, T)` for one per time step.
    """

    tokens: int
    classes: int
    train: Pair
    test: Pair

    @property
    def every_step(self) -> bool:
        """Whether each time step has a target, and not the last one alone."""
        return self.train[1].ndim == 2

    def train_batches(self, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches of exactly `batch_size` training sequences without an end, in a new order at each pass."""
        sequences = tf.data.Dataset.from_tensor_slices(self.train).shuffle(len(self.train[0]), seed=seed)
        return sequences.batch(batch_size, drop_remainder=True).repeat().prefetch(tf.data.AUTOTUNE)

    def test_batches(self, batch_size: int = 500) -> tf.data.Dataset:
        """All test sequences, in order."""
        return tf.data.Dataset.from_tensor_slices(self.test).batch(batch_size)


def pixels(name: str = "digits", train_images: int | None = None, data_dir: str | None = None) -> Sequences:
    """The gray levels of each image of the set `name`, row by row, with its class as the target.

    The arguments are those of `data.load`.

    Raises:
        ValueError: if the images have colors.
    """
    images = data.load(name, train_images, data_dir)
    if images.image_shape[-1] != 1:
        raise ValueError(f"pixels: the images must be gray. Received: {name!r} of shape {images.image_shape}.")
    train, test = (_flat(split) for split in (images.train_split, images.test_split))
    return Sequences(int(train[0].max()) + 1, images.classes, train, test)


def _flat(split: tf.data.Dataset) -> Pair:
    x, y = next(split.batch(int(split.cardinality())).as_numpy_iterator())
    return x.reshape(len(x), -1).astype(np.int32), y.astype(np.int32)


def characters(text: str, length: int = 64) -> Sequences:
    """Pieces of `text`, with the next character as the target of each; the last tenth of the text is for the test."""
    codes = encoded(text)
    count = len(codes) // (length + 1)
    pieces = codes[: count * (length + 1)].reshape(count, length + 1)
    train, test = np.split(pieces, [count - count // 10])
    tokens = len(ALPHABET)
    return Sequences(tokens, tokens, (train[:, :-1], train[:, 1:]), (test[:, :-1], test[:, 1:]))


def language_reference() -> str:
    """The parts of the Python language reference that `help()` shows, each paragraph once.

    Every installation of Python has them as `pydoc_data.topics`. The text differs a little from one version of Python
    to the next: 3.11.7 has 370,000 characters.
    """
    paragraphs = (paragraph.strip("\n") for name in sorted(topics) for paragraph in topics[name].split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs))


def encoded(text: str) -> np.ndarray:
    """The place of each character in `ALPHABET`, which has "?" for all others."""
    return np.array([ALPHABET.find(character) for character in text.translate(_PLAIN)], np.int32)


def decoded(codes: np.ndarray) -> str:
    """The text of `codes`."""
    return "".join(ALPHABET[code] for code in codes)


class _Plain(dict):
    def __missing__(self, code: int) -> str:
        return chr(code) if chr(code) in ALPHABET else "?"


_PLAIN = _Plain({0x201C: '"', 0x201D: '"', 0x2018: "'", 0x2019: "'", 0x2013: "-", 0x2014: "-"})


class SumStateLSTMCell(kn.LayerNormLSTMCell):
    """The cell as the paper writes it: the state stays a sum, and is normalized for the output alone."""

    def call(self, inputs: Any, states: list[Any], training: bool | None = False) -> tuple[Any, list[Any]]:
        h, c = states
        z = layer_norm(inputs @ self.kernel, self.kernel_gamma, self.kernel_beta, self.epsilon)
        z = z + layer_norm(h @ self.recurrent_kernel, self.recurrent_gamma, self.recurrent_beta, self.epsilon)
        i, f, g, o = ops.split(z + self.bias, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(layer_norm(c, self.state_gamma, self.state_beta, self.epsilon))
        return h, [h, c]


def no_normalization(x: Any) -> Any:
    """Returns `x`."""
    return x


def batch_normalization(x: Any) -> Any:
    """Normalizes each channel of `x` over samples and time steps, with moving averages for a few hundred steps."""
    return kn.BatchNormalization(momentum=0.9)(x)


METHODS: dict[str, tuple[Callable, Callable]] = {
    "lstm": (keras.layers.LSTMCell, no_normalization),
    "layer_norm_lstm": (kn.LayerNormLSTMCell, no_normalization),
    "batch_norm_lstm": (keras.layers.LSTMCell, batch_normalization),
    "layer_norm_lstm_sum": (SumStateLSTMCell, no_normalization),
}
"""The cell of each method, and what it does to the inputs and outputs of the recurrent layer."""


def network(sequences: Sequences, method: str, units: int) -> keras.Model:
    """An embedding, a recurrent layer and a dense layer: logits for each target of `sequences`."""
    cell, normalization = METHODS[method]
    inputs = keras.Input((None,), dtype="int32")
    x = normalization(layers.Embedding(sequences.tokens, 16)(inputs))
    x = layers.RNN(cell(units), return_sequences=sequences.every_step)(x)
    return keras.Model(inputs, layers.Dense(sequences.classes)(normalization(x)))
