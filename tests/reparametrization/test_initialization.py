"""Pre-activations of mean 0 and variance 1 on a batch, layer by layer, against NumPy's."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_norm.reparametrization import (
    ScaledWeightStandardization,
    SpectralNormalization,
    WeightNormalization,
    WeightStandardization,
    initialize_from_data,
)
from support.backends import BACKEND, array
from support.wrapped_layers import BY_NAME, KINDS

pytestmark = pytest.mark.quick

WITH_UNITS = [kind for kind in KINDS if not {"embeddings", "recurrent_kernel"} & set(kind.unit_axes)]
UNIT_AXES = {"EinsumDense": (1, 3)}


def wrapped(layer):
    return WeightNormalization(layer)


def assert_standardized(h, axes=(-1,)):
    others = tuple(a for a in range(h.ndim) if a not in [b % h.ndim for b in axes])
    np.testing.assert_allclose(h.mean(others), 0.0, atol=1e-4)
    np.testing.assert_allclose(h.var(others), 1.0, rtol=1e-4)


@pytest.mark.parametrize("kind", WITH_UNITS, ids=str)
def test_every_unit_has_mean_0_and_variance_1_on_the_batch(kind):
    model = keras.Sequential([keras.Input(kind.shape), wrapped(kind.make(bias_initializer="ones"))])
    x = kind.inputs(batch=50)
    assert initialize_from_data(model, x) == [model.layers[0]]
    assert_standardized(array(model(x)), UNIT_AXES.get(kind.name, (-1,)))


def test_each_layer_sees_the_outputs_of_those_before_it():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            wrapped(layers.Conv2D(4, 3, activation="relu")),
            wrapped(layers.Conv2D(5, 3, strides=2, activation="tanh")),
            layers.Flatten(),
            wrapped(layers.Dense(6, activation="softmax")),
        ]
    )
    x = np.random.default_rng(0).normal(3.0, 2.0, (40, 8, 8, 3)).astype("float32")
    assert initialize_from_data(model, x) == [model.layers[0], model.layers[1], model.layers[3]]
    h = keras.ops.convert_to_tensor(x)
    for layer in model.layers:
        if isinstance(layer, WeightNormalization):
            plain = layer.fold()
            plain.activation = keras.activations.linear
            assert_standardized(array(plain(h)))
        h = layer(h)


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.parts = [wrapped(layers.Dense(4)), {"last": wrapped(layers.Dense(3))}]

    def call(self, inputs):
        return self.parts[1]["last"](self.parts[0](inputs))


class OfBlocks(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = (Block(), Block())

    def call(self, inputs):
        return self.blocks[1](self.blocks[0](inputs))


@pytest.mark.filterwarnings("ignore:`build")
@pytest.mark.parametrize("built", [True, False])
def test_layers_inside_blocks_are_set_also_in_a_model_that_only_counts_as_built(built):
    model, x = OfBlocks(), np.random.default_rng(0).normal(3.0, 2.0, (50, 5)).astype("float32")
    model.built = built
    assert len(initialize_from_data(model, x)) == 4
    for h in (model.blocks[0](x), model(x)):
        assert_standardized(array(h))


def test_the_direction_stays_and_the_lengths_are_set():
    model = keras.Sequential([keras.Input((5,)), wrapped(layers.Dense(3))])
    layer, x = model.layers[0], BY_NAME["Dense"].inputs(batch=50)
    v = array(layer.layer.kernel)
    initialize_from_data(model, x)
    np.testing.assert_array_equal(array(layer.layer.kernel), v)
    t = x @ (v / np.linalg.norm(v, axis=0))
    np.testing.assert_allclose(array(layer.g[0]), 1 / t.std(0), rtol=1e-4)
    np.testing.assert_allclose(array(layer.layer.bias), -t.mean(0) / t.std(0), rtol=1e-4)


def test_a_layer_without_bias_gets_variance_1():
    model = keras.Sequential([keras.Input((5,)), wrapped(layers.Dense(3, use_bias=False))])
    x = BY_NAME["Dense"].inputs(batch=50)
    initialize_from_data(model, x)
    np.testing.assert_allclose(array(model(x)).var(0), 1.0, rtol=1e-4)


def test_a_unit_that_is_constant_on_the_batch_keeps_its_length_and_gets_mean_0():
    model = keras.Sequential([keras.Input((5,)), wrapped(layers.Dense(3))])
    g = array(model.layers[0].g[0])
    x = np.ones((50, 5), "float32")
    initialize_from_data(model, x)
    np.testing.assert_array_equal(array(model.layers[0].g[0]), g)
    np.testing.assert_allclose(array(model(x)), 0.0, atol=1e-5)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no channels_first convolution on the CPU")
def test_channels_first_outputs_are_standardized_along_axis_1():
    model = keras.Sequential([keras.Input((3, 6, 5)), wrapped(layers.Conv2D(4, 2, data_format="channels_first"))])
    x = np.random.default_rng(0).normal(3.0, 2.0, (50, 3, 6, 5)).astype("float32")
    initialize_from_data(model, x)
    assert_standardized(array(model(x)), (1,))


def test_a_layer_called_twice_is_set_by_its_first_call():
    inputs = keras.Input((5,))
    shared = wrapped(layers.Dense(5))
    model = keras.Model(inputs, shared(keras.ops.tanh(shared(inputs))))
    x = BY_NAME["Dense"].inputs(batch=50)
    assert initialize_from_data(model, x) == [shared]
    assert_standardized(array(shared(x)))


def test_a_model_that_is_not_built_is_built_first():
    model = keras.Sequential([wrapped(layers.Dense(3))])
    x = BY_NAME["Dense"].inputs(batch=50)
    initialize_from_data(model, x)
    assert_standardized(array(model(x)))


def test_what_has_no_units_of_its_own_in_the_output_is_left_as_it_is():
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            wrapped(layers.Embedding(7, 4)),
            WeightNormalization(layers.EinsumDense("abc,cd->abd", (6, 3), bias_axes="bd")),
            WeightNormalization(layers.Conv1D(3, 2), axis=0),
            wrapped(layers.GRU(3)),
            SpectralNormalization(layers.Dense(4)),
            WeightStandardization(layers.Dense(4)),
            ScaledWeightStandardization(layers.Dense(4)),
            wrapped(layers.Dense(2)),
        ]
    )
    before = [array(w) for layer in model.layers[:-1] for w in layer.weights]
    tokens = np.random.default_rng(0).integers(0, 7, (50, 6)).astype("int32")
    assert initialize_from_data(model, tokens) == model.layers[-1:]
    after = [array(w) for layer in model.layers[:-1] for w in layer.weights]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)
    assert_standardized(array(model(tokens)))


def test_the_model_is_called_as_in_training_when_asked():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(momentum=0.0),
            wrapped(layers.Dense(3, kernel_initializer="ones")),
        ]
    )
    x = BY_NAME["Dense"].inputs(batch=50)
    initialize_from_data(model, x, training=True)
    assert_standardized(array(model(x)))


def test_a_model_without_such_a_layer_is_refused():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)], name="bare")
    words = "must hold a WeightNormalization of .* Received: model='bare' with layers .*'Dense'"
    with pytest.raises(ValueError, match=words):
        initialize_from_data(model, np.ones((4, 5)))


def test_a_call_that_fails_leaves_no_layer_waiting():
    model = keras.Sequential([keras.Input((5,)), wrapped(layers.Dense(3))])
    with pytest.raises(ValueError):
        initialize_from_data(model, np.ones((4, 7)))
    g = array(model.layers[0].g[0])
    model(BY_NAME["Dense"].inputs())
    np.testing.assert_array_equal(array(model.layers[0].g[0]), g)
