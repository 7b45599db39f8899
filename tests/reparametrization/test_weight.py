"""w = g v / ||v||, against NumPy, its own identities, and PyTorch's gradients."""

import keras
import numpy as np
import pytest

from keras_norm.reparametrization import WeightNormalization
from support import torch_gradients
from support.backends import array, call
from support.wrapped_layers import (
    BY_NAME,
    KINDS,
    as_kernel,
    as_matrix,
    built,
    kernel_weights,
    plain_output,
    weight_gradients,
)

pytestmark = pytest.mark.quick
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def with_lengths(kind, **kwargs):
    """A wrapped layer whose g is not ||v||."""
    layer = built(kind, WeightNormalization, **kwargs)
    for i, g in enumerate(layer.g):
        g.assign(np.random.default_rng(i).uniform(0.5, 2.0, g.shape))
    return layer


def normalized(layer, kind):
    """g v / ||v|| of each kernel in float64."""
    kernels = {}
    for g, (name, weight) in zip(layer.g, kernel_weights(layer, kind).items(), strict=True):
        axes = kind.unit_axes[name]
        v = as_matrix(array(weight).astype("float64"), axes)
        kernels[name] = as_kernel(array(g) * v / np.sqrt((v**2).sum(0)), weight.shape, axes)
    return kernels


@every_kind
def test_the_layer_runs_with_the_kernel_of_the_formula(kind):
    layer, x = with_lengths(kind), kind.inputs()
    np.testing.assert_allclose(
        call(layer, x), plain_output(kind, layer, normalized(layer, kind), x), rtol=2e-5, atol=2e-5
    )


@every_kind
def test_wrapping_a_layer_leaves_its_output_as_it_was(kind):
    plain, x = kind.make(), kind.inputs()
    want = call(plain, x)
    np.testing.assert_allclose(call(WeightNormalization(plain), x), want, rtol=1e-5, atol=1e-6)


@every_kind
def test_the_gradient_to_v_is_orthogonal_to_v_in_each_unit(kind):
    layer, x = with_lengths(kind), kind.inputs()
    cotangent = np.random.default_rng(2).normal(size=call(layer, x).shape).astype("float32")
    found = weight_gradients(layer, x, cotangent)
    for name, weight in kernel_weights(layer, kind).items():
        v, gradient = (as_matrix(value, kind.unit_axes[name]) for value in (array(weight), found[weight.path]))
        lengths = np.linalg.norm(v, axis=0) * np.linalg.norm(gradient, axis=0)
        assert (lengths > 0).all()
        np.testing.assert_allclose((v * gradient).sum(0) / lengths, 0.0, atol=1e-5)


@pytest.mark.parametrize("case", torch_gradients.CASES)
def test_gradients_are_those_of_torch(case):
    fixture = torch_gradients.read("weight_norm", case)
    layer = torch_gradients.wrapped(WeightNormalization, case, fixture)
    layer.g[0].assign(fixture["g"])
    torch_gradients.assert_close(call(layer, fixture["x"]), fixture["y"])
    found = weight_gradients(layer, fixture["x"], fixture["cotangent"])
    torch_gradients.assert_close(found[layer.g[0].path], fixture["gradient of g"])
    torch_gradients.assert_close(found[layer.layer.kernel.path], fixture["gradient of kernel"])


def test_a_unit_of_zeros_gives_zeros_and_finite_gradients():
    layer = WeightNormalization(keras.layers.Dense(3, kernel_initializer="zeros"))
    x = BY_NAME["Dense"].inputs()
    np.testing.assert_array_equal(call(layer, x), np.zeros((4, 3)))
    for gradient in weight_gradients(layer, x, np.ones((4, 3), "float32")).values():
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_lengths_are_taken_in_float32_under_narrow_policies(policy):
    # 400 numbers of 200 have the length 4000, whose square no float16 holds.
    layer = WeightNormalization(
        keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(200.0), dtype=policy)
    )
    y = layer(keras.ops.convert_to_tensor(np.full((1, 400), 0.01), layer.layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.layer.compute_dtype
    assert layer.g[0].dtype == "float32"
    np.testing.assert_allclose(array(layer.g[0]), 4000.0, rtol=1e-6)
    np.testing.assert_allclose(array(keras.ops.cast(y, "float32")), 800.0, rtol=2e-2)


def test_an_axis_of_the_users_own_is_the_axis_of_g():
    layer = WeightNormalization(keras.layers.Embedding(7, 3), axis=0)
    x = BY_NAME["Embedding"].inputs()
    layer.build(x.shape)
    layer.g[0].assign(np.arange(1.0, 8.0))
    np.testing.assert_allclose(np.linalg.norm(call(layer, x), axis=-1), x + 1.0, rtol=1e-6)
