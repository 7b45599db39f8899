"""The family as functions of tensors: name the sets, take their moments, normalize, scale and shift.

The functions default to the epsilon of the Group Normalization paper's snippet, 1e-5, the layers to Keras' 1e-3.
"""

from collections.abc import Sequence

from keras import backend, ops

from keras_norm.arguments import (
    Tensor,
    at_least_float32,
    known_shape,
    resolve_axes,
    resolve_axis,
    resolve_channel_axis,
    resolve_groups,
    resolve_mask,
)
from keras_norm.arithmetic import normalize
from keras_norm.moments import Moments, axes_except, moments, sets_along, sets_of_groups


def group_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    groups: int,
    epsilon: float = 1e-5,
    *,
    axis: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Standardizes each group of channels of each sample.

    For `x` of shape `(N, ..., C)` and `groups = G`

        S_i = {k : k_N = i_N, floor(k_C G / C) = floor(i_C G / C)}
        y_i = gamma_c (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    Args:
        x: input of rank 2 or more, batch first.
        gamma, beta: `(C,)`, or None for 1 and 0.
        groups: number of groups G, which must divide C; -1 for C.
        epsilon: added to the variance.
        axis: the channel axis.
        mask: True where a position counts; of the shape of `x`, or of its leading axes.

    Returns:
        A tensor of the shape and dtype of `x` (float32 for integers); beta at masked positions.

    Raises:
        ValueError: if `groups` does not divide C, or a shape does not fit.

    Example:
        >>> x = np.arange(8.0).reshape(1, 2, 4)
        >>> y = group_norm(x, gamma=None, beta=None, groups=2)
        >>> np.round(y[0, 0], 2)          # channels 0 and 1 share a mean, 2 and 3 another
        array([-1.21, -0.73, -1.21, -0.73])

    Reference: Wu & He, Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494, eq. 7 and figure 3.
    """
    x = ops.convert_to_tensor(x)
    axis = resolve_channel_axis("group_norm", axis, len(x.shape))
    groups = resolve_groups("group_norm", groups, known_shape(x)[axis], axis)
    mask = resolve_mask("group_norm", mask, x)

    # The paper's snippet reshapes x to (N, G, C/G, H, W) and reduces; here the (N, C) sums are reshaped and reduced.
    statistics = moments(x, sets_of_groups(x, groups, axis), mask)
    return _normalize("group_norm", x, gamma, beta, [axis], statistics, epsilon, mask)


def instance_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float = 1e-5,
    *,
    axis: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Standardizes each channel of each sample: `S_i = {k : k_N = i_N, k_C = i_C}`.

    The arguments and what is returned are those of `group_norm`, of which it is the case G = C.

    Example:
        >>> y = instance_norm(np.arange(6.0).reshape(1, 3, 2), gamma=None, beta=None)
        >>> np.round(y[0, :, 0], 2)
        array([-1.22,  0.  ,  1.22])

    Reference: Ulyanov et al., Instance Normalization, 2016, https://arxiv.org/abs/1607.08022, eq. 2.
    """
    return group_norm(x, gamma, beta, groups=-1, epsilon=epsilon, axis=axis, mask=mask)


def layer_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float = 1e-5,
    *,
    axis: int | Sequence[int] | None = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Standardizes over `axis`, apart for each position of all other axes.

        S_i = {k : k_a = i_a on every axis a that is not in `axis`}

    Args:
        x: input of rank 2 or more.
        gamma, beta: of the sizes of `axis`, in the order of the axes; or None.
        epsilon: added to the variance.
        axis: the axis or axes to average over. None is the Group Normalization paper's layer
            normalization, `S_i = {k : k_N = i_N}` with gamma and beta of shape `(C,)`.
        mask: as in `group_norm`.

    Returns, raises: as `group_norm`.

    Example:
        >>> y = layer_norm(np.arange(6.0).reshape(2, 3), gamma=None, beta=None)
        >>> np.round(y[1], 2)
        array([-1.22,  0.  ,  1.22])

    Reference: Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450, eq. 3.
    """
    if axis is None:
        return group_norm(x, gamma, beta, groups=1, epsilon=epsilon, mask=mask)
    x = ops.convert_to_tensor(x)
    axes = resolve_axes("layer_norm", axis, len(x.shape))
    mask = resolve_mask("layer_norm", mask, x)
    statistics = moments(x, sets_along(axes), mask)
    return _normalize("layer_norm", x, gamma, beta, axes, statistics, epsilon, mask)


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float = 1e-5,
    *,
    axis: int = -1,
    mask: Tensor | None = None,
    statistics: Moments | None = None,
) -> Tensor:
    r"""Standardizes each channel over the whole batch: `S_i = {k : k_C = i_C}`.

    Args:
        x, gamma, beta, epsilon, axis, mask: as in `group_norm`.
        statistics: mean and variance to use in place of the batch's own, such as those of inference.

    Returns, raises: as `group_norm`.

    Example:
        >>> y = batch_norm(np.array([[1.0, 5.0], [3.0, 9.0]]), gamma=None, beta=None)
        >>> np.round(y, 2)
        array([[-1., -1.],
               [ 1.,  1.]])

    Reference: Ioffe & Szegedy, Batch Normalization, ICML 2015, https://arxiv.org/abs/1502.03167, algorithm 1.
    """
    x = ops.convert_to_tensor(x)
    axis = resolve_axis("batch_norm", axis, len(x.shape))
    mask = resolve_mask("batch_norm", mask, x)
    if statistics is None:
        statistics = moments(x, sets_along(axes_except(x, axis)), mask)
    return _normalize("batch_norm", x, gamma, beta, [axis], statistics, epsilon, mask)


def _normalize(
    owner: str,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axes: Sequence[int],
    statistics: Moments,
    epsilon: float,
    mask: Tensor | None,
) -> Tensor:
    """The formula in float32 or wider, with gamma and beta along `axes`; the result in the dtype of `x`."""
    dtype = at_least_float32(x.dtype)
    gamma = _along(owner, "gamma", gamma, 1.0, axes, x, dtype)
    beta = _along(owner, "beta", beta, 0.0, axes, x, dtype)
    mean, variance = (ops.cast(ops.convert_to_tensor(moment), dtype) for moment in statistics[:2])
    statistics = statistics._replace(mean=mean, variance=variance)
    x = x if backend.is_float_dtype(x.dtype) else ops.cast(x, dtype)
    return normalize(x, gamma, beta, statistics, epsilon, mask)


def _along(
    owner: str, name: str, value: Tensor | None, default: float, axes: Sequence[int], x: Tensor, dtype: str
) -> Tensor:
    """gamma or beta, shaped to broadcast along `axes` of `x`."""
    if value is None:
        return ops.full([1] * len(x.shape), default, dtype)
    value, shape = ops.convert_to_tensor(value), known_shape(x)
    sizes = tuple(shape[a] for a in axes)
    if known_shape(value) != sizes:
        raise ValueError(
            f"{owner}: {name} must have one value for each position of the axes it scales. "
            f"Received: {name}.shape={known_shape(value)}, sizes={sizes} of axes={tuple(axes)}."
        )
    return ops.cast(ops.reshape(value, [size if a in axes else 1 for a, size in enumerate(shape)]), dtype)
