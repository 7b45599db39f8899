"""Batch normalizations that become part of the weights beside them: which ones, and that nothing else changes."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from keras_norm.models.predicates import is_batch_normalization, is_frozen
from keras_norm.walk import all_layers
from support import own_classes
from support.backends import BACKEND, array
from support.networks import inputs, mixed, predict, randomized, sequential
from support.own_classes import Detector, Everywhere, built

LINEAR = {
    "Dense": ((6,), lambda **k: kl.Dense(4, **k)),
    "Dense over time": ((5, 6), lambda **k: kl.Dense(4, **k)),
    "Conv1D": ((9, 6), lambda **k: kl.Conv1D(4, 3, **k)),
    "Conv2D": ((9, 8, 6), lambda **k: kl.Conv2D(4, (3, 2), strides=2, **k)),
    "Conv2D dilated": ((9, 8, 6), lambda **k: kl.Conv2D(4, 2, dilation_rate=2, **k)),
    "Conv2D in groups": ((9, 8, 6), lambda **k: kl.Conv2D(4, 3, groups=2, **k)),
    "Conv3D": ((4, 5, 6, 6), lambda **k: kl.Conv3D(4, 2, **k)),
    "DepthwiseConv1D": ((9, 6), lambda **k: kl.DepthwiseConv1D(3, depth_multiplier=2, **k)),
    "DepthwiseConv2D": ((9, 8, 6), lambda **k: kl.DepthwiseConv2D(3, depth_multiplier=2, **k)),
    "SeparableConv1D": ((9, 6), lambda **k: kl.SeparableConv1D(4, 3, depth_multiplier=2, **k)),
    "SeparableConv2D": ((9, 8, 6), lambda **k: kl.SeparableConv2D(4, 3, depth_multiplier=2, **k)),
}
TRANSPOSED = {
    "Conv1DTranspose": ((5, 6), lambda **k: kl.Conv1DTranspose(4, 3, strides=2, **k)),
    "Conv2DTranspose": ((5, 4, 6), lambda **k: kl.Conv2DTranspose(4, 3, strides=2, padding="same", **k)),
    "Conv3DTranspose": ((3, 4, 5, 6), lambda **k: kl.Conv3DTranspose(4, 2, **k)),
}


def remaining(model):
    return [layer.name for layer in all_layers(model, is_frozen) if is_batch_normalization(layer)]


def folded(model):
    return models.fold_batch_normalization(model, verbose=False)


def assert_predicts_as(new, model):
    want = predict(model, inputs(model))
    spread = want.std(0).max()
    assert spread > 0.05
    np.testing.assert_allclose(predict(new, inputs(model)), want, rtol=0, atol=2e-5 * max(spread, np.abs(want).max()))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", [*LINEAR, *TRANSPOSED])
def test_a_normalization_behind_a_linear_layer_is_folded(name, use_bias):
    shape, linear = (LINEAR | TRANSPOSED)[name]
    model = sequential(linear(use_bias=use_bias), kl.BatchNormalization(), kl.ReLU(), shape=shape)
    new = folded(model)
    assert [type(layer) for layer in new.layers] == [type(model.layers[0]), kl.Identity, kl.ReLU]
    assert_predicts_as(new, model)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", LINEAR)
def test_a_normalization_before_a_linear_layer_is_folded(name, use_bias):
    shape, linear = LINEAR[name]
    model = sequential(kl.ReLU(), kl.BatchNormalization(), linear(use_bias=use_bias, activation="tanh"), shape=shape)
    new = folded(model)
    assert [type(layer) for layer in new.layers] == [kl.ReLU, kl.Identity, type(model.layers[2])]
    assert_predicts_as(new, model)


@pytest.mark.quick
@pytest.mark.parametrize("name", LINEAR)
def test_one_before_and_one_behind_go_into_the_same_layer(name):
    shape, linear = LINEAR[name]
    model = sequential(kl.BatchNormalization(), linear(), kl.BatchNormalization(), shape=shape)
    new = folded(model)
    assert [type(layer) for layer in new.layers] == [kl.Identity, type(model.layers[1]), kl.Identity]
    assert_predicts_as(new, model)


@pytest.mark.quick
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        kl.BatchNormalization,
        kn.BatchNormalization,
        kn.BatchRenormalization,
        partial(kn.GhostBatchNormalization, 2),
    ],
)
def test_every_kind_is_folded_with_and_without_gamma_and_beta(kind, scale, center):
    model = sequential(kl.Conv2D(4, 3), kind(scale=scale, center=center, epsilon=0.1))
    assert remaining(folded(model)) == []
    assert_predicts_as(folded(model), model)


@pytest.mark.quick
@pytest.mark.parametrize("center", [True, False])
def test_one_that_leaves_the_variance_is_folded_without_a_scale(center):
    model = sequential(kl.Conv2D(4, 3), kn.MeanOnlyBatchNormalization(center=center))
    assert remaining(folded(model)) == []
    assert_predicts_as(folded(model), model)


@pytest.mark.quick
def test_frozen_ones_are_folded():
    model = models.freeze_batch_normalization(sequential(kl.Conv2D(4, 3), kl.BatchNormalization()))
    assert type(folded(model).layers[1]) is kl.Identity
    assert_predicts_as(folded(model), model)


@pytest.mark.parametrize("axis", [1, -3])
def test_another_axis_than_the_channels_stays(axis):
    model = sequential(kl.Conv2D(4, 3), kl.BatchNormalization(axis=axis, name="norm"))
    assert remaining(folded(model)) == ["norm"]
    assert_predicts_as(folded(model), model)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no channels_first convolution on a CPU")
def test_channels_first_is_folded_along_its_own_axis():
    model = sequential(
        kl.Conv2D(4, 2, data_format="channels_first"), kl.BatchNormalization(axis=1), kl.ReLU(),
        kl.BatchNormalization(axis=1), kl.DepthwiseConv2D(2, data_format="channels_first"),
    )  # fmt: skip
    assert remaining(folded(model)) == []
    assert_predicts_as(folded(model), model)


def branch_behind_the_convolution():
    x = keras.Input((6, 6, 3))
    h = kl.Conv2D(4, 3)(x)
    return keras.Model(x, kl.Add()([kl.BatchNormalization(name="norm")(h), h]))


def convolution_is_concatenated():
    x = keras.Input((6, 6, 3))
    h = kl.Conv2D(4, 3)(x)
    return keras.Model(x, kl.Concatenate()([h, kl.BatchNormalization(name="norm")(h)]))


def branch_behind_the_normalization():
    x = keras.Input((6, 6, 3))
    h = kl.BatchNormalization(name="norm")(x)
    return keras.Model(x, kl.Concatenate()([kl.Conv2D(4, 3)(h), kl.Conv2D(4, 3)(h)]))


def normalization_called_twice():
    x = keras.Input((6, 6, 3))
    norm = kl.BatchNormalization(name="norm")
    return keras.Model(x, kl.Concatenate()([norm(kl.Conv2D(4, 3)(x)), norm(kl.Conv2D(4, 3)(x))]))


def convolution_called_twice():
    x = keras.Input((6, 6, 3))
    convolution = kl.Conv2D(3, 3, padding="same")
    return keras.Model(x, kl.BatchNormalization(name="norm")(convolution(convolution(x))))


def convolution_called_in_two_models():
    x = keras.Input((6, 6, 3))
    convolution = kl.Conv2D(3, 3, padding="same")
    inner = keras.Sequential([keras.Input((6, 6, 3)), convolution, kl.ReLU()])
    return keras.Model(x, kl.BatchNormalization(name="norm")(convolution(inner(x))))


def operation_between():
    x = keras.Input((6, 6, 3))
    return keras.Model(x, kl.BatchNormalization(name="norm")(kl.Conv2D(4, 3)(x) * 2))


def inside_a_layer():
    x = keras.Input((5, 4))
    return keras.Model(x, kl.TimeDistributed(kl.BatchNormalization(name="norm"))(kl.Dense(4)(x)))


def norm():
    return kl.BatchNormalization(name="norm")


STAYING = {
    "padding before it is not padded": lambda: sequential(norm(), kl.Conv2D(4, 3, padding="same")),
    "causal padding": lambda: sequential(norm(), kl.Conv1D(4, 3, padding="causal"), shape=(7, 3)),
    "transposed layer behind": lambda: sequential(norm(), kl.Conv2DTranspose(4, 3)),
    "activation of the layer": lambda: sequential(kl.Conv2D(4, 3, activation="relu"), norm()),
    "activation between": lambda: sequential(kl.Conv2D(4, 3), kl.ReLU(), norm()),
    "other layer": lambda: sequential(kl.Conv2D(4, 3), kn.BatchInstanceNormalization(name="norm")),
    "mixture": lambda: sequential(kl.Conv2D(4, 3), kn.SwitchableNormalization(name="norm")),
    "subclass": lambda: sequential(Squared(4), norm(), shape=(6,)),
    **{
        make.__name__: make
        for make in (
            branch_behind_the_convolution, convolution_is_concatenated, branch_behind_the_normalization,
            normalization_called_twice, convolution_called_twice, convolution_called_in_two_models, operation_between,
            inside_a_layer,
        )
    },
}  # fmt: skip


class Squared(kl.Dense):
    def call(self, inputs):
        return keras.ops.square(super().call(inputs))


@pytest.mark.quick
@pytest.mark.parametrize("case", STAYING)
def test_what_cannot_be_folded_stays(case, capsys):
    model = randomized(STAYING[case]())
    new = models.fold_batch_normalization(model)
    said = capsys.readouterr().out
    assert said.startswith("0 of 1 batch normalizations folded.\n  norm stays: it ")
    assert remaining(new) == ["norm"]
    assert_predicts_as(new, model)


def test_a_kernel_of_size_one_is_unpadded():
    model = sequential(kl.ReLU(), kl.BatchNormalization(), kl.Conv2D(4, 1, strides=2, padding="same"))
    assert remaining(folded(model)) == []
    assert_predicts_as(folded(model), model)


def test_a_convolution_whose_output_the_model_gives_too_is_left_alone():
    x = keras.Input((6, 6, 3))
    h = kl.Conv2D(4, 3)(x)
    model = randomized(keras.Model(x, [h, kl.BatchNormalization(name="norm")(h)]))
    new = folded(model)
    assert remaining(new) == ["norm"]
    (image,) = inputs(model)
    for got, want in zip(new(image), model(image), strict=True):
        np.testing.assert_allclose(array(got), array(want), rtol=1e-5, atol=1e-5)


def test_low_rank_weights_are_left_alone():
    model = sequential(kl.Dense(4), norm(), shape=(6,))
    model.layers[0].enable_lora(2)
    randomized(model)
    assert remaining(folded(model)) == ["norm"]
    assert_predicts_as(folded(model), model)


def test_names_stay():
    new = folded(sequential(kl.Dense(4, name="logits"), kl.BatchNormalization(name="norm"), shape=(6,)))
    assert [layer.name for layer in new.layers] == ["logits", "norm"]


@pytest.mark.quick
def test_it_says_how_many_were_folded_and_why_the_others_stay(capsys):
    models.fold_batch_normalization(mixed())
    assert capsys.readouterr().out == (
        "3 of 4 batch normalizations folded.\n  shared_norm stays: it is called 2 times.\n"
    )


def test_regularizers_and_names_of_the_layers_stay():
    model = sequential(kl.Dense(4, kernel_regularizer="l2", use_bias=False, name="dense"), kl.BatchNormalization(),
                       shape=(6,))  # fmt: skip
    dense = folded(model).layers[0]
    assert (dense.name, dense.use_bias, type(dense.kernel_regularizer)) == ("dense", True, keras.regularizers.L2)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_under_mixed_precision_predictions_stay_up_to_its_rounding(policy):
    model = sequential(kl.Conv2D(8, 3, dtype=policy), kl.BatchNormalization(dtype=policy))
    want = predict(model)
    rounding = 2.0**-8 if policy == "mixed_bfloat16" else 2.0**-11
    assert np.abs(predict(folded(model), inputs(model)) - want).max() < 4 * rounding * np.abs(want).max()


def test_a_layer_that_its_config_does_not_make_again_is_refused():
    class Scale(own_classes.Scale):
        @classmethod
        def from_config(cls, config):
            return cls(name=config["name"])

    model = sequential(kl.Dense(4), kl.BatchNormalization(), Scale(2.0, name="scale"), shape=(6,))
    words = (
        r"fold_batch_normalization: model must be one .*: 'scale' \(Scale\) has another class or arguments in a copy"
    )
    with pytest.raises(ValueError, match=words):
        folded(model)


# Inside classes of other people


OWN_FILES = pytest.mark.filterwarnings("ignore:fold_batch_normalization. a .keras file of the result will not load")


class Held(kl.Layer):
    """A convolution and a normalization, which a subclass calls as it likes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution, self.norm = kl.Conv2D(3, 3, padding="same"), norm()

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.norm.build((*input_shape[:-1], 3))


