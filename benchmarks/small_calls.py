"""The fixed cost of a call: a layer on a tiny tensor, and a training step of a tiny model."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from benchmarks.backends import Step, backend
from benchmarks.layers import LAYERS, pair, shape_of
from benchmarks.timing import Row, compare

SHAPE = (8, 4, 4, 16)
CALLS = 50  # in a turn
GROUPS = 4


def rows(turns: int) -> Iterator[Row]:
    """The rows of each layer: `layer(x)` in eager mode, and `train_on_batch` of a model, in Keras' default mode."""
    x = np.random.default_rng(0).normal(2.0, 3.0, SHAPE).astype("float32")
    for name in LAYERS:
        for training in (True, False) if name == "batch" else (None,):
            label = {True: f"{name} training", False: f"{name} inference", None: name}[training]
            calls = {key: _call(layer, x, training) for key, layer in pair(name, GROUPS).items()}
            yield from compare(calls, "eager", label, shape_of(x), "float32", "call", turns=turns, calls=CALLS)
        steps = _training_steps(pair(name, GROUPS), x)
        label = f"{name} training" if name == "batch" else name
        yield from compare(steps, "auto", label, shape_of(x), "float32", "train_on_batch", turns=turns, calls=CALLS)


def _call(layer: keras.layers.Layer, x: np.ndarray, training: bool | None) -> Step:
    layer.build(x.shape)
    tensor, options = backend.tensor(x, "float32"), {} if training is None else {"training": training}
    return lambda: [layer(tensor, **options)]


def _training_steps(layers: dict[str, keras.layers.Layer], x: np.ndarray) -> dict[str, Step]:
    keras.utils.clear_session()
    models = {}
    for key, layer in layers.items():
        around = [keras.Input(SHAPE[1:]), keras.layers.Conv2D(SHAPE[-1], 3), layer, keras.layers.Flatten()]
        models[key] = keras.Sequential([*around, keras.layers.Dense(1)])
    return training_steps(models, x, x[:, 0, 0, :1], "mse")


def training_steps(models: dict[str, keras.Model], x: Any, y: Any, loss: str, **options: bool) -> dict[str, Step]:
    """`train_on_batch` of each model, with equal initial weights."""
    start = next(iter(models.values())).get_weights()
    for model in models.values():
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.001), loss, **options)
    return {name: lambda model=model: [model.train_on_batch(x, y)] for name, model in models.items()}
