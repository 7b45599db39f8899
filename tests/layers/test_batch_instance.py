"""BatchInstanceNormalization beyond the contract: the gate."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call, gradients
from support.cases import random_input

EPSILON = 1e-3


def standardized(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)


@pytest.mark.quick
@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_the_output_lies_between_instance_and_batch_normalization_as_rho_says(rho):
    x = random_input(3, 4, 6)
    layer = kn.BatchInstanceNormalization(rho_initializer=keras.initializers.Constant(rho))
    want = rho * standardized(x, (0, 1)) + (1 - rho) * standardized(x, (1,))
    np.testing.assert_allclose(call(layer, x.astype("float32"), training=True), want, rtol=1e-4, atol=1e-5)


def test_each_channel_has_a_gate_of_its_own_that_starts_at_1():
    layer = kn.BatchInstanceNormalization()
    layer.build((None, 4, 6))
    assert array(layer.rho).tolist() == [1.0] * 6
    layer.rho.assign([0, 0, 0, 1, 1, 1])
    x = random_input(3, 4, 6)
    y = call(layer, x.astype("float32"), training=True)
    np.testing.assert_allclose(y[..., :3], standardized(x, (1,))[..., :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[..., 3:], standardized(x, (0, 1))[..., 3:], rtol=1e-4, atol=1e-5)


@pytest.mark.quick
def test_the_gradient_of_rho_is_what_the_two_outputs_differ_by():
    x, cotangent = random_input(3, 4, 6), random_input(3, 4, 6, seed=1)
    layer = kn.BatchInstanceNormalization(dtype="float64")
    layer.build(x.shape)
    drho = gradients(layer, x, cotangent, training=True)[1 + [w.name for w in layer.trainable_weights].index("rho")]
    want = (cotangent * (standardized(x, (0, 1)) - standardized(x, (1,)))).sum((0, 1))
    np.testing.assert_allclose(drho, want, rtol=1e-8)


def test_inference_takes_the_moving_statistics_for_the_batch_part_alone():
    x = random_input(3, 4, 6)
    layer = kn.BatchInstanceNormalization(rho_initializer=keras.initializers.Constant(0.5))
    want = 0.5 * x / np.sqrt(1 + EPSILON) + 0.5 * standardized(x, (1,))
    np.testing.assert_allclose(call(layer, x.astype("float32")), want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_rho_stays_between_0_and_1_at_a_high_rate(optimizer):
    x = random_input(16, 4, 6, dtype="float32")
    layer = kn.BatchInstanceNormalization()
    model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(optimizer(0.5), "mae")
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(array(layer.rho)))
    model.fit(x, np.ones((16, 1)), batch_size=16, epochs=20, verbose=0, callbacks=[watch])
    seen = np.array(seen)
    assert (seen >= 0).all()
    assert (seen <= 1).all()
    assert (seen < 1).any()
