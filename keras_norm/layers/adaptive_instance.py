"""Adaptive Instance Normalization: gamma and beta are the statistics of a second input."""

from typing import Any

import keras

from keras_norm import arguments
from keras_norm.functional import adaptive_instance_norm
from keras_norm.layers.channel import SecondInput
from keras_norm.tensors import Tensor, cast


@keras.saving.register_keras_serializable("keras_norm")
class AdaptiveInstanceNormalization(SecondInput):
    r"""Gives each channel of each content sample the mean and the standard deviation of a style.

    The content x has the shape `(N, ..., C)`. The style has the same rank and C, and either N samples or one for all.
    Its other sizes may differ.

        S_i = {k : k_N = i_N, k_C = i_C}            T_i: the same set of positions of the style
        y_i = sqrt(var(T_i) + epsilon) (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + mean(T_i)

    There are no weights, and training and inference are the same. Masked positions belong to no set. The output at a
    masked position of the content is mean(T_i). The layer passes on the mask of the content.

    Call it as `layer(content, style)`. `content_mask` and `style_mask` are optional.

    Args:
        axis: the channel axis of both inputs.
        epsilon: a positive number, added to both variances.

    Input shape: `(N, ..., C)` of any rank >= 2, for both inputs. Output shape: that of the content.

    Raises:
        ValueError: when called, if rank or channels of content and style differ, or their numbers of samples (unless
            the style has one).

    Example:
        >>> content, style = np.array([[[1.0], [3.0]]]), np.array([[[10.0], [20.0], [30.0]]])
        >>> y = AdaptiveInstanceNormalization()(content, style)
        >>> np.round(y[0, :, 0], 2)
        array([11.84, 28.16], dtype=float32)

    Reference: Huang & Belongie, Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization, ICCV 2017,
        https://arxiv.org/abs/1703.06868, eq. 8.
    """

    _second_input = "style"

    def __init__(self, axis: int = -1, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(axis, **kwargs)
        self.epsilon = arguments.positive(self._error_prefix, "epsilon", epsilon)

    def build(self, content_shape: Any, style_shape: Any) -> None:  # type: ignore[override]
        self._check_shapes(content_shape, style_shape)

    def call(
        self, content: Tensor, style: Tensor, content_mask: Tensor | None = None, style_mask: Tensor | None = None
    ) -> Tensor:
        self._check_shapes(content.shape, style.shape)
        y = adaptive_instance_norm(
            self._as_computed(content),
            self._as_computed(style),
            self.epsilon,
            axis=self.axis,
            mask=content_mask,
            style_mask=style_mask,
        )
        return cast(y, self.compute_dtype)

    def _check_shapes(self, content_shape: tuple[int | None, ...], style_shape: tuple[int | None, ...]) -> None:
        (axis,) = self._affine_axes(arguments.rank_of(self._error_prefix, content_shape))
        arguments.check_style(self._error_prefix, content_shape, style_shape, axis)

    def compute_output_shape(self, content_shape: Any, style_shape: Any) -> Any:  # type: ignore[override]
        self._check_shapes(content_shape, style_shape)
        return content_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
