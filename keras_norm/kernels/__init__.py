"""Dispatch: chooses the kernel by backend, device, size, mask, replicas and export. No other module does.

A kernel is a module with the two functions of `reference.py`, `standardize` and `normalize`. It returns None for cases
that it does not handle, which the reference then computes. All kernels agree up to rounding.
"""

from functools import cache
from importlib import import_module
from typing import Any

import keras

from keras_norm import compilation
from keras_norm import moments as definition
from keras_norm._keras import in_export
from keras_norm.arguments import check_runs_of_samples, resolve_groups_of_replicas
from keras_norm.kernels import reference
from keras_norm.kernels.replicas import Replicas, number_of_replicas
from keras_norm.kernels.replicas import has_other_replicas as has_other_replicas
from keras_norm.moments import Moments, Pool
from keras_norm.sets import Groups, Sets, axes_except, batch
from keras_norm.tensors import Tensor, Weight

BACKEND = keras.backend.backend()
kernel: Any = reference

if BACKEND in ("tensorflow", "jax", "torch"):
    kernel = import_module(f"keras_norm.kernels.{BACKEND}")
if BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
elif BACKEND == "jax":
    from jax import default_backend
elif BACKEND == "torch":
    from torch import compiler, jit

LARGE = 2**20
"""From this number of elements, compilation is worth its time on a CPU."""

SMALL = 2**14
"""Up to this number of elements, the number of operations determines the time, also in a graph."""


def standardize(
    x: Tensor,
    sets: Sets,
    gamma: Weight,
    beta: Weight,
    epsilon: Any,
    mask: Any = None,
    *,
    centered: bool = True,
    with_moments: bool = False,
) -> tuple[Tensor, Moments]:
    """gamma (x - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta, and the moments of the sets.

    gamma and beta broadcast against x. epsilon is a number, or one value per set. With `centered=False` the mean is not
    subtracted. Unless `with_moments`, a kernel may return None for the moments of sets that do not extend over axis 0.
    """
    pool, found = _pool(sets), None
    options = _options(x, pool) if mask is None and isinstance(epsilon, (int, float)) else None
    if BACKEND == "torch" and with_moments and 0 not in sets.axes:
        options = None
    if options is not None:
        found = kernel.standardize(x, sets, gamma, beta, epsilon, centered=centered, pool=pool, **options)
    return found or reference.standardize(x, sets, gamma, beta, epsilon, mask, centered=centered, pool=pool)


def normalize(x: Tensor, mean: Tensor, variance: Tensor, gamma: Weight, beta: Weight, epsilon: float) -> Tensor:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta for constant moments, such as moving statistics."""
    options, y = _options(x), None
    if options is not None:
        y = kernel.normalize(x, mean, variance, gamma, beta, epsilon, **options)
    return reference.normalize(x, mean, variance, gamma, beta, epsilon) if y is None else y


def moments(x: Tensor, sets: Sets, mask: Tensor | None = None) -> Moments:
    """The moments of the sets of `x`, over all replicas that share them."""
    return moments_and_deviations(x, sets, mask)[0]


def moments_and_deviations(x: Tensor, sets: Sets, mask: Tensor | None = None) -> tuple[Moments, Tensor]:
    """The moments, and x - mean in the shape of `split(x, sets.groups)`, with 0 at masked positions."""
    return definition.moments_and_deviations(x, sets, mask, centered=True, pool=_pool(sets))


def sum_over_replicas(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The sum of each tensor over all replicas."""
    return Replicas()(tensors)


def batch_of_replicas(owner: str, x: Tensor, axis: int, synchronized: bool | int) -> Sets:
    """One set per channel, over the batch of this replica (False), of all (True) or of k neighboring replicas (k).

    On JAX a batch is one array on all devices, in which the samples of k neighboring replicas are contiguous.
    """
    number = number_of_replicas() if synchronized else 1
    if number == 1:
        return batch(x, axis)
    replicas = None if synchronized is True else synchronized
    groups = resolve_groups_of_replicas(owner, replicas, number)
    if BACKEND != "jax":
        return batch(x, axis, replicas)
    if groups == 1:
        return batch(x, axis)
    check_runs_of_samples(owner, groups, axis, x.shape[0])
    return Sets(axes_except(x, 0, axis), Groups(0, groups))


@cache
def has_accelerator() -> bool:
    """Whether the backend runs on a GPU or TPU."""
    if BACKEND == "tensorflow":
        return any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))
    return BACKEND == "jax" and default_backend() != "cpu"


def _pool(sets: Sets) -> Pool | None:
    """The function that adds the sums of all replicas that share sets."""
    if sets.replicas == 1:
        return None
    return Replicas(1 if sets.replicas is None else number_of_replicas() // sets.replicas)


def _options(x: Tensor, pool: Pool | None = None) -> dict[str, Any] | None:
    """The kernel's options for `x`.

    On JAX and TensorFlow: whether to compute both moments in one pass. On TensorFlow also: what to compile. On torch:
    whether values can be read without waiting for a device.

    Returns None for the reference: on torch, for empty batches and while torch records a graph with symbolic sizes. If
    `pool` adds over replicas, the options do not depend on the size of x, because all replicas must issue the same
    collectives for shards of unequal size.
    """
    if BACKEND == "jax":
        return {"one_pass": has_accelerator()}
    if BACKEND == "torch":
        if jit.is_tracing() or compiler.is_exporting() or 0 in x.shape:
            return None
        return {"is_readable": x.device.type == "cpu" and not compiler.is_compiling()}
    if BACKEND != "tensorflow":
        return None
    mode, is_part_of_xla, is_exported = compilation.mode(), _in_xla(), not tf.executing_eagerly() and in_export()
    size, on_cpu = x.shape.num_elements(), not has_accelerator()
    is_small = tf.executing_eagerly() or (pool is None and size is not None and size <= SMALL)
    run = kernel.as_operations
    if not (mode == "never" or is_part_of_xla or is_exported):
        if mode == "always":
            run, on_cpu = kernel.as_xla, False
        elif has_accelerator() or (size is not None and size >= LARGE):
            run = kernel.as_xla_if_recurring
    way = kernel.Way(
        run,
        one_pass=has_accelerator() and (is_part_of_xla or run is not kernel.as_operations),
        on_cpu=is_exported or (on_cpu and not is_part_of_xla),
        few_operations=is_exported or (is_small and on_cpu and run is kernel.as_operations),
    )
    return {"way": way}


def _in_xla() -> bool:
    """Whether this code is being traced for XLA, by Keras, the user or us."""
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
