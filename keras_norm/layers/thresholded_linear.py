"""Thresholded Linear Unit: the activation for Filter Response Normalization."""

from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from keras_norm import arguments
from keras_norm.layers.channel import ChannelLayer
from keras_norm.tensors import Tensor, cast


@keras.saving.register_keras_serializable("keras_norm")
class ThresholdedLinearUnit(ChannelLayer):
    r"""Replaces values below a trained threshold per channel by the threshold.

    For inputs of shape `(N, ..., C)`

        y_i = max(x_i, tau_c)

    with tau of shape `(C,)`. With tau = 0 it is a ReLU. Training and inference are the same. The layer passes a mask
    on, but does not use it.

    Args:
        axis: the channel axis.
        tau_initializer: a Keras initializer; zeros by default.
        tau_regularizer: a Keras regularizer; none by default.
        tau_constraint: a Keras constraint; none by default.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = ThresholdedLinearUnit(tau_initializer=keras.initializers.Constant(-1.0))
        >>> print(np.array(layer(np.array([[-2.0, 0.0, 2.0]]))))
        [[-1.  0.  2.]]

    Reference: Singh & Krishnan, Filter Response Normalization Layer, CVPR 2020,
        https://arxiv.org/abs/1911.09737, section 3.
    """

    def __init__(
        self,
        axis: int = -1,
        tau_initializer: Any = "zeros",
        tau_regularizer: Any = None,
        tau_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, **kwargs)
        self.tau_initializer = arguments.initializer(self._error_prefix, "tau_initializer", tau_initializer)
        self.tau_regularizer = regularizers.get(tau_regularizer)
        self.tau_constraint = constraints.get(tau_constraint)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.tau = self._add_float32_weight(
            "tau",
            self._channel_sizes(input_shape),
            self.tau_initializer,
            regularizer=self.tau_regularizer,
            constraint=self.tau_constraint,
        )

    def call(self, inputs: Tensor) -> Tensor:
        x = self._as_computed(inputs)
        return cast(ops.maximum(x, self._along_channels(self.tau, x)), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "tau_initializer": initializers.serialize(self.tau_initializer),
            "tau_regularizer": regularizers.serialize(self.tau_regularizer),
            "tau_constraint": constraints.serialize(self.tau_constraint),
        }
