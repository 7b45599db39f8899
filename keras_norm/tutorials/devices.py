"""Several devices for a strategy, also on a machine that has one."""

import tensorflow as tf


def devices(count: int) -> list[str]:
    """All GPUs, or the CPU as `count` logical devices. Call it before TensorFlow does anything else."""
    gpus = tf.config.list_physical_devices("GPU")
    return [f"GPU:{i}" for i in range(len(gpus))] if gpus else cpus(count)


def cpus(count: int) -> list[str]:
    """The CPU as `count` logical devices; GPUs are not used. Call it before TensorFlow does anything else."""
    tf.config.set_visible_devices([], "GPU")
    # A replica holds a thread while it waits for the sums of the others.
    tf.config.threading.set_inter_op_parallelism_threads(4 * count)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return [f"CPU:{i}" for i in range(count)]
