"""Backend-specific code: running and awaiting a step, its memory, and the backend's own layers."""

import importlib
from collections.abc import Callable
from typing import Any

import keras

Step = Callable[[], list[Any]]  # runs the code to time, and returns its outputs

EPSILON = 1e-3
MOMENTUM = 0.99
GROUPS = 32

backend: Any = importlib.import_module(f"benchmarks.backends.{keras.backend.backend()}")
