"""Weights of keras.layers move over by set_weights, and the predictions with them."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array
from support.cases import random_input

pytestmark = pytest.mark.quick

PAIRS = [
    (lambda n: n.GroupNormalization(3), "group"),
    (lambda n: n.GroupNormalization(-1), "instance"),
    (lambda n: n.GroupNormalization(2, axis=1), "group, axis 1"),
    (lambda n: n.LayerNormalization(), "layer"),
    (lambda n: n.LayerNormalization(axis=[3, 1]), "layer, two axes"),
    (lambda n: n.BatchNormalization(), "batch"),
    (lambda n: n.BatchNormalization(axis=1, center=False, epsilon=0.1), "batch, axis 1"),
]
if keras.backend.backend() != "torch":  # where Keras' own takes the last axes only
    PAIRS.append((lambda n: n.LayerNormalization(axis=-2, epsilon=0.1, scale=False), "layer, axis -2"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [m for m, _ in PAIRS], ids=[name for _, name in PAIRS])
def test_predictions_agree_with_those_of_keras_layers(make, training):
    x = random_input(4, 6, 5, 6, dtype="float32")
    ours, theirs = make(kn), make(keras.layers)
    ours.build(x.shape)
    theirs.build(x.shape)
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in theirs.weights]
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.uniform(0.5, 2.0, w.shape) for w in theirs.weights])
    ours.set_weights(theirs.get_weights())
    batch = isinstance(theirs, keras.layers.BatchNormalization)
    kwargs = {"training": training} if batch else {}
    np.testing.assert_allclose(array(ours(x, **kwargs)), array(theirs(x, **kwargs)), rtol=1e-5, atol=1e-5)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