class Called(Held):
    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.convolution(x), training=training))


class CalledWithAMask(Held):
    def call(self, x, training=None):
        return self.norm(inputs=self.convolution(x), mask=None, training=training)


class Residual(Called):
    def call(self, x, training=None):
        return x + super().call(x, training)


class BranchesBefore(Held):
    def call(self, x):
        return self.norm(self.convolution(x)) + x


class BranchesBetween(Held):
    def call(self, x):
        h = self.convolution(x)
        return self.norm(h) + h


class GivesBoth(Held):
    def call(self, x):
        h = self.convolution(x)
        return {"h": h, "normalized": self.norm(h)}


class WorksBetween(Held):
    def call(self, x):
        return self.norm(keras.ops.relu(self.convolution(x)))


class Repeats(Held):
    def call(self, x):
        return self.norm(self.convolution(self.convolution(x)))


class RepeatsInAFunction(Held):
    def call(self, x):
        x = keras.ops.fori_loop(0, 2, lambda _, x: self.convolution(x), x)
        return self.norm(self.convolution(x))


class ReadsTheKernel(Held):
    def call(self, x):
        h = self.norm(self.convolution(x))
        return keras.ops.conv(h, self.convolution.kernel, padding="same")


class ReadsTheKernelBefore(Held):
    def call(self, x):
        size = keras.ops.mean(keras.ops.abs(self.convolution.kernel))
        return self.norm(self.convolution(x)) * size


