"""Small models with all that a conversion can meet: models in models, shared layers, several inputs, masks."""

from functools import partial

import keras
import numpy as np
from keras import layers as kl

import keras_norm as kn
from support.backends import array

IMAGE, VECTOR = (8, 8, 3), (6,)
BATCH_NORMALIZATIONS = [
    kl.BatchNormalization,
    kn.BatchNormalization,
    kn.BatchRenormalization,
    kn.BatchInstanceNormalization,
    kn.SwitchableNormalization,
    partial(kn.GhostBatchNormalization, 2),
]


def mixed(**kwargs):
    """Two inputs, a Functional and a Sequential model inside, and a convolution and a normalization called twice."""
    image, vector = keras.Input(IMAGE, name="image"), keras.Input(VECTOR, name="vector")
    inner = keras.Input((8, 8, 4))
    h = kl.BatchNormalization(name="inner_norm", **kwargs)(kl.Conv2D(4, 3, padding="same", use_bias=False)(inner))
    block = keras.Model(inner, keras.ops.relu(h), name="block")
    head = keras.Sequential(
        [keras.Input(VECTOR), kl.Dense(4), kn.BatchNormalization(name="head_norm", **kwargs), kl.ReLU()], name="head"
    )
    convolution, norm = kl.Conv2D(4, 3, padding="same"), kl.BatchNormalization(name="shared_norm", **kwargs)
    h = norm(convolution(kl.Conv2D(3, 1)(image)))
    h = norm(block(h) + h)
    h = kl.Conv2D(4, 1, use_bias=False)(block(h))
    h = kn.BatchNormalization(name="outer_norm", center=False, **kwargs)(h)
    h = kl.GlobalAveragePooling2D()(h) * head(vector)
    return randomized(keras.Model([image, vector], kl.Dense(2)(h), name="mixed"))


def text():
    """A mask that reaches a normalization."""
    tokens = keras.Input((None,), dtype="int32")
    h = kl.Embedding(9, 4, mask_zero=True, name="embedding")(tokens)
    h = kl.BatchNormalization(name="norm")(kl.Dense(6, name="before")(h))
    return randomized(keras.Model(tokens, kl.GlobalAveragePooling1D()(h)))


def sequential(*layers, shape=IMAGE):
    return randomized(keras.Sequential([keras.Input(shape), *layers]))


def randomized(model, seed=0):
    """Weights that hide nothing: gamma, beta and moving statistics that differ between channels."""
    rng = np.random.default_rng(seed)
    ranges = {"gamma": (0.5, 1.5), "beta": (-0.5, 0.5), "bias": (-0.5, 0.5), "moving_mean": (-0.5, 0.5)}
    for weight in model.weights:
        if weight.name in ranges or weight.name == "moving_variance":
            weight.assign(rng.uniform(*ranges.get(weight.name, (0.5, 2.0)), weight.shape))
    return model


def inputs(model, samples=5, length=7):
    rng = np.random.default_rng(1)
    shapes = [(samples, *(size or length for size in x.shape[1:])) for x in model.inputs]
    return [
        rng.integers(0, 9, shape) if x.dtype == "int32" else rng.normal(size=shape)
        for x, shape in zip(model.inputs, shapes, strict=True)
    ]


def predict(model, x=None, **kwargs):
    """The output in float64, without a progress bar."""
    x = inputs(model) if x is None else x
    x = [keras.ops.convert_to_tensor(part, t.dtype) for part, t in zip(x, model.inputs, strict=True)]
    return array(model(x[0] if len(x) == 1 else x, **kwargs)).astype("float64")


def weights(model):
    """Every weight by its place, and whether it is trained."""
    return [(array(weight), weight.trainable) for weight in model.weights]


def assert_untouched(model, before):
    for (value, trainable), weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(array(weight), value)
        assert weight.trainable == trainable


def part(model, name):
    """The layer of that name, however deep."""
    for layer in model.layers:
        if layer.name == name:
            return layer
        if isinstance(layer, (keras.Sequential, keras.Function)):
            found = part(layer, name)
            if found is not None:
                return found
    return None
