"""python on_workers.py TASK FOLDER INDEX: what the tests ask of one of several workers; TF_CONFIG names them all.

TASK is "all" (a custom loop, fit and the ways in which Keras fails), "resumable" (fit with a backup after each epoch),
or "stall" (the same, but worker 1 says so and stops for good in the middle of epoch 1).
"""

import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_norm.distribute import DistributedModel
from support import trainings

TASK, FOLDER, INDEX = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
strategy = tf.distribute.MultiWorkerMirroredStrategy()


class Stall(keras.callbacks.Callback):
    """Stops for good at the second batch of epoch 1."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch == 1 and batch == 1:
            (FOLDER / "stalled").touch()
            time.sleep(3600)


class KerasBuild(DistributedModel):
    """Without the override of the build."""

    _maybe_symbolic_build = keras.Model._maybe_symbolic_build


class KerasLogs(DistributedModel):
    """Without the override of the logs."""

    compute_metrics = keras.Model.compute_metrics


def make(model_class, synchronized=True):
    with strategy.scope():
        return trainings.convolutional(model_class, synchronized)


def loop(model):
    """The training of `trainings.trained`, as a loop of our own."""
    x, y = trainings.images()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(trainings.BATCH)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = strategy.experimental_distribute_dataset(data.with_options(options))

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / trainings.BATCH
        model.optimizer.apply(tape.gradient(loss, [w.value for w in model.trainable_weights]), model.trainable_weights)

    @tf.function
    def step_on_all(x, y):
        strategy.run(step, (x, y))

    with strategy.scope():
        model.optimizer.build(model.trainable_weights)
    for _ in range(trainings.EPOCHS):
        for x, y in data:
            step_on_all(x, y)
    return trainings.weights(model)


if TASK == "all":
    found = {f"loop {name}": value for name, value in loop(make(keras.Model)).items()}
    for synchronized in (True, False, 1):
        got = trainings.trained(make(DistributedModel, synchronized))
        found |= {f"fit {synchronized} {name}": value for name, value in got.items()}
    for model_class in (keras.Model, KerasBuild, KerasLogs):
        model = make(model_class)
        found[f"error of {model_class.__name__}"] = trainings.error_of(
            lambda model=model: trainings.trained(model, epochs=1)
        )
else:
    callbacks = [keras.callbacks.BackupAndRestore(FOLDER / f"backup-{INDEX}")]
    if TASK == "stall" and INDEX == 1:
        callbacks.append(Stall())
    model = make(DistributedModel)
    found = trainings.trained(model, callbacks)
np.savez(FOLDER / f"{TASK}-{INDEX}.npz", **found)
