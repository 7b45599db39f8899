"""What is put in place of a normalization: templates and functions."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from support.backends import array
from support.networks import inputs, mixed, part, predict, randomized, sequential, text


def norms(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize(
    "template",
    [
        kn.GroupNormalization(2),
        kn.LayerNormalization(axis=None),
        kn.InstanceNormalization(),
        kn.BatchRenormalization(),
        kn.BatchInstanceNormalization(),
        kn.FilterResponseNormalization(),
        kn.GhostBatchNormalization(2),
        kn.SwitchableNormalization(),
        kn.DynamicTanh(),
        kl.GroupNormalization(2),
        kl.LayerNormalization(),
        kl.BatchNormalization(synchronized=keras.backend.backend() == "tensorflow"),
    ],
    ids=lambda layer: type(layer).__module__.split(".")[0] + "." + type(layer).__name__,
)
def test_every_normalization_takes_the_place_of_a_batch_normalization(template):
    model = mixed()
    new = models.replace_normalization(model, template)
    for name in ("shared_norm", "inner_norm", "head_norm", "outer_norm"):
        layer, old = part(new, name), part(model, name)
        assert type(layer) is type(template)
        assert (layer.center, layer.scale) == (old.center, old.scale)
        values = {weight.name: array(weight) for weight in old.weights}
        carried = [weight for weight in layer.weights if weight.name in values]
        assert carried
        for weight in carried:
            np.testing.assert_array_equal(array(weight), values[weight.name])
    assert np.isfinite(predict(new, inputs(model))).all()


def test_root_mean_square_normalization_of_keras_hands_its_scale_to_ours_and_back():
    model = sequential(kl.Dense(4), kl.RMSNormalization())
    scale = model.layers[1].weights[0]
    scale.assign([0.5, 1.0, 1.5, 2.0])
    new = models.replace_normalization(model, kn.RMSNormalization())
    np.testing.assert_allclose(predict(new, inputs(model)), predict(model, inputs(model)), rtol=1e-5, atol=1e-6)
    again = models.replace_normalization(new, kl.RMSNormalization())
    np.testing.assert_array_equal(array(again.layers[1].weights[0]), array(scale))


def test_a_normalization_with_a_condition_gets_another_one_inside():
    x, condition = keras.Input((8, 8, 4)), keras.Input((3,))
    inner = kn.BatchNormalization(center=False, scale=False)
    model = keras.Model([x, condition], kn.ConditionalNormalization(inner, name="conditional")(x, condition))
    new = models.replace_normalization(model, kn.GroupNormalization(2)).get_layer("conditional")
    assert isinstance(new.normalization, kn.GroupNormalization)
    assert not new.normalization.scale


def test_group_normalization_in_place_is_group_normalization_of_the_same_features():
    model = sequential(kl.Conv2D(6, 3), kl.BatchNormalization())
    new = models.replace_normalization(model, kn.GroupNormalization(3))
    (x,) = inputs(model)
    h = array(model.layers[0](x.astype("float32"))).astype("float64")
    split = h.reshape(5, 36, 3, 2)
    mean, variance = split.mean((1, 3), keepdims=True), split.var((1, 3), keepdims=True)
    standard = ((split - mean) / np.sqrt(variance + 1e-3)).reshape(h.shape)
    gamma, beta = (array(weight) for weight in model.layers[1].weights[:2])
    np.testing.assert_allclose(predict(new, [x]), gamma * standard + beta, rtol=1e-4, atol=1e-5)


def test_what_the_old_layer_keeps_and_what_the_template_says():
    old = kl.BatchNormalization(
        axis=1, epsilon=0.5, scale=False, beta_regularizer=keras.regularizers.L2(0.25), beta_constraint="non_neg",
        dtype="mixed_bfloat16", name="old", trainable=False,
    )  # fmt: skip
    model = sequential(kl.Permute((3, 1, 2)), old)
    new = models.replace_normalization(model, kn.GroupNormalization(3, epsilon=0.125)).layers[1]
    assert (new.name, new.trainable, new.dtype_policy.name, new.scale) == ("old", False, "mixed_bfloat16", False)
    assert new.beta_regularizer.l2 == 0.25
    assert isinstance(new.beta_constraint, keras.constraints.NonNeg)
    assert (new.groups, new.epsilon, new.axis) == (3, 0.125, 1)


def test_groups_are_reduced_to_the_largest_divisor_with_one_warning():
    model = sequential(kl.Conv2D(24, 1), kl.BatchNormalization(name="a"), kl.Conv2D(64, 1), kl.BatchNormalization(),
                       kl.Conv2D(7, 1), kl.BatchNormalization(name="c"))  # fmt: skip
    words = "groups=32 do not divide the channels of all layers: 'a' 24 for 24 channels, 'c' 7 for 7 channels."
    with pytest.warns(UserWarning, match=words) as caught:
        new = models.replace_normalization(model, kn.GroupNormalization(32))
    assert [layer.groups for layer in norms(new, kn.GroupNormalization)] == [24, 32, 7]
    assert len([w for w in caught if "groups=32" in str(w.message)]) == 1


@pytest.mark.parametrize("groups", [-1, 1, 3])
def test_groups_that_divide_stay_without_a_warning(groups):
    model = sequential(kl.Conv2D(6, 1), kl.BatchNormalization())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*groups")  # Keras itself warns, of NumPy, on its first call
        new = models.replace_normalization(model, kn.GroupNormalization(groups))
    assert new.layers[1].groups == groups


def test_a_function_decides_layer_by_layer():
    model = sequential(kl.BatchNormalization(name="a"), kl.BatchNormalization(name="b"))

    def to(old):
        return old if old.name == "a" else kn.InstanceNormalization(name="instance")

    new = models.replace_normalization(model, to)
    assert [layer.name for layer in new.layers] == ["a", "instance"]
    assert new.layers[0] is not model.layers[0]


def test_where_leaves_the_others_as_they_are():
    model = sequential(kl.BatchNormalization(), kl.LayerNormalization())
    new = models.replace_normalization(
        model, kn.InstanceNormalization(), lambda layer: isinstance(layer, kl.LayerNormalization)
    )
    assert [type(layer) for layer in new.layers] == [kl.BatchNormalization, kn.InstanceNormalization]


def test_layer_normalization_over_the_channels_gives_its_weights_to_group_normalization():
    model = sequential(kl.Conv2D(6, 1), kl.LayerNormalization())
    new = models.replace_normalization(model, kn.GroupNormalization(3)).layers[1]
    for name in ("gamma", "beta"):
        np.testing.assert_array_equal(array(getattr(new, name)), array(getattr(model.layers[1], name)))


def test_frozen_layers_are_replaced_by_what_they_hold():
    frozen = models.freeze_batch_normalization(sequential(kl.BatchNormalization(name="norm")))
    new = models.replace_normalization(frozen, kn.GroupNormalization(3)).layers[0]
    assert (type(new), new.name) == (kn.GroupNormalization, "norm")
    assert len(new.trainable_weights) == 2


def test_a_mask_reaches_the_new_layer():
    new = models.replace_normalization(text(), kn.LayerNormalization(axis=None))
    (tokens,) = inputs(new)
    tokens[:, :4] = np.maximum(tokens[:, :4], 1)
    tokens[:, 4:] = 0
    np.testing.assert_allclose(predict(new, [tokens]), predict(new, [tokens[:, :4]]), rtol=1e-4, atol=1e-5)


def test_the_new_model_trains():
    model = models.replace_normalization(mixed(), kn.GroupNormalization(2))
    model.compile("sgd", "mse")
    before = [array(weight) for weight in model.trainable_weights]
    model.fit(inputs(model), np.ones((5, 2)), verbose=0)
    moved = [np.abs(array(new) - old).max() > 0 for new, old in zip(model.trainable_weights, before, strict=True)]
    assert sum(moved) > len(moved) / 2


@pytest.mark.quick
@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("group", r"Received: to='group' \(such as GroupNormalization\(32\)\)"),
        (kn.GroupNormalization, r"Received: to=<class '.*'> \(give a layer, GroupNormalization\(\.\.\.\)\)"),
    ],
)
def test_what_is_neither_a_layer_nor_a_function_is_refused(to, words):
    with pytest.raises(
        TypeError, match=r"replace_normalization: to must be a layer or a function of the old layer\. " + words
    ):
        models.replace_normalization(sequential(kl.BatchNormalization()), to)


def test_a_function_that_gives_no_layer_is_refused():
    with pytest.raises(TypeError, match=r"to must return a layer\. Received: None for 'norm'"):
        models.replace_normalization(sequential(kl.BatchNormalization(name="norm")), lambda old: None)


def test_randomized_networks_have_no_dead_normalization():
    model = randomized(mixed())
    assert predict(model).std(0).min() > 0.01


def test_gamma_of_a_global_response_is_not_that_of_a_normalization():
    model = sequential(kl.Conv2D(4, 1), kn.GlobalResponseNormalization())
    new = models.replace_normalization(model, kn.LayerNormalization(), lambda layer: True).layers[1]
    np.testing.assert_array_equal(array(new.gamma), 1.0)
    again = models.replace_normalization(
        sequential(kl.Conv2D(4, 1), kn.LayerNormalization()), kn.GlobalResponseNormalization()
    )
    np.testing.assert_array_equal(array(again.layers[1].gamma), 0.0)


def test_a_global_response_stays_where_nothing_else_is_said():
    model = sequential(kl.LayerNormalization(), kl.Dense(6), kn.GlobalResponseNormalization(), kn.DynamicTanh())
    new = models.replace_normalization(model, kn.GroupNormalization(3))
    kinds = [kn.GroupNormalization, kl.Dense, kn.GlobalResponseNormalization, kn.GroupNormalization]
    assert [type(layer) for layer in new.layers] == kinds


@pytest.mark.parametrize(
    "template",
    [kn.LayerNormalization(), kn.LayerNormalization(None), kn.RMSNormalization([-1, 2]), kl.LayerNormalization()],
    ids=["layer", "whole sample", "rms", "keras"],
)
def test_axes_of_a_template_without_the_channels_of_the_old_layer_are_refused(template):
    model = sequential(kl.BatchNormalization(axis=1, name="norm"))
    words = r"gamma and beta of the template must run along the channel axis of the old layer\. Received: "
    with pytest.raises(ValueError, match=words + r".*Normalization with axis=.* for 'norm' with axis=1 \(give "):
        models.replace_normalization(model, template)
    with_that_axis = type(template)(axis=1)
    new = models.replace_normalization(model, with_that_axis).layers[0]
    np.testing.assert_array_equal(array(new.weights[0]), array(model.layers[0].gamma))


def test_weights_of_another_shape_are_named():
    model = sequential(kl.Conv2D(4, 1), kl.BatchNormalization(name="norm"))
    words = r"weights with another shape are initialized anew: gamma \(8, 8, 4\) for \(4,\) of 'norm', beta"
    with pytest.warns(UserWarning, match=words) as caught:
        models.replace_normalization(model, kn.LayerNormalization([1, 2, 3]))
    assert [w.filename for w in caught if "initialized anew" in str(w.message)] == [__file__]


@pytest.mark.parametrize(
    "to",
    [
        kn.ConditionalNormalization(kn.LayerNormalization()),
        kn.AdaptiveInstanceNormalization(),
        kn.ThresholdedLinearUnit(),
        lambda old: kn.AdaptiveInstanceNormalization(),
    ],
    ids=["conditional", "adaptive", "threshold", "function"],
)
def test_a_layer_of_two_inputs_and_an_activation_are_refused(to):
    words = (
        r"to must be or return a layer that normalizes its only input\. Received: <.* \(ConditionalNormalization and"
    )
    with pytest.raises(TypeError, match=words):
        models.replace_normalization(sequential(kl.BatchNormalization()), to)


@pytest.mark.parametrize("template", [kl.Identity(), kn.FrozenBatchNormalization(kl.BatchNormalization())], ids=repr)
def test_a_template_must_be_a_normalization(template):
    model = keras.Sequential([keras.Input((4,)), kl.BatchNormalization()])
    with pytest.raises(TypeError, match=r"replace_normalization: a template must be a normalization. Received: to=<"):
        models.replace_normalization(model, template)


def test_layers_of_keras_without_an_initializer_are_converted():
    norm = kl.BatchNormalization(scale=False, gamma_initializer=None, moving_mean_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), norm])
    for converted in (
        models.replace_normalization(model, kn.BatchNormalization()),
        models.synchronize_batch_normalization(model),
    ):
        np.testing.assert_array_equal(array(converted.layers[0].moving_mean), 1.0)
        assert converted.layers[0].gamma is None
