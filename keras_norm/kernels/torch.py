"""torch: its native kernels and their gradients, for batches, groups, channels and trailing axes.

They compute x scale + (beta - mean scale), which cancels if the mean is large. Then one value of each group, channel or
run of trailing axes is subtracted first, which does not change outputs or gradients but costs a pass over memory. Where
the values can be read without waiting for a device, this is done only if a mean is large.
"""

from collections.abc import Callable

import torch

from keras_norm.moments import Moments, Pool
from keras_norm.sets import Sets
from keras_norm.tensors import Tensor, Weight, cast, upcast

Standardized = tuple[Tensor, Moments | None]

LARGE_MEAN = 8
"""Up to this number of standard deviations from zero, torch's kernels are accurate."""


def standardize(
    x: Tensor,
    sets: Sets,
    gamma: Weight,
    beta: Weight,
    epsilon: float,
    *,
    centered: bool,
    pool: Pool | None,
    is_readable: bool,
) -> Standardized | None:
    """Like `reference.standardize`, but returns moments only for batches. None if torch has no kernel for the sets.

    `is_readable` says whether values can be read without waiting for a device.
    """
    if pool is not None:
        return None
    rank = x.ndim
    kept = [a for a in range(rank) if a not in sets.axes]
    channel = kept[-1] if kept else 0
    if centered and _run_along((x.shape[channel],), rank - 1 - channel, gamma, beta):
        if kept == [channel] and sets.groups is None:
            return _batch(x, channel, gamma, beta, epsilon)
        if kept == [0, channel] and (sets.groups is None or sets.groups.axis == channel):
            return _group(x, channel, sets, gamma, beta, epsilon, is_readable)
    sizes = x.shape[len(kept) :]
    if kept == list(range(len(kept))) and sizes and sets.groups is None and _run_along(sizes, 0, gamma, beta):
        gamma, beta = (w if w is None or w.shape == sizes else w.reshape(sizes) for w in (gamma, beta))
        if centered:
            return _layer(x, sizes, gamma, beta, epsilon, is_readable)
        return _root_mean_square(x, sizes, gamma, beta, epsilon)
    return None


def _layer(
    x: Tensor, sizes: torch.Size, gamma: Weight, beta: Weight, epsilon: float, is_readable: bool
) -> Standardized:
    h = upcast(x)

    def shifted() -> Tensor:
        return torch.layer_norm(h - h.detach()[(..., *[slice(1)] * len(sizes))], sizes, gamma, beta, epsilon)

    y = _if_accurate(torch.native_layer_norm(h, sizes, gamma, beta, epsilon), shifted) if is_readable else shifted()
    return cast(y, x.dtype), None


def _root_mean_square(x: Tensor, sizes: torch.Size, gamma: Weight, beta: Weight, epsilon: float) -> Standardized:
    y = torch.rms_norm(upcast(x), sizes, gamma, epsilon)
    return cast(y if beta is None else y + beta, x.dtype), None


def _group(
    x: Tensor, channel: int, sets: Sets, gamma: Weight, beta: Weight, epsilon: float, is_readable: bool
) -> Standardized:
    h = upcast(x).movedim(channel, 1).contiguous()  # on channels-last memory torch has an error of 1e-2
    members = 1 if sets.groups is None else h.shape[1] // sets.groups.count
    groups, gamma, beta = h.shape[1] // members, _vector(gamma), _vector(beta)

    def shifted() -> Tensor:
        samples = h.detach()[(slice(None), slice(None, None, members), *[slice(1)] * (h.ndim - 2))]
        return torch.group_norm(h - samples.repeat_interleave(members, 1), groups, gamma, beta, epsilon)

    given = (h, gamma, beta, *h.shape[:2], h.shape[2:].numel(), groups, epsilon)
    y = _if_accurate(torch.native_group_norm(*given), shifted) if is_readable else shifted()
    return cast(y.movedim(1, channel), x.dtype), None


def _if_accurate(by_torch: tuple[Tensor, Tensor, Tensor], shifted: Callable[[], Tensor]) -> Tensor:
    """y by torch's kernel in sets with a mean near zero, and `shifted()` in the others, if there are any.

    Each set decides for itself, so that its output does not depend on other sets. `by_torch` has y, the means and the
    inverse standard deviations.
    """
    y, mean, inverse = by_torch
    deviations = (mean.detach() * inverse.detach()).abs()
    try:
        if deviations.max().item() <= LARGE_MEAN:
            return y
    except RuntimeError:  # in `torch.func.vmap`, no value can be read
        pass
    by_set = (*mean.shape, -1)
    found = torch.where(deviations[..., None] <= LARGE_MEAN, y.reshape(by_set), shifted().reshape(by_set))
    return found.reshape(y.shape)


def _batch(x: Tensor, channel: int, gamma: Weight, beta: Weight, epsilon: float) -> Standardized | None:
    h = _channels_on_axis_1(upcast(x), channel)
    n = h.numel() // h.shape[1]
    if n < 2:
        return None  # torch divides the variance by n - 1
    mean, variance = h.new_zeros(h.shape[1]), h.new_zeros(h.shape[1])
    # With a momentum of 1 the kernel writes the batch statistics in place of the moving statistics.
    y, *_ = torch.native_batch_norm(h, _vector(gamma), _vector(beta), mean, variance, True, 1.0, epsilon)
    table = [-1 if a == channel else 1 for a in range(len(x.shape))]
    batch = Moments(mean.reshape(table), (variance * ((n - 1) / n)).reshape(table), n)
    return cast(_back_from_axis_1(y, x, channel), x.dtype), batch


def normalize(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Weight, beta: Weight, epsilon: float, *, is_readable: bool
) -> Tensor | None:
    """Like `reference.normalize`. None if weights are not per channel, or the moments need gradients."""
    channel = next((x.ndim - mean.ndim + a for a, size in enumerate(mean.shape) if size != 1), x.ndim - 1)
    needs_gradient = mean.requires_grad or variance.requires_grad
    if needs_gradient or not _run_along((x.shape[channel],), x.ndim - 1 - channel, mean, variance, gamma, beta):
        return None
    h = _channels_on_axis_1(upcast(x), channel)
    gamma, beta, mean, variance = map(_vector, (gamma, beta, mean, variance))
    y = torch.batch_norm(h, gamma, beta, mean, variance, False, 0.0, epsilon, False)
    return cast(_back_from_axis_1(y, x, channel), x.dtype)


def _channels_on_axis_1(x: Tensor, channel: int) -> Tensor:
    return x.reshape(-1, x.shape[channel]) if channel == len(x.shape) - 1 else x.movedim(channel, 1)


def _back_from_axis_1(y: Tensor, x: Tensor, channel: int) -> Tensor:
    return y.reshape(x.shape) if channel == len(x.shape) - 1 else y.movedim(1, channel)


def _run_along(sizes: tuple[int, ...], trailing: int, *weights: Tensor | None) -> bool:
    """Whether the weights have exactly these sizes, followed by `trailing` axes of size 1."""
    expected = (*sizes, *[1] * trailing)
    return all(
        w is None or w.shape == expected or tuple(w.shape) == (1,) * (w.ndim - len(expected)) + expected
        for w in weights
    )


def _vector(weight: Tensor | None) -> Tensor | None:
    return weight if weight is None or weight.ndim == 1 else weight.reshape(-1)
