"""What the recorded percentiles are, that recording them changes nothing, and what is said where it cannot be done."""

import threading
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_norm as kn
from keras_norm.callbacks import ResponsePercentiles
from support.backends import BACKEND, array, tensorflow_only

RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (22, 6, 6, 4)).astype("float32")
Y = RNG.integers(0, 3, 22)
DATA = X[:9] + 1
PERCENTILES = (0, 12.5, 50, 99)


def network():
    """A network with all that a call may leave a trace in: moving statistics, a seed, an activity loss."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(8, 3, name="conv", activity_regularizer="l2"),
            kn.BatchNormalization(momentum=0.7, name="ours"),
            layers.Dropout(0.4, name="dropout"),
            layers.BatchNormalization(momentum=0.7, name="keras"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def fitted(model, *callbacks, epochs=1, compiled=None, **kwargs):
    """The model after a training on batches of 4, 4, 4, 4, 4 and 2."""
    keras.utils.set_random_seed(1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, **(compiled or {}))
    arguments = {"x": X, "y": Y, "batch_size": 4} | kwargs
    model.fit(**arguments, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def seeded():
    keras.utils.set_random_seed(0)
    return network()


def responses(model, name, training):
    """The outputs of a layer for `DATA`, by a model that ends there."""
    return array(keras.Model(model.inputs[0], model.get_layer(name).output)(DATA, training=training))


@pytest.mark.parametrize("training", [True, False])
def test_the_percentiles_are_those_of_the_outputs_of_the_layer_at_that_step(training):
    model, names = seeded(), ["conv", "ours", "keras"]
    model.get_layer("dropout").rate = 0.0  # with another seed at each call there is nothing to compare with
    before = {name: np.percentile(responses(model, name, training), PERCENTILES) for name in names}
    callback = ResponsePercentiles(DATA, names, PERCENTILES, every=6, training=training)
    fitted(model, callback)
    assert callback.steps == [0, 6]
    for name in names:
        want = [before[name], np.percentile(responses(model, name, training), PERCENTILES)]
        assert np.abs(want[1] - want[0]).max() > 0.01
        np.testing.assert_allclose(callback.history[name], want, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("training", "compiled"),
    [
        (True, {"jit_compile": False}),
        pytest.param(False, {"jit_compile": False}, marks=pytest.mark.slow),
        pytest.param(True, {"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param(True, {"steps_per_execution": 4}, marks=pytest.mark.slow),
        pytest.param(True, {"run_eagerly": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_training_ends_with_the_same_weights_and_losses_bit_for_bit(training, compiled):
    if BACKEND == "torch" and (compiled.get("jit_compile") or "steps_per_execution" in compiled):
        pytest.skip("compiling takes torch minutes, and it takes one step an execution")
    alone, watched = seeded(), seeded()
    callback = ResponsePercentiles(DATA, every=1, training=training)
    fitted(alone, epochs=2, compiled=compiled)
    fitted(watched, callback, epochs=2, compiled=compiled)
    assert len(callback.steps) > 4
    states = [[*map(array, model.variables)] for model in (alone, watched)]
    assert any(variable.name == "moving_mean" for variable in watched.variables)
    assert any("seed" in variable.path for variable in watched.variables)
    for before, after in zip(*states, strict=True):
        np.testing.assert_array_equal(before, after)
    assert alone.history.history == watched.history.history


@pytest.mark.parametrize(
    ("execution", "steps"),
    [
        (1, {1: [*range(13)], 4: [0, 4, 8, 12], 6: [0, 6, 12], 100: [0]}),
        pytest.param(
            4,  # executions of 4, 2, 4 and 2 steps
            {4: [0, 4, 10, 12]},
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(BACKEND == "torch", reason="torch takes one step an execution"),
            ],
        ),
    ],
)
def test_steps_are_counted_on_from_epoch_to_epoch(execution, steps):
    callbacks = [ResponsePercentiles(DATA, every=every) for every in steps]
    fitted(seeded(), *callbacks, epochs=2, compiled={"steps_per_execution": execution})
    for callback, want in zip(callbacks, steps.values(), strict=True):
        assert callback.steps == want
        assert callback.history["ours"].shape == (len(want), 4)


def test_steps_are_counted_on_from_fit_to_fit_and_the_step_between_is_recorded_once():
    model, callback = seeded(), ResponsePercentiles(DATA, every=3)
    fitted(model, callback)
    fitted(model, callback)
    assert callback.steps == [0, 3, 6, 9, 12]


def test_every_normalization_is_recorded_if_no_layers_are_named_also_of_a_model_inside():
    inner = keras.Sequential([keras.Input((6, 6, 4)), layers.Dense(5), kn.GroupNormalization(5, name="inner")])
    outer = keras.Sequential([keras.Input((6, 6, 4)), inner, layers.LayerNormalization(name="outer"), layers.Flatten()])
    callback = ResponsePercentiles(DATA, every=6)
    model = fitted(keras.Sequential([outer, layers.Dense(3)]), callback)
    assert list(callback.history) == ["inner", "outer"]
    h = inner(DATA)
    for name, response in (("inner", h), ("outer", model.layers[0].get_layer("outer")(h))):
        want = np.percentile(array(response), [1, 20, 80, 99])
        np.testing.assert_allclose(callback.history[name][-1], want, rtol=1e-4, atol=1e-4)


class Block(layers.Layer):
    """A layer that holds others, one of them by a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(4, name="dense"), kn.GroupNormalization(2, name="norm")]

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs


