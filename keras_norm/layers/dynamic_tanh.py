"""Dynamic Tanh: an elementwise replacement for a normalization, without statistics."""

from typing import Any

import keras
from keras import initializers

from keras_norm import arguments
from keras_norm.layers.base import Normalization
from keras_norm.tensors import Tensor, cast, tanh, upcast


@keras.saving.register_keras_serializable("keras_norm")
class DynamicTanh(Normalization):
    r"""Applies a tanh with a trained slope. It replaces Layer Normalization in transformers.

    For inputs of shape `(N, ..., C)`

        y_i = gamma_c tanh(alpha x_i) + beta_c

    with gamma and beta of shape `(C,)` and a scalar alpha. There are no statistics, so each position is independent of
    all others. Training and inference are the same. The layer passes a mask on, but does not use it.

    Args:
        axis: the channel axis.
        alpha_initializer: a number or a Keras initializer; 0.5 by default.
        center, scale, ...: see `Normalization`; there is no epsilon.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> y = DynamicTanh()(np.array([[-100.0, 0.0, 1.0, 100.0]]))
        >>> np.round(y, 2)
        array([[-1.  ,  0.  ,  0.46,  1.  ]], dtype=float32)

    Reference: Zhu et al., Transformers without Normalization, CVPR 2025, https://arxiv.org/abs/2503.10622, section 4.
    """

    _sets_itself = frozenset({"epsilon"})

    def __init__(self, axis: int = -1, alpha_initializer: Any = 0.5, **kwargs: Any) -> None:
        super().__init__(axis, epsilon=1.0, **kwargs)
        if isinstance(alpha_initializer, (int, float)) and not isinstance(alpha_initializer, bool):
            alpha_initializer = initializers.Constant(float(alpha_initializer))
        self.alpha_initializer = arguments.initializer(self._error_prefix, "alpha_initializer", alpha_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.alpha = self._add_float32_weight("alpha", (), self.alpha_initializer)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        h = upcast(x)
        return self._scale_and_shift(tanh(cast(self.alpha, h.dtype) * h))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha_initializer": initializers.serialize(self.alpha_initializer)}
