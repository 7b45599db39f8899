"""Switchable Normalization: a trained mixture of instance, layer and batch statistics."""

from typing import Any

import keras
from keras import initializers, ops

from keras_norm import arguments, kernels, sets
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.layers.channel import ChannelLayer
from keras_norm.sets import axes_except, merge, split
from keras_norm.tensors import Tensor, at_least_float32, cast, select, upcast


@keras.saving.register_keras_serializable("keras_norm")
class SwitchableNormalization(BaseBatchNormalization):
    r"""Standardizes by a trained mixture of instance, layer and batch statistics.

    For inputs of shape `(N, ..., C)`, position i has the sets of instance, layer and batch normalization,

        S_i^1 = {k : k_N = i_N, k_C = i_C}        S_i^2 = {k : k_N = i_N}        S_i^3 = {k : k_C = i_C}
        mean_i = sum_k w_k mean(S_i^k)            variance_i = sum_k v_k var(S_i^k)
        y_i = gamma_c (x_i - mean_i) / sqrt(variance_i + epsilon) + beta_c

    where w is the softmax of the three `mean_logits` and v is the softmax of the three `variance_logits`. gamma, beta,
    moving mean and moving variance have the shape `(C,)`. In inference, and when `trainable` is False, the moving
    statistics replace the batch statistics; instance and layer statistics are still computed from the input.

    Args:
        axis: the channel axis, which must not be 0.
        momentum, synchronized, ...: see `BaseBatchNormalization`.
        epsilon, center, scale, ...: see `Normalization`.
        logits_initializer: a Keras initializer for both triples of logits; ones by default.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = SwitchableNormalization()
        >>> y = layer(np.ones((4, 8, 8, 6)), training=True)
        >>> tuple(layer.mean_logits.shape)
        (3,)

    Reference: Luo et al., Differentiable Learning-to-Normalize via Switchable Normalization, ICLR 2019,
        https://arxiv.org/abs/1806.10779, eq. 3 to 5.
    """

    _affine_axes = ChannelLayer._affine_axes  # sets separate samples, so axis 0 cannot be the channel axis

    def __init__(self, *args: Any, logits_initializer: Any = "ones", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logits_initializer = arguments.initializer(self._error_prefix, "logits_initializer", logits_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.mean_logits = self._add_float32_weight("mean_logits", (3,), self.logits_initializer)
        self.variance_logits = self._add_float32_weight("variance_logits", (3,), self.logits_initializer)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        mask = arguments.resolve_mask(self._error_prefix, mask, x)
        (axis,) = self._affine_axes(len(x.shape))
        if self._uses_the_batch(training):
            of = self._sets(x)
            batch = kernels.moments(x, of, mask)
            self._update_moving_statistics(batch, of)
        else:
            of, batch = sets.batch(x, axis), self._moving_moments(x)
        within = (sets.instance(x, axis), sets.along(axes_except(x, 0)))
        # On JAX, groups of replicas are runs of samples, so x and its moments are split along the batch.
        instance, layer = (
            [split(moment, of.groups) for moment in kernels.moments(x, each, mask)[:2]] for each in within
        )
        w, v = (
            cast(ops.softmax(ops.convert_to_tensor(logits)), at_least_float32(x.dtype))
            for logits in (self.mean_logits, self.variance_logits)
        )
        # The weights w sum to 1 only up to rounding. With differences, the mean of a constant input is exact.
        mean = batch.mean + w[0] * (instance[0] - batch.mean) + w[1] * (layer[0] - batch.mean)
        variance = v[0] * instance[1] + v[1] * layer[1] + v[2] * batch.variance
        h = (split(select(upcast(x), mask), of.groups) - mean) * ops.rsqrt(variance + self.epsilon)
        return self._scale_and_shift(select(merge(h, x, of.groups), mask))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "logits_initializer": initializers.serialize(self.logits_initializer)}
