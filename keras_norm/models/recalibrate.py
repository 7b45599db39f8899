"""Replaces the moving averages of a model by population statistics."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import backend, ops
from keras.layers import Layer

from keras_norm import arguments, kernels, sets
from keras_norm.intercept import intercept
from keras_norm.models.conversion import check_model, strategy_scope
from keras_norm.models.observation import ObservingModel, Recorder, as_row, pooled_moments
from keras_norm.models.predicates import is_batch_normalization, is_frozen
from keras_norm.moments import Moments
from keras_norm.tensors import Tensor
from keras_norm.walk import all_layers

OWNER = "recalibrate_batch_normalization"

Statistics = tuple[Layer, np.ndarray, np.ndarray]
"""A layer with its moving mean and variance."""


def recalibrate_batch_normalization(
    model: keras.Model,
    data: Any,
    steps: int | None = 200,
    *,
    batch_size: int | None = None,
    exact: bool = False,
    verbose: Any = "auto",
) -> keras.Model:
    """Sets the moving statistics of every batch normalization to the moments of all its inputs.

    For batches b with n_b positions per channel, mean m_b and variance v_b, and n = sum_b n_b

        moving_mean = sum_b n_b m_b / n
        moving_variance = sum_b n_b (v_b + (m_b - moving_mean)^2) / n

    are the moments of the pooled inputs. A moving average forgets early batches, and remembers batches of former
    weights. All other layers run in inference mode. In the first pass every batch normalization uses the statistics of
    the batch, so one pass is enough. With `exact` later layers see inputs normalized by the final statistics, as in
    inference; this takes one more pass per layer.

    Layers with `trainable = False` are recalibrated too, frozen ones are not. Under a `tf.distribute` strategy the
    shard of each replica counts as a batch, and synchronized layers normalize by the global batch or that of their
    group. On JAX a batch is always the global one. Ranks of `torch.distributed` do not communicate: give all of them
    the same data. If an error or an interruption occurs, all moving statistics keep their former values. Other threads
    may call the model meanwhile.

    Args:
        model: any built model, subclassed ones too.
        data: inputs as for `model.predict`: an array, a `tf.data.Dataset` (labels are ignored), a `PyDataset`.
        steps: the maximum number of batches; None for all.
        batch_size: as in `model.predict`, for arrays.
        exact: whether to recalibrate layer by layer, in the order of data flow.
        verbose: as in `model.predict`; 0 hides the progress bar.

    Returns:
        The model itself.

    Raises:
        TypeError: if the model is not a Keras model.
        ValueError: if the model is not built or `steps` is not positive.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
        >>> model = recalibrate_batch_normalization(model, np.array([[1.0], [2.0], [6.0]]), batch_size=2, verbose=0)
        >>> print(*[np.round(weight, 3) for weight in model.layers[0].non_trainable_weights])
        [3.] [4.667]

    Reference: Wu & Johnson, Rethinking "Batch" in BatchNorm, 2021, https://arxiv.org/abs/2105.07576, section 3.
    """
    if steps is not None and arguments.integer(OWNER, "steps", steps) < 1:
        raise ValueError(f"{OWNER}: steps must be positive, or None for all batches. Received: steps={steps}.")
    check_model(OWNER, model)
    layers = [layer for layer in all_layers(model, is_leaf=is_frozen) if is_batch_normalization(layer)]
    if not layers:
        return model
    measure = partial(_measure, model, data, steps, batch_size=batch_size, verbose=verbose)
    before = [_moving_statistics(layer) for layer in layers]
    try:
        measured = measure(layers, standardize=True)
        _assign(model, measured)
        if exact:
            for layer, _, _ in measured[1:]:  # in the order of the calls; the first one is final already
                _assign(model, measure([layer], standardize=False))
    except BaseException:
        _assign(model, before)
        raise
    return model


def _measure(
    model: keras.Model, data: Any, steps: int | None, layers: list[Layer], standardize: bool, **predict: Any
) -> list[Statistics]:
    """The statistics of each layer's inputs, in the order in which the model calls the layers."""
    called: list[Layer] = []
    recorder = Recorder()

    def input_moments(inputs: Any) -> list[tuple[Tensor, ...]]:
        calls: list[tuple[Layer, Moments]] = []
        recorder.records = calls
        try:
            model(inputs, training=False)
        finally:
            recorder.records = None
        called[:] = [layer for layer, _ in calls]
        return [tuple(as_row(ops.cast(value, batch.mean.dtype)) for value in batch) for _, batch in calls]

    with strategy_scope(model):
        moments_model = ObservingModel(model, input_moments)
    with intercept(layers, partial(_record, recorder, standardize)):
        batches = moments_model.predict(data, callbacks=[_StopAfter(steps)] if steps else None, **predict)
    by_layer: dict[int, tuple[Layer, list[Any]]] = {}
    for layer, batch in zip(called, batches, strict=True):
        by_layer.setdefault(id(layer), (layer, []))[1].append(batch)
    return [_pool(layer, calls) for layer, calls in by_layer.values()]


class _StopAfter(keras.callbacks.Callback):
    """Stops `predict` after `steps` batches, and shortens the progress bar."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def set_params(self, params: dict[str, Any]) -> None:
        params["steps"] = min(self.steps, params["steps"] or self.steps)
        super().set_params(params)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_predicting = batch + 1 >= self.steps


def _record(
    recorder: Recorder,
    standardize: bool,
    layer: Layer,
    call: Callable[..., Tensor],
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Records the moments of a layer's inputs. Normalizes by them if `standardize`, else by the moving statistics."""
    if recorder.records is None:
        return call(inputs, training=training, mask=mask)
    x = ops.convert_to_tensor(inputs)
    axis = arguments.resolve_axis(OWNER, layer.axis, len(x.shape))
    mask_of_x = arguments.resolve_mask(OWNER, mask, x)
    batch = kernels.moments(x, sets.batch(x, axis), mask_of_x)
    recorder.records.append((layer, batch))
    if not standardize:
        return call(inputs, training=False, mask=mask)
    # `predict` runs on several replicas only on TensorFlow. The ranks of torch must not wait for each other.
    if layer.synchronized and backend.backend() == "tensorflow":
        batch = kernels.moments(x, kernels.batch_of_replicas(OWNER, x, axis, layer.synchronized), mask_of_x)
    # Inference mode with the moments of the batch as moving statistics. The scope hides an outer one, so it gets all
    # variables.
    state = {id(variable): (variable, variable.value) for variable in layer.variables}
    for moving, value in ((layer.moving_mean, batch.mean), (layer.moving_variance, batch.variance)):
        state[id(moving)] = moving, ops.cast(ops.reshape(value, tuple(moving.shape)), moving.dtype)
    with keras.StatelessScope(state_mapping=list(state.values())):
        return call(inputs, training=False, mask=mask)


def _pool(layer: Layer, calls: list[tuple[np.ndarray, ...]]) -> Statistics:
    """The moments of all batches of all calls. A channel without positions keeps its statistics."""
    _, mean_before, variance_before = _moving_statistics(layer)
    mean, variance, total = pooled_moments(calls)
    return layer, np.where(total > 0, mean, mean_before), np.where(total > 0, variance, variance_before)


def _moving_statistics(layer: Layer) -> Statistics:
    mean, variance = (np.array(ops.convert_to_numpy(value)) for value in (layer.moving_mean, layer.moving_variance))
    return layer, mean, variance


def _assign(model: keras.Model, statistics: list[Statistics]) -> None:
    with strategy_scope(model):
        for layer, mean, variance in statistics:
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
