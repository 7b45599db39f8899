"""One line a layer that is wrapped: how it is made, the shape of its inputs, and the axes of its kernels' units."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_norm.reparametrization import (
    ScaledWeightStandardization,
    SpectralNormalization,
    WeightNormalization,
    WeightStandardization,
)
from support.backends import array, gradients

VOCABULARY = 7


@dataclass(frozen=True, eq=False)
class Kind:
    """A layer, and by hand what its type says about its kernels."""

    name: str
    make: Callable[..., Any]
    shape: tuple[int, ...]
    unit_axes: dict[str, tuple[int, ...]]

    @property
    def of_integers(self):
        return "embeddings" in self.unit_axes

    def inputs(self, batch=4, seed=0):
        rng = np.random.default_rng(seed)
        if self.of_integers:
            return rng.integers(0, VOCABULARY, (batch, *self.shape)).astype("int32")
        return rng.normal(1.0, 2.0, (batch, *self.shape)).astype("float32")

    def model(self, wrapper, **kwargs):
        """The wrapped layer in a model with one output a sample."""
        inputs = keras.Input(self.shape, dtype="int32" if self.of_integers else "float32")
        return keras.Sequential([inputs, wrapper(self.make(**kwargs)), layers.Flatten(), layers.Dense(1)])

    def __str__(self):
        return self.name


def last_of(rank, name="kernel"):
    return {name: (rank - 1,)}


KINDS = [
    Kind("Dense", partial(layers.Dense, 3), (5,), last_of(2)),
    Kind("Conv1D", partial(layers.Conv1D, 3, 2), (6, 4), last_of(3)),
    Kind("Conv2D", partial(layers.Conv2D, 3, 2), (5, 6, 4), last_of(4)),
    Kind("Conv3D", partial(layers.Conv3D, 3, 2), (4, 3, 5, 2), last_of(5)),
    Kind("Conv2DTranspose", partial(layers.Conv2DTranspose, 3, 2), (3, 4, 5), {"kernel": (2,)}),
    Kind("DepthwiseConv2D", partial(layers.DepthwiseConv2D, 2, depth_multiplier=2), (4, 5, 3), {"kernel": (2, 3)}),
    Kind(
        "SeparableConv2D",
        partial(layers.SeparableConv2D, 3, 2, depth_multiplier=2),
        (4, 5, 2),
        {"depthwise_kernel": (2, 3), "pointwise_kernel": (3,)},
    ),
    Kind(
        "EinsumDense",
        partial(layers.EinsumDense, "abc,dce->aebd", (3, 4, 2), bias_axes="ed"),
        (4, 5),
        {"kernel": (0, 2)},
    ),
    Kind("Embedding", partial(layers.Embedding, VOCABULARY, 3), (5,), last_of(2, "embeddings")),
    Kind("SimpleRNN", partial(layers.SimpleRNN, 3), (4, 5), last_of(2, "recurrent_kernel")),
    Kind("GRU", partial(layers.GRU, 3), (4, 5), last_of(2, "recurrent_kernel")),
    Kind("LSTM", partial(layers.LSTM, 3), (4, 5), last_of(2, "recurrent_kernel")),
]
BY_NAME = {kind.name: kind for kind in KINDS}
# The effective kernel of a wrapper that has just been built, as a matrix (rest, units), by NumPy.
AT_START = {
    WeightNormalization: lambda v: v,
    SpectralNormalization: lambda v: v / np.linalg.svd(v, compute_uv=False)[0],
    WeightStandardization: lambda v: (v - v.mean(0)) / np.sqrt(v.var(0) + 1e-6),
    ScaledWeightStandardization: lambda v: (v - v.mean(0)) / np.sqrt(len(v) * v.var(0) + 1e-4),
}
WRAPPERS = list(AT_START)
VECTORS = {WeightNormalization: "g", SpectralNormalization: "u", ScaledWeightStandardization: "g"}


def model_of_all(wrapper, unroll=False):
    """A model with one input, one wrapped layer and one output per kind, named after the kind."""
    inputs, outputs = {}, {}
    for kind in KINDS:
        # An RNN in a loop would need TensorFlow's own operations in LiteRT, wrapped or not.
        options = {"unroll": True} if unroll and "recurrent_kernel" in kind.unit_axes else {}
        x = keras.Input(kind.shape, dtype="int32" if kind.of_integers else "float32", name=kind.name)
        h = wrapper(kind.make(**options), name=f"wrapped_{kind.name}")(x)
        inputs[kind.name] = x
        outputs[kind.name] = layers.Dense(1, name=f"head_{kind.name}")(layers.Flatten()(h))
    return keras.Model(inputs, outputs)


def inputs_of_all(batch=4):
    return {kind.name: kind.inputs(batch) for kind in KINDS}


def built(kind, wrapper, **kwargs):
    """The wrapped layer, built, with weights that are far from where they start."""
    layer = wrapper(kind.make(**kwargs))
    layer.build((None, *kind.shape))
    rng = np.random.default_rng(1)
    for weight in layer.layer.weights:
        weight.assign(rng.normal(0.0, 1.0, weight.shape))
    return layer


def kernel_weights(layer, kind):
    """The weights that are re-parametrized, by name."""
    return {name: next(w for w in layer.layer.weights if w.name == name) for name in kind.unit_axes}


def as_matrix(value, axes):
    """(rest, units), by NumPy."""
    return np.moveaxis(value, axes, range(len(axes))).reshape(np.prod([value.shape[a] for a in axes]), -1).T


def as_kernel(matrix, shape, axes):
    """The inverse of `as_matrix`."""
    rest = [size for a, size in enumerate(shape) if a not in axes]
    return np.moveaxis(matrix.T.reshape(*(shape[a] for a in axes), *rest), range(len(axes)), axes)


def plain_output(kind, layer, kernels, x):
    """The output of the bare layer with `layer`'s weights and these kernels."""
    plain = kind.make()
    plain.build((None, *kind.shape))
    for new, old in zip(plain.weights, layer.layer.weights, strict=True):
        new.assign(kernels.get(old.name, array(old)))
    return array(plain(x))


def weight_gradients(layer, x, cotangent, **kwargs):
    """The gradients of sum(cotangent * layer(x)) to each trainable weight, by path."""
    weights = layer.trainable_weights
    found = gradients(layer, x, cotangent, **kwargs)[-len(weights) :]
    return {w.path: g for w, g in zip(weights, found, strict=True)}
