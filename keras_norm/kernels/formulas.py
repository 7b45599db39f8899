"""Moments from partial sums, for kernels that a compiler fuses.

Summing over the reduced axes gives partial sums, e.g. (N, C). Grouped sets then add the sums of their channels. The
paper's code reshapes x instead.
"""

from collections.abc import Callable
from itertools import groupby
from math import isqrt, prod
from typing import Any, NamedTuple

from keras import ops

from keras_norm.moments import LONG_SUM, Moments, Pool, at_least_one, mean_of_sums, number_of_positions, total
from keras_norm.sets import Groups, Sets, split
from keras_norm.tensors import Tensor, Weight, at_least_float32, inferred_shape, known_shape, upcast

Total = Callable[[Tensor, tuple[int, ...]], Tensor]
"""A function that sums along axes, which keep size 1."""


class View(NamedTuple):
    """x with neighboring axes merged, then split into runs of at most `LONG_SUM`: (N, runs, length, C).

    For every rank of x, one loop sums over a run, and no sum is long.
    """

    x: Tensor
    sets: Sets
    weights: list[Weight]
    """gamma and beta, in shapes that broadcast against x."""


def view(x: Tensor, sets: Sets, *weights: Weight, merge_kept: bool = False) -> View:
    """The view of x, its sets and its weights. Axis 0 is never merged, because it may be sharded or unknown.

    With `merge_kept`, neighboring kept axes are merged, too, if no weight has a size along them.
    """
    sizes = known_shape(x)
    along = [[1] * len(sizes) if w is None else [1] * (len(sizes) - len(w.shape)) + list(w.shape) for w in weights]

    def kind(a: int) -> Any:
        """The key by which neighboring axes are merged."""
        is_free = a > 0 and isinstance(sizes[a], int) and all(w[a] == 1 for w in along)
        is_kept = a not in sets.axes
        if is_free and (not is_kept or merge_kept) and not (sets.groups and a == sets.groups.axis):
            return "kept" if is_kept else "reduced"
        return a

    shape: list[Any] = []
    to_view: dict[int, range] = {}
    for of_kind, neighbors in groupby(range(len(sizes)), kind):
        merged = list(neighbors)
        cut = [sizes[of_kind]] if isinstance(of_kind, int) else _runs(prod(sizes[a] for a in merged))
        to_view |= {a: range(len(shape), len(shape) + len(cut)) for a in merged}
        shape += cut
    if shape.count(None) > 1 or shape == list(sizes):
        return View(x, sets, [_reshaped(w, to) for w, to in zip(weights, along, strict=True)])
    groups = sets.groups and sets.groups._replace(axis=to_view[sets.groups.axis][0])
    axes = tuple(sorted({b for a in sets.axes for b in to_view[a]}))
    origin = {b: a for a, found in to_view.items() for b in found}
    shapes = [[w[origin[b]] for b in range(len(shape))] for w in along]
    merged_weights = [_reshaped(w, to) for w, to in zip(weights, shapes, strict=True)]
    return View(_reshaped(x, shape), sets._replace(axes=axes, groups=groups), merged_weights)


def _reshaped(x: Weight, shape: list[Any]) -> Weight:
    """`x` in this shape, where one size may be unknown."""
    return None if x is None else ops.reshape(x, [-1 if size is None else size for size in shape])


