"""The sets S_i of positions that share a mean and a variance. Read this file first.

For each position i of its input, every layer of the family computes

    y_i = gamma (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta

The layers differ in S_i:

    layer                     S_i = {k : ...}                            as code
    ------------------------  -----------------------------------------  ---------------------------
    BatchNormalization        k_C = i_C                                  batch(x, axis)
    InstanceNormalization     k_N = i_N and k_C = i_C                    instance(x, axis)
    GroupNormalization        k_N = i_N and k_C in the group of i_C      group(x, axis, groups)
    LayerNormalization(None)  k_N = i_N                                  group(x, axis, 1)
    LayerNormalization(axis)  k_a = i_a on every axis a not in `axis`    along(axis)

N is the batch axis and C is the channel axis. The other layers use the same sets and differ elsewhere:

    layer                     set                   what differs
    ------------------------  --------------------  -------------------------------------------------------
    RMSNormalization          along                 moments: the mean is not subtracted
    FilterResponseNorm.       instance              moments: the mean is not subtracted
    GhostBatchNormalization   batch                 set: a run of `ghost_size` samples instead of the batch
    BatchRenormalization      batch                 statistics: corrected towards the moving statistics
    BatchInstanceNorm.        batch, instance       output: a mixture of both
    SwitchableNormalization   batch, layer, inst.   statistics: a mixture of all three
    AdaptiveInstanceNorm.     instance              gamma and beta: the statistics of a second input
    ConditionalNormalization  of the wrapped layer  gamma and beta: computed from a second input

Next: `moments.py`, then `functional.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keras import ops

from keras_norm.tensors import Tensor, inferred_shape, known_shape


class Groups(NamedTuple):
    """`count` groups of equal size, of neighboring entries along `axis`."""

    axis: int
    count: int  # type: ignore[assignment]  # overrides `tuple.count`


class Sets(NamedTuple):
    """Defines which positions share statistics.

    Sums run over `axes`. They are then added within `groups` and over `replicas`: one replica (1), k neighboring
    replicas (k) or all (None).
    """

    axes: tuple[int, ...]
    groups: Groups | None = None
    replicas: int | None = 1


def batch(x: Tensor, axis: int, replicas: int | None = 1) -> Sets:
    """One set per channel: reduces all axes except C."""
    return Sets(axes_except(x, axis), replicas=replicas)


def instance(x: Tensor, axis: int) -> Sets:
    """One set per sample and channel: reduces all axes except N and C."""
    return Sets(axes_except(x, 0, axis))


def group(x: Tensor, axis: int, groups: int) -> Sets:
    """One set per sample and group of neighboring channels: `instance`, pooled over each group."""
    sets = instance(x, axis)
    return sets if groups == known_shape(x)[axis] else sets._replace(groups=Groups(axis, groups))


def along(axes: Sequence[int]) -> Sets:
    """One set per index of the other axes: reduces `axes`."""
    return Sets(tuple(axes))


def axes_except(x: Tensor, *kept: int) -> tuple[int, ...]:
    """All axes of `x` except `kept`."""
    return tuple(a for a in range(len(x.shape)) if a not in kept)


def split(x: Tensor | None, groups: Groups | None) -> Tensor | None:
    """Splits the grouped axis in place: (N, ..., C) becomes (N, ..., G, C/G). Without groups, returns `x`."""
    if x is None or groups is None:
        return x
    shape, (axis, count) = inferred_shape(x), groups
    return ops.reshape(x, (*shape[:axis], count, known_shape(x)[axis] // count, *shape[axis + 1 :]))


def split_axes(sets: Sets) -> tuple[int, ...]:
    """The reduced axes of `split(x, sets.groups)`."""
    if sets.groups is None:
        return sets.axes
    grouped = sets.groups.axis
    return (*(a + (a > grouped) for a in sets.axes), grouped + 1)


def merge(h: Tensor, x: Tensor, groups: Groups | None) -> Tensor:
    """The inverse of `split`: reshapes `h` to the shape of `x`."""
    return h if groups is None else ops.reshape(h, inferred_shape(x))
