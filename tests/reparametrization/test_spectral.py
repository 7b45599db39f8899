"""W / sigma(W), against NumPy's singular values, its own identities, and PyTorch's gradients."""

from functools import partial

import keras
import numpy as np
import pytest

from keras_norm.reparametrization import SpectralNormalization
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

COMMON = ("Dense", "Conv2D", "Conv2DTranspose", "Embedding", "LSTM")
every_kind = pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind.name in COMMON else pytest.mark.slow) for kind in KINDS],
    ids=str,
)


def converged(kind, calls=6):
    """The wrapped layer after so many training calls, each of which resumes from the vectors of the one before."""
    layer, x = built(kind, partial(SpectralNormalization, power_iterations=10)), kind.inputs()
    for _ in range(calls):
        y = layer(keras.ops.convert_to_tensor(x), training=True)
    return layer, x, array(y)


def normalized(layer, kind):
    """W over its largest singular value, of each kernel in float64."""
    kernels = {}
    for name, weight in kernel_weights(layer, kind).items():
        axes = kind.unit_axes[name]
        matrix = as_matrix(array(weight).astype("float64"), axes)
        largest = np.linalg.svd(matrix, compute_uv=False)[0]
        kernels[name] = as_kernel(matrix / largest, weight.shape, axes)
    return kernels


@every_kind
def test_after_training_calls_the_layer_runs_with_its_kernel_over_the_largest_singular_value_which_is_one(kind):
    layer, x, y = converged(kind)
    np.testing.assert_allclose(y, plain_output(kind, layer, normalized(layer, kind), x), rtol=1e-3, atol=1e-3)
    folded = layer.fold()
    for weight in folded.weights:
        if weight.name in kind.unit_axes:
            values = np.linalg.svd(as_matrix(array(weight), kind.unit_axes[weight.name]), compute_uv=False)
            np.testing.assert_allclose(values[0], 1.0, atol=1e-3)


@every_kind
def test_the_first_call_is_normalized_already(kind):
    layer, x = SpectralNormalization(kind.make()), kind.inputs()
    y = call(layer, x, training=False)
    np.testing.assert_allclose(y, plain_output(kind, layer, normalized(layer, kind), x), rtol=0.05, atol=0.02)


@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_a_call_changes_no_trainable_weight(kind, training):
    layer, x = built(kind, SpectralNormalization), kind.inputs()
    before = {w.path: array(w) for w in layer.trainable_weights}
    call(layer, x, training=training)
    assert len(before) == len(layer.layer.trainable_weights)
    for weight in layer.trainable_weights:
        np.testing.assert_array_equal(array(weight), before[weight.path])


def test_u_moves_in_training_only():
    layer, x = built(BY_NAME["Conv2D"], SpectralNormalization), BY_NAME["Conv2D"].inputs()
    start = array(layer.u[0])
    call(layer, x, training=False)
    np.testing.assert_array_equal(array(layer.u[0]), start)
    call(layer, x, training=True)
    assert np.abs(array(layer.u[0]) - start).max() > 1e-3


def test_u_stays_where_it_is_when_the_layer_is_frozen():
    layer, x = built(BY_NAME["Conv2D"], SpectralNormalization), BY_NAME["Conv2D"].inputs()
    start = array(layer.u[0])
    layer.trainable = False
    call(layer, x, training=True)
    np.testing.assert_array_equal(array(layer.u[0]), start)


def test_inference_equals_training_on_the_same_weights():
    kind = BY_NAME["Dense"]
    layer, x = built(kind, SpectralNormalization), kind.inputs()
    np.testing.assert_array_equal(call(layer, x, training=False), call(layer, x, training=True))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_each_power_iteration_turns_the_vectors_by_the_ratio_of_the_singular_values(steps):
    layer = SpectralNormalization(keras.layers.Dense(2, use_bias=False), power_iterations=steps)
    layer.build((None, 2))
    layer.layer.kernel.assign([[2.0, 0.0], [0.0, 1.0]])
    layer.u[0].assign([0.6, 0.8])
    # W = diag(2, 1) halves the tangent of v, and of u once more: from t it is t / 2 and t / 4 after a step.
    t = 0.8 / 0.6 / 4.0 ** (steps - 1)
    sigma = (2 + t / 2 * t / 4) / np.sqrt((1 + t**2 / 4) * (1 + t**2 / 16))
    np.testing.assert_allclose(call(layer, np.array([[1.0, 0.0]], "float32")), [[2 / sigma, 0.0]], rtol=1e-6)


