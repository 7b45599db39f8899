"""A model whose `fit` supports several workers and batches that do not split evenly over replicas."""

from typing import Any

import keras
from keras import ops, tree

from keras_norm.kernels.replicas import is_multi_process
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class DistributedModel(keras.Model):
    """A `keras.Model` for `tf.distribute` strategies with replicas in several processes.

    It fixes `fit`, `evaluate` and `predict` where Keras fails on several workers or uneven batches. Otherwise, on one
    device or on JAX and torch, it behaves as `keras.Model`. Build and compile it inside `strategy.scope()`. A custom
    `train_step` must return logs from `compute_metrics`.

    Example:
        >>> x = keras.Input((3,))
        >>> model = DistributedModel(x, keras.layers.Dense(2)(x))
        >>> model.output_shape
        (None, 2)

    Convert a Sequential model by `DistributedModel(sequential.inputs, sequential.outputs)`.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds the model from the first replica's shard of a batch.

        Keras averages the shards of all replicas instead. This fails for shards of unequal sizes (a first batch of 5
        on two replicas), and on several workers, where the shards are a `PerReplica` and not a tensor.
        """
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            local_results = self.distribute_strategy.experimental_local_results
            data_batch = tree.map_structure(lambda value: local_results(value)[0], next(batches))
        super()._maybe_symbolic_build(data_batch=data_batch)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """The logs of a step, of shape `(1,)` on several workers.

        Keras returns scalars and averages them over the workers along axis 0: "Invalid reduction dimension 0".
        """
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if is_multi_process():
            logs = tree.map_structure(lambda value: ops.reshape(value, (1,)), logs)
        return logs
