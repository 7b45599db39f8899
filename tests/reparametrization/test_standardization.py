"""(v - mean) / sqrt(var + epsilon), against NumPy, finite differences, its own identities, and torch's functions."""

from functools import partial

import keras
import numpy as np
import pytest

from keras_norm.reparametrization import ScaledWeightStandardization, WeightNormalization, WeightStandardization
from support.backends import BACKEND, array, call
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
both = pytest.mark.parametrize("wrapper", [WeightStandardization, ScaledWeightStandardization])
# Large enough that its place in the formula shows.
EPSILON = {"epsilon": 0.1}


def standardized(v, g=None, epsilon=0.1):
    """The effective kernel of a matrix (rest, units); with g, the scaled one."""
    deviation = v - v.sum(0) / len(v)
    square = (deviation**2).sum(0)
    return deviation / np.sqrt(square / len(v) + epsilon) if g is None else g * deviation / np.sqrt(square + epsilon)


def with_gains(kind, wrapper, **kwargs):
    """A wrapped layer whose gains, if it has any, are not 1."""
    layer = built(kind, partial(wrapper, **EPSILON), **kwargs)
    for i, g in enumerate(getattr(layer, "g", [])):
        g.assign(np.random.default_rng(i).uniform(0.5, 2.0, g.shape))
    return layer


def matrices(layer, kind):
    """The name, weight, matrix in float64 and gains of each kernel."""
    weights = kernel_weights(layer, kind)
    gains = [array(g).astype("float64") for g in getattr(layer, "g", [])] or [None] * len(weights)
    for (name, weight), g in zip(weights.items(), gains, strict=True):
        yield name, weight, as_matrix(array(weight).astype("float64"), kind.unit_axes[name]), g


def slopes(function, x, step=1e-5):
    """The gradient of a function of an array, by central differences."""
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        there, here = x.copy(), x.copy()
        there[i] += step
        here[i] -= step
        found[i] = (function(there) - function(here)) / (2 * step)
    return found


def cotangent_of(layer, x):
    return np.random.default_rng(2).normal(size=call(layer, x).shape).astype("float32")


@both
@every_kind
def test_the_layer_runs_with_the_kernel_of_the_formula(kind, wrapper):
    layer, x = with_gains(kind, wrapper), kind.inputs()
    kernels = {
        name: as_kernel(standardized(v, g), weight.shape, kind.unit_axes[name])
        for name, weight, v, g in matrices(layer, kind)
    }
    np.testing.assert_allclose(call(layer, x), plain_output(kind, layer, kernels, x), rtol=2e-5, atol=2e-5)


@both
@every_kind
def test_gradients_are_those_of_the_formula(kind, wrapper):
    layer, x = with_gains(kind, wrapper), kind.inputs()
    cotangent = cotangent_of(layer, x)
    plain = layer.fold()
    to_plain = weight_gradients(plain, x, cotangent)
    names = {weight.name: weight.path for weight in plain.weights}
    found, gains = weight_gradients(layer, x, cotangent), iter(getattr(layer, "g", []))
    for name, weight, v, g in matrices(layer, kind):
        to_effective = as_matrix(to_plain[names[name]].astype("float64"), kind.unit_axes[name])

        def product(v, g, to_effective=to_effective):
            return (standardized(v, g) * to_effective).sum()

        expected = slopes(lambda v, g=g, product=product: product(v, g), v)
        got = as_matrix(found[weight.path], kind.unit_axes[name])
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        if g is not None:
            expected = slopes(lambda g, v=v, product=product: product(v, g), g)
            np.testing.assert_allclose(found[next(gains).path], expected, rtol=1e-3, atol=1e-4)


@both
def test_gradients_in_float64_equal_finite_differences(wrapper):
    layer, x = with_gains(BY_NAME["Dense"], wrapper, dtype="float64"), BY_NAME["Dense"].inputs().astype("float64")
    cotangent = np.random.default_rng(2).normal(size=(4, 3))
    ((_, weight, v, g),) = matrices(layer, BY_NAME["Dense"])
    found = weight_gradients(layer, x, cotangent)
    # On torch Keras' own products of float64 are of float32.
    unit = 1e-5 if BACKEND == "torch" else 1e-8
    expected = slopes(lambda v: (x @ standardized(v, g) * cotangent).sum(), v)
    np.testing.assert_allclose(found[weight.path], expected, rtol=unit, atol=unit)
    if g is not None:
        expected = slopes(lambda g: (x @ standardized(v, g) * cotangent).sum(), g)
        np.testing.assert_allclose(found[layer.g[0].path], expected, rtol=unit, atol=unit)


