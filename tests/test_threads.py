"""One model in several threads at once: whatever serves, trains or recalibrates it beside another."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from keras_norm import models
from support.backends import array, tensorflow_only
from support.cases import CASES, CHANNELS, random_input
from support.wrapped_layers import WRAPPERS

TIMES = 6
X = random_input(8, 3, 4, CHANNELS, dtype="float32")


def network(cases=CASES):
    """Each layer on its own, and all wrappers, with a head."""
    inputs = keras.Input(X.shape[1:])
    outputs = [case.built((None, *X.shape[1:]))(inputs) for case in cases]
    for wrapper in WRAPPERS:
        outputs.append(wrapper(keras.layers.Dense(CHANNELS))(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(outputs)))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


def at_once(*functions):
    """What each of the functions gives, all running at the same time."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


def test_calls_give_what_one_call_gives():
    model = network()
    want = array(model(X))
    for got in at_once(*[lambda: array(model(X))] * TIMES):
        np.testing.assert_array_equal(got, want)


@tensorflow_only  # Keras' trainers for JAX and torch keep the state of a running function in the model
def test_predictions_give_what_one_prediction_gives():
    model = network()
    want = model.predict(X, verbose=0)
    for got in at_once(*[lambda: model.predict(X, verbose=0)] * TIMES):
        np.testing.assert_array_equal(got, want)


@tensorflow_only
def test_a_training_is_the_same_beside_predictions():
    alone, served = network(), network()
    served.set_weights(alone.get_weights())
    served.predict(X, verbose=0)

    def fit(model):
        return model.fit(X, X[..., :1], batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]

    losses, *predictions = at_once(lambda: fit(served), *[lambda: served.predict(X, verbose=0)] * TIMES)
    assert losses == fit(alone)
    for a, b in zip(served.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(prediction).all() for prediction in predictions)


@pytest.mark.parametrize("exact", [False, True], ids=["", "exact"])
def test_a_recalibration_is_the_same_beside_calls(exact):
    cases = [case for case in CASES if case.name in ("batch", "batch_instance", "mean_only")]
    alone, served = network(cases), network(cases)
    served.set_weights(alone.get_weights())

    def recalibrate(model):
        return models.recalibrate_batch_normalization(model, X, batch_size=4, exact=exact)

    _, *outputs = at_once(lambda: recalibrate(served), *[lambda: array(served(X))] * TIMES)
    recalibrate(alone)
    for a, b in zip(served.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(output).all() for output in outputs)
