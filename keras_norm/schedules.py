"""Schedules: values that change with the training step."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_norm.arguments import integer, number
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Interpolates linearly between values at given steps, and is constant before the first and after the last.

    Args:
        steps: at least two steps, increasing.
        values: the value at each step.

    Raises:
        ValueError: if the steps do not increase, or the number of values is different.

    Example:
        >>> r_max = PiecewiseLinear(steps=[5000, 40000], values=[1.0, 3.0])
        >>> [round(float(r_max(step)), 3) for step in (0, 5000, 22500, 50000)]
        [1.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, steps: Sequence[int], values: Sequence[float]) -> None:
        self.steps = [integer("PiecewiseLinear", "steps", step) for step in steps]
        self.values = [number("PiecewiseLinear", "values", value) for value in values]
        if len(self.steps) < 2 or sorted(set(self.steps)) != self.steps or len(self.values) != len(self.steps):
            raise ValueError(
                "PiecewiseLinear: steps must be at least two and increase, with a value for each. "
                f"Received: steps={steps}, values={values}."
            )

    def __call__(self, step: Tensor) -> Tensor:
        """The value at `step`, a float32 scalar."""
        step = ops.cast(step, "float32")
        value = self.values[0]
        for i in range(1, len(self.steps)):
            way = (step - self.steps[i - 1]) / (self.steps[i] - self.steps[i - 1])
            value += (self.values[i] - self.values[i - 1]) * ops.clip(way, 0.0, 1.0)
        return value

    def __repr__(self) -> str:
        """The constructor call."""
        return f"PiecewiseLinear(steps={self.steps}, values={self.values})"

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}