@both
@every_kind
def test_the_gradient_to_v_sums_to_zero_in_each_unit(kind, wrapper):
    layer, x = with_gains(kind, wrapper), kind.inputs()
    found = weight_gradients(layer, x, cotangent_of(layer, x))
    for name, weight in kernel_weights(layer, kind).items():
        gradient = as_matrix(found[weight.path], kind.unit_axes[name])
        sizes = np.abs(gradient).sum(0)
        assert (sizes > 0).all()
        np.testing.assert_allclose(gradient.sum(0) / sizes, 0.0, atol=1e-5)


@both
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_neither_an_offset_nor_the_scale_of_a_unit_matters(offset, wrapper):
    layer, x = wrapper(keras.layers.Dense(3, use_bias=False), epsilon=1e-12), BY_NAME["Dense"].inputs()
    layer.build(x.shape)
    v = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    layer.layer.kernel.assign(v)
    want = call(layer, x)
    layer.layer.kernel.assign(offset + v * [1.0, 4.0, 0.5])
    np.testing.assert_allclose(call(layer, x), want, rtol=1e-3, atol=1e-2 if offset else 1e-5)


# The paper's claim, on 2000 samples of 32 units or more, whose outputs are nearly independent: the standard deviation
# of their variance is sqrt(2 / 64000) = 0.006, and of their mean 0.004.
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (partial(keras.layers.Dense, 32), (300,)),
        (partial(keras.layers.Conv2D, 32, 5, strides=5), (5, 5, 12)),
        (partial(keras.layers.Conv1D, 32, 3, strides=3, groups=2), (6, 100)),
        (partial(keras.layers.EinsumDense, "abc,cde->abde", (3, 8, 4)), (3, 200)),
    ],
    ids=["Dense", "Conv2D", "Conv1D of groups", "EinsumDense"],
)
def test_scaled_weight_standardization_keeps_the_variance_of_its_inputs_and_takes_out_their_mean(make, shape):
    # A plain layer with this kernel would give outputs with a mean of 1000 and more.
    layer = ScaledWeightStandardization(make(kernel_initializer=keras.initializers.RandomNormal(2.0, 0.3, seed=0)))
    y = call(layer, np.random.default_rng(0).normal(3.0, 1.0, (2000, *shape)).astype("float32"))
    assert abs(y.var() - 1.0) < 0.03
    assert abs(y.mean()) < 0.02


@pytest.mark.parametrize("gain", [1.7139588594436646, 0.0])
def test_the_gain_is_where_g_starts(gain):
    layer, x = ScaledWeightStandardization(keras.layers.Dense(3), gain=gain), BY_NAME["Dense"].inputs()
    plain = ScaledWeightStandardization(keras.layers.Dense(3))
    for wrapper in (layer, plain):
        wrapper.build(x.shape)
    plain.layer.set_weights(layer.layer.get_weights())
    np.testing.assert_allclose(call(layer, x), gain * call(plain, x), rtol=1e-5)
    np.testing.assert_array_equal(array(layer.g[0]), np.full(3, gain, "float32"))


@pytest.mark.parametrize("case", ["StdConv2d", "ScaledStdConv2d"])
def test_convolutions_are_those_of_timm(case):
    torch = pytest.importorskip("torch", reason="the other side is torch, which is not installed")
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(2.0, 3.0, (4, 7, 6, 5)).astype("float32"), rng.normal(0.1, 0.05, (3, 2, 5, 8))
    bias, gain, gamma = rng.normal(size=8), rng.uniform(0.5, 2.0, 8), 1.7139588594436646
    # There the kernel is (units, inputs, height, width), and goes through batch_norm with the units as channels.
    flat = torch.from_numpy(np.moveaxis(kernel, (3, 2), (0, 1)).reshape(1, 8, 30))
    if case == "StdConv2d":
        layer = WeightStandardization(keras.layers.Conv2D(8, (3, 2)))
        weight = torch.nn.functional.batch_norm(flat, None, None, training=True, eps=1e-6)
    else:
        layer = ScaledWeightStandardization(keras.layers.Conv2D(8, (3, 2)), epsilon=1e-6 * 30)
        scale = torch.from_numpy(gain * gamma / np.sqrt(30))
        weight = torch.nn.functional.batch_norm(flat, None, None, weight=scale, training=True, eps=1e-6)
    weight, inputs = weight.reshape(8, 5, 3, 2), torch.from_numpy(np.moveaxis(x, -1, 1).astype("float64"))
    want = torch.nn.functional.conv2d(inputs, weight, torch.from_numpy(bias)).numpy()
    layer.build(x.shape)
    layer.layer.set_weights([kernel, bias])
    if case == "ScaledStdConv2d":
        layer.g[0].assign(gain * gamma)
    np.testing.assert_allclose(call(layer, x), np.moveaxis(want, 1, -1), rtol=1e-4, atol=1e-4)


