"""Dynamic Tanh: an activation that takes the place of a normalization, without sets."""

from typing import Any

import keras
from keras import initializers

from keras_norm import arguments
from keras_norm.layers.base import Normalization
from keras_norm.tensors import Tensor, cast, tanh, upcast


@keras.saving.register_keras_serializable("keras_norm")
class DynamicTanh(Normalization):
    r"""Squashes the input by a tanh of trained slope, in place of Layer Normalization in a transformer.

    For inputs of shape `(N, ..., C)`

        y_i = gamma_c tanh(alpha x_i) + beta_c

    with gamma and beta of shape `(C,)` and a single number alpha. There are no statistics: no position depends on
    another. The same in training and inference; a mask is passed on and changes nothing.

    Args:
        axis: the channel axis.
        alpha_initializer: 0.5, or what Keras takes for an initializer.
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