class ReadsGamma(Held):
    def call(self, x):
        return self.norm(self.convolution(x)) * keras.ops.convert_to_tensor(self.norm.gamma)


class LooksAtNumbers(Held):
    def call(self, x):
        h = self.convolution(x)
        return self.norm(h) if keras.ops.any(x > 1000) else h


class KeepsWhatItGave(Held):
    last = None

    def call(self, x):
        self.last = self.convolution(x)
        return self.norm(self.last)


class TrainsAlways(Held):
    def call(self, x):
        return self.norm(self.convolution(x), training=True)


class NormalizesOnDemand(Held):
    def call(self, x, normalized=True):
        h = self.convolution(x)
        return self.norm(h) if normalized else h


class Block(kl.Layer):
    """Layers in layers: a model, a layer with a convolution before it, and that layer's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sequence = keras.Sequential([kl.Conv2D(3, 1), kl.BatchNormalization(), kl.ReLU()])
        self.block, self.convolution = Called(), kl.Conv2D(3, 2)

    def build(self, input_shape):
        for layer in (self.sequence, self.block, self.convolution):
            layer.build(input_shape)

    def call(self, x, training=None):
        return self.convolution(self.block(self.sequence(x, training=training), training=training))


def around(layer):
    x = keras.Input((6, 6, 3))
    return keras.Model(x, layer(x))


def called_again_outside():
    held = Called()
    x = keras.Input((6, 6, 3))
    return keras.Model(x, held.convolution(held(x)))


class Network(keras.Model):
    """A subclassed model of two inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = kl.Dense(4), kl.Dense(4), kl.BatchNormalization()

    def build(self, a_shape, b_shape):
        self.first.build(a_shape)
        self.second.build(b_shape)
        self.norm.build((None, 4))

    def call(self, a, b, training=False):
        return self.norm(self.first(a), training=training) * self.second(b)


