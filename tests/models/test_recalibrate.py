"""Moving statistics become the moments of all inputs, pooled in float64."""

import threading

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from keras_norm import models
from support.backends import array
from support.networks import BATCH_NORMALIZATIONS, inputs, mixed, part, predict, sequential, text

BATCH = 4


def recalibrated(model, data, **kwargs):
    return models.recalibrate_batch_normalization(model, data, verbose=0, **{"batch_size": BATCH, **kwargs})


def images(samples=10, shape=(8, 8, 3)):
    """Batches of different means, and a last one that is smaller."""
    rng = np.random.default_rng(0)
    return rng.normal(np.arange(samples)[:, None, None, None] / 3 + 5, 2, (samples, *shape)).astype("float32")


def statistics(model, names):
    return {name: (array(part(model, name).moving_mean), array(part(model, name).moving_variance)) for name in names}


def pooled(values):
    values = np.concatenate([np.asarray(v, "float64").reshape(-1, v.shape[-1]) for v in values])
    return values.mean(0), values.var(0)


def assert_equal(found, expected):
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def deep(kind=kl.BatchNormalization):
    return sequential(
        kl.Conv2D(4, 3, use_bias=False), kind(name="first"), kl.ReLU(), kl.Dropout(0.5), kl.Conv2D(5, 3),
        kind(name="second"),
    )  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("kind", BATCH_NORMALIZATIONS)
def test_a_first_layer_gets_the_moments_of_all_its_inputs(kind):
    x = images()
    model = recalibrated(sequential(kl.Conv2D(4, 3), kind(name="norm")), x)
    h = array(model.layers[0](keras.ops.convert_to_tensor(x)))
    assert_equal(statistics(model, ["norm"])["norm"], pooled([h]))


def test_a_deep_layer_gets_what_the_batch_statistics_before_it_make():
    x, model = images(), deep()
    convolution, norm, _, _, next_convolution, _ = model.layers
    gamma, beta = array(norm.gamma), array(norm.beta)
    inner = []
    for batch in (x[:4], x[4:8], x[8:]):
        h = array(convolution(keras.ops.convert_to_tensor(batch))).astype("float64")
        h = gamma * (h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + 1e-3) + beta
        inner.append(array(next_convolution(keras.ops.convert_to_tensor(np.maximum(h, 0), "float32"))))
    recalibrated(model, x)
    assert_equal(statistics(model, ["second"])["second"], pooled(inner))


@pytest.mark.parametrize(
    "kind",
    [*BATCH_NORMALIZATIONS[:2], *(pytest.param(kind, marks=pytest.mark.slow) for kind in BATCH_NORMALIZATIONS[2:])],
)
def test_exact_gives_every_layer_the_moments_of_what_it_gets_in_inference(kind):
    x, model = images(), deep(kind)
    recalibrated(model, x, exact=True)
    for name, before in (("first", 1), ("second", 5)):
        inner = keras.Sequential([keras.Input((8, 8, 3)), *model.layers[:before]])
        assert_equal(statistics(model, [name])[name], pooled([predict(inner, [x])]))


def test_nested_and_several_inputs_and_a_layer_called_twice():
    model = mixed()
    x = inputs(model, 10)
    recalibrated(model, x)
    dense = part(model, "head").layers[0]
    assert_equal(statistics(model, ["head_norm"])["head_norm"], pooled([array(dense(x[1].astype("float32")))]))
    for mean, variance in statistics(model, ["shared_norm", "inner_norm", "outer_norm"]).values():
        assert np.isfinite(mean).all()
        assert (variance > 0).all()


def test_masked_positions_do_not_count():
    model = text()
    (x,) = inputs(model)
    x[:, 4:] = 0
    counted = array(part(model, "before")(part(model, "embedding")(x)))[x != 0]
    recalibrated(model, x)
    assert_equal(statistics(model, ["norm"])["norm"], pooled([counted]))


def test_steps_end_it_after_that_many_batches_and_are_shown(capsys):
    x = images()
    model = sequential(kl.BatchNormalization(name="norm"))
    models.recalibrate_batch_normalization(model, x, steps=2, batch_size=3, verbose=2)
    assert "2/2" in capsys.readouterr().out
    assert_equal(statistics(model, ["norm"])["norm"], pooled([x[:6]]))


def test_none_takes_all_batches():
    x = images(450, (2, 2, 3))
    model = recalibrated(sequential(kl.BatchNormalization(name="norm"), shape=(2, 2, 3)), x, steps=None, batch_size=2)
    assert_equal(statistics(model, ["norm"])["norm"], pooled([x]))


@pytest.mark.parametrize("labeled", [True, False])
def test_a_pipeline_of_tf_data_without_an_end(labeled):
    tf = pytest.importorskip("tensorflow")
    x = images(6)
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(6)) if labeled else x).batch(2).repeat()
    model = sequential(kl.BatchNormalization(name="norm"))
    recalibrated(model, data, steps=3, batch_size=None)
    assert_equal(statistics(model, ["norm"])["norm"], pooled([x]))


