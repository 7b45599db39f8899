"""The arithmetic beneath the moments: sums, the formula and its gradient, as the machine at hand does them best."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_norm import compilation
from keras_norm.arguments import Tensor, at_least_float32, inferred_shape
from keras_norm.compilation import compiled
from keras_norm.replicas import Replicas

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

Join = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Adds up, in each table of sums, the entries of a set, and gives the sum to all of them."""


def compiled_within_replica(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled as a whole, unless its `join` crosses replicas: then only what it calls is.

    On a CPU too: there XLA runs the parts in two thirds of the time of the whole, where loops that it fuses do not
    share the cores.
    """
    whole = compiled(function)

    @functools.wraps(function)
    def run(*tensors: Tensor | None, join: Join, **keywords: Any) -> Any:
        in_parts = isinstance(join, Replicas) or not compilation.has_accelerator()
        return (function if in_parts else whole)(*tensors, join=join, **keywords)

    return run


def select(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x`, and 0 at masked positions."""
    return x if mask is None else ops.where(mask, x, 0.0)


def widened(x: Tensor) -> Tensor:
    """`x` in float32, or in what is wider: cast in here, so that a compiled reading of x is one of its own bytes."""
    return ops.cast(x, at_least_float32(x.dtype))


def centre(x: Tensor, mean: Tensor, mask: Tensor | None) -> Tensor:
    """x - mean, and 0 at masked positions: selected after the difference, or a masked NaN reaches the gradients."""
    return select(widened(x) - mean, mask)


def squared_distance(x: Tensor, mean: Tensor, mask: Tensor | None) -> Tensor:
    """(x - mean)^2, and 0 at masked positions."""
    if mask is None and keras.backend.backend() == "tensorflow":
        return tf.math.squared_difference(widened(x), mean)  # one operation
    return ops.square(centre(x, mean, mask))


def value_at(x: Tensor, axes: Sequence[int], quarter: int) -> Tensor:
    """The value at so many quarters of each of `axes`, kept as 1; 0 where an axis is empty."""
    for axis in axes:
        place = ops.shape(x)[axis] * quarter // 4
        here = (*[slice(None)] * axis, slice(place, place + 1))
        x = ops.sum(x[here], axis, keepdims=True)
    return x


def sum_along(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The sum along `axes`, kept as 1, one axis after another.

    One long float32 sum over 65,536 positions is off by 1e-5, and what it loses grows with the mean. Without the
    halving between the sums XLA makes one long sum of them again.
    """
    last = len(x.shape) - 1
    for i, axis in enumerate(sorted(axes, key=lambda a: (a == last, -a))):
        if i > 0:
            x = ops.sum(x / 2.0, axis, keepdims=True)
        elif axis == last - 1 and _runs_on_cpu():
            x = tf.matmul(tf.ones((1, ops.shape(x)[axis]), x.dtype), x)  # half the time of TensorFlow's own sum
        else:
            x = ops.sum(x, axis, keepdims=True)
    return x * 2.0 ** (len(axes) - 1) if len(axes) > 1 else x


def unjoined(tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The join of sets that are one entry of each table."""
    return tables


def normalize(x: Tensor, gamma: Tensor, beta: Tensor, moments: Any, epsilon: float, mask: Tensor | None) -> Tensor:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, and beta at masked positions.

    Everything broadcasts against `x`. Which of the ways below is taken changes the speed and not the numbers.
    """
    if _runs_on_cpu() and _is_per_channel(x, gamma, moments, mask):
        return _by_fused_kernel(x, gamma, beta, moments, epsilon)
    if keras.backend.backend() == "tensorflow" and moments.sets is not None:
        return _with_gradient(x, gamma, beta, moments, epsilon, mask)
    return _formula(x, gamma, beta, *moments[:2], mask, epsilon=epsilon)


def _with_gradient(x: Tensor, gamma: Tensor, beta: Tensor, moments: Any, epsilon: float, mask: Tensor | None) -> Tensor:
    """The formula and, in one piece, its gradient through the moments of the sets of `x`.

    It keeps x and the moments alone. No gradient goes back through the moments a second time; that of this gradient
    does.
    """

    @tf.custom_gradient
    def with_gradient(x, gamma, beta, mean, variance, count):
        def gradient(dy):
            given = (x, gamma, beta, mean, variance, count, dy, mask)
            return *_gradient(*given, **moments.sets._asdict(), epsilon=epsilon), None, None, None

        return _formula(x, gamma, beta, mean, variance, mask, epsilon=epsilon), gradient

    return with_gradient(x, gamma, beta, *moments[:3])


@compiled
def _formula(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, mask: Any, epsilon: float):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, in the dtype of `x`."""
    return ops.cast(centre(x, mean, mask) * (gamma * ops.rsqrt(variance + epsilon)) + beta, x.dtype)


@compiled_within_replica
def _gradient(x, gamma, beta, mean, variance, count, dy, mask, axes: Sequence[int], join: Join, epsilon: float):
    """The gradients of the formula to x, gamma and beta. With u = x - mean, n = |S_i|, dh = gamma dy and sums over S_i.

    dx = (dh - sum(dh) / n - u sum(dh u) / (n (variance + epsilon))) / sqrt(variance + epsilon)
    """
    inverse, n = tf.math.rsqrt(variance + epsilon), tf.maximum(count, tf.ones_like(count))
    *sums, dgamma, dbeta = _sums_of_gradient(x, gamma, beta, mean, inverse, dy, mask, axes=axes)
    sum_dh, sum_dh_u = join(tuple(sums))
    dx = _gradient_to_x(x, gamma, mean, inverse, sum_dh * inverse / n, sum_dh_u * inverse**3 / n, dy, mask)
    return dx, dgamma, dbeta


@compiled
def _sums_of_gradient(x, gamma, beta, mean, inverse, dy, mask, axes: Sequence[int]):
    """The sums of dh and dh u along `axes`, and the gradients to gamma and beta, from one reading of x and dy."""
    dy = widened(dy)
    u, dh = centre(x, mean, mask), select(dy, mask)
    if all(gamma.shape[a] == 1 for a in axes):  # gamma waits for the sums: there are fewer of them
        sum_dh, sum_dh_u = sum_along(dh, axes), sum_along(dh * u, axes)
        dbeta = sum_dh if mask is None else dy
        return gamma * sum_dh, gamma * sum_dh_u, _sum_to(sum_dh_u * inverse, gamma), _sum_to(dbeta, beta)
    dgamma, dh = _sum_to(dh * u * inverse, gamma), dh * gamma
    return sum_along(dh, axes), sum_along(dh * u, axes), dgamma, _sum_to(dy, beta)


@compiled
def _gradient_to_x(x, gamma, mean, inverse, of_one, of_u, dy, mask):
    """gamma dy / sqrt(variance + epsilon) - of_u u - of_one."""
    dh = select(widened(dy), mask) * (gamma * inverse)
    return ops.cast(select(dh - centre(x, mean, mask) * of_u - of_one, mask), x.dtype)


def _is_per_channel(x: Tensor, gamma: Tensor, moments: Any, mask: Tensor | None) -> bool:
    """Whether each channel, on the last axis, has one mean and one gamma of its own."""
    rank, channels = len(x.shape), x.shape[-1]
    one_a_channel = [*[1] * (rank - 1), channels]
    return (
        mask is None
        and at_least_float32(x.dtype) == "float32"
        and list(moments.mean.shape) == one_a_channel
        and all(size == 1 for size in gamma.shape[:-1])
        and (moments.sets is None or moments.sets == (tuple(range(rank - 1)), unjoined))
    )


def _by_fused_kernel(x: Tensor, gamma: Tensor, beta: Tensor, moments: Any, epsilon: float) -> Tensor:
    """The formula and its gradient by the kernel of TensorFlow that takes a third of the time on a CPU.

    Its own moments are not used: their variance is off by 6e-6 over 50,000 positions, and by more over more.
    """
    shape, channels = inferred_shape(x), x.shape[-1]
    gamma, beta = (tf.broadcast_to(tf.reshape(t, [-1]), [channels]) for t in (gamma, beta))
    mean, variance = (tf.reshape(t, [-1]) for t in moments[:2])

    def kernel(x, gamma, beta, mean, variance):
        return tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False
        ).y

    @tf.custom_gradient
    def kernel_of_the_batch(x, gamma, beta, mean, variance):
        def gradient(dy):
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=True,
            )
            return dx, dgamma, dbeta, None, None

        return kernel(x, gamma, beta, mean, variance), gradient

    formula = kernel if moments.sets is None else kernel_of_the_batch
    y = formula(tf.reshape(widened(x), [1, -1, 1, channels]), gamma, beta, mean, variance)
    return tf.cast(tf.reshape(y, shape), x.dtype)


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """The sum of `x` along all axes on which `like` has size 1: the gradient of a broadcast."""
    axes = [a for a, size in enumerate(like.shape) if size == 1 and x.shape[a] != 1]
    return tf.broadcast_to(sum_along(x, axes), like.shape)


def _runs_on_cpu() -> bool:
    """Whether TensorFlow runs operation by operation on a CPU."""
    return keras.backend.backend() == "tensorflow" and not (
        compilation.in_xla() or compilation.is_wanted() or compilation.has_accelerator()
    )


def reads_are_dear() -> bool:
    """Whether a compiler fuses what is computed between two readings of x, so that only these take time."""
    return compilation.has_accelerator() and (keras.backend.backend() == "jax" or compilation.in_xla())
