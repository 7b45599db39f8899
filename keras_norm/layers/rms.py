"""RMS Normalization: Layer Normalization without subtracting the mean."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_norm import arguments
from keras_norm.functional import rms_norm
from keras_norm.layers.base import Normalization
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class RMSNormalization(Normalization):
    r"""Divides by the root mean square over the given axes, independently for each index of the other axes.

        S_i = {k : k_a = i_a on every axis a that is not in `axis`}
        y_i = gamma x_i / sqrt(mean(S_i^2) + epsilon)

    The shape of gamma is that of the axes in `axis`. The mean is not subtracted, and there is no beta. Training and
    inference are the same. `set_weights` accepts the weights of `keras.layers.RMSNormalization`. The output at a masked
    position is 0.

    Args:
        axis: the axis or axes to average over.
        epsilon: a positive number, added to the mean square.
        scale, gamma_initializer, ...: see `Normalization`.

    Input shape: any of rank >= 2; the sizes along `axis` must be known. Output shape: the same.

    Example:
        >>> y = RMSNormalization()(np.array([[3.0, 4.0, 0.0, 0.0]]))
        >>> np.round(y, 2)
        array([[1.2, 1.6, 0. , 0. ]], dtype=float32)

    Reference: Zhang & Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019,
        https://arxiv.org/abs/1910.07467, eq. 4.
    """

    _sets_itself = frozenset({"center", "beta_initializer", "beta_regularizer", "beta_constraint"})

    def __init__(self, axis: int | Sequence[int] = -1, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(axis, epsilon, center=False, **kwargs)

    def _check_axis(self, axis: Any) -> int | Sequence[int]:
        return arguments.integer_or_several(self._error_prefix, "axis", axis)

    def _listed_axes(self) -> list[int]:
        return arguments.listed_axes(self.axis)

    def _affine_axes(self, rank: int) -> list[int]:
        return arguments.resolve_axes(self._error_prefix, self.axis, rank)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        return rms_norm(x, self.gamma, self.epsilon, axis=self.axis, mask=mask)
