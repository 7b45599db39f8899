"""Runs of neighboring samples, each with its own statistics, against NumPy."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import BACKEND, array, call
from support.cases import random_input

pytestmark = pytest.mark.quick


def runs_of(x, size):
    return [x[i : i + size] for i in range(0, len(x), size)]


def standard(x, epsilon=1e-3):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + epsilon)


def moved(x, size, momentum=0.99):
    """The moving statistics after one step: the mean over the runs, however long each is."""
    axes = tuple(range(x.ndim - 1))
    mean = np.mean([run.mean(axes) for run in runs_of(x, size)], 0)
    variance = np.mean([run.var(axes) for run in runs_of(x, size)], 0)
    return (1 - momentum) * mean, momentum + (1 - momentum) * variance


@pytest.mark.parametrize("samples", [8, 9, 2, 1, 4])
@pytest.mark.parametrize("size", [2, 4])
def test_each_run_has_its_own_statistics_and_the_last_may_be_shorter(samples, size):
    x = random_input(samples, 3, 6) * np.arange(1, samples + 1)[:, None, None]
    layer = kn.GhostBatchNormalization(size)
    y = call(layer, x.astype("float32"), training=True)
    np.testing.assert_allclose(y, np.concatenate([standard(run) for run in runs_of(x, size)]), rtol=1e-5, atol=2e-6)
    for got, want in zip((layer.moving_mean, layer.moving_variance), moved(x, size), strict=True):
        np.testing.assert_allclose(array(got), want, rtol=1e-5)


@pytest.mark.parametrize("size", [9, 100])
def test_one_run_of_all_samples_is_batch_normalization(size):
    x = random_input(9, 3, 6, dtype="float32")
    ours, keras_layer = kn.GhostBatchNormalization(size), keras.layers.BatchNormalization()
    np.testing.assert_allclose(call(ours, x, training=True), call(keras_layer, x, training=True), rtol=1e-4, atol=1e-5)
    for got, want in zip(ours.weights, keras_layer.weights, strict=True):
        assert got.name == want.name
        np.testing.assert_allclose(array(got), array(want), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(call(ours, x), call(keras_layer, x), rtol=1e-4, atol=1e-5)


def test_masked_samples_belong_to_no_run_and_a_run_without_any_is_not_counted():
    x, mask = random_input(5, 3, 6), np.ones((5, 3), bool)
    mask[2:4] = False  # the second run
    mask[4, 1] = False
    layer = kn.GhostBatchNormalization(2, momentum=0.0)
    y = call(layer, x.astype("float32"), training=True, mask=mask)
    np.testing.assert_allclose(y[:2], standard(x[:2]), rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(y[2:4], 0.0)
    np.testing.assert_allclose(y[4][mask[4]], standard(x[4][mask[4]]), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(array(layer.moving_mean), (x[:2].mean((0, 1)) + x[4][mask[4]].mean(0)) / 2, rtol=1e-5)


@pytest.mark.parametrize("samples", [4, 5, 1])
def test_a_model_of_unknown_batch_size_takes_any(samples):
    x = random_input(samples, 3, 6)
    model = keras.Sequential([keras.Input((None, 6)), kn.GhostBatchNormalization(2)])
    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(lambda x: model(x, training=True), input_signature=[tf.TensorSpec((None, None, 6))])
        y = step(x.astype("float32"))
    else:
        y = model(x.astype("float32"), training=True)
    np.testing.assert_allclose(array(y), np.concatenate([standard(run) for run in runs_of(x, 2)]), rtol=1e-5, atol=2e-6)
    for got, want in zip(model.layers[0].weights[2:], moved(x, 2), strict=True):
        np.testing.assert_allclose(array(got), want, rtol=1e-5)


def test_it_has_no_synchronized():
    assert "synchronized" not in kn.GhostBatchNormalization(2).get_config()
    words = r"GhostBatchNormalization: synchronized is not an argument of this layer.* Received: synchronized=True"
    with pytest.raises(ValueError, match=words):
        kn.GhostBatchNormalization(2, synchronized=True)
