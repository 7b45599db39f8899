"""The arithmetic beneath the moments: sums, the formula and its gradient, as the machine at hand does them best."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_norm.arguments import Tensor, inferred_shape

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext


def select(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x`, and 0 at masked positions."""
    return x if mask is None else ops.where(mask, x, 0.0)


def centre(x: Tensor, mean: Tensor, mask: Tensor | None) -> Tensor:
    """x - mean, and 0 at masked positions: selected after the difference, or a masked NaN reaches the gradients."""
    return select(x - mean, mask)


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
    if _is_per_channel(x, gamma, moments, mask) and _runs_on_cpu():
        return _by_fused_kernel(x, gamma, beta, moments, epsilon)
    if keras.backend.backend() == "tensorflow" and moments.sets is not None:
        return _with_gradient(x, gamma, beta, moments, epsilon, mask)
    return centre(x, moments.mean, mask) * (gamma * ops.rsqrt(moments.variance + epsilon)) + beta


def _with_gradient(x: Tensor, gamma: Tensor, beta: Tensor, moments: Any, epsilon: float, mask: Tensor | None) -> Tensor:
    """The formula and, in one piece, its gradient through the moments of the sets of `x`.

    It keeps x and the moments alone. With u = x - mean, n = |S_i|, dh = gamma dy and the sums over S_i

        dx = (dh - sum(dh) / n - u sum(dh u) / (n (variance + epsilon))) / sqrt(variance + epsilon)

    No gradient goes back through the moments a second time; that of this gradient does.
    """
    axes, join = moments.sets
    gamma_is_in_table = all(gamma.shape[a] == 1 for a in axes)

    @tf.custom_gradient
    def formula(x, gamma, beta, mean, variance, count):
        inverse = tf.math.rsqrt(variance + epsilon)

        def gradient(dy):
            u, dh, outer = centre(x, mean, mask), select(dy, mask), gamma
            if not gamma_is_in_table:
                dh, outer = dh * gamma, 1.0
            sum_dh, sum_dh_u = sum_along(dh, axes), sum_along(dh * u, axes)
            dgamma = sum_dh_u if gamma_is_in_table else select(dy, mask) * u
            dbeta = sum_dh if gamma_is_in_table and mask is None else dy
            sum_dh, sum_dh_u = join((outer * sum_dh, outer * sum_dh_u))
            n = tf.maximum(count, tf.ones_like(count))
            dx = dh * (outer * inverse) - u * (sum_dh_u * inverse**3 / n) - sum_dh * (inverse / n)
            return select(dx, mask), _sum_to(dgamma * inverse, gamma), _sum_to(dbeta, beta), None, None, None

        return centre(x, mean, mask) * (gamma * inverse) + beta, gradient

    return formula(x, gamma, beta, *moments[:3])


def _is_per_channel(x: Tensor, gamma: Tensor, moments: Any, mask: Tensor | None) -> bool:
    """Whether each channel, on the last axis, has one mean and one gamma of its own."""
    rank, channels = len(x.shape), x.shape[-1]
    one_a_channel = [*[1] * (rank - 1), channels]
    return (
        mask is None
        and keras.backend.standardize_dtype(x.dtype) == "float32"
        and list(moments.mean.shape) == one_a_channel
        and all(size == 1 for size in gamma.shape[:-1])
        and (moments.sets is None or moments.sets == (tuple(range(rank - 1)), unjoined))
    )


def _by_fused_kernel(x: Tensor, gamma: Tensor, beta: Tensor, moments: Any, epsilon: float) -> Tensor:
    """The formula and its gradient by the kernel of TensorFlow that takes a third of the time on a CPU.

    Its own moments are not used: at mean/std 1e4 their variance is off by 1e-3, and without oneDNN eight-fold.
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
    return tf.reshape(formula(tf.reshape(x, [1, -1, 1, channels]), gamma, beta, mean, variance), shape)


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """The sum of `x` along all axes on which `like` has size 1: the gradient of a broadcast."""
    axes = [a for a, size in enumerate(like.shape) if size == 1 and x.shape[a] != 1]
    return tf.broadcast_to(sum_along(x, axes), like.shape)


def _runs_on_cpu() -> bool:
    """Whether TensorFlow runs operation by operation on a CPU."""
    return (
        keras.backend.backend() == "tensorflow"
        and not tf.config.list_physical_devices("GPU")
        and not GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    )
