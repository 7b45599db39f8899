"""Recalibrates a model of a two-replica strategy, and by hand on one device, replica by replica."""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import keras_norm as kn
from keras_norm import models

layer, synchronized, path = sys.argv[1], sys.argv[2] == "True", sys.argv[3]
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
kind = {"ours": kn, "keras": kl}[layer].BatchNormalization

x = np.random.default_rng(0).normal(np.linspace(-3, 3, 12)[:, None], 2, (12, 3)).astype("float32")
with strategy.scope():
    keras.utils.set_random_seed(0)
    first, second = kind(synchronized=synchronized), kind(synchronized=synchronized)
    model = keras.Sequential([keras.Input((3,)), first, kl.Dense(4, "tanh"), second])
models.recalibrate_batch_normalization(model, x, batch_size=4, verbose=0)  # outside of the scope, as a user would


def standard(h):
    return (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-3)


kernel = model.layers[1].kernel.numpy().astype("float64")
joined = [x[i : i + 4].astype("float64") for i in (0, 4, 8)]
parts = joined if synchronized else [part for batch in joined for part in (batch[:2], batch[2:])]
inner = np.concatenate([np.tanh(standard(part) @ kernel) for part in parts])
results = {"first": (first, x.astype("float64")), "second": (second, inner)}
np.savez(
    path,
    **{f"{name} mean": [norm.moving_mean.numpy(), h.mean(0)] for name, (norm, h) in results.items()},
    **{f"{name} variance": [norm.moving_variance.numpy(), h.var(0)] for name, (norm, h) in results.items()},
)
