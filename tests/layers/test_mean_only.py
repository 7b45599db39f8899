"""x - mean + beta, against NumPy."""

import keras
import numpy as np
import pytest

from keras_norm.layers.mean_only import MeanOnlyBatchNormalization
from support.backends import array, call, gradients
from support.cases import random_input

pytestmark = pytest.mark.quick

BETA = np.linspace(-1.0, 1.0, 6)


def built(shape, axis=-1, **kwargs):
    layer = MeanOnlyBatchNormalization(axis, **kwargs)
    layer.build(shape)
    layer.beta.assign(BETA)
    return layer


@pytest.mark.parametrize(("shape", "axis"), [((4, 6), -1), ((4, 5, 6), 2), ((4, 6, 5), 1), ((3, 2, 6, 5), -2)])
def test_a_channel_loses_its_mean_over_the_batch_and_gets_beta(shape, axis):
    x = random_input(*shape)
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    beta = np.expand_dims(BETA, others)
    y = call(built(shape, axis), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, x - x.mean(others, keepdims=True) + beta, rtol=1e-5, atol=1e-5)


def test_in_inference_the_moving_mean_stands_in():
    x = random_input(4, 5, 6)
    layer = built(x.shape, momentum=0.5)
    call(layer, x.astype("float32"), training=True)
    np.testing.assert_allclose(array(layer.moving_mean), x.mean((0, 1)) / 2, rtol=1e-5)
    np.testing.assert_allclose(call(layer, x.astype("float32")), x - x.mean((0, 1)) / 2 + BETA, rtol=1e-5, atol=1e-5)


def test_masked_positions_count_in_no_mean_and_give_beta():
    x = random_input(2, 4, 6)
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], bool)
    x[~mask] = np.nan
    y = call(built(x.shape), x.astype("float32"), training=True, mask=mask)
    np.testing.assert_allclose(y[mask], (x - x[mask].mean(0) + BETA)[mask], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y[~mask], np.broadcast_to(BETA, y[~mask].shape), rtol=1e-6)


def test_the_gradient_to_the_inputs_has_mean_0_in_each_channel():
    x, cotangent = random_input(3, 5, 6), random_input(3, 5, 6, seed=1)
    dx, dbeta = gradients(built(x.shape, dtype="float64"), x, cotangent, training=True)
    np.testing.assert_allclose(dx, cotangent - cotangent.mean((0, 1)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dbeta, cotangent.sum((0, 1)), rtol=1e-6)


def test_a_mean_of_thousands_is_taken_out_under_float16():
    x = random_input(64, 6) + 3e4
    y = call(built(x.shape, dtype="mixed_float16"), x.astype("float32"), training=True)
    np.testing.assert_allclose(y, x - x.mean(0) + BETA, rtol=2e-3, atol=2e-2)


def test_without_center_there_is_no_beta():
    layer = MeanOnlyBatchNormalization(center=False)
    x = random_input(4, 6)
    np.testing.assert_allclose(call(layer, x.astype("float32"), training=True), x - x.mean(0), rtol=1e-5, atol=1e-5)
    assert [weight.name for weight in layer.weights] == ["moving_mean", "moving_variance"]


def test_its_weights_are_those_of_batch_normalization_without_scale():
    layer, batch = built((None, 6)), keras.layers.BatchNormalization(scale=False)
    call(layer, random_input(4, 6, dtype="float32"), training=True)
    batch.build((None, 6))
    batch.set_weights(layer.get_weights())
    assert [weight.name for weight in layer.weights] == [weight.name for weight in batch.weights]


def test_config_holds_what_it_has_and_gives_the_same_layer(tmp_path):
    layer = MeanOnlyBatchNormalization(1, 0.9, beta_initializer="ones", synchronized=True, name="mean")
    config = layer.get_config()
    assert {"epsilon", "scale", "gamma_initializer"}.isdisjoint(config)
    assert MeanOnlyBatchNormalization.from_config(config).get_config() == config
    model = keras.Sequential([keras.Input((6, 5)), layer])
    model.compile("sgd", "mse")
    x = random_input(4, 6, 5, dtype="float32")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("argument", [{"epsilon": 0.1}, {"scale": True}])
def test_there_is_no_epsilon_and_no_scale(argument):
    with pytest.raises(ValueError, match=r"MeanOnlyBatchNormalization: .* is not an argument of this layer"):
        MeanOnlyBatchNormalization(**argument)
