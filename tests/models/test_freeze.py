"""Statistics that stay, whatever `training` and `trainable` say, until they are thawed."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from keras_norm.layers.frozen import FrozenBatchNormalization
from support.backends import array
from support.networks import BATCH_NORMALIZATIONS, inputs, mixed, part, predict, sequential

NAMES = ("shared_norm", "inner_norm", "head_norm", "outer_norm")


def trained(model):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = inputs(model)
    model.fit(x[0] if len(x) == 1 else x, np.ones((5, *model.output_shape[1:])), verbose=0)
    return model


def state(model, names=NAMES):
    return [array(weight) for name in names for weight in part(model, name).weights]


@pytest.mark.quick
@pytest.mark.parametrize("kind", BATCH_NORMALIZATIONS)
def test_training_true_gives_inference(kind):
    frozen = models.freeze_batch_normalization(sequential(kl.Conv2D(4, 3), kind()))
    np.testing.assert_array_equal(predict(frozen, training=True), predict(frozen))


@pytest.mark.parametrize("kind", BATCH_NORMALIZATIONS)
def test_fit_changes_no_weight_of_it_even_after_trainable_is_set(kind):
    frozen = models.freeze_batch_normalization(sequential(kl.Conv2D(4, 3), kind(name="norm")))
    for value in (False, True):
        frozen.trainable = value
        frozen.layers[1].trainable = value
    before, kernel = state(frozen, ["norm"]), array(frozen.layers[0].kernel)
    trained(frozen)
    for new, old in zip(state(frozen, ["norm"]), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert np.abs(array(frozen.layers[0].kernel) - kernel).max() > 0
    np.testing.assert_array_equal(predict(frozen, training=True), predict(frozen))


def test_without_affine_gamma_and_beta_are_trained_and_statistics_are_not():
    frozen = models.freeze_batch_normalization(sequential(kl.Conv2D(4, 3), kl.BatchNormalization(name="norm")), False)
    before = state(frozen, ["norm"])
    trained(frozen)
    changed = [np.abs(new - old).max() > 0 for new, old in zip(state(frozen, ["norm"]), before, strict=True)]
    assert changed == [True, True, False, False]
    np.testing.assert_array_equal(predict(frozen, training=True), predict(frozen))


def test_without_affine_trainable_is_obeyed():
    frozen = models.freeze_batch_normalization(sequential(kl.BatchNormalization()), affine=False)
    frozen.trainable = False
    assert frozen.trainable_weights == []
    frozen.trainable = True
    assert len(frozen.trainable_weights) == 2


@pytest.mark.parametrize("affine", [True, False])
def test_a_saved_model_stays_frozen(affine, tmp_path):
    models.freeze_batch_normalization(mixed(), affine).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    norms = [part(loaded, name) for name in NAMES]
    assert [(type(norm), norm.affine) for norm in norms] == [(FrozenBatchNormalization, affine)] * 4
    loaded.trainable = True
    assert any(norm.trainable_weights for norm in norms) is not affine


def test_a_copy_of_a_frozen_model_stays_frozen():
    frozen = models.freeze_batch_normalization(mixed())
    copy = models.replace_normalization(frozen, kn.GroupNormalization(2), lambda layer: layer.name == "outer_norm")
    assert [len(part(copy, name).trainable_weights) for name in NAMES] == [0, 0, 0, 1]


def test_the_summary_shows_it():
    lines = []
    models.freeze_batch_normalization(sequential(kl.BatchNormalization())).summary(
        print_fn=lines.append, line_length=99
    )
    assert "FrozenBatchNormalization" in "\n".join(lines)


def test_unfreezing_gives_back_classes_arguments_and_trainable():
    model = mixed()
    part(model, "inner_norm").trainable = False
    thawed = models.unfreeze_batch_normalization(models.freeze_batch_normalization(model))
    for name in NAMES:
        assert type(part(thawed, name)) is type(part(model, name))
        assert part(thawed, name).get_config() == part(model, name).get_config()
    assert [w.trainable for w in thawed.weights] == [w.trainable for w in model.weights]
    assert np.abs(predict(thawed, training=True) - predict(thawed)).max() > 0.01


def test_freezing_twice_is_freezing_once():
    once = models.freeze_batch_normalization(mixed())
    twice = models.freeze_batch_normalization(once)
    assert [type(part(twice, name).layer) for name in NAMES] == [type(part(once, name).layer) for name in NAMES]


def test_float32_inputs_reach_the_layer_inside_uncut():
    layer = FrozenBatchNormalization(kn.BatchNormalization(moving_mean_initializer=keras.initializers.Constant(1e5),
                                                           dtype="mixed_float16"))  # fmt: skip
    x = np.full((2, 3), 1e5 + 2, "float32")
    np.testing.assert_allclose(array(layer(keras.ops.convert_to_tensor(x))), 2.0, atol=2e-3)


def test_what_is_no_batch_normalization_is_refused():
    with pytest.raises(TypeError, match="FrozenBatchNormalization: layer must be a batch normalization"):
        FrozenBatchNormalization(kl.Dense(3))
    with pytest.raises(TypeError, match="affine must be True or False"):
        FrozenBatchNormalization(kl.BatchNormalization(), affine="no")
