"""BatchNormalization beyond the contract: the semantics of Keras' own, in full."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call, gradients
from support.cases import random_input


def statistics(layer):
    return array(layer.moving_mean), array(layer.moving_variance)


@pytest.mark.quick
def test_moving_statistics_follow_the_batch_by_momentum_with_the_biased_variance():
    x = random_input(3, 4, 6, dtype="float32")
    layer = kn.BatchNormalization(momentum=0.8)
    call(layer, x, training=True)
    mean, variance = statistics(layer)
    np.testing.assert_allclose(mean, 0.2 * x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.8 + 0.2 * x.var((0, 1)), rtol=1e-5)


@pytest.mark.quick
def test_inference_uses_the_moving_statistics_and_leaves_them():
    x = random_input(3, 4, 6, dtype="float32")
    layer = kn.BatchNormalization(
        moving_mean_initializer="ones", moving_variance_initializer=keras.initializers.Constant(4)
    )
    np.testing.assert_allclose(call(layer, x), (x - 1) / np.sqrt(4 + 1e-3), rtol=1e-5, atol=1e-6)
    assert [s.tolist() for s in statistics(layer)] == [[1.0] * 6, [4.0] * 6]


@pytest.mark.quick
def test_a_mask_changes_nothing_in_inference():
    x = random_input(3, 4, 6, dtype="float32")
    layer = kn.BatchNormalization()
    np.testing.assert_array_equal(call(layer, x, mask=np.zeros((3, 4), bool)), call(layer, x))


@pytest.mark.quick
def test_a_layer_that_is_not_trainable_is_in_inference_mode_whatever_training_says():
    x = random_input(3, 4, 6, dtype="float32")
    layer = kn.BatchNormalization()
    want = call(layer, x, training=False)
    layer.trainable = False
    np.testing.assert_array_equal(call(layer, x, training=True), want)
    assert statistics(layer)[0].tolist() == [0.0] * 6
    layer.trainable = True
    assert np.abs(call(layer, x, training=True) - want).max() > 0.1


@pytest.mark.quick
def test_only_the_channels_that_the_mask_leaves_are_followed():
    x = random_input(3, 4, 6, dtype="float32")
    mask = np.ones(x.shape, bool)
    mask[..., 2] = False
    layer = kn.BatchNormalization()
    call(layer, x, training=True, mask=mask)
    mean, variance = statistics(layer)
    assert (mean[2], variance[2]) == (0.0, 1.0)
    assert (np.delete(mean, 2) != 0).all()


@pytest.mark.quick
def test_it_works_inside_time_distributed():
    x = random_input(2, 3, 4, 6, dtype="float32")
    inner = kn.BatchNormalization(momentum=0.0)
    y = call(keras.layers.TimeDistributed(inner), x, training=True)
    for t in range(3):
        step = x[:, t]
        want = (step - step.mean((0, 1))) / np.sqrt(step.var((0, 1)) + 1e-3)
        np.testing.assert_allclose(y[:, t], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics(inner)[0], x[:, -1].mean((0, 1)), rtol=1e-5, atol=1e-6)


def test_fit_trains_towards_the_statistics_of_the_data_and_evaluate_uses_them():
    x = random_input(64, 6, dtype="float32")
    model = keras.Sequential([kn.BatchNormalization(momentum=0.5)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, x, batch_size=64, epochs=25, verbose=0)
    np.testing.assert_allclose(array(model.layers[0].moving_mean), x.mean(0), rtol=1e-4)
    want = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    np.testing.assert_allclose(model.predict(x, verbose=0), want, rtol=1e-3, atol=1e-3)
    assert model.evaluate(x, want, verbose=0) < 1e-5


@pytest.mark.quick
@pytest.mark.parametrize("batch_axis", [0, -2])
def test_the_kept_axis_may_be_any(batch_axis):
    x = random_input(4, 6, dtype="float32")
    y = call(kn.BatchNormalization(axis=batch_axis), x, training=True)
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@pytest.mark.quick
def test_the_gradient_sums_to_0_over_each_set():
    x, cotangent = random_input(3, 4, 6), random_input(3, 4, 6, seed=1)
    dx = gradients(kn.BatchNormalization(dtype="float64"), x, cotangent, training=True)[0]
    np.testing.assert_allclose(dx.sum((0, 1)), 0, atol=1e-10)
