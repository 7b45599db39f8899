"""TensorFlow: eager, as a graph, or compiled by XLA. Its own layer is the fused batch normalization kernel."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.backends import EPSILON, MOMENTUM, Step

tf.get_logger().setLevel("ERROR")  # TensorFlow would warn of retracing, but each contender is traced once
GPUS = tf.config.list_physical_devices("GPU")


def devices() -> list[str]:
    """The names of the accelerators."""
    return [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in GPUS]


def tensor(array: np.ndarray, dtype: str) -> tf.Tensor:
    """The array on the device."""
    return tf.constant(array, dtype)


def wait(outputs: Any) -> None:
    """Waits for the outputs."""
    if GPUS:
        tf.test.experimental.sync_devices()


def peak_memory(step: Step) -> int | None:
    """The peak memory of a step in bytes, beyond the memory in use before; None on a CPU."""
    if not GPUS:
        return None
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    tf.config.experimental.reset_memory_stats("GPU:0")
    step()
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before


def steps(layer: Any, x: tf.Tensor, dy: tf.Tensor, training: dict[str, bool], mode: str) -> tuple[Step, Step]:
    """The steps of a Keras layer: forward, and forward + backward."""
    return _steps(lambda x: layer(x, **training), [w.value for w in layer.trainable_weights], x, dy, mode)


def native(layer: str, axis: int, x: tf.Tensor, dy: tf.Tensor, mode: str) -> dict[str, tuple[Step, Step]]:
    """The same steps of the fused kernel, including the update of moving statistics."""
    if layer != "batch":
        return {}
    channels = x.shape[-1]
    gamma, beta = tf.Variable(tf.ones([channels])), tf.Variable(tf.zeros([channels]))
    mean, variance = (tf.Variable(start([channels]), trainable=False) for start in (tf.zeros, tf.ones))

    def forward(x: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(x, [1, -1, 1, channels])
        y, new_mean, new_variance = tf.compat.v1.nn.fused_batch_norm(
            flat, gamma, beta, mean, variance, EPSILON, is_training=True, exponential_avg_factor=1 - MOMENTUM
        )
        mean.assign(new_mean)
        variance.assign(new_variance)
        return tf.reshape(y, x.shape)

    return {"FusedBatchNormV3": _steps(forward, [gamma, beta], x, dy, mode)}


def _steps(forward: Callable, weights: list[Any], x: tf.Tensor, dy: tf.Tensor, mode: str) -> tuple[Step, Step]:
    def both(x: tf.Tensor, dy: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = forward(x)
        return [y, *tape.gradient(y, [x, *weights], dy)]

    if mode != "eager":
        forward, both = (tf.function(f, jit_compile=mode == "xla", autograph=False) for f in (forward, both))
    return lambda: [forward(x)], lambda: both(x, dy)
