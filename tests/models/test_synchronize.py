"""Keras' batch normalization and ours become synchronized ones, and nothing else changes."""

import keras
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from support.backends import array, keras_with_renorm, tensorflow_only
from support.networks import mixed, part, sequential

pytestmark = pytest.mark.quick


def test_every_argument_and_all_four_weights_are_carried():
    old = kl.BatchNormalization(
        axis=1, momentum=0.5, epsilon=0.25, beta_initializer="ones", gamma_regularizer="l2", name="norm",
        gamma_constraint="non_neg", moving_mean_initializer="ones", dtype="mixed_bfloat16", trainable=False,
    )  # fmt: skip
    model = sequential(old)
    new = models.synchronize_batch_normalization(model).layers[0]
    given, taken = old.get_config(), new.get_config()
    assert type(new) is kn.BatchNormalization
    assert taken | {"synchronized": True} == taken
    assert {k: v for k, v in given.items() if k in taken and k != "synchronized"}.items() <= taken.items()
    assert [array(weight).tolist() for weight in new.weights] == [array(weight).tolist() for weight in old.weights]


@pytest.mark.parametrize("layer", [kn.BatchNormalization, kn.BatchRenormalization, kn.BatchInstanceNormalization])
def test_ours_are_synchronized_in_their_own_class(layer):
    new = models.synchronize_batch_normalization(sequential(layer(momentum=0.75))).layers[0]
    assert (type(new), new.synchronized, new.momentum) == (layer, True, 0.75)


def test_runs_of_samples_stay_within_a_replica():
    model = sequential(kn.GhostBatchNormalization(2))
    assert models.synchronize_batch_normalization(model).layers[0].ghost_size == 2


@pytest.mark.parametrize("synchronized", [4, False])
def test_the_number_of_replicas_in_a_group_is_passed_on(synchronized):
    new = models.synchronize_batch_normalization(mixed(), synchronized)
    assert all(part(new, name).synchronized is synchronized for name in ("shared_norm", "inner_norm", "head_norm"))


def test_another_number_of_replicas_is_refused():
    words = "synchronize_batch_normalization: synchronized must be .* Received: synchronized=0"
    with pytest.raises(ValueError, match=words):
        models.synchronize_batch_normalization(mixed(), 0)


def test_models_inside_are_synchronized():
    new = models.synchronize_batch_normalization(mixed())
    for name in ("shared_norm", "inner_norm", "head_norm", "outer_norm"):
        assert part(new, name).synchronized


def test_frozen_ones_and_other_normalizations_stay():
    frozen = models.freeze_batch_normalization(sequential(kl.BatchNormalization(), kl.LayerNormalization()))
    new = models.synchronize_batch_normalization(frozen)
    assert [type(layer) for layer in new.layers] == [type(layer) for layer in frozen.layers]


@tensorflow_only
@keras_with_renorm
def test_renorm_of_keras_is_refused():
    model = sequential(kl.BatchNormalization(renorm=True, name="norm"))
    with pytest.raises(ValueError, match=r"must not have renorm=True, .* Received: layer='norm'"):
        models.synchronize_batch_normalization(model)


def test_the_global_dtype_policy_does_not_matter():
    model = sequential(kl.BatchNormalization())
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        assert models.synchronize_batch_normalization(model).layers[0].dtype_policy.name == "float32"
    finally:
        keras.config.set_dtype_policy(before)
