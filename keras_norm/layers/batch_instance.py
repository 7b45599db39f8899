"""Batch-Instance Normalization: a trained mixture of Batch and Instance Normalization per channel."""

from typing import Any

import keras
from keras import initializers, ops

from keras_norm import arguments
from keras_norm.functional import instance_norm
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.layers.channel import ChannelLayer
from keras_norm.tensors import Tensor, upcast


@keras.saving.register_keras_serializable("keras_norm")
class UnitInterval(keras.constraints.Constraint):
    """Keeps each value of a weight in [0, 1].

    Example:
        >>> print(np.array(UnitInterval()(np.array([-0.5, 0.5, 1.5]))))
        [0.  0.5 1. ]
    """

    def __call__(self, w: Tensor) -> Tensor:
        """`w` clipped to [0, 1]."""
        return ops.clip(w, 0.0, 1.0)


@keras.saving.register_keras_serializable("keras_norm")
class BatchInstanceNormalization(BaseBatchNormalization):
    r"""Mixes Batch and Instance Normalization by a trained gate per channel.

    For inputs of shape `(N, ..., C)`, let x_B be the inputs standardized over `S_i = {k : k_C = i_C}`, as in
    `BatchNormalization` (in inference by the moving statistics). Let x_I be the inputs standardized over
    `S_i = {k : k_N = i_N, k_C = i_C}`, as in `InstanceNormalization`. Then

        y_i = gamma_c (rho_c x_B + (1 - rho_c) x_I) + beta_c

    with gamma, beta and the gate rho of shape `(C,)`. rho starts at 1, and a constraint keeps it in [0, 1]. Near 1 a
    channel keeps the differences in style between samples; near 0 it removes them.

    The paper trains rho with ten times the learning rate of the other weights. A Keras optimizer has one learning rate
    for all weights, and scaling the gradient has no effect on optimizers such as Adam, so the layer does neither. In a
    custom training loop, pass the weights named "rho" to a second optimizer with ten times the learning rate.

    Args:
        axis, momentum, synchronized, ...: see `BaseBatchNormalization`.
        epsilon, center, scale, ...: see `Normalization`.
        rho_initializer: a Keras initializer; ones by default.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = BatchInstanceNormalization()
        >>> y = layer(np.ones((4, 8, 8, 6)), training=True)
        >>> tuple(layer.rho.shape)
        (6,)

    Reference: Nam & Kim, Batch-Instance Normalization, NeurIPS 2018, https://arxiv.org/abs/1805.07925, eq. 3 and 4.
    """

    _affine_axes = ChannelLayer._affine_axes  # sets separate samples, so axis 0 cannot be the channel axis

    def __init__(self, *args: Any, rho_initializer: Any = "ones", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rho_initializer = arguments.initializer(self._error_prefix, "rho_initializer", rho_initializer)
        self.rho: Any = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        shape = (input_shape[self.axis],)
        self.rho = self._add_float32_weight("rho", shape, self.rho_initializer, constraint=UnitInterval())

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        x = upcast(x)
        gamma = 1.0 if self.gamma is None else self.gamma
        of_batch, of_instance = gamma * self.rho, gamma * (1.0 - self.rho)
        if self._uses_the_batch(training):
            x_b, _ = self._standardize(x, of_batch, self.beta, mask)
        else:
            x_b = self._by_moving_statistics(x, of_batch, self.beta)
        return x_b + instance_norm(x, of_instance, None, self.epsilon, axis=self.axis, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rho_initializer": initializers.serialize(self.rho_initializer)}