@both
def test_a_unit_of_equal_weights_gives_the_bias_and_finite_gradients(wrapper):
    layer = wrapper(keras.layers.Dense(3, kernel_initializer=keras.initializers.Constant(0.3), bias_initializer="ones"))
    x = BY_NAME["Dense"].inputs()
    np.testing.assert_allclose(call(layer, x), 1.0, atol=1e-3)
    for gradient in weight_gradients(layer, x, np.ones((4, 3), "float32")).values():
        assert np.isfinite(gradient).all()


@both
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_statistics_are_taken_in_float32_under_narrow_policies(policy, wrapper):
    # 400 numbers of 200 have the sum 80000, which no float16 holds, and bfloat16 rounds 201 to 200.
    layer = wrapper(keras.layers.Dense(2, use_bias=False, dtype=policy))
    layer.build((None, 400))
    signs = np.where(np.arange(400) % 2, 1.0, -1.0)
    layer.layer.kernel.assign(np.repeat(200.0 + 2.0 * signs[:, None], 2, axis=1))
    y = layer(keras.ops.convert_to_tensor(0.01 * signs[None], layer.layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.layer.compute_dtype
    want = 400 * 0.01 / (1.0 if wrapper is WeightStandardization else np.sqrt(400))
    np.testing.assert_allclose(array(keras.ops.cast(y, "float32")), want, rtol=2e-2)


@both
def test_epsilon_and_gain_are_saved(wrapper, tmp_path):
    arguments = {"epsilon": 0.5} | ({"gain": 2.0} if wrapper is ScaledWeightStandardization else {})
    model, x = BY_NAME["Conv2D"].model(partial(wrapper, **arguments)), BY_NAME["Conv2D"].inputs()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is wrapper
    assert {name: loaded.layers[0].get_config()[name] for name in arguments} == arguments
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))


def test_an_axis_of_the_users_own_is_the_axis_of_the_units():
    layer, tokens = WeightStandardization(keras.layers.Embedding(7, 3), axis=0, **EPSILON), np.arange(7)
    layer.build(tokens.shape)
    v = array(layer.layer.embeddings).astype("float64")
    np.testing.assert_allclose(call(layer, tokens), standardized(v.T).T, rtol=1e-5, atol=1e-6)


@both
@pytest.mark.parametrize(
    ("make", "shape", "arguments", "words"),
    [
        (partial(keras.layers.Dense, 3), (None, 1), {}, r"kernel of shape \(1, 3\) with units along axis=\(1,\)"),
        (partial(keras.layers.DepthwiseConv2D, 1), (None, 4, 4, 5), {}, r"kernel of shape \(1, 1, 5, 1\)"),
        (partial(keras.layers.SeparableConv1D, 3, 1), (None, 4, 5), {}, r"depthwise_kernel of shape \(1, 5, 1\)"),
        (partial(keras.layers.Dense, 3), (None, 4), {"axis": (0, 1)}, r"units along axis=\(0, 1\)"),
        (partial(keras.layers.Dense, 3), (None, 4), {"weight_name": "bias"}, r"bias of shape \(3,\)"),
    ],
    ids=["one input", "depthwise", "separable", "axis", "bias"],
)
def test_units_of_one_weight_are_refused_and_the_layer_stays_free(make, shape, arguments, words, wrapper):
    plain = make()
    words = rf"{wrapper.__name__}: each unit must have several weights, or all become 0\. Received: .*{words}"
    with pytest.raises(ValueError, match=words) as caught:
        wrapper(plain, **arguments).build(shape)
    WeightNormalization(plain, **arguments).build(shape)
    assert caught.tb  # which keeps the refused wrapper alive


@both
@pytest.mark.parametrize("epsilon", [0, -1e-6])
def test_epsilon_is_positive(epsilon, wrapper):
    words = rf"{wrapper.__name__}: epsilon must be positive\. Received: epsilon={epsilon} \(the variance of a kernel "
    with pytest.raises(ValueError, match=words):
        wrapper(keras.layers.Dense(3), epsilon=epsilon)


def test_gain_and_epsilon_are_numbers():
    for name in ("gain", "epsilon"):
        with pytest.raises(
            TypeError, match=rf"ScaledWeightStandardization: {name} must be a number\. Received: {name}="
        ):
            ScaledWeightStandardization(keras.layers.Dense(3), **{name: "relu"})
