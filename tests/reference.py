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
    values = np.asarray(x, "float64").ravel()
    counted = np.full(values.shape, True) if mask is None else spread(mask, x.shape).ravel()
    y = np.zeros_like(values)
    for i, in_set in enumerate(members(same, x.shape, axis)):
        if counted[i]:
            s = values[in_set & counted]
            y[i] = (values[i] - s.mean()) / np.sqrt(((s - s.mean()) ** 2).mean() + epsilon)
    return y.reshape(x.shape)


def spread(mask, shape):
    """The mask at every position; a mask of lower rank speaks for all axes that it lacks."""
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
