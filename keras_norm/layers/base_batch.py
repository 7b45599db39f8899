"""The base class of layers with moving statistics, whose sets extend over the batch."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import initializers, ops

from keras_norm import arguments, kernels
from keras_norm.functional import batch_norm
from keras_norm.layers.base import Normalization
from keras_norm.moments import Moments, at_least_one
from keras_norm.sets import Sets
from keras_norm.tensors import Tensor, cast


class BaseBatchNormalization(Normalization):
    """Abstract base class of layers whose sets extend over the batch.

    Training uses the statistics of the batch and updates the moving statistics:

        moving = momentum moving + (1 - momentum) batch

    Inference uses the moving statistics. A layer with `trainable = False` runs in inference mode, as in Keras. An empty
    batch does not change the moving statistics; neither does a channel that is masked everywhere.

    Replicas are those of a `tf.distribute` strategy, or the ranks of `torch.distributed`, where every rank must take
    each training step. By default, statistics are those of the per-replica batch. The moving statistics follow their
    mean over all replicas with at least one valid position, and are the same on every replica.

    With `synchronized=True`, statistics are those of the global batch. Each step takes two collectives, one of sums and
    one of squared deviations, and is exact for shards of unequal size. With `synchronized=k`, statistics are those of
    groups of k neighboring replicas, and the moving statistics follow the mean over the groups. k must divide the
    number of replicas, unless there is only one.

    On JAX under `keras.distribution` a batch is one array on all devices. Statistics are those of the global batch,
    with `synchronized` True or False. With `synchronized=k`, a group holds the samples of k neighboring devices.

    Args:
        axis: the channel axis.
        momentum: the weight of the old value in each update of the moving statistics, in [0, 1].
        epsilon, center, scale, ...: see `Normalization`.
        moving_mean_initializer, moving_variance_initializer: Keras initializers; zeros and ones by default.
        synchronized: True for the statistics of the global batch; k for those of groups of k replicas.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        *args: Any,
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        synchronized: bool | int = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, epsilon, *args, **kwargs)
        self.momentum = arguments.fraction(self._error_prefix, "momentum", momentum)
        self.moving_mean_initializer, self.moving_variance_initializer = (
            arguments.initializer(self._error_prefix, f"moving_{name}_initializer", value)
            for name, value in (("mean", moving_mean_initializer), ("variance", moving_variance_initializer))
        )
        self.synchronized = arguments.boolean_or_count(self._error_prefix, "synchronized", synchronized)
        self.moving_mean: Any = None
        self.moving_variance: Any = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        shape = (input_shape[self.axis],)
        self.moving_mean = self._add_moving_weight("moving_mean", shape, self.moving_mean_initializer)
        self.moving_variance = self._add_moving_weight("moving_variance", shape, self.moving_variance_initializer)

    def rematerialized_call(
        self, layer_call: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Callable[..., Tensor]:
        return layer_call  # a second call would update the moving statistics twice

    def _affine_axes(self, rank: int) -> list[int]:
        return [arguments.resolve_axis(self._error_prefix, self.axis, rank)]

    def _uses_the_batch(self, training: bool | None) -> bool:
        """Whether to use the statistics of the batch instead of the moving statistics."""
        return bool(training and self.trainable)

    def _standardize(
        self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Moments]:
        """Applies the formula with batch statistics and updates the moving ones. Returns output and statistics."""
        mask = arguments.resolve_mask(self._error_prefix, mask, x)
        gamma, beta = self._along_channels(gamma, x), self._along_channels(beta, x)
        of = self._sets(x)
        y, batch = kernels.standardize(x, of, gamma, beta, self.epsilon, mask)
        self._update_moving_statistics(batch, of)
        return y, batch

    def _sets(self, x: Tensor) -> Sets:
        """One set per channel, over the batch that the replicas share."""
        (axis,) = self._affine_axes(len(x.shape))
        return kernels.batch_of_replicas(self._error_prefix, x, axis, self.synchronized)

    def _by_moving_statistics(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """Applies the formula with the moving statistics."""
        return batch_norm(x, gamma, beta, self.epsilon, axis=self.axis, statistics=self._moving_moments(x))

    def _moving_moments(self, x: Tensor) -> Moments:
        """The moving statistics, in a shape that broadcasts against `x`."""
        return Moments(self._along_channels(self.moving_mean, x), self._along_channels(self.moving_variance, x), 0)

    def _update_moving_statistics(self, batch: Moments, of: Sets) -> None:
        """Updates the moving statistics with each channel's mean over all non-empty sets."""
        mean, variance, count = batch
        if isinstance(count, int) and not kernels.has_other_replicas():
            if count > 0:
                self._assign(self._mean_over_sets(mean), self._mean_over_sets(variance))
            return
        seen = ops.cast(count > 0, mean.dtype) * ops.ones_like(mean)
        # An empty set adds 0 to all three sums.
        sums = (ops.sum(ops.reshape(value, (-1, self.moving_mean.shape[0])), 0) for value in (mean, variance, seen))
        mean, variance, seen = sums if of.replicas is None else kernels.sum_over_replicas(tuple(sums))
        number = at_least_one(seen)
        self._assign(mean / number, variance / number, seen > 0)

    def _mean_over_sets(self, moment: Tensor) -> Tensor:
        """Each channel's mean over its sets, which have equal sizes."""
        shape = tuple(self.moving_mean.shape)
        if math.prod(moment.shape) == shape[0]:
            return moment if tuple(moment.shape) == shape else ops.reshape(moment, shape)
        rows = ops.reshape(moment, (-1, *shape))
        return ops.sum(rows, 0) / rows.shape[0]  # `ops.mean` is float32 on torch

    def _assign(self, mean: Tensor, variance: Tensor, where: Tensor | None = None) -> None:
        """Updates both moving averages, in all channels or in those selected by `where`."""
        for variable, statistic, ema in (
            (self.moving_mean, mean, self._ema),
            # Squares beyond float32 saturate, because a moving average never recovers from an infinity.
            (self.moving_variance, ops.clip(variance, 0.0, 3e38), self._ema_of_variance),
        ):
            moving = variable.value
            moved = ema(moving, cast(statistic, variable.dtype))
            variable.assign(moved if where is None else ops.where(where, moved, moving))

    def _ema(self, moving: Tensor, batch: Tensor) -> Tensor:
        """One update of a moving average."""
        return moving * self.momentum + batch * (1.0 - self.momentum)

    def _ema_of_variance(self, moving: Tensor, batch: Tensor) -> Tensor:
        """One update of the moving variance."""
        return self._ema(moving, batch)

    def _add_moving_weight(self, name: str, shape: Any, initializer: Any, **kwargs: Any) -> keras.Variable:
        """Adds a float32 weight that training steps assign, with the same value on every replica."""
        return self._add_float32_weight(
            name, shape, initializer, trainable=False, aggregation="only_first_replica", **kwargs
        )

    def get_config(self) -> dict[str, Any]:
        config = {
            "momentum": self.momentum,
            "moving_mean_initializer": initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": initializers.serialize(self.moving_variance_initializer),
            "synchronized": self.synchronized,
        }
        return {**super().get_config(), **self._taken(config)}
