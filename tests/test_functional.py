"""The functions, where they go beyond the layers that the contract tests run them through."""

from functools import partial

import keras
import numpy as np
import pytest

from keras_norm.functional import batch_norm, filter_response_norm, group_norm, instance_norm, layer_norm, rms_norm
from keras_norm.moments import Moments
from support import cases, reference
from support.backends import array
from support.cases import random_input

pytestmark = pytest.mark.quick

X = random_input(3, 4, 5, 6)
GAMMA, BETA = np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6)


def paper(x, gamma, beta, groups, epsilon=1e-5):
    """Figure 3 of the Group Normalization paper, in NumPy and with the channels last."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, groups, c // groups)
    mean, variance = x.mean((1, 2, 4), keepdims=True), x.var((1, 2, 4), keepdims=True)
    x = (x - mean) / np.sqrt(variance + epsilon)
    return x.reshape(n, h, w, c) * gamma + beta


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_is_the_snippet_of_the_paper_and_has_its_epsilon(groups):
    y = group_norm(X, GAMMA, BETA, groups)
    np.testing.assert_allclose(array(y), paper(X, GAMMA, BETA, groups), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("norm", "same"),
    [
        (partial(layer_norm, axis=None), cases.same_sample),
        (layer_norm, cases.same_elsewhere),
        (instance_norm, cases.same_sample_and_channel),
        (batch_norm, cases.same_channel),
    ],
    ids=["layer, axis=None", "layer", "instance", "batch"],
)
def test_each_function_is_the_loop_over_its_sets_and_has_the_epsilon_of_the_paper(norm, same):
    want = GAMMA * reference.standardize(X, same, axis=3, epsilon=1e-5) + BETA
    np.testing.assert_allclose(array(norm(X, GAMMA, BETA)), want, rtol=1e-9, atol=1e-9)


def test_the_functions_with_moments_about_zero_are_the_loop_over_their_sets():
    want = GAMMA * reference.scale(X, cases.same_elsewhere, 3, 1e-6)
    np.testing.assert_allclose(array(rms_norm(X, GAMMA)), want, rtol=1e-9, atol=1e-9)
    for epsilon in (1e-6, np.linspace(0.1, 1.0, 6)):
        want = GAMMA * reference.scale(X, cases.same_sample_and_channel, 3, epsilon) + BETA
        y = filter_response_norm(X, GAMMA, BETA, epsilon)
        np.testing.assert_allclose(array(y), want, rtol=1e-9, atol=1e-9)


def test_an_epsilon_per_channel_must_have_one_for_each():
    words = "filter_response_norm: epsilon must have one value per position along its axes"
    with pytest.raises(ValueError, match=words):
        filter_response_norm(X, None, None, np.ones(5))


@pytest.mark.parametrize("groups", [1, -1])
def test_one_group_takes_the_whole_sample_and_minus_one_each_channel_alone(groups):
    want = paper(X, GAMMA, BETA, 1 if groups == 1 else 6)
    np.testing.assert_allclose(array(group_norm(X, GAMMA, BETA, groups)), want, rtol=1e-9, atol=1e-9)


def test_batch_norm_of_one_sample_is_instance_norm():
    np.testing.assert_allclose(array(batch_norm(X[:1], GAMMA, BETA)), paper(X[:1], GAMMA, BETA, 6), rtol=1e-9)


def test_batch_norm_takes_other_statistics():
    mean, variance = np.arange(6.0), np.arange(1.0, 7.0)
    y = batch_norm(X, None, None, statistics=Moments(mean, variance, None))
    np.testing.assert_allclose(array(y), (X - mean) / np.sqrt(variance + 1e-5), rtol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 40.0])
def test_no_norm_sees_the_scale_and_the_offset_of_its_set(scale):
    for norm in (instance_norm, layer_norm, batch_norm):
        y, z = norm(X, None, None, epsilon=1e-12), norm(scale * X + 3, None, None, epsilon=1e-12)
        np.testing.assert_allclose(array(y), array(z), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_output_has_the_dtype_of_the_input(dtype):
    y = group_norm(keras.ops.cast(X, dtype), GAMMA, BETA, 2)
    assert keras.backend.standardize_dtype(y.dtype) == dtype


def test_integers_come_out_as_float32():
    y = layer_norm(np.array([[1, 2, 3]]), None, None)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