@pytest.mark.quick
@OWN_FILES
@pytest.mark.parametrize("in_place", [False, True], ids=["", "in place"])
@pytest.mark.parametrize(("layer", "count"), [(Called, 1), (Residual, 1), (BranchesBefore, 1), (Block, 2)])
def test_what_a_layer_calls_is_folded_inside_it(layer, count, in_place, capsys):
    model = randomized(around(layer()))
    want = predict(model)
    new = models.fold_batch_normalization(model, in_place=in_place)
    assert capsys.readouterr().out == f"{count} of {count} batch normalizations folded.\n"
    assert (new is model) == in_place
    assert remaining(new) == []
    np.testing.assert_allclose(predict(new), want, rtol=1e-4, atol=1e-5)


OTHER = "a branch, an operation or an end"
REASONS = {
    BranchesBetween: f"it is between {OTHER} and {OTHER}",
    GivesBoth: f"it is between {OTHER} and {OTHER}",
    WorksBetween: f"it is between {OTHER} and {OTHER}",
    Repeats: f"it is between {OTHER} and {OTHER}",
    RepeatsInAFunction: "it is called by held, which cannot be traced (fori_loop is given a function",
    ReadsTheKernel: f"it is between {OTHER} and {OTHER}",
    ReadsTheKernelBefore: f"it is between {OTHER} and {OTHER}",
    ReadsGamma: "it is used by held otherwise than by a call",
    TrainsAlways: "it is called with training=True",
}


