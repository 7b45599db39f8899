"""Batch Normalization: a set is one channel of the whole batch."""

import keras

from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class BatchNormalization(BaseBatchNormalization):
    r"""Standardizes each channel over the whole batch.

    For inputs of shape `(N, ..., C)`, position i uses the set

        S_i = {k : k_C = i_C}
        y_i = gamma_c (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    with the variance divided by `|S_i|`, also in the moving variance. gamma, beta, moving mean and moving variance have
    the shape `(C,)`. In inference, and when `trainable` is False, the moving statistics replace mean and variance, and
    a mask has no effect.

    Args:
        axis, momentum, synchronized, ...: see `BaseBatchNormalization`.
        epsilon, center, scale, ...: see `Normalization`.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = BatchNormalization(momentum=0.9)
        >>> y = layer(np.full((2, 4, 3), 5.0), training=True)
        >>> np.round(layer.moving_mean, 2)
        array([0.5, 0.5, 0.5], dtype=float32)

    Reference: Ioffe & Szegedy, Batch Normalization, ICML 2015, https://arxiv.org/abs/1502.03167, algorithms 1 and 2.
    """

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        if not self._uses_the_batch(training):
            return self._by_moving_statistics(x, self.gamma, self.beta)
        return self._standardize(x, self.gamma, self.beta, mask)[0]