def _runs(size: int) -> list[int]:
    """Factors `size` into a number of runs and their length."""
    if size > LONG_SUM:
        for number in range(2, isqrt(8 * size) + 1):  # at most eight times as many runs as a run is long
            if size % number == 0 and size // number <= LONG_SUM:
                return [number, size // number]
    return [size]


def table(values: Tensor, x: Tensor, sets: Sets) -> Tensor:
    """One value per set, in a shape that broadcasts against `split(x, sets.groups)`."""
    shape = [1 if a in sets.axes else size for a, size in enumerate(inferred_shape(x))]
    if sets.groups is not None:
        shape[sets.groups.axis : sets.groups.axis + 1] = [sets.groups.count, 1]
    return ops.reshape(values, shape)


def pooled(sums: Tensor, groups: Groups | None) -> Tensor:
    """Adds the sums of the members of each group: (N, ..., C) becomes (N, ..., G, 1)."""
    return sums if groups is None else ops.sum(split(sums, groups), groups.axis + 1, keepdims=True)


def spread(values: Tensor, x: Tensor, groups: Groups | None) -> Tensor:
    """Repeats the value of each group for its members: (N, ..., G, 1) becomes (N, ..., C)."""
    if groups is None:
        return values
    axis, size = groups.axis, known_shape(x)[groups.axis]
    members = [size // groups.count if a == axis + 1 else 1 for a in range(len(values.shape))]
    shape = inferred_shape(values)
    return ops.reshape(values * ops.ones(members, values.dtype), (*shape[:axis], size, *shape[axis + 2 :]))


def count(x: Tensor, sets: Sets) -> Tensor | int:
    """The number of positions of each set in x."""
    members = 1 if sets.groups is None else known_shape(x)[sets.groups.axis] // sets.groups.count
    return number_of_positions(x, sets.axes) * members


def sums(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sums of x along `axes`."""
    return total(upcast(x), axes)


def squares(x: Tensor, mean: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sums of the squared deviations along `axes`."""
    return total(ops.square(upcast(x) - mean), axes)


def two_pass_moments(
    x: Tensor,
    sets: Sets,
    centered: bool,
    pool: Pool | None = None,
    sums: Callable[..., Tensor] = sums,
    squares: Callable[..., Tensor] = squares,
) -> Moments:
    """The moments, with one pass over x for the mean and one for the variance."""
    n, origin = count(x, sets), ops.zeros([1] * len(x.shape), at_least_float32(x.dtype))
    if centered:
        mean, _ = mean_of_sums(pooled(sums(x, axes=sets.axes), sets.groups), n, pool)
        origin = spread(mean, x, sets.groups)
    variance, n = mean_of_sums(pooled(squares(x, origin, axes=sets.axes), sets.groups), n, pool)
    return Moments(mean if centered else ops.zeros_like(variance), variance, n)


def one_pass_moments(x: Tensor, sets: Sets) -> Moments:
    """The moments in one pass over x: both sums are those of x - shift, where the shift is a sample of x.

    After the shift, a channel's mean is within a few deviations of zero, which avoids cancellation. The shift is the
    median of three samples, to be robust against outliers.
    """
    a, b, c = (upcast(sample_at(x, sets.axes, quarter)) for quarter in (1, 2, 3))
    shift = ops.stop_gradient(ops.maximum(ops.minimum(a, b), ops.minimum(ops.maximum(a, b), c)))
    size, n = at_least_one(number_of_positions(x, sets.axes)), count(x, sets)
    h = upcast(x) - shift
    offset = total(h, sets.axes) / size
    means, deviations = shift + offset, total(ops.square(h), sets.axes)
    deviations = ops.where(ops.isinf(deviations), deviations, ops.relu(deviations - size * ops.square(offset)))
    # The channels of a group have different means.
    mean, _ = mean_of_sums(pooled(means * size, sets.groups), n)
    rest, _ = mean_of_sums(pooled((means - spread(mean, x, sets.groups)) * size, sets.groups), n)
    mean = mean + rest  # corrects the rounding of the division
    deviations = deviations + size * ops.square(means - spread(mean, x, sets.groups))
    variance, _ = mean_of_sums(pooled(deviations, sets.groups), n)
    return Moments(mean, variance, n)


def sample_at(x: Tensor, axes: tuple[int, ...], quarter: int) -> Tensor:
    """The value at `quarter` quarters of each axis in `axes`, which keep size 1; 0 if an axis is empty."""
    for axis in axes:
        place = ops.shape(x)[axis] * quarter // 4
        x = ops.sum(x[(*[slice(None)] * axis, slice(place, place + 1))], axis, keepdims=True)
    return x
