"""Callbacks that record during training: the responses of layers, and the gap between training and inference."""

import threading
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import backend, ops, tree
from keras.layers import Layer

from keras_norm import arguments
from keras_norm._keras import takes_training
from keras_norm.intercept import intercept
from keras_norm.models.conversion import check_model
from keras_norm.models.examination.findings import GAP, Examined, Finding
from keras_norm.models.examination.measurement import Instrument, batches_of
from keras_norm.models.examination.places import find_places
from keras_norm.models.examination.report import Report
from keras_norm.models.observation import random_state_restored
from keras_norm.models.predicates import is_frozen, is_normalization
from keras_norm.tensors import Tensor, at_least_float32
from keras_norm.walk import named_layers

if backend.backend() == "tensorflow":
    import tensorflow as tf
elif backend.backend() == "jax":
    import jax


class _Recording(keras.callbacks.Callback):
    """Abstract base of callbacks that record before the first step and after every `every` steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        owner = type(self).__name__
        self.every = arguments.integer(owner, "every", every)
        if self.every < 1:
            raise ValueError(f"{owner}: every must be a positive number of steps. Received: every={every}.")
        self.steps: list[int] = []
        self._step = self._steps_before_epoch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        if self._step not in self.steps:
            self._record_at(self._step)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._steps_before_epoch = self._step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras counts every execution in full, but the last one of an epoch may have fewer steps.
        in_epoch = min(batch + 1, self.params.get("steps") or batch + 1)
        last, self._step = self._step, self._steps_before_epoch + in_epoch
        if self._step // self.every > last // self.every:
            self._record_at(self._step)

    def _record_at(self, step: int) -> None:
        self.steps.append(step)
        self._record()

    @abstractmethod
    def _record(self) -> None:
        """Records the current state of the model."""


class ResponsePercentiles(_Recording):
    """Records percentiles of the responses of layers during training.

    The responses of a layer are all values z_1 <= ... <= z_n of its outputs for `data`, including masked positions. All
    records use the same samples. Percentile p is

        q_p = z_k with k = 1 + (n - 1) p / 100

    interpolated between neighbors if k is not an integer. A record is made before the first step and after every
    `every` steps, counted across epochs and calls of `fit`. Training is unaffected, bit for bit: moving statistics,
    seeds, losses and weights are the same as without the callback.

    A step is a batch. If `steps_per_execution` is above 1, a record is made after the execution that reaches its step.
    Under a `tf.distribute` strategy the model runs on one device, and batch statistics are those of `data` alone.

    Args:
        data: samples to call the model with, as one batch.
        layers: layers, or their names; None for every normalization that the model calls. Layers inside other layers
            may be given by path, such as "block_1/norm".
        percentiles: numbers from 0 to 100.
        every: the number of steps between records.
        training: whether to run the model in training mode, with batch statistics and dropout, or in inference mode.
        log_dir: a folder for TensorBoard, which shows one chart per layer and one run (a subfolder) per percentile.
            TensorFlow backend only.

    Attributes:
        steps: the step of each record; the first one is 0.
        history: one array of shape `(records, percentiles)` per layer, by name, or by path if names repeat.

    Raises:
        TypeError, ValueError: when constructed, for an argument of the wrong type or value; when `fit` begins, if the
            model is not built, has no such layer, has several of one name, or does not call the layer.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = np.arange(101.0)[:, None]
        >>> responses = ResponsePercentiles(x, layers=["rescaling"], percentiles=(1, 50, 99), every=2)
        >>> _ = model.fit(x / 100, x / 100, batch_size=20, verbose=0, callbacks=[responses])
        >>> responses.steps
        [0, 2, 4, 6]
        >>> print(responses.history["rescaling"][-1])
        [  2. 100. 198.]

    Reference: Wu & He, Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494 (figure 6).
    """

    def __init__(
        self,
        data: Any,
        layers: Sequence[str | Layer] | None = None,
        percentiles: Sequence[float] = (1, 20, 80, 99),
        every: int = 10,
        training: bool = True,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__(every)
        self.data = data
        self.layers = None if layers is None else _checked_layers(layers)
        self.percentiles = _checked_percentiles(percentiles)
        self.training = arguments.boolean(OWNER, "training", training)
        if log_dir is not None and backend.backend() != "tensorflow":
            raise ValueError(
                f"{OWNER}: log_dir must be None without TensorFlow, which writes the files of TensorBoard. "
                f"Received: log_dir={str(log_dir)!r} on backend {backend.backend()!r} (plot `history`)."
            )
        self.log_dir = log_dir
        self._records: dict[str, list[np.ndarray]] = {}
        self._writers: list[Any] = []

    @property
    def history(self) -> dict[str, np.ndarray]:
        """One array of percentiles per layer, of shape `(records, percentiles)`."""
        return {name: np.array(records) for name, records in self._records.items()}

    def on_train_begin(self, logs: Any = None) -> None:
        self._selected = _select_layers(self.model, self.layers)
        if self.log_dir is not None:
            folders = [Path(self.log_dir) / f"percentile_{p:g}" for p in self.percentiles]
            self._writers = [tf.summary.create_file_writer(str(folder)) for folder in folders]
        super().on_train_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        for writer in self._writers:
            writer.close()

    def _record(self) -> None:
        """Records the percentiles of all selected layers."""
        responses = _responses(self.model, self._selected, self.data, self.training, call_all=self.layers is not None)
        for name, values in responses.items():
            percentiles = np.percentile(values, self.percentiles)
            self._records.setdefault(name, []).append(percentiles)
            for writer, value in zip(self._writers, percentiles, strict=False):
                with writer.as_default(step=self._step):
                    # Equivalent to `tf.summary.scalar`, which needs TensorBoard to be installed.
                    tf.summary.write(name, np.float32(value), metadata=_scalar_metadata())


class NormalizationMonitor(_Recording):
    """Monitors the gap between training and inference mode, and warns of the findings of `examine`.

    Before the first step and after every `every` steps, the callback runs `keras_norm.models.examine` on the same data.
    The gap is the difference of the model's outputs in the two modes, in standard deviations of the outputs. It is
    recorded in `history` and, as "normalization_gap", in the logs of each epoch. The logs reach the `History` that
    `fit` returns, the progress bar, and `keras.callbacks.TensorBoard` if it follows this callback in the list. Training
    is unaffected, bit for bit.

    Each finding gives one warning per layer. Stale moving statistics and the gap that they cause are reported only at
    the end of an epoch, because moving statistics need some hundred steps to follow the data.

    Args:
        data: inputs as for `model.fit`. With labels, the losses are recorded, too. Only the first `examined_steps`
            batches are used.
        labels: the labels, if `data` are arrays.
        every: the number of steps between records.
        batch_size: the batch size, if `data` are arrays.
        examined_steps: the number of batches to measure in each record.

    Attributes:
        steps: the step of each record; the first one is 0.
        history: lists with one value per record: "gap", and the losses "loss_training" and "loss_inference".
        report: the last report.

    Raises:
        TypeError, ValueError: when constructed, for an argument of the wrong type or value; when `fit` begins, if the
            model is not built.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
        >>> monitor = NormalizationMonitor(x, x[:, :1], every=2)
        >>> history = model.fit(x, x[:, :1], epochs=1, verbose=0, callbacks=[monitor])
        >>> monitor.steps, sorted(history.history)
        ([0, 2], ['loss', 'normalization_gap'])
    """

    def __init__(
        self, data: Any, labels: Any = None, every: int = 100, batch_size: int = 32, examined_steps: int = 1
    ) -> None:
        super().__init__(every)
        self._batches = list(batches_of(data, labels, examined_steps, batch_size))
        if not self._batches:
            raise ValueError(f"NormalizationMonitor: data must have a batch. Received: data={data!r}, which is empty.")
        self.history: dict[str, list[float]] = {"gap": []}
        self.report: Report | None = None
        self._warned: set[tuple[str, str]] = set()

    def on_train_begin(self, logs: Any = None) -> None:
        check_model("NormalizationMonitor", self.model)
        self._places = find_places(self.model)
        self._instrument = Instrument(self.model, self._places, run_eagerly=True)
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["normalization_gap"] = self.history["gap"][-1]
        self._warn(self.report.findings if self.report else [])

    def _record(self) -> None:
        model = self.model  # on JAX, this copies the trained values back into the model
        measurement = self._instrument.measure(self._batches, GAP)
        self.report = Report(Examined(model, self._places, measurement))
        self.history["gap"].append(measurement.gap)
        if measurement.losses is not None:
            for name, loss in zip(("loss_training", "loss_inference"), measurement.losses, strict=True):
                self.history.setdefault(name, []).append(loss)
        self._warn([finding for finding in self.report.findings if finding.name not in CURED_BY_TRAINING])

    def _warn(self, findings: Sequence[Finding]) -> None:
        new: dict[str, list[Finding]] = {}
        for finding in findings:
            if (finding.name, finding.layer) not in self._warned:
                self._warned.add((finding.name, finding.layer))
                new.setdefault(finding.name, []).append(finding)
        for name, (first, *others) in new.items():
            where = f"{name} of {first.layer!r}" + (f" and {len(others)} more" if others else "")
            warnings.warn(
                f"NormalizationMonitor: {where} at step {self._step}. {first.message} The cure: {first.cure}",
                stacklevel=2,
            )


CURED_BY_TRAINING = ("stale_moving_statistics", "training_inference_gap")

OWNER = "ResponsePercentiles"


def _checked_layers(layers: Any) -> list[str | Layer]:
    """`layers` as a list."""
    listed = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [None]
    if not listed or not all(isinstance(layer, (str, Layer)) for layer in listed):
        raise TypeError(
            f"{OWNER}: layers must list layers or their names, or be None for every normalization. "
            f"Received: layers={layers!r}."
        )
    return listed


def _checked_percentiles(percentiles: Any) -> list[float]:
    """`percentiles` as a list of numbers."""
    listed = [arguments.number(OWNER, "percentiles", p) for p in percentiles]
    if not listed or not all(0 <= p <= 100 for p in listed):
        raise ValueError(
            f"{OWNER}: percentiles must be numbers from 0 to 100, at least one. Received: percentiles={percentiles}."
        )
    return listed


def _select_layers(model: keras.Model, wanted: list[str | Layer] | None) -> dict[str, Layer]:
    """The wanted layers by name, in the order of `wanted` or of the model."""
    if not model.built:
        raise ValueError(
            f"{OWNER}: the model must be built. "
            f"Received: model={model.name!r}, which is not (give it a keras.Input, or call it once)."
        )
    known = named_layers(model, is_leaf=is_frozen)[1:]
    names = ", ".join(path for path, layer in known if not isinstance(layer, keras.layers.InputLayer))
    if wanted is None:
        selected = [layer for _, layer in known if is_normalization(layer)]
        if not selected:
            raise ValueError(
                f"{OWNER}: the model must have a normalization, or layers must name others. "
                f"Received: layers=None, model={model.name!r} (layers: {names})."
            )
    else:
        selected = []
        for one in wanted:
            named = [layer for path, layer in known if one in (path, layer.name)]
            if isinstance(one, str) and not named:
                raise ValueError(
                    f"{OWNER}: layers must be layers of the model. Received: {one!r}, model={model.name!r} "
                    f"(layers: {names})."
                )
            selected += named if isinstance(one, str) else [one]
    paths = {id(layer): path for path, layer in known}
    times = Counter(layer.name for layer in selected)

    def label(layer: Layer) -> str:
        path = paths.get(id(layer), layer.name)
        return path if times[layer.name] > 1 or path in (wanted or ()) else layer.name

    by_label = {label(layer): layer for layer in selected}
    if len(by_label) < len(selected):
        raise ValueError(
            f"{OWNER}: layers must have different names. Received: layers {[layer.name for layer in selected]} "
            "(the records are kept by name)."
        )
    return by_label


def _responses(
    model: keras.Model, layers: dict[str, Layer], data: Any, training: bool, call_all: bool
) -> dict[str, np.ndarray]:
    """All output values of each layer in one call of the model, which has no side effects.

    Raises an error if `call_all` and the model does not call a layer. Otherwise the result lacks such layers.
    """
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    by_id = {id(layer): outputs[name] for name, layer in layers.items()}
    this_thread = threading.get_ident()

    def collect(layer: Layer, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        if threading.get_ident() == this_thread:  # another thread may call the model meanwhile
            by_id[id(layer)].extend(filter(_is_concrete, tree.flatten(result)))
        return result

    inputs = tree.map_structure(ops.convert_to_tensor, data)
    kwargs = {"training": training} if takes_training(model) else {}
    # The scope discards assigned variables and added losses.
    with intercept(layers.values(), collect), keras.StatelessScope(), random_state_restored():
        model(inputs, **kwargs)
    called = {name: values for name, values in outputs.items() if values}
    for name in outputs:
        if name not in called and (call_all or not called):
            raise ValueError(
                f"{OWNER}: the model must call every layer. Received: {name!r}, which model={model.name!r} does not "
                "call (another layer may use its weights without a call: name that one)."
            )
    return {name: np.concatenate([_flat_values(value) for value in values]) for name, values in called.items()}


def _is_concrete(output: Tensor) -> bool:
    """Whether the tensor has values. It has none inside a compiled loop, such as that of an RNN."""
    if backend.backend() == "jax":
        return not isinstance(output, jax.core.Tracer)
    return backend.backend() != "tensorflow" or not tf.is_symbolic_tensor(output)


def _flat_values(output: Tensor) -> np.ndarray:
    """All values of a tensor, in float32 or wider."""
    upcast = ops.cast(output, at_least_float32(output.dtype))
    return ops.convert_to_numpy(upcast).reshape(-1)


def _scalar_metadata() -> Any:
    """Tells TensorBoard to draw the values as a curve."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    return tf.compat.v1.SummaryMetadata(plugin_data=plugin)
