"""When normalizations run as XLA computations by themselves.

On a GPU or TPU TensorFlow runs a normalization as 8 to 25 passes over memory, and XLA as 3 to 4. Keras compiles a whole
model or nothing, and nothing under `tf.distribute`; so the kernels beneath the layers compile themselves.
"""

from typing import Literal

Mode = Literal["auto", "always", "never"]
_MODES = ("auto", "always", "never")
_mode: Mode = "auto"


def set_mode(mode: Mode) -> None:
    """Says when normalizations run as XLA computations by themselves, from now on and for all layers.

    Concerns TensorFlow alone, where a model is not compiled as a whole: eagerly, in `tf.function`, in `fit` with
    `jit_compile=False`, under a `tf.distribute` strategy. A function that was traced before stays as it was traced,
    so set the mode first. Nothing is compiled while a model is exported.

    Args:
        mode: "auto", on a GPU or TPU, and on a CPU from 2^20 elements on, for recurring shapes: all sizes known but
            the batch, and the batch a power of two or a multiple of 4 (on a CPU, in a graph, a known batch). An odd
            last batch runs operation by operation, so it causes no stall. "always", on a CPU as well, and for every
            shape: each new one is compiled, once. "never".

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
    """The mode that `set_mode` was last given."""
    return _mode
