"""Population statistics in place of moving averages, all over a model."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import backend, ops
from keras.layers import Layer

from keras_norm import arguments, kernels, sets
from keras_norm.arguments import Tensor
from keras_norm.intercept import intercept
from keras_norm.models.conversion import check
from keras_norm.models.kinds import is_batch_normalization, layers_inside
from keras_norm.moments import Moments

OWNER = "recalibrate_batch_normalization"

Statistics = tuple[Layer, np.ndarray, np.ndarray]
"""A layer, and a moving mean and variance for it."""


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

    From batches b with n_b positions a channel, mean m_b and variance v_b, and with n = sum_b n_b

        moving_mean = sum_b n_b m_b / n
        moving_variance = sum_b n_b (v_b + (m_b - moving_mean)^2) / n

    which are the moments of the pooled inputs. A moving average forgets early batches, and what it remembers comes
    from weights that have changed since. All other layers run in inference mode. A layer behind other batch
    normalizations gets what these make of the batch by its own statistics, so that one pass is enough; with `exact`
    it gets what they make of it by their final statistics, as in inference, which takes a pass for each layer.

    A layer whose `trainable` is False is recalibrated too, a frozen one is not. Under a `tf.distribute` strategy each
    replica's part of a batch counts as a batch, and synchronized layers standardize with that of all replicas, or of
    their group; on JAX a batch is the global one, whatever its groups. A rank of `torch.distributed` works alone: give
    all of them the same data. All moving statistics change or none: an error or an interruption leaves them as they
    were. Other threads may call the model meanwhile.

    Args:
        model: any built model, subclassed ones too.
        data: what `model.predict` takes: an array, a `tf.data.Dataset` (its labels are not used), a `PyDataset`.
        steps: the largest number of batches to use; None for all.
        batch_size: as in `model.predict`, for arrays.
        exact: whether to go layer by layer, in the order of data flow.
        verbose: as in `model.predict`; 0 hides the progress bar.

    Returns:
        The model itself.

    Raises:
        TypeError: if the model is no Keras model.
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
    check(OWNER, model)
    layers = [layer for layer in layers_inside(model) if is_batch_normalization(layer)]
    if not layers:
        return model
    measured = partial(_measured, model, data, steps, batch_size=batch_size, verbose=verbose)
    before = [_statistics(layer) for layer in layers]
    try:
        found = measured(layers, standardize=True)
        _assign(model, found)
        if exact:
            for layer, _, _ in found[1:]:  # in the order of the calls; before the first there is none
                _assign(model, measured([layer], standardize=False))
    except BaseException:
        _assign(model, before)
        raise
    return model


def _measured(
    model: keras.Model, data: Any, steps: int | None, layers: list[Layer], standardize: bool, **predict: Any
) -> list[Statistics]:
    """The statistics of what each layer gets, in the order in which the model calls them."""
    called: list[Layer] = []
    calls = _Calls()

    def moments_inside(inputs: Any) -> list[Moments]:
        seen: list[tuple[Layer, Moments]] = []
        calls.seen = seen
        try:
            model(inputs, training=False)
        finally:
            calls.seen = None
        called[:] = [layer for layer, _ in seen]
        return [batch for _, batch in seen]

    with _strategy(model):
        probe = Probe(moments_inside)
    with intercept(layers, partial(_call, calls, standardize)):
        batches = probe.predict(data, callbacks=[_AtMost(steps)] if steps else None, **predict)
    found: dict[int, tuple[Layer, list[Any]]] = {}
    for layer, batch in zip(called, batches, strict=True):
        found.setdefault(id(layer), (layer, []))[1].append(batch)
    return [_pooled(layer, calls_of) for layer, calls_of in found.values()]


class _Calls(threading.local):
    """The layers that this thread calls to measure what they get, with that; None where it only uses the model.

    Each replica is traced in its own thread, one after another.
    """

    seen: list[tuple[Layer, Moments]] | None = None


class Probe(keras.Model):
    """A model whose outputs are the moments inside of another, a row a batch: `predict` does the rest."""

    def __init__(self, moments_inside: Callable[[Any], list[Moments]]) -> None:
        super().__init__()
        # The model is not tracked as a part: `predict` on JAX would take its values out, and an interruption lose them.
        self._moments_inside = moments_inside

    def call(self, inputs: Any) -> list[tuple[Tensor, ...]]:
        rows = (batch[:3] for batch in self._moments_inside(inputs))
        return [tuple(ops.reshape(value, (1, -1)) for value in row) for row in rows]


class _AtMost(keras.callbacks.Callback):
    """Ends `predict` after some batches, and says so to the progress bar."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def set_params(self, params: dict[str, Any]) -> None:
        params["steps"] = min(self.steps, params["steps"] or self.steps)
        super().set_params(params)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_predicting = batch + 1 >= self.steps


def _call(
    calls: _Calls,
    standardize: bool,
    layer: Layer,
    original: Callable[..., Tensor],
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Records the moments of what the layer is called with, and has it standardize with these, or as it is."""
    if calls.seen is None:
        return original(inputs, training=training, mask=mask)
    x = ops.convert_to_tensor(inputs)
    axis = arguments.resolve_axis(OWNER, layer.axis, len(x.shape))
    mask_of_x = arguments.resolve_mask(OWNER, mask, x)
    batch = kernels.moments(x, sets.batch(x, axis), mask_of_x)
    calls.seen.append((layer, batch))
    if not standardize:
        return original(inputs, training=False, mask=mask)
    # `predict` runs on replicas on TensorFlow alone: torch's ranks may each go their way.
    if layer.synchronized and backend.backend() == "tensorflow":
        replicas = None if layer.synchronized is True else int(layer.synchronized)
        batch = kernels.moments(x, kernels.resolve_replicas(OWNER, x, sets.batch(x, axis, replicas)), mask_of_x)
    # To standardize with the batch is to be in inference, if the moving statistics are the batch's. All variables are
    # given, for this scope hides the one around it.
    state = {id(variable): (variable, variable.value) for variable in layer.variables}
    for moving, value in ((layer.moving_mean, batch.mean), (layer.moving_variance, batch.variance)):
        state[id(moving)] = moving, ops.cast(ops.reshape(value, tuple(moving.shape)), moving.dtype)
    with keras.StatelessScope(state_mapping=list(state.values())):
        return original(inputs, training=False, mask=mask)


def _pooled(layer: Layer, calls: list[tuple[np.ndarray, ...]]) -> Statistics:
    """The moments of all batches of all calls; a channel without positions keeps what it has."""
    _, mean_before, variance_before = _statistics(layer)
    m, v, n = (np.concatenate([np.asarray(call[k], "float64") for call in calls]) for k in range(3))
    total = np.broadcast_to(n, m.shape).sum(0)
    seen, divisor = total > 0, np.maximum(total, 1)
    mean = (n * m).sum(0) / divisor
    variance = (n * (v + (m - mean) ** 2)).sum(0) / divisor
    return layer, np.where(seen, mean, mean_before), np.where(seen, variance, variance_before)


def _statistics(layer: Layer) -> Statistics:
    mean, variance = (np.array(ops.convert_to_numpy(value)) for value in (layer.moving_mean, layer.moving_variance))
    return layer, mean, variance


def _assign(model: keras.Model, statistics: list[Statistics]) -> None:
    with _strategy(model):
        for layer, mean, variance in statistics:
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)


def _strategy(model: keras.Model) -> Any:
    """The scope of the strategy that the model was made under."""
    return model.distribute_strategy.scope() if backend.backend() == "tensorflow" else nullcontext()
