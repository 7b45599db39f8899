"""Measures the normalizations of a model: moments, moving statistics, and differences between modes."""

import inspect
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import backend, ops, tree
from keras.layers import Layer

from keras_norm import arguments, kernels, layers
from keras_norm._keras import loss_weights_of
from keras_norm.intercept import intercept
from keras_norm.models.conversion import strategy_scope
from keras_norm.models.examination.places import Place, sets_of
from keras_norm.models.observation import ObservingModel, Recorder, as_row, pooled_moments, random_state_restored
from keras_norm.models.predicates import is_batch_normalization
from keras_norm.tensors import Tensor, cast, select, upcast

OWNER = "examine"
ABOUT_ZERO = (layers.RMSNormalization, layers.FilterResponseNormalization, keras.layers.RMSNormalization)

Rows = dict[str, np.ndarray]
"""The records of one call of a layer, by name: arrays with one row per replica."""


class Batch(NamedTuple):
    """Inputs, labels and sample weights, as arrays."""

    x: Any
    y: Any
    weights: Any

    @property
    def samples(self) -> int:
        """The total number of samples of all replicas."""
        return len(tree.flatten(self.x)[0])


def batches_of(data: Any, labels: Any, steps: int, batch_size: int) -> Iterator[Batch]:
    """The first `steps` batches of data as for `fit`: arrays, a `tf.data.Dataset`, a `PyDataset` or a `DataLoader`."""
    leaves = tree.flatten(data)
    if all(hasattr(leaf, "shape") for leaf in leaves):
        for start in range(0, min(len(leaves[0]), steps * batch_size), batch_size):
            rows = slice(start, start + batch_size)
            x, y = (tree.map_structure(lambda a, rows=rows: _array(a, rows), of) for of in (data, labels))
            yield Batch(x, y, None)
        return
    indices = range(len(data) if getattr(data, "num_batches", None) else steps)
    batches = (data[i] for i in indices) if isinstance(data, keras.utils.PyDataset) else iter(data)
    for batch in itertools.islice(batches, steps):
        yield Batch(*tree.map_structure(_array, keras.utils.unpack_x_y_sample_weight(batch)))


def _array(tensor: Any, rows: slice = slice(None)) -> Any:
    if tensor is None:
        return None
    return np.asarray(ops.convert_to_numpy(tensor) if ops.is_tensor(tensor) else tensor)[rows]


@dataclass
class Measured:
    """Measurements of one call of a normalization over all batches.

    Of a batch normalization, for the channels c with batch moments m_c, v_c and moving statistics M_c, V_c:

        distance = |m_c - M_c| / sqrt(V_c + epsilon)        ratio = (v_c + epsilon) / (V_c + epsilon)
    """

    positions: int
    """The number of positions of the smallest set in the first batch, on one replica."""
    global_positions: int
    """The same over all replicas that share statistics."""
    samples: int
    """The number of samples in the first batch, on one replica."""
    below_epsilon: float
    """The fraction of sets with a variance below epsilon, but not 0."""
    constant: float
    """The fraction of sets with variance 0."""
    variance: float
    """The mean variance of the sets."""
    largest: float
    """The largest absolute input; infinite or NaN if an input is."""
    distance: np.ndarray | None = None
    ratio: np.ndarray | None = None
    own_gap: float = 0.0
    """The gap between the layer's outputs in training and inference mode for equal inputs: the root mean square of the
    difference, divided by the smaller of the two standard deviations. These are deviations from the mean of each batch
    on each replica; those of the model's gap are from the mean of all batches."""
    drift: float = 0.0
    """The difference of the inputs' channel means between the modes, in standard deviations, for the median channel."""
    output_gap: float | None = None
    """The gap of the model if only this layer runs in training mode."""


@dataclass
class Measurement:
    """Measurements of a model."""

    calls: list[tuple[Place, int, Measured]]
    """For each call of a normalization: its place, the number of the call, and the measurements."""
    gap: float = 0.0
    """The gap between the outputs in training and inference mode: the root mean square of the difference, divided by
    the smaller of the two standard deviations."""
    losses: tuple[float, float] | None = None
    """The losses with batch statistics and in inference mode."""
    finite: bool = True
    """Whether no output of the model in inference mode is NaN or infinite."""
    passes: int = 0
    samples: int = 0


class _SwitchedRecorder(Recorder):
    """Adds the switches of a call: 1 for each batch normalization in training mode, else 0."""

    switch: Tensor


