"""Instance Normalization: a set is one channel of one sample."""

import keras

from keras_norm.functional import instance_norm
from keras_norm.layers.base import Normalization
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class InstanceNormalization(Normalization):
    r"""Standardizes each channel of each sample.

    For inputs of shape `(N, ..., C)`, position i uses the set

        S_i = {k : k_N = i_N, k_C = i_C}
        y_i = gamma_c (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    with the variance divided by `|S_i|` and gamma, beta of shape `(C,)`. Training and inference are the same. For
    inputs of rank 2 a set is a single position, and the output is beta.

    Args:
        axis, epsilon, center, scale, ...: see `Normalization`.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> y = InstanceNormalization()(np.ones((4, 8, 8, 6)))
        >>> tuple(y.shape)
        (4, 8, 8, 6)

    Reference: Ulyanov et al., Instance Normalization, 2016, https://arxiv.org/abs/1607.08022, eq. 2.
    """

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        return instance_norm(x, self.gamma, self.beta, self.epsilon, axis=self.axis, mask=mask)
