"""Global Response Normalization: each channel scaled by its share of the response of its sample."""

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
    r"""Scales each channel of each sample by its norm relative to the other channels, and adds the input.

    For inputs of shape `(N, ..., C)`, position i uses the set `S_i = {k : k_N = i_N, k_C = i_C}` and

        G_i = sqrt(sum_k x_k^2 over k in S_i)
        y_i = gamma_c x_i G_i / (mean of G over the channels of the sample + epsilon) + beta_c + x_i

    with gamma and beta of shape `(C,)`, both zero at the start, where the layer is the identity. Channels compete: a
    strong one is raised, a weak one lowered. The same in training and inference. A masked position belongs to no set,
    and its output is beta.

    Args:
        axis: the channel axis.
        epsilon: added to the mean norm; positive.
        gamma_initializer, beta_initializer: zeros, or what Keras takes for an initializer.
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
        squares = ops.clip(total(ops.square(x), axes_except(x, 0, axis)), 0.0, 3e38)  # beyond float32 they saturate
        is_zero = squares == 0  # the root has no gradient there
        norms = ops.where(is_zero, 0.0, ops.sqrt(ops.where(is_zero, 1.0, squares)))
        share = norms / (total(norms, (axis,)) / norms.shape[axis] + self.epsilon)
        y = x if self.gamma is None else x * (1.0 + self._along_channels(self.gamma, x) * share)
        return y if self.beta is None else y + self._along_channels(self.beta, x)
