"""What every conversion promises, whatever it converts to."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from keras_norm.distribute import DistributedModel
from support.backends import array, tensorflow_only
from support.networks import assert_untouched, inputs, mixed, part, predict, randomized, sequential, text, weights

CONVERSIONS = {
    "replace": lambda model: models.replace_normalization(model, kn.GroupNormalization(2)),
    "synchronize": models.synchronize_batch_normalization,
    "freeze": models.freeze_batch_normalization,
    "unfreeze": lambda model: models.unfreeze_batch_normalization(models.freeze_batch_normalization(model)),
    "fold": lambda model: models.fold_batch_normalization(model, verbose=False),
}
KEEPING_PREDICTIONS = [name for name in CONVERSIONS if name != "replace"]


@pytest.mark.parametrize("model", [pytest.param(mixed, marks=pytest.mark.quick), text])
@pytest.mark.parametrize("conversion", KEEPING_PREDICTIONS)
def test_predictions_stay(conversion, model):
    model = model()
    converted = CONVERSIONS[conversion](model)
    np.testing.assert_allclose(predict(converted, inputs(model)), predict(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_the_source_model_is_untouched(conversion):
    model = mixed()
    before, x = weights(model), inputs(model)
    converted = CONVERSIONS[conversion](model)
    converted.compile("sgd", "mse", run_eagerly=True)
    converted.fit(x, np.ones((5, 2)), verbose=0)
    assert_untouched(model, before)


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_saved_conversion_predicts_the_same(conversion, tmp_path):
    converted = CONVERSIONS[conversion](mixed())
    converted.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(loaded), predict(converted))


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_layers_that_stay_keep_names_weights_and_dtype_policies(conversion):
    model = mixed(dtype="mixed_bfloat16")
    model.get_layer("head").layers[0].trainable = False
    converted = CONVERSIONS[conversion](model)
    assert converted.name == "mixed"
    for layer in (*model.layers, *model.get_layer("block").layers, *model.get_layer("head").layers):
        twin = part(converted, layer.name)
        if twin is None:  # folded
            assert conversion == "fold"
            assert "norm" in layer.name
        else:
            assert twin.dtype_policy.name == layer.dtype_policy.name
            assert twin.trainable == layer.trainable
            if conversion != "fold" and not isinstance(layer, keras.Model):
                values = {weight.name: array(weight) for weight in layer.weights}
                for weight in twin.weights:
                    np.testing.assert_array_equal(array(weight), values[weight.name])


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_shared_layer_stays_shared(conversion):
    converted = CONVERSIONS[conversion](mixed())
    assert len(converted.get_layer("shared_norm")._inbound_nodes) == 2
    assert len({layer.name for layer in converted.layers}) == len(converted.layers)


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("frozen", ["", "block", "inner_norm"])
def test_trainable_is_kept_in_models_and_in_their_layers(conversion, frozen):
    model = mixed()
    (part(model, frozen) or model).trainable = False
    part(model, "head").trainable = True
    converted = CONVERSIONS[conversion](model)
    for name in ("block", "head"):
        assert part(converted, name).trainable == part(model, name).trainable
    assert converted.trainable == model.trainable
    if conversion in ("synchronize", "unfreeze"):
        assert [w.trainable for w in converted.weights] == [w.trainable for w in model.weights]


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_single_weight_that_is_not_trained_stays_so(conversion):
    model = sequential(kl.Conv2D(4, 3), kl.ReLU(), kl.BatchNormalization())
    model.layers[0].kernel.trainable = False
    assert not CONVERSIONS[conversion](model).layers[0].kernel.trainable


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_model_class_without_a_constructor_stays_that_class(conversion):
    x = keras.Input((4,))
    model = DistributedModel(x, kl.BatchNormalization()(kl.Dense(4)(x)))
    assert type(CONVERSIONS[conversion](model)) is DistributedModel


@tensorflow_only
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_vocabularies_and_adapted_statistics_are_carried(conversion):
    words, numbers = keras.Input((2,), dtype="string"), keras.Input((4,))
    lookup, scaling = kl.StringLookup(output_mode="multi_hot"), kl.Normalization()
    lookup.adapt([["a", "b"], ["c", "a"]])
    scaling.adapt(np.random.default_rng(0).normal(3, 2, (9, 4)))
    h = kl.Concatenate()([lookup(words), scaling(numbers)])
    model = randomized(keras.Model([words, numbers], kl.BatchNormalization()(kl.Dense(4)(h))))
    x = [keras.ops.convert_to_tensor([["c", "b"]]), keras.ops.ones((1, 4))]
    converted = CONVERSIONS[conversion](model)
    if conversion in KEEPING_PREDICTIONS:
        np.testing.assert_allclose(converted(x), model(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(converted.layers[2](x[0]), model.layers[2](x[0]))


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_compiled_model_with_a_loss_of_its_own_is_converted_and_not_compiled(conversion):
    model = sequential(kl.Dense(4), kl.BatchNormalization(), shape=(4,))
    model.compile("adam", loss=lambda y, prediction: keras.ops.mean(y - prediction))
    assert not CONVERSIONS[conversion](model).compiled


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_model_that_is_not_built_is_refused(conversion):
    with pytest.raises(ValueError, match=r"model must be built\. Received: model='lazy', which is not"):
        CONVERSIONS[conversion](keras.Sequential([kl.BatchNormalization()], name="lazy"))
