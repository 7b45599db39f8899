"""Batch Renormalization: Batch Normalization, corrected towards the moving statistics."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_norm import arguments
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.moments import Moments
from keras_norm.schedules import PiecewiseLinear
from keras_norm.sets import merge, split
from keras_norm.tensors import Tensor, select, upcast

Clip = float | Callable[[Tensor], Tensor]
"""A number, or a function of the training step, such as a Keras learning rate schedule."""


@keras.saving.register_keras_serializable("keras_norm")
class BatchRenormalization(BaseBatchNormalization):
    r"""Standardizes each channel over the whole batch and corrects the result towards the moving statistics.

    For inputs of shape `(N, ..., C)` and `S_i = {k : k_C = i_C}`, let sigma_B = sqrt(var(S_i) + epsilon). Let mu be the
    moving mean and sigma = sqrt(moving variance + epsilon). Training computes

        r = clip(sigma_B / sigma, 1 / r_max, r_max)             no gradient flows through r
        d = clip((mean(S_i) - mu) / sigma, -d_max, d_max)       and d
        y_i = gamma_c (r (x_i - mean(S_i)) / sigma_B + d) + beta_c

    With r_max = 1 and d_max = 0 this is `BatchNormalization`. Where no value is clipped, it equals inference:

        y_i = gamma_c (x_i - mu) / sigma + beta_c

    The moving average is that of sigma, as in the paper. It is stored as `moving_variance` = sigma^2 - epsilon, so the
    weights are those of `BatchNormalization`, plus `step`, the number of training steps so far, which the schedules
    read. To copy the weights of `keras.layers.BatchNormalization(renorm=True)`, use gamma, beta, renorm_mean and
    renorm_stddev^2 - epsilon.

    Args:
        axis, momentum, synchronized, ...: see `BaseBatchNormalization`.
        epsilon, center, scale, ...: see `Normalization`.
        r_max: the largest correction of the scale, at least 1: a number, or a function of the step. The default is the
            paper's schedule: 1 for 5,000 steps, then a linear increase to 3 at step 40,000.
        d_max: the largest correction of the mean in units of sigma, at least 0: a number, or a function of the step.
            The default is the paper's schedule: 0 for 5,000 steps, then a linear increase to 5 at step 25,000.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = BatchRenormalization(r_max=3.0, d_max=5.0)
        >>> y = layer(np.ones((2, 4, 3)), training=True)
        >>> [w.name for w in layer.weights]
        ['gamma', 'beta', 'moving_mean', 'moving_variance', 'step']

    Reference: Ioffe, Batch Renormalization, NeurIPS 2017, https://arxiv.org/abs/1702.03275, algorithm 1.
    """

    def __init__(
        self,
        *args: Any,
        r_max: Clip = PiecewiseLinear([5_000, 40_000], [1.0, 3.0]),  # noqa: B008 (immutable)
        d_max: Clip = PiecewiseLinear([5_000, 25_000], [0.0, 5.0]),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.r_max = self._check_clip("r_max", r_max, least=1)
        self.d_max = self._check_clip("d_max", d_max, least=0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.step = self.add_weight(
            name="step", shape=(), initializer="zeros", dtype="int32", trainable=False, aggregation="only_first_replica"
        )

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        x = upcast(x)
        if not self._uses_the_batch(training):
            return self._by_moving_statistics(x, self.gamma, self.beta)
        mask = arguments.resolve_mask(self._error_prefix, mask, x)
        groups = self._sets(x).groups
        before = [ops.copy(moment) for moment in self._moving_moments(x)[:2]]  # on torch they are views
        y, batch = self._standardize(x, None, None, mask)
        r, d = self._corrections(batch, *before)
        return self._scale_and_shift(select(merge(split(y, groups) * r + d, x, groups), mask))

    def _corrections(self, batch: Moments, moving_mean: Tensor, moving_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Returns r and d of each set and increments `step`."""
        r_max, d_max = self._clip_now(self.r_max, batch.mean), self._clip_now(self.d_max, batch.mean)
        self.step.assign(self.step + 1)
        sigma_batch, sigma = (ops.sqrt(v + self.epsilon) for v in (batch.variance, moving_variance))
        r = ops.clip(sigma_batch / sigma, 1.0 / r_max, r_max)
        d = ops.clip((batch.mean - moving_mean) / sigma, -d_max, d_max)
        return ops.stop_gradient(r), ops.stop_gradient(d)

    def _ema_of_variance(self, moving: Tensor, batch: Tensor) -> Tensor:
        sigma = self._ema(ops.sqrt(moving + self.epsilon), ops.sqrt(batch + self.epsilon))
        return ops.relu(ops.square(sigma) - self.epsilon)

    def _clip_now(self, clip: Clip, like: Tensor) -> Tensor:
        """The value of `clip` at this step, in the dtype of `like`."""
        return ops.cast(clip(self.step), like.dtype) if callable(clip) else ops.convert_to_tensor(clip, like.dtype)

    def _check_clip(self, name: str, clip: Any, least: float) -> Clip:
        """Checks that `clip` is a number of at least `least` or a function, which may be given as a config."""
        if isinstance(clip, dict):
            return keras.saving.deserialize_keras_object(clip)
        if callable(clip):
            return clip
        if arguments.number(self._error_prefix, name, clip) < least:
            raise ValueError(f"{self._error_prefix}: {name} must be at least {least}. Received: {name}={clip}.")
        return float(clip)

    def get_config(self) -> dict[str, Any]:
        clips = {"r_max": self.r_max, "d_max": self.d_max}
        return {
            **super().get_config(),
            **{k: keras.saving.serialize_keras_object(v) if callable(v) else v for k, v in clips.items()},
        }
