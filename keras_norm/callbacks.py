"""What happens inside a model, recorded while it trains."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import backend, ops, tree
from keras.layers import Layer

from keras_norm import arguments
from keras_norm._keras import takes_training
from keras_norm.intercept import intercept
from keras_norm.models.kinds import is_normalization, parts_of
from keras_norm.tensors import Tensor, at_least_float32

if backend.backend() == "tensorflow":
    import tensorflow as tf
elif backend.backend() == "jax":
    import jax
elif backend.backend() == "torch":
    import torch


class ResponsePercentiles(keras.callbacks.Callback):
    """Records how the responses of layers are distributed, as a model trains.

    The responses of a layer are all values z_1 <= ... <= z_n of its outputs for `data`, the same samples at every
    record, masked positions too. Percentile p is the response that p percent of them do not exceed,

        q_p = z_k with k = 1 + (n - 1) p / 100

    and between two neighbours where k is no integer. A record is made before the first step and after every
    `every` steps, which are counted on from epoch to epoch and from `fit` to `fit`. The training does not notice:
    moving statistics, seeds and losses stay as they were, and the weights come out the same, bit for bit.

    Steps are batches. With `steps_per_execution` above 1 a record is made after the execution that reaches its step.
    Under a `tf.distribute` strategy the model runs on one device, and batch statistics are those of `data` alone.

    Args:
        data: samples to call the model with, as many as fit into a batch.
        layers: names of layers, or the layers themselves; every normalization that the model calls if None. Names are
            those of its layers and of layers inside these, which may be told apart by their path: "block_1/norm".
        percentiles: numbers from 0 to 100.
        every: the number of steps from record to record.
        training: whether the model runs as in training, with the statistics of a batch and dropout, or as in
            inference.
        log_dir: a folder for TensorBoard, with a chart for each layer and a run, which is a folder, for each
            percentile. TensorFlow backend only.

    Attributes:
        steps: the step of each record, the first of them 0.
        history: by name of the layer an array of shape `(records, percentiles)`; by its path where names repeat.

    Raises:
        TypeError, ValueError: when constructed, for an argument of the wrong type or value; when `fit` begins, if the
            model is not built, or has no such layer, or several of one name, or does not call it.

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
        super().__init__()
        self.data = data
        self.layers = None if layers is None else _checked_layers(layers)
        self.percentiles = _checked_percentiles(percentiles)
        self.every = arguments.integer(OWNER, "every", every)
        if self.every < 1:
            raise ValueError(f"{OWNER}: every must be a positive number of steps. Received: every={every}.")
        self.training = arguments.boolean(OWNER, "training", training)
        if log_dir is not None and backend.backend() != "tensorflow":
            raise ValueError(
                f"{OWNER}: log_dir must be None, for it is TensorFlow that writes for TensorBoard. "
                f"Received: log_dir={str(log_dir)!r} on backend {backend.backend()!r} (plot `history`)."
            )
        self.log_dir = log_dir
        self.steps: list[int] = []
        self._records: dict[str, list[np.ndarray]] = {}
        self._step = self._steps_before_epoch = 0
        self._writers: list[Any] = []

    @property
    def history(self) -> dict[str, np.ndarray]:
        """By name of the layer the percentiles at each step, of shape `(records, percentiles)`."""
        return {name: np.array(records) for name, records in self._records.items()}

    def on_train_begin(self, logs: Any = None) -> None:
        self._chosen = _find(self.model, self.layers)
        if self.log_dir is not None:
            folders = [Path(self.log_dir) / f"percentile_{p:g}" for p in self.percentiles]
            self._writers = [tf.summary.create_file_writer(str(folder)) for folder in folders]
        if self._step not in self.steps:
            self._record()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._steps_before_epoch = self._step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras counts an execution in full, also the last of an epoch, which may have fewer steps.
        in_epoch = min(batch + 1, self.params.get("steps") or batch + 1)
        last, self._step = self._step, self._steps_before_epoch + in_epoch
        if self._step // self.every > last // self.every:
            self._record()

    def on_train_end(self, logs: Any = None) -> None:
        for writer in self._writers:
            writer.close()

    def _record(self) -> None:
        """The percentiles of all chosen layers, as the model stands."""
        responses = _responses(self.model, self._chosen, self.data, self.training, every_one=self.layers is not None)
        self.steps.append(self._step)
        for name, values in responses.items():
            found = np.percentile(values, self.percentiles)
            self._records.setdefault(name, []).append(found)
            for writer, value in zip(self._writers, found, strict=False):
                with writer.as_default(step=self._step):
                    # What `tf.summary.scalar` writes, which needs TensorBoard to be installed.
                    tf.summary.write(name, np.float32(value), metadata=_scalar())


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