class Blocks(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Block(name="first"), Block(name="second")

    def call(self, inputs):
        return self.second(self.first(inputs))


def of_blocks(blocks):
    return keras.Sequential([keras.Input((6, 6, 4)), blocks, layers.Flatten(), layers.Dense(3)])


def test_layers_inside_blocks_are_recorded_by_their_path_where_names_repeat():
    callback = ResponsePercentiles(DATA, percentiles=PERCENTILES, every=6)
    model = fitted(of_blocks(Blocks(name="blocks")), callback)
    assert list(callback.history) == ["blocks/first/norm", "blocks/second/norm"]
    blocks = model.layers[0]
    first = blocks.first(DATA)
    for name, response in (("first", first), ("second", blocks.second(first))):
        want = np.percentile(array(response), PERCENTILES)
        np.testing.assert_allclose(callback.history[f"blocks/{name}/norm"][-1], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["blocks/second/dense", "second"])
def test_a_layer_inside_a_block_is_named_by_its_path_or_by_a_name_that_no_other_has(name):
    callback = ResponsePercentiles(DATA, [name], PERCENTILES, every=6)
    model = fitted(of_blocks(Blocks(name="blocks")), callback)
    assert list(callback.history) == [name]
    second = model.layers[0].second
    response = second.parts[0] if "dense" in name else second
    want = np.percentile(array(response(model.layers[0].first(DATA))), PERCENTILES)
    np.testing.assert_allclose(callback.history[name][-1], want, rtol=1e-4, atol=1e-4)


class NormalizedCell(layers.SimpleRNNCell):
    def __init__(self, units):
        super().__init__(units)
        self.norm = kn.LayerNormalization(name="in_the_cell")

    def call(self, inputs, states, training=False):
        output, states = super().call(inputs, states, training=training)
        return self.norm(output), states


def test_a_normalization_that_is_never_called_or_only_inside_a_compiled_loop_is_passed_by():
    unused = kn.LayerNormalization(name="unused")
    parts = [
        layers.Reshape((6, 24)),
        layers.RNN(NormalizedCell(4)),
        kn.LayerNormalization(name="outer"),
        layers.Dense(3),
    ]
    model, callback = keras.Sequential([keras.Input((6, 6, 4)), *parts]), ResponsePercentiles(DATA, every=6)
    model.layers[0].unused = unused
    fitted(model, callback)
    assert "outer" in callback.history and "unused" not in callback.history


def test_what_another_thread_calls_is_not_recorded():
    model, callback = seeded(), ResponsePercentiles(DATA, ["conv"], PERCENTILES)

    class AnotherThread(layers.Layer):
        """Stands in for a thread that serves the model while a record is made."""

        def call(self, inputs):
            thread = threading.Thread(target=lambda: conv(X))
            thread.start()
            thread.join()
            return inputs

    conv = model.layers[0]
    served = keras.Sequential([keras.Input((6, 6, 4)), AnotherThread(), *model.layers])
    callback.set_model(served)
    callback.on_train_begin()
    want = np.percentile(array(conv(DATA)), PERCENTILES)
    np.testing.assert_allclose(callback.history["conv"][0], want, rtol=1e-6)


def test_a_layer_may_stand_for_its_name_and_its_calls_count_together():
    x = keras.Input((6, 6, 4))
    shared = layers.Rescaling(2.0, name="shared")
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(shared(shared(x)))))
    callback = ResponsePercentiles(DATA, [shared], PERCENTILES)
    fitted(model, callback)
    want = np.percentile(np.concatenate([2 * DATA, 4 * DATA]), PERCENTILES)
    np.testing.assert_allclose(callback.history["shared"][0], want, rtol=1e-6)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm, self.flatten, self.dense = kn.GroupNormalization(2, name="norm"), layers.Flatten(), layers.Dense(3)
        self.unused = layers.Rescaling(2.0, name="unused")

    def build(self, input_shape):
        self.built = True  # its layers are built when they are called

    def call(self, inputs):
        return self.dense(self.flatten(self.norm(inputs)))


