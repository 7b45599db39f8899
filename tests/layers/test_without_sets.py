"""What people put in the place of normalizations, against the formulas of the papers."""

import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call, gradients
from support.cases import CHANNELS, random_input

pytestmark = pytest.mark.quick

GAMMA, BETA = np.linspace(0.5, 2.0, CHANNELS), np.linspace(-1.0, 1.0, CHANNELS)


def with_gamma_and_beta(layer, shape):
    layer.build(shape)
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    return layer


def test_global_response_normalization_is_that_of_convnext():
    x = random_input(3, 4, 5, CHANNELS)
    norms = np.linalg.norm(x, axis=(1, 2), keepdims=True)
    want = GAMMA * (x * norms / (norms.mean(-1, keepdims=True) + 1e-6)) + BETA + x
    y = call(with_gamma_and_beta(kn.GlobalResponseNormalization(), x.shape), x.astype("float32"))
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_global_response_normalization_starts_as_the_identity():
    x = random_input(3, 4, CHANNELS, dtype="float32")
    np.testing.assert_array_equal(call(kn.GlobalResponseNormalization(), x), x)


def test_a_sample_of_zeros_gives_beta_and_finite_gradients():
    layer = with_gamma_and_beta(kn.GlobalResponseNormalization(), (2, 3, CHANNELS))
    x = np.zeros((2, 3, CHANNELS), "float32")
    np.testing.assert_allclose(call(layer, x), np.broadcast_to(BETA, x.shape), rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients(layer, x, np.ones_like(x)))


@pytest.mark.parametrize("axis", [-1, 1])
def test_dynamic_tanh_is_gamma_tanh_of_alpha_x_plus_beta(axis):
    x = random_input(3, 6, 6)
    layer = with_gamma_and_beta(kn.DynamicTanh(axis, alpha_initializer=0.25), x.shape)
    gamma, beta = (w if axis == -1 else w[:, None] for w in (GAMMA, BETA))
    want = gamma * np.tanh(0.25 * x) + beta
    np.testing.assert_allclose(call(layer, x.astype("float32")), want, rtol=1e-5, atol=1e-6)


def test_alpha_is_one_number_that_starts_at_a_half_and_is_trained():
    x, cotangent = random_input(3, 4, CHANNELS), random_input(3, 4, CHANNELS, seed=1)
    layer = kn.DynamicTanh(dtype="float64")
    dalpha = gradients(layer, x, cotangent)[-1]
    assert float(array(layer.alpha)) == 0.5
    np.testing.assert_allclose(dalpha, (cotangent * x / np.cosh(0.5 * x) ** 2).sum(), rtol=1e-6)


def test_dynamic_tanh_has_no_epsilon_and_keeps_its_initializer():
    config = kn.DynamicTanh(alpha_initializer=0.25).get_config()
    assert "epsilon" not in config
    assert kn.DynamicTanh.from_config(config).get_config() == config
    with pytest.raises(ValueError, match="epsilon is not an argument"):
        kn.DynamicTanh(epsilon=0.1)
