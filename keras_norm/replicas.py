"""Sums over the replicas that share a batch. With `distribute.py` the only file that knows `tf.distribute`."""

from keras import backend

from keras_norm.arguments import Tensor

if backend.backend() == "tensorflow":
    import tensorflow as tf


def sum_over_replicas(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Sums each tensor over all replicas in one collective, through which gradients flow.

    The tensors share a dtype and have known shapes: packed into one vector they cost one round trip. Without a
    `tf.distribute` strategy, with a single replica, or while a model is built, nothing is summed. On JAX under
    `keras.distribution` a batch is one array on all devices, and its sums are sums over all devices already.

    Example:
        >>> sum_over_replicas((1.0, 2.0))          # no strategy here
        (1.0, 2.0)
    """
    replica = _replica_among_several()
    if replica is None:
        return tensors
    packed = tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)
    total = replica.all_reduce(tf.distribute.ReduceOp.SUM, packed)
    parts = tf.split(total, [t.shape.num_elements() for t in tensors])
    return tuple(tf.reshape(part, t.shape) for part, t in zip(parts, tensors, strict=True))


def _replica_among_several():
    """The replica that this code runs for, if there are others beside it."""
    if backend.backend() != "tensorflow":
        return None
    replica = tf.distribute.get_replica_context()  # None where code runs once for all, as in a model's build
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


def some_are_in_other_processes() -> bool:
    """Whether the strategy in scope has replicas on other workers than this one."""
    if backend.backend() != "tensorflow":
        return False
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    return replicas > 1 and replicas > len(strategy.extended.worker_devices)  # the devices of this process
