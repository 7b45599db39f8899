"""Ghost Batch Normalization: a set is one channel of a run of neighboring samples."""

from typing import Any

import keras
from keras import ops

from keras_norm import arguments, kernels, sets
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.layers.channel import ChannelLayer
from keras_norm.moments import Moments
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class GhostBatchNormalization(BaseBatchNormalization):
    r"""Standardizes each channel over runs of `ghost_size` neighboring samples of the batch.

    For inputs of shape `(N, ..., C)` and `ghost_size = g`, position i uses the set

        S_i = {k : floor(k_N / g) = floor(i_N / g), k_C = i_C}
        y_i = gamma_c (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    with the variance divided by `|S_i|`. A large batch is treated as several small ones, whose noise regularizes. If g
    does not divide N, the last run is smaller. The moving statistics follow the averages of mean and variance over all
    runs. In inference, and when `trainable` is False, they replace mean and variance, and a mask has no effect. The
    weights are those of `BatchNormalization`. For g >= N both layers are the same.

    With several replicas, each replica splits its own batch into runs. The moving statistics average over all runs.

    Args:
        ghost_size: the number of samples per run.
        axis: the channel axis, which must not be 0.
        momentum, moving_mean_initializer, moving_variance_initializer: see `BaseBatchNormalization`.
        epsilon, center, scale, ...: see `Normalization`.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> layer = GhostBatchNormalization(ghost_size=2)
        >>> y = layer(np.array([[1.0], [3.0], [10.0], [30.0], [7.0]]), training=True)
        >>> np.round(y[:, 0])
        array([-1.,  1., -1.,  1.,  0.], dtype=float32)

    Reference: Hoffer et al., Train longer, generalize better, NeurIPS 2017, https://arxiv.org/abs/1705.08741,
        algorithm 1.
    """

    _sets_itself = frozenset({"synchronized"})
    _affine_axes = ChannelLayer._affine_axes  # sets separate samples, so axis 0 cannot be the channel axis

    def __init__(self, ghost_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, synchronized=False, **kwargs)
        self.ghost_size = arguments.positive_integer(self._error_prefix, "ghost_size", ghost_size)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        if not self._uses_the_batch(training):
            return self._by_moving_statistics(x, self.gamma, self.beta)
        mask = arguments.resolve_mask(self._error_prefix, mask, x)
        samples = ops.shape(x)[0]
        whole = samples - samples % self.ghost_size
        sizes: list[tuple[Any, int]] = [(slice(whole), self.ghost_size), (slice(whole, None), -1)]
        if isinstance(samples, int) and whole == samples > 0:
            sizes.pop()
        elif isinstance(samples, int) and whole == 0:
            sizes.pop(0)
        parts = [self._in_runs(x[part], None if mask is None else mask[part], size) for part, size in sizes]
        self._update_moving_statistics(_concatenate([batch for _, batch in parts]), self._sets(x))
        return ops.concatenate([y for y, _ in parts]) if len(parts) > 1 else parts[0][0]

    def _in_runs(self, x: Tensor, mask: Tensor | None, size: int) -> tuple[Tensor, Moments]:
        """Applies instance normalization to runs of `size` samples, or to one run of all samples (-1)."""
        shape = ops.shape(x)
        shape_of_runs = (-1 if size > 0 else 1, size, *shape[1:])
        runs, mask = (None if t is None else ops.reshape(t, shape_of_runs) for t in (x, mask))
        (axis,) = self._affine_axes(len(x.shape))
        of = sets.instance(runs, axis + 1)
        weights = (self.gamma, self.beta)
        gamma, beta = (arguments.resolve_weight(self._error_prefix, "weights", w, [axis + 1], runs) for w in weights)
        y, batch = kernels.standardize(runs, of, gamma, beta, self.epsilon, mask, with_moments=True)
        return ops.reshape(y, shape), batch

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ghost_size": self.ghost_size}


def _concatenate(parts: list[Moments]) -> Moments:
    """The moments of all runs, one row per run."""
    if len(parts) == 1:
        return parts[0]
    rows = [[moment * ops.ones_like(part.mean) for moment in part] for part in parts]
    return Moments(*(ops.concatenate(moments) for moments in zip(*rows, strict=True)))