def test_a_subclassed_model_without_a_training_argument_is_recorded_too():
    model, callback = Subclassed(), ResponsePercentiles(DATA, every=6)
    model(DATA)
    fitted(model, callback)
    np.testing.assert_allclose(
        callback.history["norm"][-1], np.percentile(array(model.norm(DATA)), [1, 20, 80, 99]), rtol=1e-5, atol=1e-5
    )


def test_bfloat16_responses_are_recorded_in_float32():
    x = keras.Input((6, 6, 4))
    norm = kn.GroupNormalization(2, dtype="mixed_bfloat16", name="norm")
    callback = ResponsePercentiles(DATA, percentiles=[50], every=6)
    model = fitted(keras.Model(x, layers.Dense(3)(layers.Flatten()(norm(x)))), callback)
    want = np.percentile(array(keras.ops.cast(norm(DATA), "float32")), [50])
    assert model.get_layer("norm").compute_dtype == "bfloat16"
    np.testing.assert_allclose(callback.history["norm"][-1], want, atol=1e-5)


def test_an_error_in_a_record_leaves_the_layers_as_they_were():
    model = seeded()
    with pytest.raises(Exception, match=r"incompatible|expected"):
        fitted(model, ResponsePercentiles(DATA[..., :3]))
    assert all("call" not in vars(layer) for layer in model.layers)


@tensorflow_only
def test_tensorboard_reads_a_chart_for_each_layer_with_a_run_for_each_percentile(tmp_path):
    callback = ResponsePercentiles(DATA, ["ours", "conv"], PERCENTILES, every=2, log_dir=tmp_path)
    fitted(seeded(), callback)
    assert {path.name for path in tmp_path.iterdir()} == {f"percentile_{p:g}" for p in PERCENTILES}
    for k, p in enumerate(PERCENTILES):
        found = events(tmp_path / f"percentile_{p:g}")
        assert list(found) == ["ours", "conv"]
        for name, points in found.items():
            steps, values = zip(*points, strict=True)
            assert list(steps) == callback.steps == [0, 2, 4, 6]
            np.testing.assert_allclose(values, callback.history[name][:, k], rtol=1e-6)


def events(folder):
    """The scalars that were written to a folder: by tag, pairs of step and value."""
    import tensorflow as tf

    found = {}
    (file,) = folder.iterdir()
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars" or found[value.tag]  # said at the first point
            found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return found


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow can")
def test_there_is_no_tensorboard_without_tensorflow(tmp_path):
    words = rf"log_dir must be None without TensorFlow, .* on backend '{BACKEND}' \(plot `history`\)"
    with pytest.raises(ValueError, match=words):
        ResponsePercentiles(DATA, log_dir=tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"every": 0}, ValueError, "every must be a positive number of steps. Received: every=0"),
        ({"every": 2.0}, TypeError, "every must be an integer. Received: every=2.0 (float)"),
        ({"percentiles": []}, ValueError, "percentiles must be numbers from 0 to 100, at least one. Received: percent"),
        ({"percentiles": [1, 101]}, ValueError, "percentiles must be numbers from 0 to 100"),
        ({"percentiles": ["1"]}, TypeError, "percentiles must be a number. Received: percentiles='1' (str)"),
        ({"training": "yes"}, TypeError, "training must be True or False. Received: training='yes' (str)"),
        ({"layers": "conv"}, TypeError, "layers must list layers or their names, or be None for every normalization."),
        ({"layers": []}, TypeError, "layers must list layers or their names"),
        ({"layers": [3]}, TypeError, "Received: layers=[3]"),
    ],
)
def test_a_wrong_argument_is_refused_when_it_is_given(arguments, error, words):
    with pytest.raises(error) as raised:
        ResponsePercentiles(DATA, **arguments)
    assert words in str(raised.value) and str(raised.value).startswith("ResponsePercentiles: ")