def _find(model: keras.Model, wanted: list[str | Layer] | None) -> dict[str, Layer]:
    """The wanted layers by name, in the order of `wanted` or of the model."""
    if not model.built:
        raise ValueError(
            f"{OWNER}: the model must be built. "
            f"Received: model={model.name!r}, which is not (give it a keras.Input, or call it once)."
        )
    known: dict[int, tuple[str, Layer]] = {}
    for path, layer in _layers_of(model):
        known.setdefault(id(layer), (path, layer))
    names = ", ".join(path for path, _ in known.values())
    if wanted is None:
        chosen = [layer for _, layer in known.values() if is_normalization(layer)]
        if not chosen:
            raise ValueError(
                f"{OWNER}: the model must have a normalization, or layers must name others. "
                f"Received: layers=None, model={model.name!r} (layers: {names})."
            )
    else:
        chosen = []
        for one in wanted:
            named = [layer for path, layer in known.values() if one in (path, layer.name)]
            if isinstance(one, str) and not named:
                raise ValueError(
                    f"{OWNER}: layers must be layers of the model. Received: {one!r}, model={model.name!r} "
                    f"(layers: {names})."
                )
            chosen += named if isinstance(one, str) else [one]
    paths = {id(layer): path for path, layer in known.values()}
    times = Counter(layer.name for layer in chosen)

    def label(layer: Layer) -> str:
        path = paths.get(id(layer), layer.name)
        return path if times[layer.name] > 1 or path in (wanted or ()) else layer.name

    found = {label(layer): layer for layer in chosen}
    if len(found) < len(chosen):
        raise ValueError(
            f"{OWNER}: each layer must have a name of its own. Received: layers {[layer.name for layer in chosen]} "
            "(the records are kept by name)."
        )
    return found


def _layers_of(holder: Layer, above: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers of a model and those inside of them, each with its path of names."""
    for layer in holder.layers if isinstance(holder, keras.Model) else parts_of(holder):
        path = above + layer.name
        yield path, layer
        yield from _layers_of(layer, f"{path}/")


def _responses(
    model: keras.Model, layers: dict[str, Layer], data: Any, training: bool, every_one: bool
) -> dict[str, np.ndarray]:
    """All values that each layer gives, in one call of the model that leaves no trace.

    Without `every_one` those of the layers that are called.
    """
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    of_layer = {id(layer): outputs[name] for name, layer in layers.items()}
    this_thread = threading.get_ident()

    def collect(layer: Layer, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = call(*args, **kwargs)
        if threading.get_ident() == this_thread:  # another may use the model meanwhile
            of_layer[id(layer)].extend(filter(_is_value, tree.flatten(given)))
        return given

    inputs = tree.map_structure(ops.convert_to_tensor, data)
    kwargs = {"training": training} if takes_training(model) else {}
    # What the call assigns to variables, and what it adds to losses, ends with the scope.
    with intercept(layers.values(), collect), keras.StatelessScope(), _own_randomness():
        model(inputs, **kwargs)
    called = {name: calls for name, calls in outputs.items() if calls}
    for name in outputs:
        if name not in called and (every_one or not called):
            raise ValueError(
                f"{OWNER}: the model must call every layer. Received: {name!r}, which model={model.name!r} does not "
                "call (a layer inside another may be passed by: take the outer one)."
            )
    return {name: np.concatenate([_values(output) for output in calls]) for name, calls in called.items()}


def _is_value(output: Tensor) -> bool:
    """Whether the tensor has values: inside a compiled loop, such as that of an RNN, it stands for some."""
    if backend.backend() == "jax":
        return not isinstance(output, jax.core.Tracer)
    return backend.backend() != "tensorflow" or not tf.is_symbolic_tensor(output)


def _own_randomness() -> AbstractContextManager[Any]:
    """Keeps what is drawn from the rest: on torch Keras takes dropout from one generator for all."""
    return torch.random.fork_rng() if backend.backend() == "torch" else nullcontext()


def _values(output: Tensor) -> np.ndarray:
    """All values of a tensor, in float32 or wider."""
    wide = ops.cast(output, at_least_float32(output.dtype))
    return ops.convert_to_numpy(wide).reshape(-1)


def _scalar() -> Any:
    """What tells TensorBoard to draw a value as a point of a curve."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    return tf.compat.v1.SummaryMetadata(plugin_data=plugin)
