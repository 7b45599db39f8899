"""The definition, slowly: a float64 loop over positions i and their sets S_i. Never imports keras_norm."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def members(same, shape, axis):
    """Row i marks the positions k of S_i, for `same(i, k, shape, axis)` on index tuples."""
    positions = list(np.ndindex(*shape))
    return np.array([[same(i, k, shape, axis) for k in positions] for i in positions])


def standardize(x, same, axis, epsilon, mask=None):
    """(x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) at each i, and 0 where the mask is False."""
    return _at_each(x, same, axis, mask, lambda x_i, s: (x_i - s.mean()) / np.sqrt(s.var() + epsilon))


def center(x, same, axis, mask=None):
    """x_i - mean(S_i) at each i, and 0 where the mask is False."""
    return _at_each(x, same, axis, mask, lambda x_i, s: x_i - s.mean())


def _at_each(x, same, axis, mask, formula):
    """`formula` of x_i and the values of S_i, at each position that the mask keeps."""
    values = np.asarray(x, "float64").ravel()
    kept = np.full(values.shape, True) if mask is None else spread(mask, x.shape).ravel()
    y = np.zeros_like(values)
    for i, in_set in enumerate(members(same, x.shape, axis)):
        if kept[i]:
            y[i] = formula(values[i], values[in_set & kept])
    return y.reshape(x.shape)


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
