"""Shapes and dtypes of tensors, on every backend."""

import warnings
from typing import Any

import keras
from keras import ops

Tensor = Any
"""A tensor of the Keras backend, or anything that `keras.ops` accepts as one."""

Weight = Tensor | None
"""gamma or beta in a shape that broadcasts against x; None for 1 or 0."""


def known_shape(x: Tensor) -> tuple[Any, ...]:
    """The sizes of `x` as ints, or None if unknown.

    While torch traces a graph, as for ONNX, each size is a tensor. It becomes a constant of the graph.
    """
    shape = tuple(x.shape)
    if all(size is None or isinstance(size, int) for size in shape) or not any(map(ops.is_tensor, shape)):
        return shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(int(size) for size in shape)


def inferred_shape(x: Tensor) -> tuple[Any, ...]:
    """The shape of `x`, for use in a reshape.

    A single unknown size becomes -1, which avoids a SHAPE operation in exported graphs.
    """
    if list(x.shape).count(None) == 1 and 0 not in x.shape:
        return tuple(-1 if size is None else size for size in x.shape)
    return tuple(ops.shape(x))


_NAMES: dict[Any, str] = {}


def dtype_name(dtype: Any) -> str:
    """The name of a backend's dtype. Cached, because Keras needs 2 microseconds, a dozen times per call."""
    if dtype not in _NAMES:  # not `functools.cache`, which makes torch.compile warn
        _NAMES[dtype] = keras.backend.standardize_dtype(dtype)
    return _NAMES[dtype]


def at_least_float32(dtype: Any) -> str:
    """`dtype`, or float32 for narrower dtypes and integers."""
    # Not `keras.backend.result_type`, which returns float32 for float64 on JAX and torch.
    return "float64" if dtype_name(dtype) == "float64" else "float32"


def cast(x: Tensor, dtype: Any) -> Tensor:
    """`x` in `dtype`. Returns the same tensor if it has that dtype."""
    return x if dtype_name(x.dtype) == dtype_name(dtype) else ops.cast(x, dtype_name(dtype))


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 or wider. Inside a compiled function, x is read at its stored width."""
    return cast(x, at_least_float32(x.dtype))


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent. `ops.tanh` computes in float32 on JAX and torch."""
    return 2.0 * ops.sigmoid(2.0 * x) - 1.0 if dtype_name(x.dtype) == "float64" else ops.tanh(x)


def select(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` with 0 at masked positions."""
    return x if mask is None else ops.where(mask, x, 0.0)
