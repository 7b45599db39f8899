"""The sets S_i: which positions of x share a mean and a variance. Read this file first.

Every layer of the family computes, for each position i of its input,

    y_i = gamma (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta

and the layers differ only in S_i:

    layer                     S_i = {k : ...}                            runs along        joins
    ------------------------  -----------------------------------------  ----------------  --------------------
    BatchNormalization        k_C = i_C                                  all but C         (parts on replicas)
    InstanceNormalization     k_N = i_N and k_C = i_C                    all but N and C
    GroupNormalization        k_N = i_N and k_C in the group of i_C      all but N and C   channels of a group
    LayerNormalization(None)  k_N = i_N                                  all but N and C   all channels
    LayerNormalization(axis)  k_a = i_a on every axis a not in `axis`    `axis`

A set runs along some axes in full, and sums along them leave a small table, of (N, C) sums say. Some sets join
entries of that table: a group those of its channels. Splitting C into (G, C/G) is then a reshape of the table, where
the paper's snippet reshapes x.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras import ops

from keras_norm.arguments import Tensor, at_least_float32, inferred_shape
from keras_norm.arithmetic import centre, select, sum_along, unjoined

Join = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Adds up, in each table of sums, the entries of a set, and gives the sum to all of them."""


class Sets(NamedTuple):
    """The axes that each set runs along in full, and how the sums that are left are joined."""

    axes: tuple[int, ...]
    join: Join


class Moments(NamedTuple):
    """Mean, variance and number of positions of each set, to broadcast against x.

    Without `sets` they are constants, such as moving statistics, and no gradient of x goes through them.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    sets: Sets | None = None


def sets_along(axes: Sequence[int], join: Join = unjoined) -> Sets:
    """A set for each position of the axes that are not in `axes`."""
    return Sets(tuple(axes), join)


def sets_of_groups(x: Tensor, groups: int, axis: int) -> Sets:
    """A set for each sample and each group of neighbouring channels on `axis`."""
    axes = axes_except(x, 0, axis)
    if groups == x.shape[axis]:
        return sets_along(axes)
    return sets_along(axes, lambda tables: tuple(_join_groups(table, groups, axis) for table in tables))


def axes_except(x: Tensor, *kept: int) -> tuple[int, ...]:
    """All axes of `x` but the kept ones."""
    return tuple(a for a in range(len(x.shape)) if a not in kept)


def split_groups(x: Tensor, groups: int, axis: int) -> Tensor:
    """Splits the channel axis in place: (N, ..., C, ...) becomes (N, ..., G, C/G, ...)."""
    shape = inferred_shape(x)
    return ops.reshape(x, (*shape[:axis], groups, x.shape[axis] // groups, *shape[axis + 1 :]))


def moments(x: Tensor, sets: Sets, mask: Tensor | None = None) -> Moments:
    """Mean, variance (divided by the count) and count of the sets of `x`.

    Two passes, the second over what is left when the mean is gone: E[x^2] - E[x]^2 would lose the variance where the
    mean is large. What `mask` (of the shape of `x`) leaves out belongs to no set. Sums are joined and never means, so
    the parts of a set may differ in size or be empty. An empty set has mean 0 and variance 0.
    """
    x = ops.cast(x, at_least_float32(x.dtype))
    total, count = sets.join((sum_along(select(x, mask), sets.axes), _count(x, sets.axes, mask)))
    size = ops.maximum(count, ops.ones_like(count))
    mean = total / size
    (squares,) = sets.join((sum_along(ops.square(centre(x, mean, mask)), sets.axes),))
    # Squares beyond float32 end at its largest number, not at an infinity that moving statistics would keep.
    return Moments(mean, ops.clip(squares / size, 0.0, 3e38), count, sets)


def _count(x: Tensor, axes: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """The number of positions along `axes` that the mask leaves, in a table of sums."""
    if mask is not None:
        return sum_along(ops.cast(mask, x.dtype), axes)
    shape = ops.shape(x)
    sizes = [shape[a] if isinstance(shape[a], int) else ops.cast(shape[a], x.dtype) for a in axes]
    table = [1 if a in axes or not isinstance(size, int) else size for a, size in enumerate(shape)]
    return ops.full(table, math.prod(sizes), x.dtype)


def _join_groups(table: Tensor, groups: int, axis: int) -> Tensor:
    """The sum over each group, at each of its channels."""
    h = split_groups(table, groups, axis)
    members = [h.shape[a] if a == axis + 1 else 1 for a in range(len(h.shape))]
    return ops.reshape(ops.sum(h, axis + 1, keepdims=True) * ops.ones(members, h.dtype), inferred_shape(table))
