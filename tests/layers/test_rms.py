"""x / sqrt(mean(x^2) + epsilon), against Keras' and torch's layers where those are right."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call, torch_only
from support.cases import random_input

pytestmark = pytest.mark.quick

GAMMA = np.linspace(0.5, 2.0, 6).astype("float32")


@pytest.mark.parametrize("axis", [-1, 2, [-1], (1, 2)])
def test_it_is_that_of_keras_with_its_weights(axis):
    x = random_input(3, 5, 6, dtype="float32")
    keras_axis = [1, 2] if axis == (1, 2) else axis  # Keras takes a tuple for a sequence of names
    ours, theirs = kn.RMSNormalization(axis), keras.layers.RMSNormalization(keras_axis)
    want = call(theirs, x)
    theirs.scale.assign(np.broadcast_to(GAMMA, theirs.scale.shape))
    ours.build(x.shape)
    np.testing.assert_allclose(call(ours, x), want, rtol=1e-5, atol=1e-6)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(call(ours, x), call(theirs, x), rtol=1e-5, atol=1e-6)


@torch_only
@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_it_is_that_of_torch(shape):
    import torch

    x = random_input(3, 5, 6, dtype="float32")
    want = torch.nn.RMSNorm(shape, eps=1e-6)(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(call(kn.RMSNormalization([1, 2][-len(shape) :]), x), want, rtol=1e-5, atol=1e-6)


def test_squares_beyond_float16_do_not_overflow():
    x = random_input(3, 6).astype("float16") * np.float16(2000)  # squares are 1e7
    y = call(kn.RMSNormalization(dtype="mixed_float16"), x)
    want = x.astype("float64") / np.sqrt((x.astype("float64") ** 2).mean(-1, keepdims=True))
    np.testing.assert_allclose(y, want, rtol=2e-3)


def test_there_is_no_beta_and_no_mean():
    layer = kn.RMSNormalization()
    y = call(layer, np.full((2, 6), 7.0, "float32"))
    np.testing.assert_allclose(y, 1.0, rtol=1e-5)
    assert [weight.name for weight in layer.weights] == ["gamma"]
    assert not {"center", "beta_initializer"} & layer.get_config().keys()
    with pytest.raises(ValueError, match="center is not an argument"):
        kn.RMSNormalization(center=True)


def test_masked_positions_give_zero():
    x, mask = random_input(2, 4, 6), np.array([[1, 1, 0, 1], [0, 0, 1, 1]], bool)
    y = call(kn.RMSNormalization([1, 2]), x.astype("float32"), mask=mask)
    assert (y[~mask] == 0).all()
    for k in range(2):
        kept = x[k][mask[k]]
        np.testing.assert_allclose(y[k][mask[k]], kept / np.sqrt((kept**2).mean()), rtol=1e-5)
    assert array(y).shape == x.shape
