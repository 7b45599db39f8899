"""How a function of tensors runs: operation by operation, or as one XLA computation of its own.

On a GPU or TPU TensorFlow runs a normalization as 8 to 25 passes over memory, and XLA as 3 to 4. Keras compiles a whole
model or nothing, and nothing under `tf.distribute`; so the functions beneath the layers compile themselves.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import keras

from keras_norm._keras import in_export
from keras_norm.arguments import Tensor

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
elif keras.backend.backend() == "jax":
    import jax

Mode = Literal["auto", "always", "never"]
_MODES = ("auto", "always", "never")
_mode: Mode = "auto"


def set_mode(mode: Mode) -> None:
    """Says when normalizations run as XLA computations of their own, from now on and for all layers.

    It concerns TensorFlow alone, where a model is not compiled as a whole: eagerly, in `tf.function`, in `fit` with
    `jit_compile=False`, under a `tf.distribute` strategy. A function that was traced before stays as it was traced,
    so set it first. Nothing is compiled while a model is exported.

    Args:
        mode: "auto", where there is a GPU or TPU, for shapes that come back: all sizes known but the batch, and the
            batch a power of two or a multiple of 4. An odd last batch runs operation by operation, and so stalls
            nothing. "always", on a CPU as well, and for every shape: each new one is compiled, once. "never".

    Raises:
        ValueError: if `mode` is none of these.

    Example:
        >>> set_mode("never")
        >>> set_mode("auto")

    Reference: https://openxla.org/xla/tf2xla
    """
    global _mode
    if mode not in _MODES:
        raise ValueError(f"set_mode: mode must be one of {', '.join(_MODES)}. Received: mode={mode!r}.")
    _mode = mode


def mode() -> Mode:
    """What `set_mode` was last told."""
    return _mode


def has_accelerator() -> bool:
    """Whether the backend computes on a GPU or TPU."""
    if keras.backend.backend() == "tensorflow":
        return any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))
    return keras.backend.backend() == "jax" and jax.default_backend() != "cpu"


def in_xla() -> bool:
    """Whether this code is traced for XLA, by whomever."""
    return keras.backend.backend() == "tensorflow" and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors (the first of which has the batch on axis 0) and of hashable keywords, compiled by itself.

    Its gradient, where somebody asks for it, is that of the plain function: a compiled one would have to keep what
    lies between, which is what compiling saves.
    """

    @functools.cache
    def xla(**keywords: Any) -> Callable[..., Any]:
        return tf.function(functools.partial(function, **keywords), jit_compile=True, autograph=False)

    @functools.wraps(function)
    def run(*tensors: Tensor | None, **keywords: Any) -> Any:
        if not is_wanted():
            return function(*tensors, **keywords)
        given = [i for i, t in enumerate(tensors) if t is not None]

        def placed(*values: Tensor) -> list[Tensor | None]:
            places = dict(zip(given, values, strict=True))
            return [places.get(i) for i in range(len(tensors))]

        @tf.custom_gradient
        def computation(*values: Tensor) -> Any:
            def gradient(*cotangents: Tensor) -> list[Tensor | None]:
                floating = [v for v in values if v.dtype.is_floating]
                with tf.GradientTape() as tape:
                    tape.watch(floating)
                    results = function(*placed(*values), **keywords)
                found = iter(tape.gradient(results, floating, list(cotangents)))
                return [next(found) if v.dtype.is_floating else None for v in values]

            results = _chosen(
                values[0].shape,
                tf.shape(values[0])[0],
                lambda: xla(**keywords)(*placed(*values)),
                lambda: function(*placed(*values), **keywords),
            )
            return results, gradient

        return computation(*(tensors[i] for i in given))

    return run


def is_wanted() -> bool:
    """Whether what runs here is to be compiled by itself."""
    if keras.backend.backend() != "tensorflow" or _mode == "never" or in_xla():
        return False
    asked = _mode == "always" or has_accelerator()
    return asked and (tf.executing_eagerly() or not in_export())


def _chosen(shape: Any, batch: Tensor, compiled: Callable[[], Any], plain: Callable[[], Any]) -> Any:
    """What one of the two returns: the plain one for a shape that would be compiled and not come back."""
    if _mode == "always" or (shape.is_fully_defined() and not tf.executing_eagerly()):
        return compiled()
    if None in shape[1:]:
        return plain()
    comes_back = tf.logical_or(tf.equal(batch % 4, 0), tf.equal(tf.bitwise.bitwise_and(batch, batch - 1), 0))
    return tf.cond(comes_back, compiled, plain)
