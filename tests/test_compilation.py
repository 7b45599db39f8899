"""Normalizations as separate XLA computations: the same numbers, few compilations, none where they do not belong.

`pytest --compilation always tests/test_contract.py` holds compiled layers to the whole contract.
"""

import os
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest

import keras_norm as kn
from keras_norm import compilation, kernels
from support import exports, reference
from support.backends import BACKEND, array, call, tensorflow_only
from support.cases import CHANNELS, every_case, random_input

if BACKEND == "tensorflow":
    import tensorflow as tf

pytestmark = tensorflow_only


@pytest.fixture
def mode(monkeypatch):
    return lambda name: monkeypatch.setattr(compilation, "_mode", name)


@pytest.fixture
def accelerator(monkeypatch):
    """Has the library find a GPU, so that it compiles by itself; what is compiled runs on the CPU."""
    monkeypatch.setattr(compilation, "_mode", "auto")
    monkeypatch.setattr(kernels, "has_accelerator", lambda: True)


@pytest.fixture(params=[pytest.param("on a CPU", marks=pytest.mark.slow), "as on a GPU"])
def compiling(request, monkeypatch):
    """Both ways to compile for every shape: in parts, and moments and gradient as wholes in one reading."""
    monkeypatch.setattr(compilation, "_mode", "always")
    monkeypatch.setattr(kernels, "has_accelerator", lambda: request.param == "as on a GPU")


def with_gradients(layer, x):
    """y, and the gradients of sum(y^3) to x and the weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, x.dtype) ** 3)
    return y, *tape.gradient(loss, [x, *(w.value for w in layer.trainable_weights)])


def operations(function, *args):
    """All operations of the traced function, those within branches too."""
    graphs = [tf.function(function, autograph=False).get_concrete_function(*args).graph]
    for graph in graphs:  # grows
        graphs += [f.graph for f in graph._functions.values() if getattr(f, "graph", None) is not None]
    return [o for graph in graphs for o in graph.get_operations()]


def computations(function, *args):
    """The calls of XLA computations in the traced function."""
    return [
        o for o in operations(function, *args) if "_XlaMustCompile" in o.node_def.attr and o.get_attr("_XlaMustCompile")
    ]


# The numbers


@every_case()
@pytest.mark.parametrize("way", ["eagerly", pytest.param("known batch", marks=pytest.mark.slow), "unknown batch"])
def test_a_compiled_layer_equals_the_definition(compiling, case, way):
    x = random_input(4, 3, 5, CHANNELS, dtype="float32")
    run = partial(case.built((None, *x.shape[1:])), training=True)
    if way != "eagerly":
        specification = tf.TensorSpec((None if way == "unknown batch" else 4, *x.shape[1:]))
        run = tf.function(run, input_signature=[specification], autograph=False)
    np.testing.assert_allclose(run(tf.constant(x)), case.expected(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@every_case()
@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16", "mixed_float16"])
def test_compiled_gradients_are_those_of_plain_operations_in_every_dtype(compiling, mode, case, dtype):
    x = tf.constant(random_input(4, 3, 5, CHANNELS), dtype.removeprefix("mixed_"))

    def found():
        return [array(tf.cast(t, tf.float64)) for t in with_gradients(case.built((None, *x.shape[1:]), dtype=dtype), x)]

    with_xla = found()
    mode("never")
    unit = {"float64": 1e-10, "mixed_bfloat16": 2e-2, "mixed_float16": 2e-3}[dtype]
    for plain, compiled in zip(found(), with_xla, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=unit, atol=unit * np.abs(plain).max())


@pytest.mark.slow
@every_case()
def test_gradients_of_gradients_equal_differences_of_gradients(compiling, case):
    x, layer = random_input(2, 3, CHANNELS), case.built((None, 3, CHANNELS), dtype="float64")

    @tf.function(autograph=False)
    def penalty(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) ** 3)
        return tf.reduce_sum(tape.gradient(loss, x) ** 2)

    weights = layer.get_weights()
    with tf.GradientTape() as tape:
        tape.watch(variable := tf.constant(x))
        value = penalty(variable)

    def at(x):
        layer.set_weights(weights)  # BatchRenormalization goes by its moving statistics
        return float(penalty(tf.constant(x)))

    expected = reference.differences(at, x)
    np.testing.assert_allclose(tape.gradient(value, variable), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_one_reading_for_both_sums_keeps_the_variance(accelerator, offset):
    x = np.random.default_rng(0).normal(offset, 1.0, (4, 32, 32, 6)).astype("float32")
    x[1, 8, 8] = 0.0  # one of the three values that the sums may start from
    layer = kn.BatchNormalization(momentum=0.0)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_variance, x.astype("float64").var((0, 1, 2)), rtol=1e-5)


# What is compiled


@pytest.mark.quick
def test_a_training_step_is_two_computations_that_hand_on_moments_only(accelerator):
    layer = kn.GroupNormalization(2)
    layer.build((4, 8, 8, 6))
    called = computations(lambda x: with_gradients(layer, x), tf.TensorSpec((4, 8, 8, 6)))
    large = [sum(t.shape.num_elements() >= 4 * 8 * 8 * 6 for t in o.outputs) for o in called]
    assert large == [1, 1]  # y; dx


def test_a_gpu_compiles_and_a_cpu_does_not(accelerator, monkeypatch):
    layer = kn.GroupNormalization(2)
    layer.build((4, 8, 8, 6))
    assert len(computations(layer, tf.TensorSpec((4, 8, 8, 6)))) == 1
    monkeypatch.undo()
    assert not computations(layer, tf.TensorSpec((4, 8, 8, 6)))


def test_a_cpu_compiles_large_tensors_of_known_shape():
    layer = kn.GroupNormalization(2)
    layer.build((None, 256, 256, 6))
    assert len(computations(layer, tf.TensorSpec((4, 256, 256, 6)))) == 1
    assert not computations(layer, tf.TensorSpec((None, 256, 256, 6)))
    x = random_input(4, 256, 256, 6, dtype="float32")
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, 256, 256, 6))], autograph=False)
    np.testing.assert_allclose(layer(x), graph(x), rtol=1e-5, atol=1e-5)


@pytest.mark.quick
def test_nothing_is_compiled_when_the_user_says_never(accelerator, mode):
    mode("never")
    layer = kn.GroupNormalization(2)
    layer.build((4, 8, 8, 6))
    assert not computations(layer, tf.TensorSpec((4, 8, 8, 6)))


def test_nothing_is_compiled_by_itself_within_xla(mode):
    mode("always")
    layer = kn.GroupNormalization(2)
    layer.build((4, 8, 8, 6))
    compiled = tf.function(layer, jit_compile=True, autograph=False)
    types = {o.type for o in compiled.get_concrete_function(tf.TensorSpec((4, 8, 8, 6))).graph.get_operations()}
    assert not types & {"PartitionedCall", "StatefulPartitionedCall"}


def test_unknown_sizes_beside_the_batch_are_not_compiled(accelerator):
    layer = kn.LayerNormalization()
    layer.build((None, None, 6))
    assert not computations(layer, tf.TensorSpec((None, None, 6)))


@pytest.mark.slow
def test_an_exported_model_holds_no_computation_and_predicts_the_same(mode, tmp_path):
    mode("always")
    model = keras.Sequential([keras.Input((8, 8, 6)), kn.GroupNormalization(2), kn.BatchNormalization()])
    x = random_input(3, 8, 8, 6, dtype="float32")
    y = model.predict(x, verbose=0)
    np.testing.assert_allclose(exports.saved_model(model, x, tmp_path), y, rtol=1e-5, atol=1e-5)
    assert b"_XlaMustCompile" not in (tmp_path / "saved_model.pb").read_bytes()
    np.testing.assert_allclose(exports.litert(model, x, tmp_path / "model.tflite")[0], y, rtol=1e-5, atol=1e-5)


# Trains a model of each size for two epochs, and prints after each how many compilations there were so far.
FIT = """
import pathlib, sys
import keras, numpy as np, tensorflow as tf
import keras_norm as kn
from keras_norm import kernels
kernels.has_accelerator = lambda: True
for size, mode, samples in ((2, "never", 19), (3, "auto", 16), (4, "auto", 19), (5, "always", 19)):
    kn.compilation.set_mode(mode)
    pooling = keras.layers.GlobalMaxPooling2D()
    model = keras.Sequential([keras.Input((size, size, 6)), kn.GroupNormalization(2), pooling])
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(np.ones((samples, size, size, 6)), np.ones((samples, 6)), batch_size=8, epochs=2, verbose=0)
    print(len(list(pathlib.Path(sys.argv[1]).glob("*before_optimizations.txt"))))
