"""python all_kinds.py OUT: a model of every wrapped layer, trained on two replicas; imported, on one device."""

import sys
from itertools import cycle

import keras
import numpy as np
from wrapped_layers import KINDS, WRAPPERS

SAMPLES, BATCH = 8, 4


def trained():
    """Weights, predictions and losses after two steps of `fit`, by name."""
    keras.utils.set_random_seed(0)
    inputs = {kind.name: keras.Input(kind.shape, dtype="int32" if kind.of_integers else "float32") for kind in KINDS}
    wrapped = [wrapper(kind.make())(inputs[kind.name]) for kind, wrapper in zip(KINDS, cycle(WRAPPERS))]
    heads = [keras.layers.Flatten()(y) for y in wrapped]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(heads)))
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mse")
    data = {kind.name: kind.inputs(SAMPLES) for kind in KINDS}
    history = model.fit(data, np.arange(SAMPLES), batch_size=BATCH, shuffle=False, verbose=0).history
    weights = {f"{i} {w.name}": np.array(w) for i, w in enumerate(model.weights)}
    return weights | {"loss": np.array(history["loss"]), "predict": model.predict(data, batch_size=BATCH, verbose=0)}


if __name__ == "__main__":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        np.savez(sys.argv[1], **trained())
