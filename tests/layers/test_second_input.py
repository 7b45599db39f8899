"""gamma and beta from a second input: conditions of three kinds, and styles."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from support.backends import array, gradients
from support.cases import random_input
from support.reference import differences

pytestmark = pytest.mark.quick

CLASSES = np.array([1, 0, 2, 1])


def group(**kwargs):
    return kn.GroupNormalization(2, center=False, scale=False, **kwargs)


def in_groups(x, axis=-1, epsilon=1e-3):
    """Group normalization in two groups, with the channels last or first."""
    h = np.moveaxis(x, axis, -1)
    split = h.reshape(len(x), -1, 2, h.shape[-1] // 2)
    mean, variance = split.mean((1, 3), keepdims=True), split.var((1, 3), keepdims=True)
    return np.moveaxis(((split - mean) / np.sqrt(variance + epsilon)).reshape(h.shape), -1, axis)


def randomized(layer, seed=3):
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if "moving" not in weight.name:
            weight.assign(rng.normal(size=weight.shape))
    return layer


def called(layer, x, condition, **kwargs):
    return array(layer(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(condition), **kwargs))


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("condition", [CLASSES, CLASSES[:, None]], ids=["(N,)", "(N, 1)"])
def test_a_class_has_a_row_of_gamma_and_one_of_beta(axis, condition):
    x = random_input(4, 6, 3, 6)
    layer = kn.ConditionalNormalization(group(axis=axis), num_classes=3, zero_initialized=False)
    layer.build(x.shape, condition.shape)
    gamma, beta = (array(by.embeddings)[CLASSES] for by in (randomized(layer).gamma_map, layer.beta_map))
    others = (1, 2) if axis == -1 else (2, 3)
    gamma, beta = np.expand_dims(gamma, others), np.expand_dims(beta, others)
    want = (1 + gamma) * in_groups(x, axis) + beta
    np.testing.assert_allclose(called(layer, x.astype("float32"), condition), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_vector_goes_through_a_dense_layer(axis):
    x, vector = random_input(4, 6, 3, 6), random_input(4, 5, seed=1)
    layer = kn.ConditionalNormalization(group(axis=axis))
    layer.build(x.shape, vector.shape)
    maps = (randomized(layer).gamma_map, layer.beta_map)
    gamma, beta = (vector @ array(by.kernel).astype("float64") + array(by.bias) for by in maps)
    others = (1, 2) if axis == -1 else (2, 3)
    want = (1 + np.expand_dims(gamma, others)) * in_groups(x, axis) + np.expand_dims(beta, others)
    got = called(layer, x.astype("float32"), vector.astype("float32"))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def convolved(condition, by):
    """A convolution of a 3 by 3 kernel that pads with zeros, position by position."""
    kernel, padded = array(by.kernel).astype("float64"), np.pad(condition, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = condition.shape[1:3]
    windows = [padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)]
    return sum(windows) + array(by.bias)


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_map_goes_through_a_convolution(axis):
    x, condition = random_input(2, 5, 4, 6), random_input(2, 5, 4, 3, seed=1)
    layer = kn.ConditionalNormalization(group(axis=axis))
    placed = [np.moveaxis(array, -1, axis) for array in (x, condition)]
    layer.build(*(array.shape for array in placed))
    gamma, beta = (convolved(condition, by) for by in (randomized(layer).gamma_map, layer.beta_map))
    want = np.moveaxis((1 + gamma) * in_groups(x) + beta, -1, axis)
    got = called(layer, *(array.astype("float32") for array in placed))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_with_a_kernel_of_size_1_each_position_has_its_own_dense_layer(rank):
    sizes = (2, 3, 4, 2)[: rank - 1]
    x, condition = random_input(*sizes, 6), random_input(*sizes, 5, seed=1)
    layer = kn.ConditionalNormalization(group(), kernel_size=1)
    layer.build(x.shape, condition.shape)
    maps = (randomized(layer).gamma_map, layer.beta_map)
    gamma, beta = (condition @ array(by.kernel).reshape(5, 6) + array(by.bias) for by in maps)
    got = called(layer, x.astype("float32"), condition.astype("float32"))
    np.testing.assert_allclose(got, (1 + gamma) * in_groups(x) + beta, rtol=1e-4, atol=1e-4)


CONDITIONS = {
    "classes": ({"num_classes": 3}, CLASSES),
    "vector": ({}, random_input(4, 5, dtype="float32")),
    "map": ({}, random_input(4, 3, 2, 5, dtype="float32")),
}
every_condition = pytest.mark.parametrize("kind", CONDITIONS)


@every_condition
def test_training_starts_at_the_normalization_itself_and_leaves_it(kind):
    kwargs, condition = CONDITIONS[kind]
    x = random_input(4, 3, 2, 6, dtype="float32")
    batch = kn.BatchNormalization(center=False, scale=False)
    layer = kn.ConditionalNormalization(batch, **kwargs)
    y = called(layer, x, condition, training=True)
    alone = kn.BatchNormalization(center=False, scale=False)
    np.testing.assert_array_equal(y, array(alone(x, training=True)))
    inputs = keras.Input(x.shape[1:]), keras.Input(condition.shape[1:], dtype=str(condition.dtype))
    model = keras.Model(inputs, layer(*inputs))
    model.compile("sgd", "mse")
    model.fit([x, condition], np.ones_like(x), verbose=0)
    assert all(np.abs(array(weight)).max() > 0 for by in (layer.gamma_map, layer.beta_map) for weight in by.weights)


@every_condition
def test_without_zeros_the_maps_start_as_those_of_keras(kind):
    kwargs, condition = CONDITIONS[kind]
    layer = kn.ConditionalNormalization(group(), zero_initialized=False, **kwargs)
    called(layer, random_input(4, 3, 2, 6, dtype="float32"), condition)
    assert np.std(array(layer.gamma_map.weights[0])) > 0.01


def test_training_and_masks_reach_the_normalization():
    x, mask = random_input(4, 3, 6), np.array([[1, 1, 0]] * 4, bool)
    x[:, 2] = np.nan
    layer = kn.ConditionalNormalization(kn.BatchNormalization(momentum=0.0), num_classes=3)
    y = called(layer, x.astype("float32"), CLASSES, training=True, mask=mask)
    kept = x[:, :2]
    want = (kept - kept.mean((0, 1))) / np.sqrt(kept.var((0, 1)) + 1e-3)
    np.testing.assert_allclose(y[:, :2], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y[:, 2], 0.0)
    np.testing.assert_allclose(called(layer, kept.astype("float32"), CLASSES), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(layer.normalization.moving_mean), kept.mean((0, 1)), rtol=1e-5)


def test_a_mask_of_an_embedding_is_found_and_passed_on():
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    h = kl.Embedding(5, 6, mask_zero=True)(tokens)
    y = kn.ConditionalNormalization(group(), num_classes=2)(h, np.array([0, 1]))
    np.testing.assert_array_equal(array(y)[tokens == 0], 0.0)
    np.testing.assert_array_equal(array(keras.src.backend.get_keras_mask(y)), tokens != 0)


@every_condition
def test_a_conditional_model_is_saved_and_loaded(kind, tmp_path):
    kwargs, condition = CONDITIONS[kind]
    x = random_input(4, 3, 2, 6, dtype="float32")
    inputs = keras.Input(x.shape[1:]), keras.Input(condition.shape[1:], dtype=str(condition.dtype))
    layer = kn.ConditionalNormalization(group(), kernel_size=1, zero_initialized=False, **kwargs)
    model = keras.Model(inputs, layer(*inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded([x, condition])), array(model([x, condition])))
    new, old = loaded.layers[-1], layer
    assert new.normalization.get_config() == old.normalization.get_config()
    for name in ("num_classes", "kernel_size", "zero_initialized"):
        assert getattr(new, name) == getattr(old, name)


# Styles


def restyled(content, style, epsilon=1e-5):
    axes = tuple(range(1, content.ndim - 1))
    h = content - content.mean(axes, keepdims=True)
    h /= np.sqrt(content.var(axes, keepdims=True) + epsilon)
    return np.sqrt(style.var(axes, keepdims=True) + epsilon) * h + style.mean(axes, keepdims=True)


@pytest.mark.parametrize("sizes", [((3, 4), (5, 2)), ((7,), (3,))], ids=str)
@pytest.mark.parametrize("axis", [-1, 1])
def test_the_content_gets_the_statistics_of_the_style(sizes, axis):
    content, style = random_input(2, *sizes[0], 6), 3 * random_input(2, *sizes[1], 6, seed=1) + 1
    placed = [np.moveaxis(array, -1, axis).astype("float32") for array in (content, style)]
    y = called(kn.AdaptiveInstanceNormalization(axis), *placed)
    np.testing.assert_allclose(np.moveaxis(y, axis, -1), restyled(content, style), rtol=1e-4, atol=1e-4)


def test_the_style_of_the_content_changes_nothing():
    x = random_input(2, 3, 4, 6, dtype="float32")
    np.testing.assert_allclose(called(kn.AdaptiveInstanceNormalization(), x, x), x, rtol=1e-5, atol=1e-5)


def test_gradients_reach_content_and_style():
    content, style, cotangent = (random_input(2, size, 3, seed=size) for size in (4, 5, 4))
    layer = kn.AdaptiveInstanceNormalization(dtype="float64")

    class OfStyle(keras.layers.Layer):
        def call(self, style):
            return layer(keras.ops.convert_to_tensor(content), style)

    class OfContent(keras.layers.Layer):
        def call(self, content):
            return layer(content, keras.ops.convert_to_tensor(style))

    to_style = gradients(OfStyle(dtype="float64"), style, cotangent)[0]
    to_content = gradients(OfContent(dtype="float64"), content, cotangent)[0]
    want = differences(lambda s: (cotangent * restyled(content, s)).sum(), style.copy())
    np.testing.assert_allclose(to_style, want, rtol=1e-6, atol=1e-7)
    want = differences(lambda c: (cotangent * restyled(c, style)).sum(), content.copy())
    np.testing.assert_allclose(to_content, want, rtol=1e-6, atol=1e-7)


def test_masks_of_both_inputs_are_respected():
    content, style = random_input(2, 4, 6), random_input(2, 5, 6, seed=1)
    want = restyled(content[:, :3], style[:, :4])
    content[:, 3], style[:, 4] = np.nan, np.nan
    masks = [np.arange(size) < size - 1 for size in (4, 5)]
    content_mask, style_mask = (np.broadcast_to(mask, (2, len(mask))) for mask in masks)
    layer = kn.AdaptiveInstanceNormalization()
    inputs = content.astype("float32"), style.astype("float32")
    y = called(layer, *inputs, content_mask=content_mask, style_mask=style_mask)
    np.testing.assert_allclose(y[:, :3], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[:, 3], style[:, :4].mean(1), rtol=1e-5, atol=1e-5)


def test_a_model_of_content_and_style_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((None, None, 6)), keras.Input((None, None, 6))
    model = keras.Model(inputs, kn.AdaptiveInstanceNormalization(epsilon=1e-3)(*inputs))
    assert model.output_shape == (None, None, None, 6)
    data = [random_input(2, 3, 4, 6, dtype="float32"), random_input(2, 5, 2, 6, dtype="float32", seed=1)]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(data)), array(model(data)))


@pytest.mark.parametrize("shape", [(2, 5), (3, 5, 6), (2, 5, 4), (2, 5, 5, 6)], ids=str)
def test_a_style_that_is_none_of_the_content_is_refused(shape):
    words = r"AdaptiveInstanceNormalization: style must have the rank, the samples and the channels of the content"
    with pytest.raises(ValueError, match=words):
        called(kn.AdaptiveInstanceNormalization(), np.ones((2, 4, 6)), np.ones(shape))
    with pytest.raises(ValueError, match="adaptive_instance_norm: style must have the rank"):
        kn.functional.adaptive_instance_norm(np.ones((2, 4, 6)), np.ones(shape))


def test_a_map_is_read_alike_whatever_the_image_data_format():
    x, condition = random_input(2, 4, 4, 4, dtype="float32"), random_input(2, 4, 4, 4, dtype="float32", seed=1)
    found = []
    for data_format in ("channels_last", "channels_first"):
        before = keras.config.image_data_format()
        keras.config.set_image_data_format(data_format)
        try:
            layer = kn.ConditionalNormalization(group())
            layer.build(x.shape, condition.shape)
            found.append(called(randomized(layer), x, condition))
        finally:
            keras.config.set_image_data_format(before)
    np.testing.assert_array_equal(*found)


def test_there_is_a_condition_for_each_sample():
    layer = kn.ConditionalNormalization(group(), num_classes=3)
    with pytest.raises(ValueError, match="it must have a row for each sample of the inputs"):
        called(layer, np.ones((4, 3, 6), "float32"), np.array([1]))