@pytest.mark.quick
@pytest.mark.parametrize("layer", REASONS, ids=lambda layer: layer.__name__)
def test_what_a_layer_does_otherwise_stays_and_it_says_why(layer, capsys):
    x = keras.Input((6, 6, 3))
    model = randomized(keras.Model(x, layer(name="held")(x)))
    new = models.fold_batch_normalization(model)
    said = capsys.readouterr().out
    assert said.startswith(f"0 of 1 batch normalizations folded.\n  norm stays: {REASONS[layer]}")
    for got, want in zip(*(keras.tree.flatten(m(inputs(model)[0], training=False)) for m in (new, model)), strict=True):
        np.testing.assert_allclose(array(got), array(want), rtol=1e-5, atol=1e-5)


def called_twice(layer, **kwargs):
    x = keras.Input((6, 6, 3))
    return keras.Model(x, layer(layer(x), **kwargs))


@OWN_FILES
def test_a_layer_that_is_called_twice_is_folded_inside_if_it_calls_the_same_both_times(capsys):
    for model, count in ((called_twice(Called()), 1), (called_twice(NormalizesOnDemand(), normalized=False), 0)):
        new = models.fold_batch_normalization(randomized(model))
        assert capsys.readouterr().out.startswith(f"{count} of 1 ")
        np.testing.assert_allclose(predict(new), predict(model), rtol=1e-4, atol=1e-5)


def test_a_layer_that_needs_numbers_stays(capsys):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.held = LooksAtNumbers(name="held")

        def call(self, x):
            return self.held(x)

    model = Model()
    model(np.ones((2, 6, 6, 3), "float32"))
    models.fold_batch_normalization(model)
    assert "norm stays: it is called by " in capsys.readouterr().out


def test_a_layer_that_is_called_inside_and_outside_stays(capsys):
    model = randomized(called_again_outside())
    with pytest.raises(ValueError, match="is held by several layers"):
        models.fold_batch_normalization(model)
    models.fold_batch_normalization(model, in_place=True)
    assert capsys.readouterr().out.startswith("0 of 1")


@OWN_FILES
def test_a_subclassed_model_of_two_inputs_is_folded():
    model = Network()
    a, b = (np.random.default_rng(0).normal(size=(3, n)).astype("float32") for n in (5, 6))
    model(a, b)
    randomized(model)
    new = folded(model)
    assert (type(new), remaining(new)) == (Network, [])
    np.testing.assert_allclose(array(new(a, b)), array(model(a, b)), rtol=1e-4, atol=1e-5)


@OWN_FILES
def test_a_functional_class_keeps_its_class():
    model = built(Detector)
    new = folded(model)
    assert (type(new), remaining(new)) == (Detector, [])
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    for name, y in new(x).items():
        np.testing.assert_allclose(array(y), array(model(x)[name]), rtol=1e-4, atol=1e-5)


@OWN_FILES
def test_the_model_is_left_as_it_was():
    layer = KeepsWhatItGave()
    model = randomized(around(layer))
    predict(model)
    last, nodes = layer.last, [len(layer._inbound_nodes) for layer in all_layers(model)]
    folded(model)
    assert layer.last is last
    assert [len(layer._inbound_nodes) for layer in all_layers(model)] == nodes


@OWN_FILES
@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer:UserWarning")
def test_every_holder_of_a_layer_sees_it_folded(capsys):
    model = built(Everywhere)
    new = models.fold_batch_normalization(model)
    assert capsys.readouterr().out.startswith("4 of 8 batch normalizations folded.\n")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_allclose(array(new(x)), array(model(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.quick
def test_what_a_layer_does_with_its_mask_is_seen(capsys):
    class Masked(kl.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense, self.norm, self.supports_masking = kl.Dense(4), norm(), True

        def build(self, input_shape):
            self.dense.build(input_shape)
            self.norm.build((*input_shape[:-1], 4))

        def call(self, x, mask=None):
            h = self.dense(x)
            return self.norm(h if mask is None else h * keras.ops.cast(mask, h.dtype)[..., None])

    tokens = keras.Input((5,), dtype="int32")
    model = randomized(keras.Model(tokens, Masked()(kl.Embedding(7, 3, mask_zero=True)(tokens))))
    new = models.fold_batch_normalization(model)
    assert capsys.readouterr().out.startswith("0 of 1 ")
    x = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2]])
    np.testing.assert_allclose(array(new(x)), array(model(x)), rtol=1e-5, atol=1e-5)