def test_a_subclassed_model():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = kl.BatchNormalization(name="norm")

        def call(self, x, training=None):
            return self.norm(x, training=training)

    x, model = images(), Own()
    model(x[:1])
    recalibrated(model, x)
    assert_equal((array(model.norm.moving_mean), array(model.norm.moving_variance)), pooled([x]))


def test_only_moving_statistics_change():
    model = deep()
    before = {weight.path: array(weight) for weight in model.weights}
    model.layers[1].trainable = False
    recalibrated(model, images(), exact=True)
    changed = {weight.path for weight in model.weights if np.abs(array(weight) - before[weight.path]).max() > 0}
    assert changed == {path for path in before if "moving" in path}
    np.testing.assert_array_equal(predict(model, training=False), predict(model))


def test_frozen_layers_stay():
    model = models.freeze_batch_normalization(deep())
    before = [array(weight) for weight in model.weights]
    assert recalibrated(model, images()) is model
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_everything_as_it_was(exact, error):
    model = deep()
    before = [array(weight) for weight in model.weights]
    calls = []

    class Interrupted(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            calls.append(i)
            if len(calls) == (6 if exact else 2):  # exact: while the second layer is measured
                raise error
            return images(3)

    with pytest.raises(error):
        recalibrated(model, Interrupted(), exact=exact, batch_size=None)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    assert all("call" not in vars(layer) for layer in model.layers)
    model(images(), training=True)
    assert np.abs(array(model.layers[1].moving_mean) - before[3]).max() > 0


@pytest.mark.quick
@pytest.mark.parametrize("kind", [kl.BatchNormalization, kn.BatchNormalization])
def test_another_thread_may_use_the_model_meanwhile(kind):
    keras.utils.set_random_seed(0)
    model, undisturbed = deep(kind), deep(kind)
    undisturbed.set_weights(model.get_weights())
    want, served = array(model(images())), []

    class Serving(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            thread = threading.Thread(target=lambda: served.append(array(model(images()))))
            thread.start()
            thread.join()
            return images()[i * BATCH : (i + 1) * BATCH]

    recalibrated(model, Serving(workers=1), batch_size=None)
    assert len(served) >= 3
    for got in served:
        np.testing.assert_array_equal(got, want)
    recalibrated(undisturbed, images())
    for got, weight in zip(model.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(got, weight)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_under_mixed_precision(policy):
    x = images()
    model = sequential(kl.Conv2D(4, 3, dtype=policy), kl.BatchNormalization(name="norm", dtype=policy))
    h = array(keras.ops.cast(model.layers[0](keras.ops.convert_to_tensor(x)), "float32"))
    recalibrated(model, x)
    mean, variance = statistics(model, ["norm"])["norm"]
    np.testing.assert_allclose(mean, pooled([h])[0], rtol=1e-2)
    np.testing.assert_allclose(variance, pooled([h])[1], rtol=1e-2)


def test_a_model_without_batch_normalization_is_returned_as_it_is():
    model = sequential(kl.LayerNormalization())
    assert recalibrated(model, images()) is model


@pytest.mark.slow
def test_after_a_short_training_with_a_long_memory_it_repairs_the_validation_error():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = images.reshape(-1, 8, 8, 1).astype("float32"), labels
    test = np.arange(len(x)) % 5 == 0
    norm = lambda: kl.BatchNormalization(momentum=0.999)  # noqa: E731
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), kl.Conv2D(16, 3), norm(), kl.ReLU(), kl.Conv2D(16, 3), norm(), kl.ReLU(), kl.Flatten(),
         kl.Dense(10)]
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(x[~test], y[~test], batch_size=32, epochs=2, verbose=0)
    late = model.evaluate(x[test], y[test], verbose=0)[1]
    recalibrated(model, x[~test], batch_size=32)
    repaired = model.evaluate(x[test], y[test], verbose=0)[1]
    assert repaired > 0.9
    assert 1 - repaired < (1 - late) / 2


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_that_are_not_positive_are_refused(steps):
    with pytest.raises(ValueError, match="recalibrate_batch_normalization: steps must be positive, or None"):
        recalibrated(deep(), images(), steps=steps)


def test_steps_that_are_no_integer_are_refused():
    with pytest.raises(TypeError, match="steps must be an integer"):
        recalibrated(deep(), images(), steps=2.5)


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(TypeError, match=r"recalibrate_batch_normalization: model must be a Keras model\. Received: "):
        recalibrated("resnet", images())


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="recalibrate_batch_normalization: model must be built"):
        recalibrated(keras.Sequential([kl.BatchNormalization()]), images())
