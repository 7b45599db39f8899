"""Sums over the replicas that share a batch. Only this file and `distribute.py` depend on their number.

Replicas are those of the `tf.distribute` strategy in scope, or on torch the ranks of `torch.distributed`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import keras
from keras import backend, ops

from keras_norm._keras import in_symbolic_scope
from keras_norm.tensors import Tensor

if backend.backend() == "tensorflow":
    import tensorflow as tf
elif backend.backend() == "torch":
    import torch
    from torch import distributed


@dataclass(frozen=True)
class Replicas:
    """Adds partial sums over all replicas, or over each of several groups of neighboring replicas.

    One differentiable collective adds all tensors. They must have the same dtype and known shapes. With a single
    replica, and while a model is built, the tensors are returned unchanged.

    Example:
        >>> Replicas()((1.0, 2.0))          # a single replica
        (1.0, 2.0)
    """

    groups: int = 1

    def __call__(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The sum of each tensor over the replicas of this replica's group."""
        replica = _replica_among_several()
        if replica is None:
            return tensors
        packed = ops.concatenate([ops.reshape(t, (-1,)) for t in tensors])
        # One row per group, with zeros in the rows of other groups. With `where`, a NaN stays in its group.
        group = replica.index // (replica.count // self.groups)
        own_row = ops.reshape(ops.equal(ops.arange(self.groups), group), (-1, 1))
        rows = replica.sum_over_all(ops.where(own_row, packed, 0.0))
        sums = ops.sum(ops.where(own_row, rows, 0.0), 0)
        cuts = pairwise(accumulate((math.prod(t.shape) for t in tensors), initial=0))
        return tuple(ops.reshape(sums[a:b], tuple(t.shape)) for (a, b), t in zip(cuts, tensors, strict=True))


@dataclass(frozen=True)
class _Replica:
    """One of several replicas, with the collective that adds tensors over all of them."""

    index: int | Tensor
    count: int
    sum_over_all: Callable[[Tensor], Tensor]


def _replica_among_several() -> _Replica | None:
    """The replica that runs this code, or None if there is only one."""
    replica = _strategy_replica() if backend.backend() == "tensorflow" else _rank()
    return replica if replica is not None and replica.count > 1 and not in_symbolic_scope() else None


def _strategy_replica() -> _Replica | None:
    """The replica of the `tf.distribute` strategy in scope; None outside of a replica context."""
    context = tf.distribute.get_replica_context()
    if context is None:
        return None
    total = partial(context.all_reduce, tf.distribute.ReduceOp.SUM)
    return _Replica(context.replica_id_in_sync_group, context.num_replicas_in_sync, total)


def _rank() -> _Replica | None:
    """The rank of `torch.distributed`, if initialized."""
    if backend.backend() != "torch" or not distributed.is_available() or not distributed.is_initialized():
        return None
    return _Replica(distributed.get_rank(), distributed.get_world_size(), _SumOverRanks.apply)


if backend.backend() == "torch":

    class _SumOverRanks(torch.autograd.Function):
        """The sum over all ranks. Its gradients of every order are again sums over all ranks."""

        @staticmethod
        def forward(context, rows):
            total = rows.clone()
            distributed.all_reduce(total)
            return total

        @staticmethod
        def backward(context, gradient):
            return _SumOverRanks.apply(gradient)


def has_other_replicas() -> bool:
    """Whether other replicas run this code on other shards of the batch."""
    return _replica_among_several() is not None


def number_of_replicas() -> int:
    """The number of replicas that share a batch; 1 while a model is built.

    On JAX, the number of devices along which `keras.distribution` splits the samples of a batch.
    """
    if backend.backend() == "jax":
        distribution = keras.distribution.distribution()
        if distribution is None or distribution.batch_dim_name is None or in_symbolic_scope():
            return 1
        mesh = distribution.device_mesh
        return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
    replica = _replica_among_several()
    return 1 if replica is None else replica.count


def is_multi_process() -> bool:
    """Whether the strategy in scope has replicas on other workers."""
    if backend.backend() != "tensorflow":
        return False
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    return replicas > 1 and replicas > len(strategy.extended.worker_devices)  # the devices of this process