def plain():
    return keras.Sequential([keras.Input((6, 6, 4)), layers.Flatten(), layers.Dense(3)])


def subclassed():
    model = Subclassed()
    model(DATA)
    return model


@pytest.mark.parametrize(
    ("model", "names", "words"),
    [
        (seeded, ["conv", "conv9"], "layers must be layers of the model. Received: 'conv9', model="),
        (seeded, ["conv9"], "(layers: conv, ours, dropout, keras, flatten, dense)"),
        (plain, None, "the model must have a normalization"),
        (seeded, ["conv", "conv"], "layers must have different names. Received: layers ['conv', 'conv']"),
        (subclassed, ["unused"], "the model must call every layer. Received: 'unused'"),
        (seeded, [layers.Dense(3, name="alien")], "the model must call every layer. Received: 'alien'"),
    ],
)
def test_a_layer_that_cannot_be_recorded_is_refused_when_fit_begins(model, names, words):
    keras.backend.clear_session()
    with pytest.raises(ValueError) as raised:
        fitted(model(), ResponsePercentiles(DATA, names))
    assert words in str(raised.value) and str(raised.value).startswith("ResponsePercentiles: ")


def test_a_model_that_is_not_built_is_refused():
    callback = ResponsePercentiles(DATA)
    callback.set_model(Subclassed())
    with pytest.raises(ValueError, match=r"ResponsePercentiles: the model must be built\. Received: model="):
        callback.on_train_begin()  # which some backends build a model before


def monitored(**kwargs):
    keras.utils.set_random_seed(0)
    stack = [
        layers.Dense(8),
        layers.BatchNormalization(name="norm", momentum=0.9),
        layers.ReLU(),
        layers.Dropout(0.5),
        layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((4,)), *stack])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.random.default_rng(0).normal(30, 2, (64, 4)).astype("float32")
    y = x[:, :1] - 30
    monitor = kn.callbacks.NormalizationMonitor(x, y, **kwargs) if kwargs else None
    history = model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[monitor] if monitor else [])
    return monitor, history.history, model.get_weights()


@pytest.mark.filterwarnings("ignore:NormalizationMonitor")
def test_a_monitor_records_the_gap_and_both_losses():
    monitor, history, _ = monitored(every=4)
    assert monitor.steps == [0, 4, 8, 12]
    assert history["normalization_gap"] == monitor.history["gap"][1:]
    assert {len(monitor.history[name]) for name in ("loss_training", "loss_inference")} == {4}
    assert monitor.report.gap == monitor.history["gap"][-1]


@pytest.mark.filterwarnings("ignore:NormalizationMonitor")
def test_a_monitored_training_ends_with_the_same_weights_and_losses_bit_for_bit():
    _, history, weights = monitored(every=2)
    _, expected_history, expected = monitored()
    assert history["loss"] == expected_history["loss"]
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_monitor_warns_once_of_each_finding():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitored(every=1)
    texts = [str(warning.message) for warning in caught if "NormalizationMonitor" in str(warning.message)]
    assert len([text for text in texts if "redundant_bias of 'norm' at step 0" in text]) == 1
    assert len([text for text in texts if "stale_moving_statistics" in text]) == 1  # after the first epoch, not at once
    assert "stale_moving_statistics of 'norm' at step 4" in "".join(texts)


def test_a_monitor_refuses_bad_arguments():
    with pytest.raises(ValueError, match="NormalizationMonitor: every must be a positive number of steps"):
        kn.callbacks.NormalizationMonitor(np.ones((4, 4)), every=0)
    with pytest.raises(ValueError, match="NormalizationMonitor: data must have a batch"):
        kn.callbacks.NormalizationMonitor(np.ones((0, 4)))
