"""A model that `fit` trains on several workers, and on batches that replicas cannot share evenly."""

from typing import Any

import keras
from keras import ops, tree

from keras_norm.kernels.replicas import is_multi_process
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class DistributedModel(keras.Model):
    """A `keras.Model` for `tf.distribute` strategies with replicas in several processes.

    Where Keras fails in `fit`, `evaluate` or `predict` it does what Keras does elsewhere, and nothing more: with one
    device, or on another backend than TensorFlow, it is `keras.Model`. Build and compile it inside
    `strategy.scope()`. Logs that a `train_step` of your own returns must have passed through `compute_metrics`.

    Example:
        >>> x = keras.Input((3,))
        >>> model = DistributedModel(x, keras.layers.Dense(2)(x))
        >>> model.output_shape
        (None, 2)

    A Sequential model becomes one by `DistributedModel(sequential.inputs, sequential.outputs)`.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds the model from the first replica's part of a batch.

        Stands for Keras' build from the mean of all parts, which parts of unequal sizes do not have (a first batch
        of 5 on two replicas) and which several workers hand on as a `PerReplica` that is no tensor.
        """
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            parts_of = self.distribute_strategy.experimental_local_results
            data_batch = tree.map_structure(lambda value: parts_of(value)[0], next(batches))
        super()._maybe_symbolic_build(data_batch=data_batch)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        """The logs of a step, of shape `(1,)` on several workers.

        Stands for Keras' scalars, which it averages over the workers along axis 0: "Invalid reduction dimension 0".
        """
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if is_multi_process():
            logs = tree.map_structure(lambda value: ops.reshape(value, (1,)), logs)
        return logs
