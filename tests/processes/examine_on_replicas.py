"""A model under two replicas of two samples each: the check-up finds it, and its cure synchronizes them."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import keras_norm

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
data = np.random.default_rng(0).normal(1, 2, (16, 12, 12, 3)).astype("float32")


def examined(model):
    keras_norm.models.recalibrate_batch_normalization(model, data, batch_size=8, verbose=0)
    report = keras_norm.models.examine(model, data, batch_size=8, verbose=0)
    return report, next(line for line in report.lines if line.layer == "norm")


with strategy.scope():
    layers = [kl.Conv2D(8, 3, use_bias=False), kl.BatchNormalization(name="norm"), kl.ReLU(), kl.Flatten(), kl.Dense(4)]
    model = keras.Sequential([keras.Input((12, 12, 3)), *layers])
report, line = examined(model)
(finding,) = report.findings
assert finding.name == "unsynchronized_replicas" and finding.layer == "norm", report
assert finding.numbers == {"replicas": 2, "samples": 4, "positions": 400}, finding.numbers
assert (line.positions, line.global_positions) == (400, 400)

with strategy.scope():
    exec(finding.cure)
report, line = examined(model)
assert report.findings == [], report
assert (line.positions, line.global_positions) == (400, 800)