class Instrument:
    """Calls a model with selected layers in training mode, and records all calls of its normalizations.

    The model stays as it is. Dropout and all other layers run in inference mode.
    """

    def __init__(self, model: keras.Model, places: list[Place], run_eagerly: bool = False) -> None:
        self._model = model
        self._places = {id(place.layer): place for place in places if not place.in_loop}
        batch_normalizations = [key for key, place in self._places.items() if is_batch_normalization(place.layer)]
        self._switches = {key: index for index, key in enumerate(batch_normalizations)}
        self._recorder = _SwitchedRecorder()
        self._called: list[Place] = []
        with strategy_scope(model):
            self._observing = ObservingModel(model, self._observe)
            if self._switches:
                self._switch = self._observing.add_weight(
                    shape=(len(self._switches),), initializer="zeros", trainable=False, dtype="float32", name="switch"
                )
        self._observing.run_eagerly = run_eagerly

    @np.errstate(over="ignore", invalid="ignore")  # inputs may be infinite
    def measure(self, batches: list[Batch], threshold: float, verbose: Any = 0) -> Measurement:
        """Runs the model twice per batch. If the gap exceeds `threshold`, runs the first batch once more per layer."""
        everyone = frozenset(self._switches)
        progress = keras.utils.Progbar(2 * len(batches), verbose=1 if verbose else 0, unit_name="pass")
        in_inference, in_training = [], []
        for batch in batches:
            in_inference.append(self._run(batch.x, ()))
            progress.add(1)
            in_training.append(self._run(batch.x, everyone) if everyone else in_inference[-1])
            progress.add(1)
        places, outputs, trained = self._called, [run[0] for run in in_inference], [run[0] for run in in_training]
        numbers: dict[str, int] = {}
        found = Measurement([], _distance(outputs, trained), samples=sum(batch.samples for batch in batches))
        found.finite = all(np.isfinite(output).all() for output in _flat(outputs))
        found.losses = _losses(self._model, batches, trained, outputs)
        for k, place in enumerate(places):
            rows, rows_in_training = ([run[1][k] for run in runs] for runs in (in_inference, in_training))
            measured = _measured(place, rows, rows_in_training)
            found.calls.append((place, numbers.setdefault(place.path, 0), measured))
            numbers[place.path] += 1
        found.passes = (1 + bool(everyone)) * len(batches)
        if found.gap > threshold and everyone:
            progress.target += len(everyone)
            for key in self._switches:
                alone, _ = self._run(batches[0].x, (key,))
                progress.add(1)
                found.passes += 1
                for place, _, measured in found.calls:
                    if id(place.layer) == key:
                        measured.output_gap = _distance(outputs[:1], [alone])
        return found

    def _run(self, x: Any, in_training: Collection[int]) -> tuple[Any, list[Rows]]:
        """The outputs of the model and the records of its normalizations, with these layers in training mode."""
        if self._switches:
            self._switch.assign([float(key in in_training) for key in self._switches])
        normalizations = [place.layer for place in self._places.values()]
        with intercept(normalizations, self._record), random_state_restored():
            found = self._observing.predict(x, batch_size=len(tree.flatten(x)[0]), verbose=0)
        return found["outputs"], found["records"]

    def _observe(self, inputs: Any) -> dict[str, Any]:
        # Before the scope, which hides the values that Keras passes through another one on JAX.
        switch = ops.convert_to_tensor(self._switch) if self._switches else None
        records: list[tuple[Place, Any]] = []
        self._recorder.records, self._recorder.switch = records, switch
        try:
            with keras.StatelessScope():  # discards assignments of the layers
                outputs = self._model(inputs, training=False)
        finally:
            self._recorder.records = None
        self._called = [place for place, _ in records]
        outputs = tree.map_structure(lambda y: y if len(y.shape) else as_row(y), outputs)
        return {"outputs": outputs, "records": [row for _, row in records]}

    def _record(self, layer: Layer, call: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Records the inputs of `layer`. Returns its output in the mode of its switch."""
        if self._recorder.records is None:
            return call(*args, **kwargs)
        given = inspect.signature(call).bind(*args, **kwargs).arguments
        place = self._places[id(layer)]
        x = ops.convert_to_tensor(args[0])
        row = _row(place.norm, x, arguments.resolve_mask(OWNER, given.get("mask"), x))
        y = call(**given)
        if id(layer) in self._switches:
            with keras.StatelessScope():
                in_training = call(**(given | {"training": True}))
            row["changed"] = _squares(upcast(in_training) - upcast(y))
            row |= {"size": _squares(_centred(upcast(y))), "size in training": _squares(_centred(upcast(in_training)))}
            on = self._recorder.switch[self._switches[id(layer)]] > 0.5
            y = cast(ops.where(on, in_training, y), y.dtype)
        self._recorder.records.append((place, {name: as_row(value) for name, value in row.items()}))
        return y


def _row(norm: Layer, x: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """The records of the inputs of a normalization: numbers, or one number per channel."""
    h = select(upcast(x), mask)
    row: dict[str, Any] = {"largest": ops.max(ops.abs(h)) if 0 not in x.shape else 0.0, "samples": ops.shape(x)[0]}
    for k, of in enumerate(sets_of(norm, x)):
        mean, variance, count = kernels.moments(x, of, mask)
        seen = ops.cast(count > 0, mean.dtype) * ops.ones_like(mean)  # excludes sets that are masked everywhere
        row[f"count {k}"] = ops.min(ops.where(seen > 0, ops.cast(count, mean.dtype), np.inf))
        if k == 0:
            square = ops.square(mean)
            spread = variance + square if isinstance(norm, ABOUT_ZERO) else variance
            constant = variance <= 1e-12 * square
            below = (spread < getattr(norm, "epsilon", 0.0)) & ~constant
            for name, values in (("spread", spread), ("constant", constant), ("below", below)):
                row[name] = ops.sum(seen * ops.cast(values, mean.dtype)) / ops.maximum(ops.sum(seen), 1.0)
            if is_batch_normalization(norm):
                row |= {"mean": mean, "variance": variance, "n": count}
    return row


def _centred(y: Tensor) -> Tensor:
    return y - ops.sum(y) / max(np.prod([size or 1 for size in y.shape]), 1)


def _squares(y: Tensor) -> Tensor:
    return ops.sum(ops.square(y))


def _measured(place: Place, rows: list[Rows], rows_in_training: list[Rows]) -> Measured:
    """Combines the rows of one call over batches and replicas."""
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    # Per replica. A replica without samples, or with everything masked, has no sets.
    counts = [rows[0][name].reshape(-1) for name in rows[0] if name.startswith("count")]
    counts = [np.where(np.isfinite(count), count, 0) for count in counts]
    below, constant, variance = (
        float(joined[name].mean()) if counts else 0.0 for name in ("below", "constant", "spread")
    )
    measured = Measured(
        positions=min((int(count.min()) for count in counts), default=0),
        global_positions=min((_global_positions(place.norm, count) for count in counts), default=0),
        samples=int(rows[0]["samples"].min()),
        below_epsilon=below,
        constant=constant,
        variance=variance,
        largest=float(joined["largest"].max()),
    )
    if "mean" in joined:
        mean, spread, _ = pooled_moments([(joined["mean"], joined["variance"], joined["n"])])
        moving_mean, moving_variance = (
            np.asarray(ops.convert_to_numpy(value), "float64")
            for value in (place.norm.moving_mean, place.norm.moving_variance)
        )
        scale = moving_variance + place.norm.epsilon
        measured.distance = abs(mean - moving_mean) / np.sqrt(scale)
        measured.ratio = (spread + place.norm.epsilon) / scale
        trained = np.concatenate([row["mean"] for row in rows_in_training])
        drift = abs(trained - joined["mean"]).mean(0) / np.sqrt(spread + place.norm.epsilon)
        measured.drift = float(np.median(drift))
    if "changed" in joined:
        changed, *sizes = (float(joined[name].sum(dtype="float64")) for name in ("changed", "size", "size in training"))
        measured.own_gap = float(np.sqrt(changed / max(min(sizes), 1e-12 * max(sizes)))) if max(sizes) else 0.0
    return measured


def _global_positions(norm: Layer, counts: np.ndarray) -> int:
    """The smallest number of positions over all replicas that share a set, from the numbers per replica."""
    shared = getattr(norm, "synchronized", False)
    if backend.backend() == "torch" and shared:  # each rank sees only its own positions
        return int(counts.min()) * (kernels.number_of_replicas() if shared is True else shared)
    together = len(counts) if shared is True else min(shared or 1, len(counts))
    return int(counts.reshape(-1, together).sum(1).min())


def _distance(ours: list[Any], theirs: list[Any]) -> float:
    """The root mean square of the difference, divided by the smaller of the two standard deviations."""
    found = 0.0
    for a, b in zip(_flat(ours), _flat(theirs), strict=True):
        difference, size = float(np.sqrt(np.square(a - b).mean())), float(abs(a).max(initial=0.0))
        deviation = min(float(a.std()), float(b.std()))
        if difference:  # if all outputs are equal, divides by their size
            found = max(found, difference / (deviation if deviation > 1e-6 * size else size or difference))
    return found


def _flat(outputs: list[Any]) -> list[np.ndarray]:
    """Each output of the model over all batches, in float64."""
    flat = [[np.asarray(y, "float64") for y in tree.flatten(output)] for output in outputs]
    return [np.concatenate([y.reshape(-1) for y in ys]) for ys in zip(*flat, strict=True)]


def _losses(
    model: keras.Model, batches: list[Batch], in_training: list[Any], in_inference: list[Any]
) -> tuple[float, float] | None:
    """The mean loss of both modes, if the model is compiled with one and the data have labels."""
    if not model.compiled or getattr(model, "loss", None) is None or batches[0].y is None:
        return None
    judge = keras.Model()
    judge.compile(loss=model.loss, loss_weights=loss_weights_of(model))
    samples = np.array([batch.samples for batch in batches])

    def mean(outputs: list[Any]) -> float:
        tensors = [tree.map_structure(ops.convert_to_tensor, y) for y in outputs]
        losses = [
            judge.compute_loss(batch.x, batch.y, y, batch.weights) for batch, y in zip(batches, tensors, strict=True)
        ]
        return float(np.average([float(ops.convert_to_numpy(loss)) for loss in losses], weights=samples))

    return mean(in_training), mean(in_inference)
