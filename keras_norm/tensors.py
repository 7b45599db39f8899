"""Shapes and dtypes of tensors, on every backend."""

import warnings
from typing import Any

import keras
from keras import ops

Tensor = Any
"""A tensor of the Keras backend in use, or what `keras.ops` takes for one."""

Weight = Tensor | None
"""gamma or beta, to broadcast against x; None for 1 or 0."""


def known_shape(x: Tensor) -> tuple[Any, ...]:
    """The sizes of `x` as numbers, None where unknown.

    While torch traces a graph, for ONNX say, each size is a tensor; it becomes a constant of the graph.
    """
    shape = tuple(x.shape)
    if all(size is None or isinstance(size, int) for size in shape) or not any(map(ops.is_tensor, shape)):
        return shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(int(size) for size in shape)


def inferred_shape(x: Tensor) -> tuple[Any, ...]:
    """The shape of `x` to reshape to.

    A single unknown size stands as -1, so that an exported graph holds no SHAPE operation.
    """
    if list(x.shape).count(None) == 1 and 0 not in x.shape:
        return tuple(-1 if size is None else size for size in x.shape)
    return tuple(ops.shape(x))


_NAMES: dict[Any, str] = {}


def dtype_name(dtype: Any) -> str:
    """The name of a backend's dtype. Keras looks it up in 2 microseconds, a dozen times a call."""
    if dtype not in _NAMES:  # torch.compile warns of `functools.cache`
        _NAMES[dtype] = keras.backend.standardize_dtype(dtype)
    return _NAMES[dtype]


def at_least_float32(dtype: Any) -> str:
    """`dtype`, or float32 where it is narrower or holds integers."""
    # Not `keras.backend.result_type`, which takes float64 for float32 on JAX and torch.
    return "float64" if dtype_name(dtype) == "float64" else "float32"


def cast(x: Tensor, dtype: Any) -> Tensor:
    """`x` in `dtype`; the same tensor where it has that dtype."""
    return x if dtype_name(x.dtype) == dtype_name(dtype) else ops.cast(x, dtype_name(dtype))


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 or wider. Inside a compiled function x is still read at its stored width."""
    return cast(x, at_least_float32(x.dtype))


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent. `ops.tanh` computes in float32 on JAX and torch."""
    return 2.0 * ops.sigmoid(2.0 * x) - 1.0 if dtype_name(x.dtype) == "float64" else ops.tanh(x)


def select(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x`, and 0 at masked positions."""
    return x if mask is None else ops.where(mask, x, 0.0)
