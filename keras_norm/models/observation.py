"""Calls a model through `predict` and collects records of its layers, on every backend and under every strategy."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import backend, ops

from keras_norm.tensors import Tensor
from keras_norm.walk import all_layers


class Recorder(threading.local):
    """The records of layers during a call. None in threads that only use the model.

    TensorFlow traces each replica in its own thread, one after another.
    """

    records: list[Any] | None = None


class ObservingModel(keras.Model):
    """A model that returns `observe(inputs)`, a function that calls another model, so that `predict` collects it.

    The axis along which `predict` joins batches and replicas is the first of each tensor that `observe` returns.
    """

    def __init__(self, model: keras.Model, observe: Callable[[Any], Any]) -> None:
        super().__init__()
        # A function hides the model from Keras. `predict` on JAX would take its values, and lose them if interrupted.
        self._observe = observe
        self.built = True
        if not all(layer.supports_jit for layer in all_layers(model)):
            self.jit_compile = False

    def call(self, inputs: Any) -> Any:
        return self._observe(inputs)


def random_state_restored() -> AbstractContextManager[Any]:
    """Restores the random state of torch on exit. Keras draws dropout from torch's global generator."""
    if backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.random.fork_rng()


def as_row(value: Any) -> Tensor:
    """`value` as one row, so that the rows of batches and replicas can be joined."""
    return ops.reshape(ops.convert_to_tensor(value), (1, -1))


def pooled_moments(rows: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and number of all positions, from arrays of rows with the mean, variance and number of each batch.

    For batches b with n_b positions, mean m_b and variance v_b, and n = sum_b n_b

        mean = sum_b n_b m_b / n
        variance = sum_b n_b (v_b + (m_b - mean)^2) / n
    """
    m, v, n = (np.concatenate([np.asarray(row[k], "float64") for row in rows]) for k in range(3))
    total = np.broadcast_to(n, m.shape).sum(0)
    divisor = np.maximum(total, 1)
    mean = (n * m).sum(0) / divisor
    return mean, (n * (v + (m - mean) ** 2)).sum(0) / divisor, total
