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
from collections.abc import Callable, Iterable
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


def moments(x: Tensor, axes: Iterable[int], mask: Tensor | None = None, all_reduce: AllReduce | None = None) -> Moments:
    """Mean, variance (divided by the count) and count of the sets that run along `axes` of `x`.

    Two passes, the second over what is left when the mean is gone: E[x^2] - E[x]^2 would lose the variance
    where the mean is large. What `mask` (of the shape of `x`) leaves out belongs to no set. `all_reduce`
    joins the parts of a set: it gets sums and never means, so the parts may differ in size or be empty.
    An empty set has mean 0 and variance 0.
    """
    axes = tuple(axes)
    x = ops.cast(x, at_least_float32(x.dtype))
    if mask is None:
        sizes = [ops.shape(x)[a] for a in axes]
        total = ops.sum(x, axes, keepdims=True)
        count = ops.ones_like(total) * math.prod(s if isinstance(s, int) else ops.cast(s, x.dtype) for s in sizes)
    else:
        total = ops.sum(ops.where(mask, x, 0.0), axes, keepdims=True)
        count = ops.sum(ops.cast(mask, x.dtype), axes, keepdims=True)
    join = all_reduce or (lambda parts: parts)
    total, count = join((total, count))
    size = ops.maximum(count, 1.0)
    mean = total / size
    (squares,) = join((ops.sum(ops.square(centre(x, mean, mask)), axes, keepdims=True),))
    return Moments(mean, squares / size, count)


def centre(x: Tensor, mean: Tensor, mask: Tensor | None = None) -> Tensor:
    """x - mean, and 0 at masked positions: selected after the difference, or a masked NaN reaches the gradients."""
    return x - mean if mask is None else ops.where(mask, x - mean, 0.0)


def standardize(x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, mask: Tensor | None = None) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) in float32 or wider, and 0 at masked positions."""
    x = ops.cast(x, at_least_float32(x.dtype))
    mean, variance = ops.cast(mean, x.dtype), ops.cast(variance, x.dtype)
    return centre(x, mean, mask) * ops.rsqrt(variance + epsilon)
