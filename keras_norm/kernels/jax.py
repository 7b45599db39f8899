"""JAX: one compiled function with a custom derivative, a linear map of the tangents.

JAX transposes this map for the backward pass, so forward mode, reverse mode and higher derivatives all work. Only x and
its moments are stored.
"""

from functools import partial

import jax
from keras import ops

from keras_norm.kernels import formulas, reference
from keras_norm.kernels.formulas import pooled, spread
from keras_norm.moments import Moments, at_least_one, total
from keras_norm.sets import Sets
from keras_norm.tensors import Tensor, Weight, cast, upcast


def standardize(
    x: Tensor, sets: Sets, gamma: Weight, beta: Weight, epsilon: float, *, centered: bool, pool: None, one_pass: bool
) -> tuple[Tensor, Moments]:
    """Like `reference.standardize`. `one_pass` computes both moments in one pass over x."""
    y, mean, variance = _standardize(x, gamma, beta, sets, epsilon, centered, one_pass)
    return y, Moments(mean, variance, formulas.count(x, sets))


@partial(jax.jit, static_argnames=("epsilon", "one_pass"), inline=True)
def normalize(x, mean, variance, gamma, beta, epsilon: float, *, one_pass: bool) -> Tensor:
    """Like `reference.normalize`."""
    return reference.normalize(x, mean, variance, gamma, beta, epsilon)


@partial(jax.jit, static_argnums=(3, 4, 5, 6), inline=True)
def _standardize(x, gamma, beta, sets: Sets, epsilon: float, centered: bool, one_pass: bool):
    h, of_h, (gamma, beta) = formulas.view(x, sets, gamma, beta)
    if one_pass and centered:
        mean, variance, n = formulas.one_pass_moments(h, of_h)
    else:
        mean, variance, n = formulas.two_pass_moments(h, of_h, centered)
    moments = (spread(moment, h, of_h.groups) for moment in (mean, variance))
    y = _normalize(h, gamma, beta, *moments, ops.cast(at_least_one(n), mean.dtype), of_h, epsilon, centered)
    return y.reshape(x.shape), formulas.table(mean, x, sets), formulas.table(variance, x, sets)


@partial(jax.custom_jvp, nondiff_argnums=(6, 7, 8))
def _normalize(x, gamma, beta, mean, variance, n, sets: Sets, epsilon: float, centered: bool) -> Tensor:
    return reference.normalize(x, mean, variance, gamma, beta, epsilon)


@_normalize.defjvp
def _tangent(sets: Sets, epsilon: float, centered: bool, primals, tangents):
    """The tangent of y for tangents of x, gamma and beta. The one for x includes the moments.

    With u = x - mean, s = 1 / sqrt(variance + epsilon) and means over S_i

        ty = gamma s (tx - mean(tx) - u s^2 mean(tx u)) + u s tgamma + tbeta

    without mean(tx) if the mean is not subtracted.
    """
    x, gamma, beta, mean, variance, n = primals

    def mean_of_set(values: Tensor) -> Tensor:
        return spread(pooled(total(values, sets.axes), sets.groups) / n, x, sets.groups)

    @partial(jax.checkpoint, prevent_cse=False)  # stores its arguments and recomputes u
    def linear(x, gamma, mean, variance, tx, tgamma, tbeta):
        s, u, tx = jax.lax.rsqrt(variance + epsilon), upcast(x) - mean, upcast(tx)
        scale = s if gamma is None else s * gamma
        mean_tx = mean_of_set(tx) if centered else 0.0
        mean_tx_u = s**2 * mean_of_set(tx * u)
        if any(w is not None and w.shape[a] > 1 for w in (gamma, beta) for a in sets.axes):
            # Gamma or beta varies within the set, so a slope and an offset would have the size of x.
            ty = (tx - mean_tx - u * mean_tx_u) * scale
            ty = ty if tgamma is None else ty + u * s * tgamma
            return ty if tbeta is None else ty + tbeta
        # Each set, or each channel of a set, has one gamma and one beta, so it has one slope and one offset.
        offset, slope = -scale * mean_tx, -scale * mean_tx_u
        slope = slope if tgamma is None else slope + s * tgamma
        offset = offset if tbeta is None else offset + tbeta
        return tx * scale + u * slope + offset

    ty = linear(x, gamma, mean, variance, *tangents[:3])
    return _normalize(*primals, sets, epsilon, centered), cast(ty, x.dtype)
