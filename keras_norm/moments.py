"""The sets S_i: which positions of x share a mean and a variance. Read this file first.

Every layer of the family computes, for each position i of its input,

    y_i = gamma (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta

and the layers differ only in S_i. See x as (N, ..., C), its channels split in place into (G, C/G):

    layer                       S_i = {k : ...}                           G    kept axes
    --------------------------  ----------------------------------------  ---  -----------------
    BatchNormalization          k_C = i_C                                 C    channel
    InstanceNormalization       k_N = i_N and k_C = i_C                   C    batch, channel
    GroupNormalization          k_N = i_N and k_C in the group of i_C     G    batch, group
    LayerNormalization(None)    k_N = i_N                                 1    batch
    LayerNormalization(axis)    k = i on every axis but those of `axis`   -    all but `axis`

So a set is named by the axes that it keeps, and `moments` averages over all the others.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_norm.arguments import Tensor, at_least_float32, inferred_shape

AllReduce = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Sums each tensor over the places that hold a part of each set: the replicas of a batch."""


class Moments(NamedTuple):
    """Mean and variance of each S_i and the number of its positions, the reduced axes kept as 1."""

    mean: Tensor
    variance: Tensor
    count: Tensor


def axes_except(x: Tensor, *kept: int) -> tuple[int, ...]:
    """All axes of `x` but the kept ones."""
    return tuple(a for a in range(len(x.shape)) if a not in kept)


def split_groups(x: Tensor, groups: int, axis: int) -> Tensor:
    """Splits the channel axis in place: (N, ..., C, ...) becomes (N, ..., G, C/G, ...).

    The channels of a group are neighbours, and the group axis stands where the channel axis stood.
    """
    shape = inferred_shape(x)
    return ops.reshape(x, (*shape[:axis], groups, x.shape[axis] // groups, *shape[axis + 1 :]))


def moments(
    x: Tensor, axes: tuple[int, ...], mask: Tensor | None = None, all_reduce: AllReduce | None = None
) -> Moments:
    """Mean, variance (divided by the count) and count of the sets that run along `axes` of `x`.

    With any number s near the mean and d = x - s,

        mean = s + mean(d)        var = mean(d^2) - mean(d)^2

    The bare E[x^2] - E[x]^2 is the case s = 0, which loses the variance where the mean is large. Here s is the mean
    of the first eighth of the set: var is then at least (mean - s)^2 / 8, so that the difference loses a digit at
    most, and x is read once. Neither moment depends on s, nor do their gradients.

    What `mask` (of the shape of `x`) leaves out belongs to no set; the eighth may be all masked, and s is then the
    mean of the whole set. `all_reduce` joins the parts of a set in two calls: it gets sums and never means, so the
    parts may differ in size or be empty. An empty set has mean 0 and variance 0.
    """
    join = all_reduce or (lambda parts: parts)
    x = ops.cast(x, at_least_float32(x.dtype))
    sample = _first_eighth(x, axes[0]) if mask is None else x
    total, sampled = join((_sum(_select(sample, mask), axes), _count(sample, axes, mask)))
    shift = ops.stop_gradient(total / _or_one(sampled))
    d = centre(x, shift, mask)
    first, second, count = join((_sum(d, axes), _sum(ops.square(d), axes), _count(x, axes, mask)))
    first, second = first / _or_one(count), second / _or_one(count)
    # Rounding can make the variance negative, and squares beyond float32 infinite: both ends are kept finite.
    variance = ops.clip(second - ops.square(ops.clip(first, -1e19, 1e19)), 0.0, 3e38)
    return Moments(shift + first, variance, count)


def _sum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sum along `axes`, kept as 1, one axis after another and the innermost last.

    Partial sums of a like size lose no digits in float32, where one long sum over 65,536 positions is off by 1e-5.
    """
    for axis in sorted(axes, key=lambda a: (a == len(x.shape) - 1, -a)):
        x = ops.sum(x, axis, keepdims=True)
    return x


def _count(x: Tensor, axes: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """The number of positions along `axes` that the mask leaves, to broadcast against `_sum`."""
    if mask is not None:
        return _sum(ops.cast(mask, x.dtype), axes)
    shape = ops.shape(x)
    sizes = [shape[a] if isinstance(shape[a], int) else ops.cast(shape[a], x.dtype) for a in axes]
    return ops.full([1] * len(shape), math.prod(sizes), x.dtype)


def _or_one(count: Tensor) -> Tensor:
    """The divisor of sums over `count` positions, whose sums are 0 where there is none."""
    return ops.maximum(count, ops.ones_like(count))


def _first_eighth(x: Tensor, axis: int) -> Tensor:
    """The first eighth of `x` along `axis`, rounded up."""
    return x[(*[slice(None)] * axis, slice((ops.shape(x)[axis] + 7) // 8))]


def _select(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x`, and 0 at masked positions."""
    return x if mask is None else ops.where(mask, x, 0.0)


def centre(x: Tensor, mean: Tensor, mask: Tensor | None = None) -> Tensor:
    """x - mean, and 0 at masked positions: selected after the difference, or a masked NaN reaches the gradients."""
    return _select(x - mean, mask)


def standardize(x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, mask: Tensor | None = None) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) in float32 or wider, and 0 at masked positions."""
    x = ops.cast(x, at_least_float32(x.dtype))
    mean, variance = ops.cast(mean, x.dtype), ops.cast(variance, x.dtype)
    return centre(x, mean, mask) * ops.rsqrt(variance + epsilon)
