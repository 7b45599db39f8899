"""A fault planted in a healthy model is found at its layer, and the cure that the report gives takes it away."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm
import keras_norm as kn
from support import processes
from support.backends import BACKEND, array, tensorflow_only

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


def two_in_a_row():
    norms = [kl.BatchNormalization(name="norm_0"), kl.BatchNormalization(name="norm")]
    return keras.Sequential([keras.Input((6, 6, 8)), *norms], name="block")


class Plant:
    """A fault: a model with it, the data that show it, and where it is."""

    def __init__(self, name, model, data=None, layer="norm", **options):
        self.name, self.model, self.data, self.layer = name, model, data, layer
        self.options = options

    def examine(self, model):
        return kn.models.examine(model, self.data, verbose=0, **self.options)


def shifted():
    """Moving statistics of other data."""
    model = network()
    model.get_layer("norm").moving_mean.assign(array(model.get_layer("norm").moving_mean) + 5.0)
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
    Plant("small_sets", lambda: network(norm_2=kl.GroupNormalization(8, name="norm_2"), shape=(6, 6, 3)),
          layer="norm_2"),
    Plant("stale_moving_statistics", shifted, images()),
    Plant("stale_moving_statistics", lambda: kn.models.freeze_batch_normalization(shifted()), images()),
    Plant("training_inference_gap", shifted, images()),
    Plant("statistics_over_time", lambda: sequence(kn.LayerNormalization(axis=None, name="norm"))),
    Plant("statistics_over_time", lambda: sequence(kl.GroupNormalization(2, name="norm"))),
    Plant("mask_ignored", lambda: sequence(kl.GroupNormalization(2, name="norm"), mask=True)),
    Plant("redundant_bias", lambda: network(use_bias=True)),
    Plant("epsilon_dominates", lambda: network(kn.InstanceNormalization(name="norm")), images(mean=0.0, std=1e-3)),
    Plant("float16_overflow", lambda: in_float16(60000.0), np.ones((16, *IMAGE), "float32")),
    Plant("float16_statistics",
          lambda: network(kl.BatchNormalization(name="norm", dtype="float16"), recalibrated=False)),
    Plant("channel_axis", lambda: network(kl.BatchNormalization(axis=1, name="norm"))),
    Plant("channel_axis", lambda: network(norm_2=kn.GroupNormalization(2, axis=1, name="norm_2"), shape=(12, 12, 3)),
          layer="norm_2"),
    Plant("frozen_but_updating", frozen_around),
    Plant("repeated_normalization", lambda: network(two_in_a_row()), layer="block/norm"),
    Plant("decayed_affine", lambda: network(kl.BatchNormalization(name="norm", gamma_regularizer="l2"))),
    Plant("decayed_affine", lambda: compiled(keras.optimizers.AdamW())),
]  # fmt: skip


def names(report, layer=None):
    return [finding.name for finding in report.findings if layer in (None, finding.layer)]


@pytest.mark.filterwarnings("ignore:replace_normalization. weights with another shape")  # the cure of a wrong axis
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


@pytest.mark.quick
def test_what_the_plants_are_made_of_is_healthy():
    for model, data in [(network(), images()), (sequence(kl.LayerNormalization()), tokens())]:
        report = kn.models.examine(model, data, verbose=0)
        assert report.findings == [], str(report)


def transformer():
    x = keras.Input((6, 8))
    h = kl.LayerNormalization()(x)
    h = x + kl.MultiHeadAttention(2, 4)(h, h)
    h = h + kl.Dense(8)(kl.Dense(16, "gelu")(kl.LayerNormalization()(h)))
    return keras.Model(x, kl.Dense(2)(kl.GlobalAveragePooling1D()(kl.LayerNormalization()(h)))), images((6, 8))


def lstm():
    tokens_in = keras.Input((None,), dtype="int32")
    h = kl.LSTM(8, return_sequences=True)(kl.Embedding(20, 8, mask_zero=True)(tokens_in))
    return keras.Model(tokens_in, kl.Dense(2)(kl.LSTM(8)(kn.LayerNormalization(epsilon=1e-8)(h)))), tokens()


def layer_normalized_lstm():
    cell = kn.LayerNormLSTMCell(4)
    return keras.Sequential([keras.Input((6, 8)), kl.RNN(cell), kl.Dense(2)]), images((6, 8))


def u_net():
    def block(x, filters, norm):
        return kl.ReLU()(norm()(kl.Conv2D(filters, 3, padding="same", use_bias=False)(x)))

    x = keras.Input((16, 16, 3))
    down = block(x, 8, kl.BatchNormalization)
    deep = block(kl.MaxPooling2D()(down), 16, lambda: kn.GroupNormalization(4))
    up = kl.Concatenate()([down, kl.UpSampling2D()(deep)])
    return keras.Model(x, kl.Conv2D(2, 1)(block(up, 8, kn.BatchNormalization))), images((16, 16, 3))


def generator():
    layers = [kl.Dense(4 * 4 * 16, use_bias=False), kn.BatchNormalization(), kl.ReLU(), kl.Reshape((4, 4, 16))]
    up = [kl.Conv2DTranspose(8, 4, 2, padding="same", use_bias=False), kn.BatchNormalization(), kl.ReLU()]
    return keras.Sequential([keras.Input((12,)), *layers, *up, kl.Conv2D(3, 3, activation="tanh")]), images((12,))


def discriminator():
    convolution = kn.SpectralNormalization(kl.Conv2D(8, 3, strides=2))
    layers = [convolution, kl.LeakyReLU(), kl.Conv2D(8, 3, use_bias=False), kn.InstanceNormalization(), kl.LeakyReLU()]
    return keras.Sequential([keras.Input((12, 12, 3)), *layers, kl.Flatten(), kl.Dense(1)]), images((12, 12, 3))


def perceptron():
    layers = [kl.Dense(16, use_bias=False), kn.BatchRenormalization(), kl.ReLU(), kl.Dropout(0.5)]
    return keras.Sequential([keras.Input((10,)), *layers, kl.Dense(3)]), images((10,))


def waves():
    layers = [kl.Conv1D(8, 3, use_bias=False), kn.GroupNormalization(2), kl.ReLU(), kl.Conv1D(8, 3, strides=2)]
    return keras.Sequential([keras.Input((32, 2)), *layers, kl.GlobalMaxPooling1D(), kl.Dense(2)]), images((32, 2))


def of_the_tutorials():
    from keras_norm.tutorials.networks import cifar_resnet

    return cifar_resnet((32, 32, 3), 10, kl.BatchNormalization, 1, 2), images((32, 32, 3))


def of_keras(name, **kwargs):
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(64, 64, 3), classes=10, **kwargs), images((64, 64, 3))


HEALTHY = [
    transformer, lstm, layer_normalized_lstm, u_net, generator, discriminator, perceptron, waves, of_the_tutorials,
    *(pytest.param(lambda name=name: of_keras(name), id=name, marks=pytest.mark.slow)
      for name in ("MobileNetV2", "ResNet50V2", "ConvNeXtTiny", "EfficientNetV2B0")),
]  # fmt: skip


@pytest.mark.parametrize("make", HEALTHY)
def test_a_healthy_model_has_no_findings(make):
    keras.utils.set_random_seed(0)
    model, data = make()
    kn.models.recalibrate_batch_normalization(model, data, verbose=0)
    report = kn.models.examine(model, data, verbose=0)
    assert report.findings == [], str(report)
    assert kn.models.examine(model).findings == []


def by_hand():
    """A normalization, its inputs, gamma, and moving statistics; beta is 0."""
    model = keras.Sequential([keras.Input((4,)), kl.BatchNormalization(name="norm", epsilon=0.01)])
    x = images((4,), samples=12)
    mean, variance = np.array([0.5, -1.0, 2.0, 1.0]), np.array([1.0, 4.0, 2.0, 9.0])
    norm = model.get_layer("norm")
    gamma = np.array([1.0, 0.0, 2.0, -1.0])
    for weight, value in zip(norm.weights, (gamma, np.zeros(4), mean, variance), strict=True):
        weight.assign(value)
    return model, x, gamma, mean, variance


@pytest.mark.quick
def test_the_numbers_are_those_of_their_definitions():
    model, x, gamma, mean, variance = by_hand()
    model.compile("sgd", "mse")
    y = np.ones_like(x)
    report = kn.models.examine(model, x, y, batch_size=12, verbose=0)
    (line,) = report.lines
    of_batch, spread = x.mean(0), x.var(0)
    distance, ratio = abs(of_batch - mean) / np.sqrt(variance + 0.01), (spread + 0.01) / (variance + 0.01)
    in_training = gamma * (x - of_batch) / np.sqrt(spread + 0.01)
    in_inference = gamma * (x - mean) / np.sqrt(variance + 0.01)
    gap = np.sqrt(((in_training - in_inference) ** 2).mean()) / min(in_inference.std(), in_training.std())
    close = pytest.approx
    assert (line.median_distance, line.worst_distance) == close((np.median(distance), distance.max()), rel=1e-4)
    assert line.median_ratio == close(np.median(ratio), rel=1e-4)
    assert line.worst_ratio == close(ratio[abs(np.log(ratio)).argmax()], rel=1e-4)
    assert (report.gap, line.own_gap) == close((gap, gap), rel=1e-4)
    assert line.output_gap == (close(gap, rel=1e-4) if report.gap > 1 else None)
    assert report.losses == close((((in_training - y) ** 2).mean(), ((in_inference - y) ** 2).mean()), rel=1e-4)
    assert (line.positions, line.global_positions, line.gamma, line.dead_channels) == (12, 12, (-1.0, 2.0), 1)
    assert line.largest == close(abs(x).max(), rel=1e-6)
    assert (line.layer, line.call, line.kind, line.set) == ("norm", 0, "keras BatchNormalization", "k_C = i_C")


def test_means_and_variances_are_those_of_all_batches():
    model, x, _, mean, variance = by_hand()
    (line,) = kn.models.examine(model, x, batch_size=5, verbose=0).lines
    assert line.positions == 5
    assert line.worst_distance == pytest.approx((abs(x.mean(0) - mean) / np.sqrt(variance + 0.01)).max(), rel=1e-4)


def test_sets_without_variance_and_below_epsilon_are_counted_and_overflow_is_seen():
    model, x, *_ = by_hand()
    x[:, 0], x[:, 1] = 3.0, 3.0 + 0.01 * x[:, 1]
    (line,) = kn.models.examine(model, x, batch_size=12, verbose=0).lines
    assert (line.constant, line.below_epsilon) == (0.25, 0.25)
    x[0, 0] = np.inf
    (line,) = kn.models.examine(model, x, batch_size=12, verbose=0).lines
    assert line.largest == np.inf


def test_drift_is_how_far_the_inputs_in_the_two_modes_are_apart():
    first, x, _, mean, variance = by_hand()
    norm = first.get_layer("norm")
    norm.gamma.assign(np.ones(4))
    model = keras.Sequential([*first.layers, kl.BatchNormalization(name="second", epsilon=0.01)])
    model.build((None, 4))
    second = kn.models.examine(model, x, batch_size=12, verbose=0).lines[1]
    spread = x.var(0) / (variance + 0.01)  # of the inputs of the second layer in inference mode
    drift = abs(x.mean(0) - mean) / np.sqrt(variance + 0.01) / np.sqrt(spread + 0.01)
    assert second.drift == pytest.approx(np.median(drift), rel=1e-4)


def test_a_call_in_training_mode_leaves_the_next_call_alone():
    norm = kl.BatchNormalization(epsilon=0.01, momentum=0.0)  # whose moving statistics a training call would replace
    vector = keras.Input((4,))
    model = keras.Model(vector, norm(norm(vector)))
    x = images((4,), samples=12, mean=3.0)
    second = kn.models.examine(model, x, batch_size=12, verbose=0).lines[1]
    h = x / np.sqrt(1.01)
    in_training, in_inference = (h - h.mean(0)) / np.sqrt(h.var(0) + 0.01), h / np.sqrt(1.01)
    spread = min(in_training.std(), in_inference.std())
    assert second.own_gap == pytest.approx(np.sqrt(((in_training - in_inference) ** 2).mean()) / spread, rel=1e-4)


def test_the_gap_is_put_down_to_the_layer_that_makes_it():
    model = network(norm_2=kn.BatchNormalization(name="norm_2"))
    norm_2 = model.get_layer("norm_2")
    norm_2.moving_variance.assign(array(norm_2.moving_variance) * 400)
    report = kn.models.examine(model, images(), verbose=0)
    (gap,) = [finding for finding in report.findings if finding.name == "training_inference_gap"]
    assert gap.layer == "norm_2" and gap.numbers["by_layer"]["norm_2"] > 5 * gap.numbers["by_layer"]["norm"]


def test_the_cure_of_a_gap_makes_no_sets_of_one_position():
    keras.utils.set_random_seed(0)
    layers = [layer for _ in range(4) for layer in (kl.Conv2D(8, 1, use_bias=False), kl.BatchNormalization())]
    model = keras.Sequential([keras.Input((1, 1, 3)), *layers, kl.Flatten()])
    data = images((1, 1, 3), 256)
    kn.models.recalibrate_batch_normalization(model, data, batch_size=256, exact=True, verbose=0)
    report = kn.models.examine(model, data, batch_size=2, steps=128, verbose=0)
    (gap,) = [finding for finding in report.findings if finding.name == "training_inference_gap"]
    assert "stale_moving_statistics" not in names(report) and "where=lambda layer: layer.name in []" not in gap.cure
    scope = {"keras_norm": keras_norm, "model": model}
    exec(gap.cure, scope)
    assert not {"one_position_sets", "training_inference_gap"} & {
        *names(kn.models.examine(scope["model"], data, verbose=0))
    }


class Dataset(keras.utils.PyDataset):
    def __init__(self, x, y, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x[16 * index :][:16], self.y[16 * index :][:16]


def test_a_gap_is_that_of_either_side_and_of_outputs_without_spread_by_their_size():
    for factor in (1e4, 1e-4):
        model = network(norm_2=kl.Identity())
        model.get_layer("norm").moving_variance.assign(array(model.get_layer("norm").moving_variance) * factor)
        assert "training_inference_gap" in names(kn.models.examine(model, images(), verbose=0), "norm")
    vector = keras.Input((4,))
    mean = keras.ops.mean(kl.BatchNormalization(beta_initializer="ones")(vector), keepdims=True)
    report = kn.models.examine(keras.Model(vector, mean), images((4,), mean=2.0), verbose=0)
    assert 0 < report.gap < 1


def test_outputs_that_are_not_finite_are_named():
    x = images()
    x[0] = np.nan
    report = kn.models.examine(network(), x, verbose=0)
    assert report.finite is False and "Outputs are NaN or infinite." in str(report)
    assert kn.models.examine(network(), images(), verbose=0).finite is True


def test_data_are_what_fit_takes():
    model = network()
    model.compile("sgd", "mse")
    x, y = images(), np.ones((SAMPLES, 4), "float32")
    expected = kn.models.examine(model, x, y, batch_size=16, verbose=0)
    others = [Dataset(x, y), iter([(x[:16], y[:16]), (x[16:], y[16:])])]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        others.append(tf.data.Dataset.from_tensor_slices((x, y)).batch(16))
    for data in others:
        found = kn.models.examine(model, data, verbose=0)
        assert (found.gap, found.losses, found.samples) == (expected.gap, expected.losses, SAMPLES)
    unlabeled = kn.models.examine(model, x, batch_size=16, steps=1, verbose=0)
    assert (unlabeled.samples, unlabeled.losses, unlabeled.passes) == (16, None, 2)


def test_models_of_every_kind_and_layers_called_twice_are_examined():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = kl.Dense(6, use_bias=False), kn.BatchNormalization(name="norm")
            self.inner = keras.Sequential([kl.Dense(6), kl.LayerNormalization(name="inner_norm")], name="inner")

        def call(self, x, training=False):
            return self.inner(self.norm(self.norm(self.dense(x), training=training), training=training))

    model = Subclassed()
    x = images((5,))
    model(x)
    lines = kn.models.examine(model, x, verbose=0).lines
    assert [(line.layer, line.call) for line in lines] == [("norm", 0), ("norm", 1), ("inner/inner_norm", 0)]
    assert [line.input_shape for line in lines] == [(None, 6)] * 3 or [line.input_shape[1] for line in lines] == [6] * 3


def test_layers_in_loops_are_listed_and_not_measured():
    inner = keras.Sequential([keras.Input((4,)), kl.Dense(4), kn.LayerNormalization(name="norm")])
    model = keras.Sequential([keras.Input((3, 4)), kl.TimeDistributed(inner)])
    report = kn.models.examine(model, images((3, 4)), verbose=0)
    ((path, reason),), (line,) = report.not_examined.items(), report.lines
    assert path == line.layer and path.endswith("/norm") and "in a loop" in reason
    assert line.positions is None and line.positions_per_sample == 4
    assert "Not examined: " in str(report)


def fitted(examined):
    keras.utils.set_random_seed(1)
    model = network(norm_2=kn.BatchRenormalization(name="norm_2"))
    model.add(kl.Dropout(0.5))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = images(), np.ones((SAMPLES, 4), "float32")
    for _ in range(2):
        losses = model.fit(x, y, batch_size=8, verbose=0).history["loss"]
        if examined:
            before = [array(variable) for variable in (*model.variables, *model.optimizer.variables)]
            kn.models.examine(model, x, y, batch_size=8, verbose=0)
            after = [array(variable) for variable in (*model.variables, *model.optimizer.variables)]
            for a, b in zip(before, after, strict=True):
                np.testing.assert_array_equal(a, b)
    return losses, model.get_weights()


def test_fit_continues_as_if_nothing_had_happened():
    (losses, weights), (expected_losses, expected) = fitted(True), fitted(False)
    assert losses == expected_losses
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_is_called_as_often_as_the_report_says():
    calls = []

    class Counting(kl.Layer):
        def call(self, x):
            calls.append(1)
            return x

    model = keras.Sequential([keras.Input(IMAGE), Counting(), *shifted().layers])
    more_than_passes = []
    for steps, passes in ((1, 3), (2, 5)):  # in two modes, and once more for the layer that makes the gap
        calls.clear()
        report = kn.models.examine(model, images(), batch_size=16, steps=steps, verbose=0)
        assert report.passes == passes
        more_than_passes.append(len(calls) - passes)
    if BACKEND == "torch":  # the others trace a call and repeat it
        assert more_than_passes[0] == more_than_passes[1] <= 2  # symbolic calls


@pytest.mark.quick
def test_a_report_is_a_table_html_a_dictionary_and_a_picture(tmp_path):
    model = shifted()
    report = kn.models.examine(model, images(), verbose=0)
    text, page = str(report), report._repr_html_()
    for word in ("norm_2", "N, 2 groups", "stale_moving_statistics", "recalibrate_batch_normalization"):
        assert word in text and word in page
    assert max(map(len, text.split("\n\n")[1].splitlines())) <= 100
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["cure"] == report.findings[0].cure
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"Report.plot: there must be batch normalizations that were measured"):
        kn.models.examine(model).plot(tmp_path / "empty.png")


@pytest.mark.quick
def test_the_picture_of_a_healthy_model_has_ticks_and_a_key_of_what_is_drawn():
    figure = kn.models.examine(network(), images(), verbose=0).plot()
    figure.canvas.draw()
    _, variances, gaps = figure.axes
    assert {"1/2", "1", "2"} <= {label.get_text() for label in variances.get_xticklabels()}
    assert [text.get_text() for text in gaps.get_legend().get_texts()] == ["inputs", "layer"]  # not the model's gap


@pytest.mark.quick
def test_a_message_of_stale_statistics_names_what_is_beyond_its_limit():
    model = network()
    norm = model.get_layer("norm")
    mean, variance = array(norm.moving_mean), array(norm.moving_variance)
    norm.moving_variance.assign(100 * variance)
    norm.moving_mean.assign(mean + 0.7 * np.sqrt(100 * variance))  # above 0.5, but not above 0.5 + 2 / sqrt(32)
    report = kn.models.examine(model, images(), verbose=0)
    (stale,) = [finding for finding in report.findings if finding.name == "stale_moving_statistics"]
    assert "(limit 2.7)" in stale.message and "standard deviations away" not in stale.message


def test_a_long_table_fits_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    deep = keras.Sequential([keras.Input(IMAGE), network()], name="a_model_of_a_rather_long_name")
    table = str(kn.models.examine(deep, images(), verbose=0)).split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= 100


def test_bad_arguments_are_refused():
    model = network()
    for kwargs, message in [
        ({"steps": 0}, "examine: steps must be positive"),
        ({"batch_size": 0}, "examine: batch_size must be positive"),
        ({"data": images()[:0]}, "examine: data must have a batch"),
    ]:
        with pytest.raises(ValueError, match=message):
            kn.models.examine(model, **{"data": images(), "verbose": 0, **kwargs})
    with pytest.raises(TypeError, match="examine: model must be a Keras model"):
        kn.models.examine(kl.Dense(3))


@pytest.mark.slow
@tensorflow_only
def test_small_batches_on_replicas_are_found_and_synchronized():
    process = processes.start("examine_on_replicas.py")
    output, _ = process.communicate(timeout=processes.SECONDS)
    assert process.returncode == 0, output


def run_command(path, *options):
    from keras_norm.__main__ import main

    return main(["examine", str(path), *options])


def test_the_command_line_examines_a_file(tmp_path, capsys):
    network().save(tmp_path / "healthy.keras")
    assert run_command(tmp_path / "healthy.keras") == 0
    assert "No findings." in capsys.readouterr().out
    network(norm_2=kn.InstanceNormalization(name="norm_2"), shape=(6, 6, 3)).save(tmp_path / "severe.keras")
    assert run_command(tmp_path / "severe.keras", "--json") == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["name"] == "one_position_sets"


def test_the_command_line_says_what_it_cannot_load(tmp_path, capsys):
    keras.Sequential([keras.Input((2,)), kl.Lambda(lambda x: x)]).save(tmp_path / "unsafe.keras")
    for name in ("unsafe.keras", "missing.keras"):
        with pytest.raises(SystemExit) as exit_status:
            run_command(tmp_path / name)
        assert exit_status.value.code == 2
        assert "model must be a file that Keras can load in safe mode" in capsys.readouterr().err
