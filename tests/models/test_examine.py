"""A fault planted in a healthy model is found at its layer, and the cure that the report gives takes it away."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm
import keras_norm as kn
from support.backends import BACKEND, array

IMAGE, SAMPLES = (8, 8, 3), 32


def images(shape=IMAGE, samples=SAMPLES, mean=1.0, std=2.0):
    return np.random.default_rng(0).normal(mean, std, (samples, *shape)).astype("float32")


def network(norm=None, norm_2=None, convolution=None, shape=IMAGE, recalibrated=True, **conv):
    """Two convolutions, each with a normalization, and a head; its moving statistics are those of `images`."""
    conv = {"use_bias": False, **conv}
    layers = [
        convolution or kl.Conv2D(8, 3, name="conv", **conv),
        norm if norm is not None else kl.BatchNormalization(name="norm"),
        kl.ReLU(),
        kl.Conv2D(16, 3, strides=2, use_bias=False, name="conv_2"),
        norm_2 if norm_2 is not None else kn.GroupNormalization(2, name="norm_2"),
        kl.ReLU(),
        kl.GlobalAveragePooling2D(),
        kl.Dense(4, name="head"),
    ]
    model = keras.Sequential([keras.Input(shape), *layers])
    if recalibrated:
        kn.models.recalibrate_batch_normalization(model, images(shape), verbose=0)
    return model


def sequence(norm, mask=False, before=()):
    """Tokens, a normalization, and a recurrent layer."""
    tokens = keras.Input((None,), dtype="int32")
    h = kl.Embedding(20, 8, mask_zero=mask, name="embedding")(tokens)
    for layer in (*before, norm):
        h = layer(h)
    return keras.Model(tokens, kl.Dense(2)(kl.LSTM(4)(h)))


def tokens():
    x = np.random.default_rng(0).integers(1, 20, (8, 6))
    x[::2, 4:] = 0
    return x


class Plant:
    """A fault: a model with it, the data that show it, and where it is."""

    def __init__(self, name, model, data=None, layer="norm", setup=None, **options):
        self.name, self.model, self.data, self.layer = name, model, data, layer
        self.options = options

    def examine(self, model):
        return kn.models.examine(model, self.data, verbose=0, **self.options)


def shifted():
    """Moving statistics of other data."""
    model = network()
    model.get_layer("norm").moving_mean.assign(array(model.get_layer("norm").moving_mean) + 5.0)
    return model


def of_few_samples():
    model = network(kl.BatchNormalization(name="norm", momentum=0.9))
    return model


def frozen_around():
    model = network(norm_2=kl.BatchNormalization(name="norm_2"))
    for name in ("conv", "conv_2"):
        model.get_layer(name).trainable = False
    return model


def compiled(optimizer):
    model = network(norm_2=kl.BatchNormalization(name="norm_2"))
    model.compile(optimizer, "mse")
    return model


def in_float16(largest):
    keras.config.set_dtype_policy("mixed_float16")
    model = network(recalibrated=False)
    keras.config.set_dtype_policy("float32")
    model.get_layer("conv").kernel.assign(np.full((3, 3, 3, 8), largest / 27, "float32"))
    return model


PLANTS = [
    Plant("one_position_sets", lambda: network(norm_2=kn.InstanceNormalization(name="norm_2"), shape=(6, 6, 3)),
          layer="norm_2"),
    Plant("one_position_sets", lambda: sequence(kl.LayerNormalization(name="norm"), before=[kl.Dense(1)])),
    Plant("small_sets", lambda: network(shape=(12, 12, 3)), images((12, 12, 3)), batch_size=2),
    Plant("small_sets", lambda: network(norm_2=kl.GroupNormalization(8, name="norm_2"), shape=(6, 6, 3)), layer="norm_2"),
    Plant("stale_moving_statistics", shifted, images()),
    Plant("stale_moving_statistics", lambda: kn.models.freeze_batch_normalization(shifted()), images()),
    Plant("training_inference_gap", shifted, images()),
    Plant("statistics_over_time", lambda: sequence(kn.LayerNormalization(axis=None, name="norm"))),
    Plant("statistics_over_time", lambda: sequence(kl.GroupNormalization(2, name="norm"))),
    Plant("mask_ignored", lambda: sequence(kl.GroupNormalization(2, name="norm"), mask=True)),
    Plant("redundant_bias", lambda: network(use_bias=True)),
    Plant("epsilon_dominates", lambda: network(kn.InstanceNormalization(name="norm")), images(mean=0.0, std=1e-3)),
    Plant("float16_overflow", lambda: in_float16(60000.0), np.ones((16, *IMAGE), "float32")),
    Plant("float16_statistics", lambda: network(kl.BatchNormalization(name="norm", dtype="float16"), recalibrated=False)),
    Plant("channel_axis", lambda: network(kl.BatchNormalization(axis=1, name="norm"))),
    Plant("channel_axis", lambda: network(norm_2=kn.GroupNormalization(2, axis=1, name="norm_2"), shape=(12, 12, 3)),
          layer="norm_2"),
    Plant("frozen_but_updating", frozen_around),
    Plant("repeated_normalization", lambda: network(
        keras.Sequential([keras.Input((6, 6, 8)), kl.BatchNormalization(name="norm_0"), kl.BatchNormalization(name="norm")],
                         name="block"), norm_2=kn.GroupNormalization(2)), layer="block/norm"),
    Plant("decayed_affine", lambda: network(kl.BatchNormalization(name="norm", gamma_regularizer="l2"))),
    Plant("decayed_affine", lambda: compiled(keras.optimizers.AdamW())),
]  # fmt: skip


def names(report, layer=None):
    return [finding.name for finding in report.findings if layer in (None, finding.layer)]


@pytest.mark.filterwarnings("ignore:replace_normalization. weights of another shape")  # the cure of a wrong axis
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_fault_is_found_at_its_layer_and_its_cure_takes_it_away(plant):
    model = plant.model()
    report = plant.examine(model)
    found = [finding for finding in report.findings if finding.name == plant.name]
    assert plant.layer in [finding.layer for finding in found], str(report)
    for finding in found:
        assert finding.severity in ("severe", "warning", "note") and finding.numbers and finding.message
    scope = {"keras": keras, "keras_norm": keras_norm, "model": model, "data": plant.data}
    for cure in dict.fromkeys(finding.cure for finding in found):
        exec(cure, scope)
    assert plant.name not in names(plant.examine(scope["model"])), str(plant.examine(scope["model"]))


def test_what_the_plants_are_made_of_is_healthy():
    for model, data in [(network(), images()), (sequence(kl.LayerNormalization()), tokens())]:
        report = kn.models.examine(model, data, verbose=0)
        assert report.findings == [], str(report)
