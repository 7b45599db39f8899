"""Whole training steps of a ResNet-50: Group Normalization of both libraries, and what crossing replicas costs."""

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import keras_norm as kn

STEPS = 8  # of one call of fit


class StepRow(NamedTuple):
    """One line of the CSV: the time of a step in milliseconds, median and spread, and as a ratio to ours."""

    normalization: str
    batch: int
    image_size: int
    dtype: str
    run: str
    step_ms: float
    step_spread_ms: float
    ratio_to_ours: float


def keras_group(old: Any) -> keras.layers.Layer:
    """Keras' layer in place of one of the network."""
    return keras.layers.GroupNormalization(32, name=old.name, dtype=old.dtype_policy)


GROUPS = {"keras_norm GN": kn.GroupNormalization(32), "keras.layers GN": keras_group}
BATCHES = {
    "cross-replica BN": kn.BatchNormalization(synchronized=True),
    "BN": kn.BatchNormalization(),
    "keras.layers cross-replica BN": lambda old: keras.layers.BatchNormalization(
        synchronized=True, name=old.name, dtype=old.dtype_policy
    ),
}


def network(image_size: int) -> keras.Model:
    """The network, with the Batch Normalizations that are replaced."""
    return keras.applications.ResNet50(weights=None, input_shape=(image_size, image_size, 3), classes=10)


def compare(batches: Sequence[int], image_size: int, dtype: str, repeats: int) -> Iterator[StepRow]:
    """Steps with `jit_compile`, without, and under a strategy; then Batch Normalization on all its replicas."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:  # two replicas to cross between
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    devices = [f"GPU:{i}" for i in range(len(gpus))] if gpus else ["CPU:0", "CPU:1"]
    keras.config.set_dtype_policy(dtype if dtype == "float32" else f"mixed_{dtype}")
    one = tf.distribute.get_strategy()
    mirrored = tf.distribute.MirroredStrategy(devices)
    for batch in batches:
        yield from _in_turns(GROUPS, batch, image_size, dtype, "jit", one, True, repeats)
        yield from _in_turns(GROUPS, batch, image_size, dtype, "no jit", one, False, repeats)
        name = f"{len(devices)} replicas"
        yield from _in_turns(GROUPS, batch, image_size, dtype, name, mirrored, False, repeats)
        if len(devices) > 1:
            yield from _in_turns(BATCHES, batch, image_size, dtype, name, mirrored, False, repeats)


def _in_turns(
    normalizations: dict[str, Any],
    batch: int,
    image_size: int,
    dtype: str,
    run: str,
    strategy: tf.distribute.Strategy,
    jit: bool,
    repeats: int,
) -> list[StepRow]:
    """The same network with each normalization, some steps of `fit` at a time."""
    images = batch * strategy.num_replicas_in_sync
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, image_size, image_size, 3)).astype("float32")
    data = tf.data.Dataset.from_tensors((x, rng.integers(0, 10, images))).repeat()
    models = {}
    for name, to in normalizations.items():
        with strategy.scope():
            models[name] = kn.models.replace_normalization(network(image_size), to)
            models[name].compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):  # the first compiles
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(data, steps_per_epoch=STEPS, shuffle=False, verbose=0)
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start) / STEPS)
    ours = median(times[next(iter(models))])
    rows = []
    for name, values in times.items():
        spread = float(np.subtract(*np.percentile(values, [75, 25])))
        step = median(values)
        rows.append(
            StepRow(name, batch, image_size, dtype, run, round(step, 1), round(spread, 1), round(step / ours, 2))
        )
        print(f"{run:>12}, batch {batch:>3} {name:>30}: {step:8.1f} ms a step, {step / ours:5.2f} x ours", flush=True)
    return rows
