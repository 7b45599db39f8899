"""gamma and beta from a second input: conditions of three kinds, and styles."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from support.backends import BACKEND, array, gradients
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


# What is inside


def conditional_model(layer, x, condition):
    inputs = keras.Input(x.shape[1:]), keras.Input(condition.shape[1:], dtype=str(condition.dtype))
    return keras.Model(inputs, layer(*inputs))


def through_a_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


INSIDE = {
    "keras batch": lambda: kl.BatchNormalization(center=False, scale=False),
    "keras layer": lambda: kl.LayerNormalization(center=False, scale=False),
    "frozen": lambda: kn.FrozenBatchNormalization(kn.BatchNormalization()),
    "frozen keras": lambda: kn.FrozenBatchNormalization(kl.BatchNormalization()),
    "identity": kl.Identity,
}


@pytest.mark.parametrize("inside", INSIDE)
def test_any_layer_that_keeps_the_shape_may_be_inside(inside, tmp_path):
    x, vector = random_input(4, 3, 6, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    alone = INSIDE[inside]()
    h = array(alone(x)).astype("float64")
    model = conditional_model(kn.ConditionalNormalization(INSIDE[inside]()), x, vector)
    layer = randomized(model.layers[-1])
    layer.normalization.set_weights(alone.get_weights())
    gamma, beta = ((vector @ array(by.kernel) + array(by.bias))[:, None] for by in (layer.gamma_map, layer.beta_map))
    want = (1 + gamma) * h + beta
    mask = np.ones((4, 3), bool)
    np.testing.assert_allclose(called(layer, x, vector, mask=mask), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(array(through_a_file(model, tmp_path)([x, vector])), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [kn.BatchNormalization, kl.BatchNormalization])
def test_a_normalization_inside_is_frozen_and_unfrozen(batch, tmp_path):
    x, vector = random_input(4, 6, 3, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    model = conditional_model(kn.ConditionalNormalization(batch(axis=1)), x, vector)
    randomized(model)
    want = array(model([x, vector]))
    frozen = through_a_file(models.freeze_batch_normalization(model), tmp_path)
    assert isinstance(frozen.layers[-1].normalization, kn.FrozenBatchNormalization)
    np.testing.assert_array_equal(array(frozen([x, vector], training=True)), want)
    unfrozen = models.unfreeze_batch_normalization(keras.models.clone_model(frozen))
    assert isinstance(unfrozen.layers[-1].normalization, batch)


@pytest.mark.parametrize("to", [kl.GroupNormalization(2), lambda old: kl.Identity()], ids=["keras", "identity"])
def test_what_takes_the_place_of_a_normalization_inside_is_called_saved_and_loaded(to, tmp_path):
    x, vector = random_input(4, 3, 6, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    model = conditional_model(kn.ConditionalNormalization(group(), zero_initialized=False), x, vector)
    new = models.replace_normalization(model, to)
    np.testing.assert_array_equal(array(through_a_file(new, tmp_path)([x, vector])), array(new([x, vector])))


def test_the_channel_axis_is_kept_whatever_is_inside(tmp_path):
    x, vector = random_input(4, 6, 6, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    given = {"axis": 1, "num_classes": None, "kernel_size": 1}
    assert kn.ConditionalNormalization(kl.Identity(), **given).get_config().items() >= given.items()
    for axis in (1, [1], (1,)):
        assert kn.ConditionalNormalization(kn.LayerNormalization(axis)).axis == 1
    assert kn.ConditionalNormalization(kn.LayerNormalization([1, 2])).axis == -1
    model = conditional_model(kn.ConditionalNormalization(group(axis=1), zero_initialized=False), x, vector)
    new = models.replace_normalization(model, lambda old: kn.LayerNormalization(axis=-1, center=False, scale=False))
    loaded = through_a_file(new, tmp_path)
    np.testing.assert_array_equal(array(loaded([x, vector])), array(new([x, vector])))
    assert loaded.layers[-1].axis == 1


def test_both_inputs_may_be_given_by_name():
    x, vector = random_input(4, 3, 6, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    layer = kn.ConditionalNormalization(kn.LayerNormalization())
    np.testing.assert_array_equal(array(layer(inputs=x, condition=vector)), array(layer(x, vector)))
    layer = kn.AdaptiveInstanceNormalization()
    np.testing.assert_array_equal(array(layer(content=x, style=x + 1)), array(layer(x, x + 1)))


def test_layers_made_of_one_config_stay_apart_in_a_file(tmp_path):
    x, vector = random_input(4, 3, 6, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    config = kn.ConditionalNormalization(kn.BatchNormalization()).get_config()
    inputs = keras.Input(x.shape[1:]), keras.Input(vector.shape[1:])
    h = inputs[0]
    for name in ("first", "second"):
        h = kn.ConditionalNormalization.from_config(config | {"name": name})(h, inputs[1])
    model = randomized(keras.Model(inputs, h))
    loaded = through_a_file(model, tmp_path)
    assert len(loaded.weights) == len(model.weights) == 16
    np.testing.assert_array_equal(array(loaded([x, vector])), array(model([x, vector])))


def test_what_is_not_trainable_from_the_start_trains_nothing_inside():
    x, vector = random_input(4, 3, 6, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    layer = kn.ConditionalNormalization(kn.BatchNormalization(momentum=0.0), trainable=False)
    model = conditional_model(layer, x, vector)
    model([x, vector], training=True)
    assert not model.trainable_variables
    np.testing.assert_array_equal(array(layer.normalization.moving_mean), 0.0)
    layer.trainable = True
    assert len(model.trainable_variables) == 6


# What the maps compute in


@pytest.mark.parametrize("kind", ["vector", "map"])
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16", "float64"])
def test_maps_compute_in_float32_or_wider(kind, policy):
    x = random_input(4, 3, 2, 6, dtype="float32")
    condition = CONDITIONS[kind][1].astype("float64") * 1e5 + 1.0
    layer = kn.ConditionalNormalization(kl.Identity(), dtype=policy, kernel_size=1)
    layer.build(x.shape, condition.shape)
    randomized(layer)
    for by in (layer.gamma_map, layer.beta_map):
        for weight in by.weights:
            weight.assign(array(weight) * 1e-5)
    wide = "float64" if policy == "float64" else "float32"
    gamma, beta = (
        condition @ array(by.kernel).reshape(5, 6) + array(by.bias) for by in (layer.gamma_map, layer.beta_map)
    )
    gamma, beta = (v.reshape(4, 1, 1, 6) if kind == "vector" else v for v in (gamma, beta))
    y = layer(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(condition.astype(wide)))
    exact = 1e-5 if BACKEND == "torch" and kind == "vector" else 1e-12  # Keras multiplies matrices in float32 on torch
    unit = {"float16": 2e-3, "mixed_float16": 2e-3, "mixed_bfloat16": 2e-2, "float64": exact}[policy]
    np.testing.assert_allclose(array(keras.ops.cast(y, "float64")), (1 + gamma) * x + beta, rtol=unit, atol=unit)


@pytest.mark.parametrize("kind", ["vector", "map"])
def test_a_vector_or_a_map_may_be_integers(kind):
    x, condition = random_input(4, 3, 2, 6, dtype="float32"), (CONDITIONS[kind][1] * 10).astype("int32")
    layer = kn.ConditionalNormalization(group(), zero_initialized=False)
    y = called(layer, x, condition)
    np.testing.assert_array_equal(y, called(layer, x, condition.astype("float32")))


def test_a_quantized_model_keeps_its_maps_and_loads(tmp_path):
    x, vector = random_input(4, 3, 6, dtype="float32"), random_input(4, 5, dtype="float32", seed=1)
    model = conditional_model(kn.ConditionalNormalization(group(), zero_initialized=False), x, vector)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.quantize("int8")
    assert "ConditionalNormalization: its maps gamma and beta are not quantized." in {str(w.message) for w in caught}
    np.testing.assert_array_equal(array(through_a_file(model, tmp_path)([x, vector])), array(model([x, vector])))


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


def test_one_style_is_that_of_all_contents():
    content, style, cotangent = random_input(4, 3, 6), random_input(1, 5, 6, seed=1), random_input(4, 3, 6, seed=2)
    inputs = keras.Input((None, 6)), keras.Input((None, 6))
    layer = kn.AdaptiveInstanceNormalization(dtype="float64")
    want = differences(lambda s: (cotangent * restyled(content, s)).sum(), style.copy())
    for batch in (4, None):  # None: TensorFlow finds the single style when the function runs
        y, gradient = gradient_to_second_input(layer, content, style, cotangent, batch)
        np.testing.assert_allclose(y, restyled(content, style), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-7)
    y = keras.Model(inputs, kn.AdaptiveInstanceNormalization()(*inputs))([content, style])
    np.testing.assert_allclose(array(y), restyled(content, style), rtol=1e-4, atol=1e-4)


def gradient_to_second_input(layer, first, second, cotangent, batch):
    """The output, and the gradient of its product with the cotangent."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(
            input_signature=[tf.TensorSpec((batch and len(x), *x.shape[1:]), x.dtype) for x in (first, second)]
        )
        def both(first, second):
            with tf.GradientTape() as tape:
                tape.watch(second)
                y = layer(first, second)
            return y, tape.gradient(y, second, cotangent)

        return [array(value) for value in both(first, second)]

    class OfSecond(keras.layers.Layer):
        def call(self, second):
            return layer(keras.ops.convert_to_tensor(first), second)

    return called(layer, first, second), gradients(OfSecond(dtype="float64"), second, cotangent)[0]


@pytest.mark.parametrize("shape", [(2, 5), (3, 5, 6), (2, 5, 4), (2, 5, 5, 6)], ids=str)
def test_a_style_that_is_none_of_the_content_is_refused(shape):
    words = r"AdaptiveInstanceNormalization: style must have the rank and the channels of the content, and its samples"
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