@every_kind
def test_at_convergence_the_gradient_to_w_is_orthogonal_to_w(kind):
    layer, x, y = converged(kind, calls=2)
    found = weight_gradients(layer, x, np.random.default_rng(2).normal(size=y.shape).astype("float32"), training=True)
    for weight in kernel_weights(layer, kind).values():
        w, gradient = array(weight), found[weight.path]
        scale = np.linalg.norm(w) * np.linalg.norm(gradient)
        assert scale > 1e-3
        # Also before: sigma = v'Wu is linear in W, so W / sigma does not change along W.
        np.testing.assert_allclose((w * gradient).sum() / scale, 0.0, atol=1e-5)


def test_no_gradient_flows_through_u_and_v_on_their_way():
    layer, x = built(BY_NAME["Dense"], SpectralNormalization), BY_NAME["Dense"].inputs().astype("float64")
    cotangent = np.random.default_rng(2).normal(size=(4, 3))
    w, u = array(layer.layer.kernel).astype("float64"), np.array([1.0, 0.0, 0.0])
    layer.u[0].assign(u)
    v = w @ u / np.linalg.norm(w @ u)
    u = v @ w / np.linalg.norm(v @ w)
    sigma = v @ w @ u
    # With y = x W / sigma and sigma = v'Wu for constant u and v.
    expected = x.T @ cotangent / sigma - (cotangent * (x @ w)).sum() / sigma**2 * np.outer(v, u)
    found = weight_gradients(layer, x.astype("float32"), cotangent.astype("float32"), training=True)
    np.testing.assert_allclose(found[layer.layer.kernel.path], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case", ["Dense", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Conv2D", "Conv2DTranspose"))]
)
def test_gradients_are_those_of_torch(case):
    fixture = torch_gradients.read("spectral_norm", case)
    layer = torch_gradients.wrapped(SpectralNormalization, case, fixture, power_iterations=torch_gradients.ITERATIONS)
    torch_gradients.assert_close(call(layer, fixture["x"]), fixture["y"])
    found = weight_gradients(layer, fixture["x"], fixture["cotangent"])
    torch_gradients.assert_close(found[layer.layer.kernel.path], fixture["gradient of kernel"])


def test_a_kernel_of_zeros_gives_zeros_and_is_trained_and_found_again():
    kind = BY_NAME["Dense"]
    layer = SpectralNormalization(keras.layers.Dense(3, kernel_initializer="zeros"))
    x = kind.inputs()
    np.testing.assert_array_equal(call(layer, x, training=True), np.zeros((4, 3)))
    gradient = weight_gradients(layer, x, np.ones((4, 3), "float32"))[layer.layer.kernel.path]
    np.testing.assert_allclose(gradient, x.T @ np.ones((4, 3)), rtol=1e-5, atol=1e-6)
    layer.layer.kernel.assign(np.random.default_rng(1).normal(size=(5, 3)))
    for _ in range(60):
        call(layer, x, training=True)
    np.testing.assert_allclose(np.linalg.svd(array(layer.fold().kernel), compute_uv=False)[0], 1.0, atol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_sigma_is_taken_in_float32_under_narrow_policies(policy):
    # The largest singular value is 200 sqrt(400 * 2), the square of which no float16 holds.
    layer = SpectralNormalization(
        keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(200.0), dtype=policy)
    )
    y = layer(keras.ops.ones((1, 400), layer.layer.compute_dtype), training=True)
    assert layer.u[0].dtype == "float32"
    np.testing.assert_allclose(array(keras.ops.cast(y, "float32")), 400 / np.sqrt(800), rtol=2e-2)


@pytest.mark.parametrize("steps", [0, -1])
def test_power_iterations_are_positive(steps):
    words = rf"SpectralNormalization: power_iterations must be positive\. Received: power_iterations={steps}\."
    with pytest.raises(ValueError, match=words):
        SpectralNormalization(keras.layers.Dense(3), power_iterations=steps)


def test_power_iterations_are_a_whole_number():
    with pytest.raises(TypeError, match="SpectralNormalization: power_iterations must be an integer"):
        SpectralNormalization(keras.layers.Dense(3), power_iterations=1.5)
