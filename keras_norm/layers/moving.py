"""What the layers share that average over the batch: its moments, and moving statistics for inference."""

from collections.abc import Callable
from typing import Any

import keras
from keras import initializers, ops

from keras_norm import arguments
from keras_norm.arguments import Tensor, at_least_float32
from keras_norm.layers.base import Normalization
from keras_norm.moments import Groups, Moments, Sets, moments, sets_of_batch, split_groups
from keras_norm.replicas import Replicas


class MovingNormalization(Normalization):
    """Abstract base of the layers whose sets run through the batch.

    In training the moments are those of the batch, and the moving statistics follow them:

        moving = momentum moving + (1 - momentum) batch

    In inference the moving statistics take their place. `trainable = False` means inference mode too, as in
    Keras. An empty batch, and a channel that is masked everywhere, leaves the moving statistics as they were.

    Replicas are those of a `tf.distribute` strategy, or the ranks of `torch.distributed` (so every rank must take
    each training step). The batch is the replica's own part, and the moving statistics follow the mean of the
    statistics of all replicas that saw a position; they are the same on every replica. With `synchronized=True` the
    batch is the global batch of all replicas: two collectives a step, of sums and then of centred squares, exact for
    parts of any size. With `synchronized=k` it is that of a group of k neighbouring replicas, and the moving
    statistics follow the mean over the groups; k must divide the number of replicas, unless there is only one.

    On JAX under `keras.distribution` a batch is one array on all devices. It is the global batch with `synchronized`
    True or False; the group of a sample is the run of samples that k neighbouring devices hold.

    Args:
        axis: the channel axis.
        momentum: the share of the moving statistics that a step keeps, in [0, 1].
        epsilon, center, scale, ...: see `Normalization`.
        moving_mean_initializer, moving_variance_initializer: zeros and ones, or what Keras takes for one.
        synchronized: whether a batch is the global batch of all replicas; or k, for that of groups of k replicas.
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
        self.momentum = arguments.fraction(self._owner, "momentum", momentum)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.synchronized = arguments.boolean_or_count(self._owner, "synchronized", synchronized)
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
        return layer_call  # a second call would move the statistics a second time

    def _affine_axes(self, rank: int) -> list[int]:
        return [arguments.resolve_axis(self._owner, self.axis, rank)]

    def _statistics(self, x: Tensor, training: bool | None, mask: Tensor | None) -> tuple[Moments, Tensor | None]:
        """Mean and variance to normalize `x` with, and the mask to do it under.

        In training those of the batch, which the moving ones follow; else the moving ones, which no mask changes.
        """
        if not training or not self.trainable:
            return self._moving_moments(x), None
        (axis,) = self._affine_axes(len(x.shape))
        mask = arguments.resolve_mask(self._owner, mask, x)
        sets = sets_of_batch(self._owner, x, axis, self.synchronized)
        batch = moments(x, sets, mask)
        self._follow(batch, sets)
        return batch, mask

    def _moving_moments(self, x: Tensor) -> Moments:
        """The moving statistics, shaped to broadcast along `x`."""
        mean, variance = (self._per_channel(moving, x) for moving in (self.moving_mean, self.moving_variance))
        return Moments(mean, variance, ops.zeros_like(mean))

    def _per_channel(self, values: Tensor, x: Tensor) -> Tensor:
        """A value for each channel, shaped to broadcast along `x`."""
        (axis,) = self._affine_axes(len(x.shape))
        shape = [-1 if a == axis else 1 for a in range(len(x.shape))]
        return ops.cast(ops.reshape(values, shape), at_least_float32(x.dtype))

    def _follow(self, batch: Moments, sets: Sets) -> None:
        """Moves the moving statistics towards the mean over all sets of a channel that have any position."""
        seen = ops.cast(batch.count > 0, batch.mean.dtype) * ops.ones_like(batch.mean)
        # A set without positions adds 0 to all three sums.
        mean, variance, seen = (self._sum_over_sets(value, sets) for value in (batch.mean, batch.variance, seen))
        if sets.join != Replicas():
            mean, variance, seen = Replicas()((mean, variance, seen))
        mean, variance = mean / ops.maximum(seen, 1.0), variance / ops.maximum(seen, 1.0)
        for variable, statistic, moved in (
            (self.moving_mean, mean, self._moved),
            (self.moving_variance, variance, self._moved_variance),
        ):
            moving = variable.value
            variable.assign(ops.where(seen > 0, moved(moving, ops.cast(statistic, moving.dtype)), moving))

    def _sum_over_sets(self, values: Tensor, sets: Sets) -> Tensor:
        """The sum, in each channel, of what the sets have; the samples of a group share one set."""
        if isinstance(sets.join, Groups):
            values = split_groups(values, sets.join.groups, 0)[:, :1]
        return ops.sum(ops.reshape(values, (-1, self.moving_mean.shape[0])), 0)

    def _moved(self, moving: Tensor, batch: Tensor) -> Tensor:
        """One step of the moving average."""
        return moving * self.momentum + batch * (1.0 - self.momentum)

    def _moved_variance(self, moving: Tensor, batch: Tensor) -> Tensor:
        """One step of the moving variance."""
        return self._moved(moving, batch)

    def _add_moving_weight(self, name: str, shape: Any, initializer: Any, **kwargs: Any) -> keras.Variable:
        """A wide weight that a step assigns to, the same value on every replica."""
        return self._add_wide_weight(
            name, shape, initializer, trainable=False, aggregation="only_first_replica", **kwargs
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "moving_mean_initializer": initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": initializers.serialize(self.moving_variance_initializer),
            "synchronized": self.synchronized,
        }
