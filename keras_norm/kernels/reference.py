"""The reference in `keras.ops`, for every backend, masks, replicas and export. The backend derives the gradients."""

from typing import Any

from keras import ops

from keras_norm.moments import Moments, moments_and_deviations
from keras_norm.sets import Sets, merge
from keras_norm.tensors import Tensor, Weight, cast, upcast


def standardize(
    x: Tensor, sets: Sets, gamma: Weight, beta: Weight, epsilon: float, mask: Any = None, *, centered=True, pool=None
) -> tuple[Tensor, Moments]:
    """gamma (x - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta, and the moments of the sets."""
    batch, h = moments_and_deviations(x, sets, mask, centered, pool)  # (N, H, W, C) to (N, H, W, G, C/G)
    h = merge(h * ops.rsqrt(batch.variance + epsilon), x, sets.groups)
    if gamma is not None:
        h = h * gamma
    if beta is not None:
        h = h + beta
    return cast(h, x.dtype), batch


def normalize(x: Tensor, mean: Tensor, variance: Tensor, gamma: Weight, beta: Weight, epsilon: float) -> Tensor:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, for a mean and a variance that do not depend on x."""
    scale = ops.rsqrt(variance + epsilon)
    h = (upcast(x) - mean) * (scale if gamma is None else scale * gamma)
    return cast(h if beta is None else h + beta, x.dtype)
