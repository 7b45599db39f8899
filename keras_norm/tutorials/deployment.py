"""What a network costs where it is deployed: sizes of its files, and the time of a prediction."""

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf


def costs(models: Mapping[str, keras.Model], image: np.ndarray, repeats: int = 200) -> pd.DataFrame:
    """One row per model: its weights, the sizes of its files, and the median times of a prediction for `image`.

    Args:
        models: by name; files have no optimizer, so that compiled models compare with others.
        image: a batch of one.
        repeats: how often each prediction is timed.
    """
    runs: list[Callable[[], object]] = []
    rows = []
    for model in models.values():
        saved, lite, graph, interpreter = _exported(model, image)
        rows.append({"weights": f"{model.count_params():,}", ".keras, kB": f"{saved:.0f}", "LiteRT, kB": f"{lite:.0f}"})
        runs += [partial(graph, image), interpreter.invoke]
    times = median_times(runs, repeats).reshape(-1, 2)
    for row, (graph_ms, lite_ms) in zip(rows, times, strict=True):
        row.update({"graph, ms": f"{graph_ms:.2f}", "LiteRT, ms": f"{lite_ms:.3f}"})
    return pd.DataFrame(rows, index=list(models))


def _exported(model: keras.Model, image: np.ndarray) -> tuple[float, float, Callable, tf.lite.Interpreter]:
    """The sizes of the files in kB, the graph, and the interpreter with `image` as its input."""
    with tempfile.TemporaryDirectory() as folder:
        saved, lite = Path(folder, "model.keras"), Path(folder, "model.tflite")
        (inputs,), (outputs,) = model.inputs, model.outputs  # a Sequential has no `input` before its first call
        keras.Model(inputs, outputs).save(saved)  # the same layers, not compiled
        loaded = keras.models.load_model(saved)  # as it is deployed: without the strategy of its training
        loaded.export(str(lite), format="litert", verbose=False)  # Keras 3.13 takes no Path
        sizes = saved.stat().st_size / 1e3, lite.stat().st_size / 1e3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow 2.20 on says that its interpreter will move to another package
            interpreter = tf.lite.Interpreter(model_content=lite.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    return *sizes, tf.function(lambda x: loaded(x, training=False)), interpreter


def median_times(runs: Sequence[Callable[[], object]], repeats: int) -> np.ndarray:
    """Milliseconds of each, taken in turns, so that a slow moment of the machine meets all."""
    times = np.empty((repeats, len(runs)))
    for repeat in times:
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            repeat[i] = 1e3 * (time.perf_counter() - start)
    return np.median(times[repeats // 10 :], 0)
