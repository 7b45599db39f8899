"""The mixture of the statistics of instance, layer and batch, against NumPy."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support import cases
from support.backends import array, call, gradients
from support.cases import random_input
from support.reference import differences, standardize

pytestmark = pytest.mark.quick

ONE = {"instance": cases.same_sample_and_channel, "layer": cases.same_sample, "batch": cases.same_channel}


@pytest.mark.parametrize("chosen", ONE)
def test_with_one_share_it_is_that_layer(chosen):
    x = random_input(3, 4, 6)
    layer = kn.SwitchableNormalization(momentum=0.0)
    layer.build(x.shape)
    for logits in (layer.mean_logits, layer.variance_logits):
        logits.assign([100.0 * (name == chosen) for name in ONE])
    want = standardize(x, ONE[chosen], 2, 1e-3)
    np.testing.assert_allclose(call(layer, x.astype("float32"), training=True), want, rtol=1e-5, atol=1e-6)
    # With a momentum of 0 the moving statistics are those of the batch.
    np.testing.assert_allclose(call(layer, x.astype("float32")), want, rtol=1e-5, atol=1e-6)


def test_the_shares_start_equal_and_are_trained_apart_for_mean_and_variance():
    x, cotangent = random_input(3, 4, 6), random_input(3, 4, 6, seed=1)
    layer = kn.SwitchableNormalization(dtype="float64")
    found = gradients(layer, x, cotangent, training=True)
    names = [weight.name for weight in layer.trainable_weights]
    assert names == ["gamma", "beta", "mean_logits", "variance_logits"]
    case = cases.Switchable(name="", make=kn.SwitchableNormalization, same=cases.same_channel)

    def loss(logits):
        object.__setattr__(case, "logits", logits)
        return (cotangent * case.h(x, 2)).sum()

    want = differences(loss, np.ones((2, 3)))
    np.testing.assert_allclose(found[3], want[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found[4], want[1], rtol=1e-6, atol=1e-8)


def test_in_inference_only_the_batch_gives_way_to_the_moving_statistics():
    x, others = random_input(3, 4, 6), random_input(5, 4, 6, seed=2)
    layer = kn.SwitchableNormalization(momentum=0.0)
    call(layer, others.astype("float32"), training=True)
    instance, sample = ({"axis": axes, "keepdims": True} for axes in (1, (1, 2)))
    mean = (x.mean(**instance) + x.mean(**sample) + others.mean((0, 1))) / 3
    variance = (x.var(**instance) + x.var(**sample) + others.var((0, 1))) / 3
    np.testing.assert_allclose(call(layer, x.astype("float32")), (x - mean) / np.sqrt(variance + 1e-3), rtol=1e-4)


def test_its_config_and_weights_are_saved(tmp_path):
    layer = kn.SwitchableNormalization(logits_initializer="random_normal", synchronized=True)
    model = keras.Sequential([keras.Input((4, 6)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(array(loaded.layers[0].mean_logits), array(layer.mean_logits))
