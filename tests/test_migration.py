"""Each pair of layers on docs/migration.md computes the same: in inference, in training, and the statistics after it.

keras.layers, torch and flax run here. Keras 2, TensorFlow Addons and timm were run elsewhere: tests/support/peers.py.
"""

import inspect
import re

import keras
import numpy as np
import pytest

import keras_norm as kn
from support import peers
from support.backends import array, call, keras_with_renorm
from support.cases import random_input

X = random_input(4, 3, 2, 8, dtype="float32")
NAMES = {"keras": keras, "kn": kn, "np": np}
KERAS = peers.pairs_of("From `keras.layers`", "keras.layers")
ELSEWHERE = [
    pytest.param(label, pair, id=f"{label}: {pair.name}")
    for label in ("Keras 2", "TensorFlow Addons", "timm")
    for pair in peers.pairs_of(f"From {label}", label)
    if "renorm" not in pair.before
]


def assert_equal(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def names_in(layer):
    return set(inspect.signature(layer.call).parameters)


def call_in_training(layer, x):
    return call(layer, x, training=True) if "training" in names_in(layer) else call(layer, x)


def moving_statistics(layer):
    """Mean and variance of the layer, or of the one inside it that has them."""
    for inner in layer._flatten_layers():
        if hasattr(inner, "moving_variance"):
            return array(inner.moving_mean), array(inner.moving_variance)
    return None


def with_unbiased_variance(after, before, momentum, n):
    """The moving variance, if the batch's had been divided by n - 1."""
    return momentum * before + (after - momentum * before) * n / (n - 1)


def build_as_the_page_does(layer, x, copy):
    """Where the lines of a pair end after `new`, its section says how to go on."""
    if not layer.built:
        layer.build((None, *x.shape[1:]))
        copy(layer)


def before_and_after(pair, x):
    """Both layers of a pair that runs here, the old one with random weights, then trained for a while."""
    names, random = dict(NAMES), np.random.default_rng(1)
    peers.run(pair.setup + pair.before, names)
    old = names["old"]
    old(x)
    if "Spectral" not in pair.before:
        old.set_weights([peers.random_like(value, random) for value in old.get_weights()])
    for _ in range(peers.ROUNDS):  # until u has converged
        call_in_training(old, x)
    peers.run(pair.after, names)
    build_as_the_page_does(names["new"], x, lambda layer: layer.set_weights(old.get_weights()))
    return old, names["new"]


@pytest.mark.parametrize("pair", [pair for pair in KERAS if "renorm" not in pair.before], ids=lambda pair: pair.name)
def test_a_layer_of_keras_computes_the_same_here(pair):
    x = X[:, 0, 0] if "Dense" in pair.before else X
    old, new = before_and_after(pair, x)
    assert_equal(call(new, x), call(old, x))
    assert_equal(call_in_training(new, x[:3] * 2), call_in_training(old, x[:3] * 2))
    if moving_statistics(new):
        assert_equal(moving_statistics(new), moving_statistics(old))


@keras_with_renorm
def test_renorm_of_keras_trains_the_same_here_and_predicts_so_by_its_second_pair_of_averages():
    (pair,) = (pair for pair in KERAS if "renorm" in pair.before)
    old, new = before_and_after(pair, X)
    assert_equal(call(new, X[:3] * 2, training=True), call(old, X[:3] * 2, training=True))
    assert_equal(array(new.moving_mean), array(old.renorm_mean))
    assert_equal(np.sqrt(array(new.moving_variance) + new.epsilon), array(old.renorm_stddev))
    new.moving_mean.assign(old.moving_mean)
    new.moving_variance.assign(old.moving_variance)
    assert_equal(call(new, X), call(old, X))


def recorded_numbers(label, pair):
    """The inputs of a recorded layer, and its weights and outputs."""
    recorded = peers.read(label)
    numbers = recorded["pairs"][pair.before]  # missing: the page has changed, see tests/support/peers.py
    return peers.inputs(pair, peers.decoded(recorded["x"])), peers.decoded(numbers)


def after_on_the_page(pair, weights, x):
    """The new layer with these weights, made by the lines of the page."""
    names = {**NAMES, "weights": weights, "state": weights}
    if not isinstance(weights, dict):
        np.savez("old.npz", *weights)
    peers.run(pair.after, names)
    build_as_the_page_does(names["new"], x, lambda layer: layer.set_weights(weights))
    return names["new"]


@pytest.mark.parametrize(("label", "pair"), ELSEWHERE)
def test_a_layer_of_another_environment_computes_the_same_here(label, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for old.npz
    x, numbers = recorded_numbers(label, pair)
    order = np.arange(len(x))
    if "virtual_batch_size=2" in pair.before:  # which Keras 2 takes apart by their distance
        order = order.reshape(2, -1).T.ravel()
    new = after_on_the_page(pair, numbers["weights"], x)
    before = moving_statistics(new)
    assert_equal(call(new, x), numbers["inference"])
    assert_equal(call_in_training(new, x[order]), numbers["training"][order])
    if before:
        (mean, variance), theirs = moving_statistics(new), after_on_the_page(pair, numbers["weights after"], x)
        if label == "timm" or re.search("fused|momentum", pair.before):
            variance = with_unbiased_variance(
                variance, before[1], 0.99 if "fused" in pair.before else 0.9, x[..., 0].size
            )
        assert_equal((mean, variance), moving_statistics(theirs))


def test_renorm_of_keras_2_trains_the_same_here_and_predicts_so_by_its_second_pair_of_averages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for old.npz
    (pair,) = (pair for pair in peers.pairs_of("From Keras 2", "Keras 2") if "renorm" in pair.before)
    x, numbers = recorded_numbers("Keras 2", pair)
    new = after_on_the_page(pair, numbers["weights"], x)
    assert_equal(call(new, x, training=True), numbers["training"])
    new.moving_mean.assign(numbers["weights"][2])
    new.moving_variance.assign(numbers["weights"][3])
    assert_equal(call(new, x), numbers["inference"])


def test_the_tables_name_every_layer_of_the_package():
    layers = [name for name, value in vars(kn).items() if isinstance(value, type)]
    assert [name for name in layers if f"`{name}`" not in peers.PAGE and f"`{name}(" not in peers.PAGE] == []


def test_the_section_of_keras_names_all_its_normalizations():
    names = [name for name in vars(keras.layers) if name.endswith("Normalization")]
    section = peers.section("From `keras.layers`")
    assert [name for name in names if f"`{name}" not in section] == []
