"""The normalizations as functions of tensors: define the sets, standardize over them, scale and shift.

The default epsilon is that of the paper, such as 1e-5 for Group Normalization. The layers use Keras' default.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

from keras import ops

from keras_norm import sets
from keras_norm.arguments import (
    check_style,
    resolve_axes,
    resolve_axis,
    resolve_channel_axis,
    resolve_groups,
    resolve_mask,
    resolve_weight,
)
from keras_norm.kernels import moments, normalize, standardize
from keras_norm.moments import Moments
from keras_norm.sets import Sets
from keras_norm.tensors import Tensor, Weight, at_least_float32, cast, dtype_name, known_shape, select


def group_norm(
    x: Tensor, gamma: Weight, beta: Weight, groups: int, epsilon: float = 1e-5, *, axis: int = -1, mask: Any = None
) -> Tensor:
    r"""Standardizes each group of channels of each sample.

    For `x` of shape `(N, ..., C)` and `groups = G`

        S_i = {k : k_N = i_N, floor(k_C G / C) = floor(i_C G / C)}
        y_i = gamma_c (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    Args:
        x: input of rank 2 or more, batch first.
        gamma, beta: `(C,)`, or None for 1 and 0.
        groups: the number of groups G, which must divide C; -1 for C.
        epsilon: added to the variance.
        axis: the channel axis.
        mask: True at valid positions; in the shape of `x` or of its leading axes.

    Returns:
        A tensor of the shape and dtype of `x` (float32 for integers); beta at masked positions.

    Raises:
        ValueError: if `groups` does not divide C, or a shape does not fit.

    Example:
        >>> x = np.arange(8.0).reshape(1, 2, 4)
        >>> y = group_norm(x, gamma=None, beta=None, groups=2)
        >>> np.round(y[0, 0], 2)          # channels 0 and 1 share a mean; so do 2 and 3
        array([-1.21, -0.73, -1.21, -0.73])

    Reference: Wu & He, Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494, eq. 7 and figure 3.
    """
    x = _floating(x)
    axis = resolve_channel_axis("group_norm", axis, len(x.shape))
    groups = resolve_groups("group_norm", groups, known_shape(x)[axis], axis)
    return _standardize("group_norm", x, sets.group(x, axis, groups), [axis], gamma, beta, epsilon, mask)


def instance_norm(
    x: Tensor, gamma: Weight, beta: Weight, epsilon: float = 1e-5, *, axis: int = -1, mask: Tensor | None = None
) -> Tensor:
    r"""Standardizes each channel of each sample: `S_i = {k : k_N = i_N, k_C = i_C}`.

    This is `group_norm` with G = C. Arguments and return value are the same.

    Example:
        >>> y = instance_norm(np.arange(6.0).reshape(1, 3, 2), gamma=None, beta=None)
        >>> np.round(y[0, :, 0], 2)
        array([-1.22,  0.  ,  1.22])

    Reference: Ulyanov et al., Instance Normalization, 2016, https://arxiv.org/abs/1607.08022, eq. 2.
    """
    return group_norm(x, gamma, beta, groups=-1, epsilon=epsilon, axis=axis, mask=mask)


def layer_norm(
    x: Tensor,
    gamma: Weight,
    beta: Weight,
    epsilon: float = 1e-5,
    *,
    axis: int | Sequence[int] | None = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Standardizes over `axis`, independently for each index of the other axes.

        S_i = {k : k_a = i_a on every axis a that is not in `axis`}

    Args:
        x: input of rank 2 or more.
        gamma, beta: in the shape of the axes in `axis`, in increasing order; or None.
        epsilon: added to the variance.
        axis: the axis or axes to average over. None is the layer normalization of the Group Normalization paper:
            `S_i = {k : k_N = i_N}`, with gamma and beta of shape `(C,)`.
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
    x = _floating(x)
    axes = resolve_axes("layer_norm", axis, len(x.shape))
    return _standardize("layer_norm", x, sets.along(axes), axes, gamma, beta, epsilon, mask)


def batch_norm(
    x: Tensor,
    gamma: Weight,
    beta: Weight,
    epsilon: float = 1e-5,
    *,
    axis: int = -1,
    mask: Tensor | None = None,
    statistics: Moments | None = None,
) -> Tensor:
    r"""Standardizes each channel over the whole batch: `S_i = {k : k_C = i_C}`.

    Args:
        x, gamma, beta, epsilon, axis, mask: as in `group_norm`.
        statistics: constants that replace the mean and the variance of the batch, such as moving statistics. They
            must broadcast against `x`.

    Returns, raises: as `group_norm`.

    Example:
        >>> y = batch_norm(np.array([[1.0, 5.0], [3.0, 9.0]]), gamma=None, beta=None)
        >>> np.round(y, 2)
        array([[-1., -1.],
               [ 1.,  1.]])

    Reference: Ioffe & Szegedy, Batch Normalization, ICML 2015, https://arxiv.org/abs/1502.03167, algorithm 1.
    """
    x = _floating(x)
    axis = resolve_axis("batch_norm", axis, len(x.shape))
    if statistics is None:
        return _standardize("batch_norm", x, sets.batch(x, axis), [axis], gamma, beta, epsilon, mask)
    mask = resolve_mask("batch_norm", mask, x)
    gamma, beta = _weights("batch_norm", gamma, beta, [axis], x)
    mean, variance = (cast(ops.convert_to_tensor(m), at_least_float32(x.dtype)) for m in statistics[:2])
    y = normalize(select(x, mask), mean, variance, gamma, beta, epsilon)
    return y if mask is None else ops.where(mask, y, 0.0 if beta is None else cast(beta, x.dtype))


def rms_norm(
    x: Tensor,
    gamma: Weight,
    epsilon: float = 1e-6,
    *,
    axis: int | Sequence[int] = -1,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Divides by the root mean square over `axis`, independently for each index of the other axes.

        S_i = {k : k_a = i_a on every axis a that is not in `axis`}
        y_i = gamma x_i / sqrt(mean(S_i^2) + epsilon)

    The sets are those of `layer_norm`. The mean is not subtracted.

    Args:
        x: input of rank 2 or more.
        gamma: in the shape of the axes in `axis`, in increasing order; or None.
        epsilon: added to the mean square.
        axis: the axis or axes to average over.
        mask: as in `group_norm`.

    Returns, raises: as `group_norm`; 0 at masked positions.

    Example:
        >>> y = rms_norm(np.array([[3.0, 4.0, 0.0, 0.0]]), gamma=None)
        >>> np.round(y, 2)
        array([[1.2, 1.6, 0. , 0. ]])

    Reference: Zhang & Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019,
        https://arxiv.org/abs/1910.07467, eq. 4.
    """
    x = _floating(x)
    axes = resolve_axes("rms_norm", axis, len(x.shape))
    return _standardize("rms_norm", x, sets.along(axes), axes, gamma, None, epsilon, mask, centered=False)


def filter_response_norm(
    x: Tensor, gamma: Weight, beta: Weight, epsilon: Any = 1e-6, *, axis: int = -1, mask: Tensor | None = None
) -> Tensor:
    r"""Divides each channel of each sample by its root mean square.

        S_i = {k : k_N = i_N, k_C = i_C}
        y_i = gamma_c x_i / sqrt(mean(S_i^2) + epsilon) + beta_c

    The sets are those of `instance_norm`. The mean is not subtracted.

    Args:
        x, gamma, beta, axis, mask: as in `group_norm`.
        epsilon: added to the mean square: a number, or a value per channel of shape `(C,)`.

    Returns, raises: as `group_norm`.

    Example:
        >>> y = filter_response_norm(np.array([[[3.0], [4.0], [0.0], [0.0]]]), gamma=None, beta=None)
        >>> np.round(y[0, :, 0], 2)
        array([1.2, 1.6, 0. , 0. ])

    Reference: Singh & Krishnan, Filter Response Normalization Layer, CVPR 2020,
        https://arxiv.org/abs/1911.09737, section 3.
    """
    owner, x = "filter_response_norm", _floating(x)
    axis = resolve_channel_axis(owner, axis, len(x.shape))
    if not isinstance(epsilon, Real):
        epsilon = resolve_weight(owner, "epsilon", epsilon, [axis], x)
    return _standardize(owner, x, sets.instance(x, axis), [axis], gamma, beta, epsilon, mask, centered=False)


def adaptive_instance_norm(
    content: Tensor,
    style: Tensor,
    epsilon: float = 1e-5,
    *,
    axis: int = -1,
    mask: Tensor | None = None,
    style_mask: Tensor | None = None,
) -> Tensor:
    r"""Gives each channel of each sample of the content the mean and the standard deviation of the style.

    For `content` x of shape `(N, ..., C)` and `style` s of the same rank, N and C

        S_i = {k : k_N = i_N, k_C = i_C}            T_i: the same set of positions of the style
        y_i = sqrt(var(T_i) + epsilon) (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + mean(T_i)

    Args:
        content: input of rank 2 or more, batch first.
        style: as `content`; other sizes may differ. A single sample is used for all content samples.
        epsilon: added to both variances.
        axis: the channel axis of both inputs.
        mask: True at valid positions of the content, as in `group_norm`.
        style_mask: True at valid positions of the style.

    Returns:
        A tensor of the shape and dtype of `content`; the mean of the style at masked positions.

    Raises:
        ValueError: if a shape does not fit.

    Example:
        >>> content, style = np.array([[[1.0], [3.0]]]), np.array([[[10.0], [20.0], [30.0]]])
        >>> y = adaptive_instance_norm(content, style)
        >>> np.round(y[0, :, 0], 2)
        array([11.84, 28.16])

    Reference: Huang & Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, ICCV 2017,
        https://arxiv.org/abs/1703.06868, eq. 8.
    """
    owner, x, style = "adaptive_instance_norm", _floating(content), _floating(style)
    axis = resolve_channel_axis(owner, axis, len(x.shape))
    check_style(owner, x.shape, style.shape, axis)
    mean, variance, _ = moments(style, sets.instance(style, axis), resolve_mask(owner, style_mask, style))
    dtype = at_least_float32(x.dtype)
    gamma, beta = cast(ops.sqrt(variance + epsilon), dtype), cast(mean, dtype)
    return standardize(x, sets.instance(x, axis), gamma, beta, epsilon, resolve_mask(owner, mask, x))[0]


def _standardize(
    owner: str,
    x: Tensor,
    of: Sets,
    axes: list[int],
    gamma: Weight,
    beta: Weight,
    epsilon: Any,
    mask: Tensor | None,
    centered: bool = True,
) -> Tensor:
    """Applies the formula over the sets `of`, with gamma and beta along `axes`."""
    mask = resolve_mask(owner, mask, x)
    return standardize(x, of, *_weights(owner, gamma, beta, axes, x), epsilon, mask, centered=centered)[0]


def _weights(owner: str, gamma: Weight, beta: Weight, axes: list[int], x: Tensor) -> tuple[Weight, Weight]:
    """Reshapes gamma and beta along `axes` to broadcast against `x`."""
    return resolve_weight(owner, "gamma", gamma, axes, x), resolve_weight(owner, "beta", beta, axes, x)


def _floating(x: Tensor) -> Tensor:
    """`x` as a floating-point tensor."""
    x = ops.convert_to_tensor(x)
    return x if "float" in dtype_name(x.dtype) else ops.cast(x, "float32")
