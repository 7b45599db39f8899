"""The networks of `keras.applications`, in float64: what is left is no rounding but the conversion.

Networks with random statistics give every input the same output, which any conversion keeps. So the statistics come
from data, everything is then shaken, and errors are told in units of the spread between samples.
"""

from collections import namedtuple

import keras
import numpy as np
import pytest
from keras import applications

import keras_norm as kn
from keras_norm import models
from keras_norm.models.predicates import is_batch_normalization, is_normalization
from support.backends import array, tensorflow_only
from support.networks import predict

FOLDED = {  # of how many, and the size of the images
    "ResNet50": (53, 53, 32),
    "MobileNetV2": (52, 52, 32),
    "EfficientNetB0": (49, 49, 32),
    "DenseNet121": (59, 121, 32),
    "Xception": (40, 40, 71),
    "InceptionV3": (94, 94, 75),
    "ConvNeXtTiny": (0, 0, 32),
    "NASNetMobile": (188, 192, 32),
}
# Keras takes float64 for float32 in its own layers on JAX and torch, where smaller networks test the same functions.
pytestmark = [
    tensorflow_only,
    pytest.mark.slow,
    # TensorFlow: the functions of the networks are meant to run eagerly, those of tf.data may do as they do.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"),
]

Case = namedtuple("Case", "name model x y spread recalibration_error")


def network(name, dtype):
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        size = FOLDED[name][2]
        build = getattr(applications, name)
        return build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def images(size, samples=6):
    """Large patches of color: noise alone looks the same to a network in every sample."""
    patches = np.random.default_rng(0).uniform(0, 255, (samples, 6, 6, 3))
    return np.kron(patches, np.ones((1, size // 6 + 1, size // 6 + 1, 1)))[:, :size, :size].astype("float32")


@pytest.fixture(scope="module", autouse=True)
def eagerly():
    """Each network runs a few times only: tracing it would take longest."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FOLDED])
def case(request):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    model, x = network(request.param, "float64"), images(FOLDED[request.param][2])
    for weight in model.weights:
        if weight.name in ("beta", "bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif weight.name == "gamma":
            weight.assign(rng.uniform(0.8, 1.2, weight.shape))
    models.recalibrate_batch_normalization(model, x, batch_size=len(x), verbose=0)
    recalibration_error = largest_recalibration_error(model, x)
    for weight in model.weights:
        if weight.name == "moving_mean":
            weight.assign(array(weight) + rng.normal(0, 0.1, weight.shape) * array(weight).std())
        elif weight.name == "moving_variance":
            weight.assign(array(weight) * rng.uniform(0.8, 1.25, weight.shape))
    y = predict(model, [x])
    return Case(request.param, model, x, y, y.std(0).mean(), recalibration_error)


def largest_recalibration_error(model, x):
    """In standard deviations of each channel: recalibrated on one batch, inference on it is with its statistics."""
    norms = [layer for layer in model.layers if is_batch_normalization(layer)]
    if not norms:
        return 0.0
    errors = []
    for layer, h in zip(norms, keras.Model(model.input, [layer.input for layer in norms])(x), strict=True):
        h = array(h).reshape(-1, h.shape[-1])
        deviation = h.std(0) + 1e-12
        errors.append(np.abs(array(layer.moving_mean) - h.mean(0)) / deviation)
        errors.append(np.abs(array(layer.moving_variance) - h.var(0)) / deviation**2)
    return max(error.max() for error in errors)


def test_recalibration_gives_the_pooled_statistics_of_every_layer(case):
    assert case.recalibration_error < 1e-4


def test_synchronized_it_predicts_the_same(case):
    new = models.synchronize_batch_normalization(case.model)
    assert all(layer.synchronized for layer in new.layers if is_batch_normalization(layer))
    assert np.abs(predict(new, [case.x]) - case.y).max() < 1e-9 * case.spread


def test_folded_it_predicts_the_same_and_says_how_much_was_folded(case, capsys):
    new = models.fold_batch_normalization(case.model)
    folded, of, _ = FOLDED[case.name]
    assert capsys.readouterr().out.startswith(f"{folded} of {of} batch normalizations folded.\n")
    assert sum(is_batch_normalization(layer) for layer in new.layers) == of - folded
    assert np.abs(predict(new, [case.x]) - case.y).max() < 1e-9 * case.spread


@pytest.mark.filterwarnings("ignore:replace_normalization")
def test_with_group_normalization_it_keeps_all_other_weights_and_trains_a_step(case):
    new = models.replace_normalization(case.model, kn.GroupNormalization(32))
    twins = {layer.name: layer for layer in new.layers}
    for layer in case.model.layers:
        if is_normalization(layer):
            assert type(twins[layer.name]) is kn.GroupNormalization
        elif not isinstance(layer, keras.Model):
            for old, carried in zip(layer.weights, twins[layer.name].weights, strict=True):
                np.testing.assert_array_equal(array(carried), array(old))
    before = predict(new, [case.x[:2]])
    assert np.isfinite(loss_of_a_step(new, case))
    assert np.abs(predict(new, [case.x[:2]]) - before).max() > 0


def loss_of_a_step(model, case):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if case.name == "ConvNeXtTiny":
        import tensorflow as tf

        # On a CPU TensorFlow has gradients of convolutions in groups inside XLA only.
        tf.config.run_functions_eagerly(False)
        try:
            model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=True)
            return model.train_on_batch(case.x[:2], np.array([1, 2]))
        finally:
            tf.config.run_functions_eagerly(True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    return model.train_on_batch(case.x[:2], np.array([1, 2]))


@pytest.mark.xdist_group("ResNet50")
def test_in_float32_folding_rounds_no_more_than_the_network_itself():
    """ResNet50 enlarges the rounding of float32 most."""
    keras.utils.set_random_seed(0)
    wide, narrow = network("ResNet50", "float64"), network("ResNet50", "float32")
    x = images(FOLDED["ResNet50"][2])
    models.recalibrate_batch_normalization(wide, x, batch_size=len(x), verbose=0)
    narrow.set_weights(wide.get_weights())
    y = predict(wide, [x])
    own = np.abs(predict(narrow, [x]) - y).max()
    for convert in (
        models.synchronize_batch_normalization,
        lambda m: models.fold_batch_normalization(m, verbose=False),
    ):
        assert np.abs(predict(convert(narrow), [x]) - y).max() < 4 * own