"""


@pytest.mark.slow
def test_an_odd_last_batch_compiles_nothing_more_and_two_epochs_no_more_than_one(tmp_path):
    environment = os.environ | {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"}
    done = subprocess.run([sys.executable, "-c", FIT, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    never, even, odd, always = map(int, done.stdout.split())
    assert (never, even - never, odd - even, always - odd) == (0, 2, 2, 4)


def test_an_odd_batch_gives_the_same_numbers(accelerator):
    layer = kn.GroupNormalization(2)
    x = random_input(8, 4, 4, 6, dtype="float32")
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, 4, 4, 6))], autograph=False)
    for run in (layer, graph):
        y = array(run(tf.constant(x)))
        for size in (0, 1, 3, 7):
            np.testing.assert_allclose(run(tf.constant(x[:size])), y[:size], rtol=1e-5, atol=1e-5)


def test_the_mode_is_what_was_set():
    before = compilation.mode()
    compilation.set_mode("never")
    assert compilation.mode() == "never"
    compilation.set_mode(before)
    with pytest.raises(ValueError, match=r"mode must be one of auto, always, never\. Received: mode='sometimes'"):
        compilation.set_mode("sometimes")


def test_the_gradient_through_moments_alone_is_right(compiling):
    x = random_input(4, 3, dtype="float64")
    layer = kn.MeanOnlyBatchNormalization(dtype="float64")
    call(layer, x, training=True)
    with tf.GradientTape() as tape:
        tape.watch(variable := tf.constant(x))
        loss = tf.reduce_sum(layer(variable, training=True) ** 3)
    expected = reference.differences(lambda x: ((x - x.mean(0)) ** 3).sum(), x)
    np.testing.assert_allclose(tape.gradient(loss, variable), expected, rtol=1e-6, atol=1e-6)
