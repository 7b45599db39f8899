"""Filter response normalization and its activation, against the formulas of the paper."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call, gradients
from support.cases import CHANNELS, random_input, same_sample_and_channel
from support.reference import differences, standardize

pytestmark = pytest.mark.quick

TAU = np.linspace(-2.0, 3.0, CHANNELS)


def formula(x, epsilon):
    """x / sqrt(nu^2 + |epsilon|), with the channels last."""
    nu2 = (x**2).mean(tuple(range(1, x.ndim - 1)), keepdims=True)
    return x / np.sqrt(nu2 + np.abs(epsilon))


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 3, 4, 6), (2, 2, 3, 2, 6)], ids=str)
def test_a_channel_of_a_sample_is_divided_by_its_root_mean_square(shape):
    x = random_input(*shape)
    y = call(kn.FilterResponseNormalization(), x.astype("float32"))
    np.testing.assert_allclose(y, formula(x, 1e-6), rtol=1e-5)


def test_on_data_of_mean_zero_it_is_instance_normalization():
    x = random_input(3, 4, 5, CHANNELS)
    x -= x.mean((1, 2), keepdims=True)
    y = call(kn.FilterResponseNormalization(epsilon=1e-3), x.astype("float32"))
    np.testing.assert_allclose(y, standardize(x, same_sample_and_channel, 3, 1e-3), rtol=1e-4, atol=1e-5)


def test_a_learned_epsilon_is_added_by_its_size_and_starts_at_1e_4():
    x = random_input(3, 1, 1, CHANNELS) * 0.01
    layer = kn.FilterResponseNormalization(learned_epsilon=True)
    np.testing.assert_allclose(call(layer, x.astype("float32")), formula(x, 1e-6 + 1e-4), rtol=1e-5)
    assert [weight.name for weight in layer.trainable_weights] == ["gamma", "beta", "epsilon_c"]
    layer.epsilon_c.assign(-np.ones(CHANNELS))
    np.testing.assert_allclose(call(layer, x.astype("float32")), formula(x, 1e-6 + 1.0), rtol=1e-5)


def test_the_gradient_to_the_learned_epsilon_is_that_of_finite_differences():
    x, cotangent = random_input(2, 3, CHANNELS), random_input(2, 3, CHANNELS, seed=1)
    layer = kn.FilterResponseNormalization(learned_epsilon=True, dtype="float64")
    layer.build(x.shape)
    values = TAU + 0.1  # none is 0, where a size has no gradient
    layer.epsilon_c.assign(values)
    got = gradients(layer, x, cotangent)[-1]
    want = differences(lambda e: (cotangent * formula(x, 1e-6 + np.abs(e))).sum(), values)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_learned_epsilon_must_be_a_boolean():
    with pytest.raises(TypeError, match="FilterResponseNormalization: learned_epsilon must be True or False"):
        kn.FilterResponseNormalization(learned_epsilon=2)


@pytest.mark.parametrize(("shape", "axis"), [((4, 6), -1), ((2, 3, 6), -1), ((2, 6, 3), 1)])
def test_a_thresholded_linear_unit_is_the_maximum_with_tau(shape, axis):
    x = random_input(*shape)
    layer = kn.ThresholdedLinearUnit(axis)
    layer.build(shape)
    np.testing.assert_allclose(call(layer, x.astype("float32")), np.maximum(x, 0.0), rtol=1e-6)
    layer.tau.assign(TAU)
    tau = np.expand_dims(TAU, [a for a in range(len(shape)) if a != axis % len(shape)])
    np.testing.assert_allclose(call(layer, x.astype("float32")), np.maximum(x, tau), rtol=1e-6)


def test_the_gradient_of_a_threshold_comes_from_the_positions_below_it():
    x, cotangent = random_input(3, 4, CHANNELS), random_input(3, 4, CHANNELS, seed=1)
    layer = kn.ThresholdedLinearUnit(dtype="float64")
    layer.build(x.shape)
    layer.tau.assign(TAU)
    dx, dtau = gradients(layer, x, cotangent)
    np.testing.assert_allclose(dx, np.where(x > TAU, cotangent, 0.0))
    np.testing.assert_allclose(dtau, np.where(x < TAU, cotangent, 0.0).sum((0, 1)))


def test_a_thresholded_linear_unit_keeps_dtypes_masks_and_its_config(tmp_path):
    layer = kn.ThresholdedLinearUnit(tau_regularizer="l2", tau_constraint="non_neg", dtype="mixed_float16")
    y = layer(np.full((2, 3, CHANNELS), 1e4, "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert layer.tau.dtype == "float32"
    assert kn.ThresholdedLinearUnit.from_config(layer.get_config()).get_config() == layer.get_config()
    tokens = keras.Input((None,), dtype="int32")
    h = keras.layers.Embedding(7, CHANNELS, mask_zero=True)(tokens)
    h = kn.FilterResponseNormalization()(kn.ThresholdedLinearUnit(name="unit")(h))
    model = keras.Model(tokens, h)
    x = np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(keras.models.load_model(tmp_path / "model.keras")(x)), array(model(x)))
    np.testing.assert_array_equal(array(model(x))[x == 0], 0.0)  # beta: the mask has passed the unit


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda: kn.ThresholdedLinearUnit(axis=None), "axis must be an integer"),
        (lambda: kn.ThresholdedLinearUnit()(keras.Input((4, None))), "axes with weights must have known sizes"),
        (lambda: kn.ThresholdedLinearUnit(axis=0)(np.ones((2, 3))), "axis must not be 0"),
    ],
)
def test_a_thresholded_linear_unit_refuses_what_has_no_channels(broken, words):
    with pytest.raises((TypeError, ValueError), match=f"ThresholdedLinearUnit: {words}"):
        broken()
