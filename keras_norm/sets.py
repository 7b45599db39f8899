"""The sets S_i: which positions of x share a mean and a variance. Read this file first.

Every layer of the family computes, for each position i of its input,

    y_i = gamma (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta

and the layers differ in S_i:

    layer                     S_i = {k : ...}                            as code
    ------------------------  -----------------------------------------  ---------------------------
    BatchNormalization        k_C = i_C                                  batch(x, axis)
    InstanceNormalization     k_N = i_N and k_C = i_C                    instance(x, axis)
    GroupNormalization        k_N = i_N and k_C in the group of i_C      group(x, axis, groups)
    LayerNormalization(None)  k_N = i_N                                  group(x, axis, 1)
    LayerNormalization(axis)  k_a = i_a on every axis a not in `axis`    along(axis)

N is the batch axis, C the channel axis. The rest of the family has these sets too, and differs in another choice:

    layer                     set                   what differs
    ------------------------  --------------------  -------------------------------------------------------
    RMSNormalization          along                 the moments: about zero
    FilterResponseNorm.       instance              the moments: about zero
    GhostBatchNormalization   batch                 the set: the batch is a run of `ghost_size` samples
    BatchRenormalization      batch                 whose statistics: corrected towards the moving ones
    BatchInstanceNorm.        batch, instance       whose statistics: a mixture of two outputs
    SwitchableNormalization   batch, layer, inst.   whose statistics: a mixture of three
    AdaptiveInstanceNorm.     instance              gamma and beta: the statistics of a second input
    ConditionalNormalization  of the layer inside   gamma and beta: computed from a second input

Next: `moments.py`, then `functional.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keras import ops

from keras_norm.tensors import Tensor, inferred_shape, known_shape


class Groups(NamedTuple):
    """Pools neighbouring entries of `axis`: `count` groups of equal size."""

    axis: int
    count: int  # type: ignore[assignment]  # of groups; hides `tuple.count`


class Sets(NamedTuple):
    """Which positions share statistics.

    `axes` are reduced in full. `groups` are pooled on top of that, and so are `replicas`: the sums of one replica
    alone (1), of k neighbouring replicas, or of all (None).
    """

    axes: tuple[int, ...]
    groups: Groups | None = None
    replicas: int | None = 1


def batch(x: Tensor, axis: int, replicas: int | None = 1) -> Sets:
    """A set per channel: all axes but C are reduced."""
    return Sets(axes_except(x, axis), replicas=replicas)


def instance(x: Tensor, axis: int) -> Sets:
    """A set per sample and channel: all axes but N and C are reduced."""
    return Sets(axes_except(x, 0, axis))


def group(x: Tensor, axis: int, groups: int) -> Sets:
    """A set per sample and group of neighbouring channels: `instance`, pooled over each group."""
    sets = instance(x, axis)
    return sets if groups == known_shape(x)[axis] else sets._replace(groups=Groups(axis, groups))


def along(axes: Sequence[int]) -> Sets:
    """A set per index of the other axes: `axes` are reduced."""
    return Sets(tuple(axes))


def axes_except(x: Tensor, *kept: int) -> tuple[int, ...]:
    """All axes of `x` but the kept ones."""
    return tuple(a for a in range(len(x.shape)) if a not in kept)


def split(x: Tensor | None, groups: Groups | None) -> Tensor | None:
    """`x` with the grouped axis split in place: (N, ..., C) becomes (N, ..., G, C/G). `x` itself without groups."""
    if x is None or groups is None:
        return x
    shape, (axis, count) = inferred_shape(x), groups
    return ops.reshape(x, (*shape[:axis], count, known_shape(x)[axis] // count, *shape[axis + 1 :]))


def split_axes(sets: Sets) -> tuple[int, ...]:
    """The axes of `split(x, sets.groups)` that a set runs along."""
    if sets.groups is None:
        return sets.axes
    grouped = sets.groups.axis
    return (*(a + (a > grouped) for a in sets.axes), grouped + 1)


def merge(h: Tensor, x: Tensor, groups: Groups | None) -> Tensor:
    """Undoes `split`: `h` in the shape of `x`."""
    return h if groups is None else ops.reshape(h, inferred_shape(x))
