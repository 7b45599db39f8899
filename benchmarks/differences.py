"""Differences between keras.layers and keras_norm: the first table of the README.

    python -m benchmarks.differences

Runs on TensorFlow and two logical CPU devices. Each row compares both libraries with the definition: float64 NumPy, one
device with the global batch, or finite differences.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_norm as kn
from keras_norm.tutorials import tables
from keras_norm.tutorials.devices import cpus

SHAPE = (8, 5, 4)
"""Samples, time steps and channels of the inputs."""


def inputs(mean: float = 2.0) -> np.ndarray:
    """Normal numbers around `mean`, and around `mean + 3` in the second half, the shard of the second replica."""
    x = np.random.default_rng(0).normal(mean, 1, SHAPE)
    return np.concatenate([x[:4], x[4:] + 3]).astype("float32")


def masked(library: ModuleType) -> str:
    """The change of the valid outputs of Group Normalization when masked steps are appended."""
    model = keras.Sequential([keras.layers.Masking(), library.GroupNormalization(2)])
    padded = np.concatenate([inputs(), np.zeros(SHAPE, "float32")], 1)
    return magnitude(model(padded)[:, : SHAPE[1]] - model(inputs()))


def trained(layer: Callable[[], keras.layers.Layer], x: np.ndarray, steps: int = 1) -> keras.Model:
    """A model of masking and `layer`, trained on two replicas with half of the samples each."""
    with STRATEGY.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Masking(), layer()])
        model.compile("sgd", "mse")
    model.fit(x, x, batch_size=len(x), epochs=steps, shuffle=False, verbose=0)
    return model


def synchronized(library: ModuleType, x: np.ndarray) -> np.ndarray:
    """The moving variance after one step on two replicas, with a momentum of 0."""
    model = trained(lambda: library.BatchNormalization(momentum=0.0, synchronized=True), x)
    return keras.ops.convert_to_numpy(model.layers[-1].moving_variance)


def synchronized_under_a_mask(library: ModuleType) -> str:
    """The relative error of the global variance for samples of unequal length."""
    valid = np.arange(SHAPE[1]) < 1 + np.arange(SHAPE[0])[:, None] % SHAPE[1]
    x = np.where(valid[..., None], inputs(), 0)
    return relative(synchronized(library, x), x[valid].astype("float64").var(0))


def synchronized_far_from_zero(library: ModuleType) -> str:
    """The relative error of the global variance of inputs around 1e4, whose standard deviation is 1.8."""
    x = inputs(1e4)
    return relative(synchronized(library, x), x.astype("float64").var((0, 1)))


def reloaded(library: ModuleType) -> str:
    """The difference between the predictions of a model trained on two replicas and of the same model when reloaded."""
    x = inputs()
    model = trained(lambda: library.BatchNormalization(momentum=0.5), x, steps=4)
    live = model.predict(x, batch_size=len(x), verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model.keras"))
        loaded = keras.models.load_model(Path(folder, "model.keras"))
    return magnitude(live - loaded.predict(x, verbose=0))


def empty_batch(library: ModuleType) -> str:
    """The moving mean of a batch normalization that has seen no sample."""
    layer = library.BatchNormalization()
    layer(np.zeros((0, 4), "float32"), training=True)
    return f"{keras.ops.convert_to_numpy(layer.moving_mean)[0]:g}"


def beyond_float16(library: ModuleType) -> str:
    """The largest output for float32 inputs around 1e5 under mixed_float16."""
    layer = library.BatchNormalization(dtype="mixed_float16")
    return f"{np.abs(np.array(layer(1e5 * inputs(), training=True))).max():.3g}"


def statistics_dtype(library: ModuleType) -> str:
    """The dtype of the moving variance under the policy float16."""
    layer = library.BatchNormalization(dtype="float16")
    layer.build(SHAPE)
    return layer.moving_variance.dtype


def spectral_gradient(library: ModuleType) -> str:
    """The relative error of a sum of outputs' gradient to the kernel, against finite differences."""
    keras.utils.set_random_seed(0)
    layer = library.SpectralNormalization(keras.layers.Dense(3, use_bias=False))
    x = tf.constant(np.random.default_rng(0).normal(size=(6, 5)), tf.float32)
    for _ in range(30):  # until u is the singular vector
        layer(x, training=True)
    kernel = layer.layer.kernel
    with tf.GradientTape() as tape:
        output = tf.reduce_sum(layer(x, training=True) ** 2)
    found = np.array(tape.gradient(output, kernel.value), "float64")

    def loss(w: np.ndarray) -> float:
        return float(((np.array(x, "float64") @ (w / np.linalg.norm(w, 2))) ** 2).sum())

    w, step = keras.ops.convert_to_numpy(kernel).astype("float64"), 1e-6
    units = np.eye(w.size).reshape(-1, *w.shape)
    expected = np.array([(loss(w + step * e) - loss(w - step * e)) / (2 * step) for e in units]).reshape(w.shape)
    return f"{np.abs(found - expected).max() / np.abs(expected).max():.1g}"


def config(library: ModuleType) -> str:
    """The value of groups=-1 in get_config after build."""
    layer = library.GroupNormalization(-1)
    layer.build(SHAPE)
    return f"groups={layer.get_config()['groups']}"


def magnitude(difference: tf.Tensor) -> str:
    """The largest absolute value, with one digit."""
    return f"{np.abs(np.array(difference)).max():.1g}"


def relative(found: np.ndarray, expected: np.ndarray) -> str:
    """The largest relative error, with one digit."""
    return magnitude(found / expected - 1)


ROWS = [
    masked,
    synchronized_under_a_mask,
    synchronized_far_from_zero,
    reloaded,
    empty_batch,
    beyond_float16,
    statistics_dtype,
    spectral_gradient,
    config,
]


def measured() -> pd.DataFrame:
    """One row per difference."""
    columns = {f"keras.layers {keras.__version__}": keras.layers, "keras_norm": kn}
    found = {name: [row(library) for row in ROWS] for name, library in columns.items()}
    return pd.DataFrame(found, index=[row.__name__ for row in ROWS])


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")  # each row traces a new model
    STRATEGY = tf.distribute.MirroredStrategy(cpus(2))
    tables.show({"difference": measured()})
