"""Global Response Normalization: scales each channel by its norm relative to the sample's other channels."""

from typing import Any

import keras
from keras import ops

from keras_norm import arguments
from keras_norm.layers.base import Normalization
from keras_norm.moments import total
from keras_norm.sets import axes_except
from keras_norm.tensors import Tensor, select, upcast


@keras.saving.register_keras_serializable("keras_norm")
class GlobalResponseNormalization(Normalization):
    r"""Scales each channel of each sample by its norm relative to the other channels and adds the input.

    For inputs of shape `(N, ..., C)`, position i uses the set `S_i = {k : k_N = i_N, k_C = i_C}` and

        G_i = sqrt(sum_k x_k^2 over k in S_i)
        y_i = gamma_c x_i G_i / (mean of G over the channels of the sample + epsilon) + beta_c + x_i

    with gamma and beta of shape `(C,)`. Both start at zero, so the layer starts as the identity. Channels compete:
    strong channels are amplified, weak channels are attenuated. Training and inference are the same. A masked position
    belongs to no set, and its output is beta.

    Args:
        axis: the channel axis.
        epsilon: a positive number, added to the mean norm.
        gamma_initializer, beta_initializer: Keras initializers; zeros by default.
        center, scale, ...: see `Normalization`.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = GlobalResponseNormalization(gamma_initializer="ones")
        >>> x = np.array([[[3.0, 0.0], [4.0, 5.0]]])      # both channels have the norm 5
        >>> print(np.round(layer(x)))
        [[[ 6.  0.]
          [ 8. 10.]]]

    Reference: Woo et al., ConvNeXt V2, CVPR 2023, https://arxiv.org/abs/2301.00808, eq. 1 to 3 and algorithm 1.
    """

    def __init__(
        self, axis: int = -1, epsilon: float = 1e-6, *, gamma_initializer: Any = "zeros", **kwargs: Any
    ) -> None:
        super().__init__(axis, epsilon, gamma_initializer=gamma_initializer, **kwargs)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        x = upcast(select(x, arguments.resolve_mask(self._error_prefix, mask, x)))
        (axis,) = self._affine_axes(len(x.shape))
        squares = ops.clip(total(ops.square(x), axes_except(x, 0, axis)), 0.0, 3e38)  # saturate beyond float32
        is_zero = squares == 0  # where the square root has no gradient
        norms = ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, squares)))
        share = norms / (total(norms, (axis,)) / norms.shape[axis] + self.epsilon)
        y = x if self.gamma is None else x * (1.0 + self._along_channels(self.gamma, x) * share)
        return y if self.beta is None else y + self._along_channels(self.beta, x)
