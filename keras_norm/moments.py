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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from keras import backend, ops

from keras_norm.arguments import (
    Tensor,
    at_least_float32,
    check_runs_of_samples,
    inferred_shape,
    known_shape,
    resolve_groups_of_replicas,
)
from keras_norm.arithmetic import (
    Join,
    centre,
    compiled_within_replica,
    reads_are_dear,
    select,
    squared_distance,
    sum_along,
    unjoined,
    value_at,
    widened,
)
from keras_norm.compilation import compiled
from keras_norm.replicas import Replicas, number_of_replicas


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
    channels = known_shape(x)[axis]
    return sets_along(axes) if groups == channels else sets_along(axes, Groups(groups, channels // groups, axis))


def sets_of_batch(owner: str, x: Tensor, axis: int, synchronized: bool | int) -> Sets:
    """A set for each channel on `axis`, of the replica's own batch or of one that replicas join.

    On JAX a batch is one array on all devices, and what neighbouring replicas hold is a run of its samples.
    """
    axes = axes_except(x, axis)
    if synchronized is False:
        return sets_along(axes)
    groups = resolve_groups_of_replicas(owner, synchronized, number_of_replicas())
    if backend.backend() != "jax":
        return sets_along(axes, Replicas(groups))
    if groups == 1:
        return sets_along(axes)
    check_runs_of_samples(owner, groups, axis, x.shape[0])
    return sets_along(axes_except(x, 0, axis), Groups(groups, x.shape[0] // groups, 0))


@dataclass(frozen=True)
class Groups:
    """Joins each group of so many neighbouring channels, or of other neighbours along an axis: its members."""

    groups: int
    members: int
    axis: int

    def __call__(self, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The sum over each group, at each of its members."""
        return tuple(self._join(table) for table in tables)

    def _join(self, table: Tensor) -> Tensor:
        if known_shape(table)[self.axis] == 1:  # the same for each channel
            return table * self.members
        h = split_groups(table, self.groups, self.axis)
        members = [self.members if a == self.axis + 1 else 1 for a in range(len(h.shape))]
        return ops.reshape(ops.sum(h, self.axis + 1, keepdims=True) * ops.ones(members, h.dtype), inferred_shape(table))


def axes_except(x: Tensor, *kept: int) -> tuple[int, ...]:
    """All axes of `x` but the kept ones."""
    return tuple(a for a in range(len(x.shape)) if a not in kept)


def split_groups(x: Tensor, groups: int, axis: int) -> Tensor:
    """Splits the channel axis in place: (N, ..., C, ...) becomes (N, ..., G, C/G, ...)."""
    shape = inferred_shape(x)
    return ops.reshape(x, (*shape[:axis], groups, known_shape(x)[axis] // groups, *shape[axis + 1 :]))


def moments(x: Tensor, sets: Sets, mask: Tensor | None = None) -> Moments:
    """Mean, variance (divided by the count) and count of the sets of `x`.

    What `mask` (of the shape of `x`) leaves out belongs to no set. Sums are joined and never means, so the parts of a
    set may differ in size or be empty. An empty set has mean 0 and variance 0.
    """
    mean, variance, count = _moments(x, mask, **sets._asdict())
    return Moments(mean, variance, count, sets)


@compiled_within_replica
def _moments(x: Tensor, mask: Tensor | None, axes: tuple[int, ...], join: Join) -> tuple[Tensor, Tensor, Tensor]:
    """Two passes, the second over what is left when the mean is gone.

    E[x^2] - E[x]^2 would lose the variance where the mean is large.
    """
    if mask is None and not isinstance(join, Replicas) and reads_are_dear():
        return _moments_in_one_reading(x, axes, join)
    total, count = join((_total(x, mask, axes=axes), _count(x, axes, mask)))
    size = ops.maximum(count, ops.ones_like(count))
    mean = total / size
    (squares,) = join((_squares(x, mean, mask, axes=axes),))
    return mean, _finite(squares / size), count


@compiled
def _total(x: Tensor, mask: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    return sum_along(select(widened(x), mask), axes)


@compiled
def _squares(x: Tensor, mean: Tensor, mask: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    return sum_along(squared_distance(x, mean, mask), axes)


def _moments_in_one_reading(x: Tensor, axes: tuple[int, ...], join: Join) -> tuple[Tensor, Tensor, Tensor]:
    """Both sums at once, over the distances from a value of x: the mean of a channel is then a few deviations away.

    The value is the median of three, so that one that lies apart does no harm.
    """
    a, b, c = (widened(value_at(x, axes, quarter)) for quarter in (1, 2, 3))
    shift = ops.stop_gradient(ops.maximum(ops.minimum(a, b), ops.minimum(ops.maximum(a, b), c)))
    count = _count(x, axes, None)
    size = ops.maximum(count, ops.ones_like(count))
    h = centre(x, shift, None)
    off = sum_along(h, axes) / size
    mean_of_part, squares = shift + off, sum_along(ops.square(h), axes)
    squares = ops.where(ops.isinf(squares), squares, ops.relu(squares - size * ops.square(off)))
    total, joined_count = join((mean_of_part * size, count))
    joined_size = ops.maximum(joined_count, ops.ones_like(joined_count))
    mean = total / joined_size
    (rest,) = join(((mean_of_part - mean) * size,))  # what the division rounded
    mean = mean + rest / joined_size
    (squares,) = join((squares + size * ops.square(mean_of_part - mean),))
    return mean, _finite(squares / joined_size), joined_count


def _finite(variance: Tensor) -> Tensor:
    """Squares beyond float32 end at its largest number, not at an infinity that moving statistics would keep."""
    return ops.clip(variance, 0.0, 3e38)


def _count(x: Tensor, axes: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """The number of positions along `axes` that the mask keeps, shaped like their sums where sizes are known."""
    dtype = at_least_float32(x.dtype)
    if mask is not None:
        return sum_along(ops.cast(mask, dtype), axes)
    shape = ops.shape(x)
    sizes = [shape[a] if isinstance(shape[a], int) else ops.cast(shape[a], dtype) for a in axes]
    table = [1 if a in axes or not isinstance(size, int) else size for a, size in enumerate(shape)]
    # Not one number for all: XLA would multiply sums by its reciprocal, whose rounding shows in the mean.
    return ops.ones(table, dtype) * ops.convert_to_tensor(math.prod(sizes), dtype)
