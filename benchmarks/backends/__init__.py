"""What depends on Keras' backend: how a step runs, when it is done, its memory, and the backend's own layers."""

import importlib
from collections.abc import Callable
from typing import Any

import keras

Step = Callable[[], list[Any]]  # does the work to time, and returns what it computed

EPSILON = 1e-3
MOMENTUM = 0.99
GROUPS = 32

backend: Any = importlib.import_module(f"benchmarks.backends.{keras.backend.backend()}")
