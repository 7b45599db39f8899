"""The definition in float64: each position i with its whole set S_i beside it. Never imports keras_norm."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def members(same, shape, axis):
    """Row i marks the positions k of S_i, for `same(i, k, shape, axis)` on index tuples, here of arrays."""
    positions = np.indices(shape).reshape(len(shape), -1)
    return same(positions[:, :, None], positions[:, None, :], shape, axis)


def standardize(x, same, axis, epsilon, mask=None):
    """(x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) at each i, and 0 where the mask is False."""
    return _at_each(x, same, axis, mask, lambda x_i, s: (x_i - s(np.mean)) / np.sqrt(s(np.var) + epsilon))


def scale(x, same, axis, epsilon, mask=None):
    """x_i / sqrt(mean(S_i^2) + epsilon) at each i, and 0 where the mask is False; epsilon may broadcast against x."""
    kept = np.full(x.shape, True) if mask is None else spread(mask, x.shape)
    epsilon = np.broadcast_to(epsilon, x.shape)[kept]

    def formula(x_i, s):
        return x_i / np.sqrt(s(lambda values, **of: np.mean(np.square(values), **of)) + epsilon)

    return _at_each(x, same, axis, mask, formula)


def center(x, same, axis, mask=None):
    """x_i - mean(S_i) at each i, and 0 where the mask is False."""
    return _at_each(x, same, axis, mask, lambda x_i, s: x_i - s(np.mean))


def statistic(x, same, axis, of, mask=None):
    """`of` (such as `np.mean`) of S_i at each i, and 0 where the mask is False."""
    return _at_each(x, same, axis, mask, lambda x_i, s: s(of))


def _at_each(x, same, axis, mask, formula):
    """`formula` of x_i and of what gives a statistic of S_i, at the positions that the mask keeps."""
    kept = np.full(x.shape, True) if mask is None else spread(mask, x.shape)
    y = np.zeros(x.shape)
    if kept.any():
        x_i = np.asarray(x, "float64")[kept]
        in_set = members(same, x.shape, axis)[np.ix_(kept.ravel(), kept.ravel())]
        y[kept] = formula(x_i, lambda statistic: statistic(np.broadcast_to(x_i, in_set.shape), axis=1, where=in_set))
    return y


def spread(mask, shape):
    """The mask at every position; a mask of lower rank is broadcast over the trailing axes."""
    mask = np.asarray(mask, bool)
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def along(values, axes, rank):
    """`values` reshaped to broadcast along `axes` of an array of that rank."""
    sizes = iter(values.shape)
    return values.reshape([next(sizes) if a in axes else 1 for a in range(rank)])


def differences(f, x, step=1e-5):
    """The gradient of the scalar `f` at `x` by central differences."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (f(up) - f(down)) / (2 * step)
    return gradient
