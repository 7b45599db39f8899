"""Mean-only Batch Normalization: subtracts the mean and keeps the variance, for use with Weight Normalization."""

from typing import Any

import keras

from keras_norm import arguments, kernels
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.sets import merge
from keras_norm.tensors import Tensor, upcast


@keras.saving.register_keras_serializable("keras_norm")
class MeanOnlyBatchNormalization(BaseBatchNormalization):
    r"""Subtracts each channel's batch mean; leaves the variance unchanged.

    For inputs of shape `(N, ..., C)`, position i uses the set

        S_i = {k : k_C = i_C}
        y_i = x_i - mean(S_i) + beta_c

    Use it after a layer wrapped in `WeightNormalization`, whose g sets the scale. That layer needs no bias. In
    inference, and when `trainable` is False, the moving mean replaces the mean, and a mask has no effect. The weights
    are those of `BatchNormalization(scale=False)`, including the moving variance, so weights can be copied both ways.

    Args:
        axis, momentum, synchronized, ...: see `BaseBatchNormalization`; there are no epsilon and no gamma.
        center, beta_initializer, beta_regularizer, beta_constraint: see `Normalization`.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = MeanOnlyBatchNormalization()
        >>> y = layer(np.array([[1.0, 50.0], [3.0, 90.0]]), training=True)
        >>> np.round(y)
        array([[ -1., -20.],
               [  1.,  20.]], dtype=float32)

    Reference: Salimans & Kingma, Weight Normalization, NeurIPS 2016, https://arxiv.org/abs/1602.07868, section 4.
    """

    _sets_itself = frozenset({"epsilon", "scale", "gamma_initializer", "gamma_regularizer", "gamma_constraint"})

    def __init__(self, axis: int = -1, momentum: float = 0.99, center: bool = True, **kwargs: Any) -> None:
        super().__init__(axis, momentum, epsilon=1.0, center=center, scale=False, **kwargs)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        x = upcast(x)
        if self._uses_the_batch(training):
            of, mask = self._sets(x), arguments.resolve_mask(self._error_prefix, mask, x)
            batch, y = kernels.moments_and_deviations(x, of, mask)
            y = merge(y, x, of.groups)
            self._update_moving_statistics(batch, of)
        else:
            y = x - self._along_channels(self.moving_mean, x)
        return self._scale_and_shift(y)
