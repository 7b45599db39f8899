"""The moments of a set: about its mean (mean and variance), or about zero (mean square)."""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_norm.sets import Sets, split, split_axes
from keras_norm.tensors import Tensor, at_least_float32, select, upcast

Pool = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
"""A function that adds the partial sums of several replicas."""


class Moments(NamedTuple):
    """Mean, variance and number of positions of each set, in shapes that broadcast against `split(x, sets.groups)`.

    The count is an int if it is known from the shape and the same for all sets.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor


def moments(
    x: Tensor, sets: Sets, mask: Tensor | None = None, *, centered: bool = True, pool: Pool | None = None
) -> Moments:
    """Mean, variance (divided by the count) and count of the sets of `x`.

        mean = sum(x) / n,    variance = sum((x - mean)^2) / n

    Computed in two passes, because E[x^2] - E[x]^2 is inaccurate for a large mean. With `centered=False` the mean is 0
    and the variance is the mean square. `mask` has the shape of `x`; masked positions belong to no set. An empty set
    has mean 0 and variance 0.

    `pool` adds the sums of other replicas. It adds sums and counts, not means, so shards may differ in size.
    """
    return moments_and_deviations(x, sets, mask, centered, pool)[0]


def moments_and_deviations(
    x: Tensor, sets: Sets, mask: Tensor | None, centered: bool, pool: Pool | None
) -> tuple[Moments, Tensor]:
    """The moments, and x - mean in the shape of `split(x, sets.groups)`, with 0 at masked positions."""
    h: Tensor = split(upcast(ops.convert_to_tensor(x)), sets.groups)
    mask, axes = split(mask, sets.groups), split_axes(sets)
    n = number_of_positions(h, axes) if mask is None else total(ops.cast(mask, h.dtype), axes)
    if centered:
        mean, _ = mean_of_sums(total(select(h, mask), axes), n, pool)
        h = h - mean
    else:
        mean = ops.zeros([1] * len(h.shape), h.dtype)
    h = select(h, mask)  # after subtracting the mean, so a masked NaN reaches no gradient
    variance, n = mean_of_sums(total(ops.square(h), axes), n, pool)
    return Moments(mean, variance, n), h


LONG_SUM = 512


def total(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sum along `axes`, which keep size 1. Long sums are computed one axis at a time.

    A single float32 sum over 65,536 positions has an error of 1e-5. Halving between the steps prevents XLA from merging
    them.
    """
    if len(axes) == 1 or math.prod(math.inf if x.shape[a] is None else x.shape[a] for a in axes) <= LONG_SUM:
        return ops.sum(x, axes, keepdims=True)
    last = len(x.shape) - 1
    first, *others = sorted(axes, key=lambda a: (a == last, -a))
    x = ops.sum(x, first, keepdims=True)
    for axis in others:
        x = ops.sum(x / 2.0, axis, keepdims=True)
    return x * 2.0 ** len(others)


def number_of_positions(x: Tensor, axes: tuple[int, ...]) -> Tensor | int:
    """The number of positions along `axes`; an int if the sizes are known."""
    sizes = [size for a, size in enumerate(ops.shape(x)) if a in axes]
    if all(isinstance(size, int) for size in sizes):
        return math.prod(sizes)
    return math.prod(ops.cast(size, at_least_float32(x.dtype)) for size in sizes)


def mean_of_sums(sums: Tensor, n: Tensor | int, pool: Pool | None = None) -> tuple[Tensor, Tensor | int]:
    """Returns the sums divided by the number of positions, and this number, both summed over replicas by `pool`.

    XLA replaces division by a scalar by a product with its reciprocal, so the mean of 7s would not be 7. Therefore we
    divide by a tensor.
    """
    if pool is not None:
        sums, n = pool((sums, ops.ones_like(sums) * n))
        return sums / at_least_one(n), n
    return sums / ops.where(ops.isfinite(sums), ops.cast(at_least_one(n), sums.dtype), 1.0), n


def at_least_one(n: Tensor | int) -> Tensor | int:
    """`n`, or 1 for an empty set, whose sums are 0."""
    return max(n, 1) if isinstance(n, int) else ops.where(n > 0, n, 1.0)  # `ops.maximum` is float32 on torch
