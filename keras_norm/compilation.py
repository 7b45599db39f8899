"""Compilation of single normalizations with XLA, for TensorFlow.

On a GPU or TPU a normalization takes 8 to 25 passes over memory in TensorFlow, and 3 to 4 in XLA. Keras compiles whole
models only, and none under `tf.distribute`, so the kernels compile themselves.
"""

from typing import Literal

Mode = Literal["auto", "always", "never"]
_MODES = ("auto", "always", "never")
_mode: Mode = "auto"


def set_mode(mode: Mode) -> None:
    """Sets when TensorFlow compiles single normalizations with XLA, for all layers.

    The mode matters where the model is not compiled as a whole: in eager mode, in `tf.function`, in `fit` with
    `jit_compile=False`, and under a `tf.distribute` strategy. It has no effect on JAX and torch, on functions that have
    been traced already, or during export.

    Args:
        mode: "auto", "always" or "never". "auto" compiles recurring shapes, on a GPU or TPU of every size, and on a CPU
            from 2^20 elements. A shape recurs if all sizes except the batch are known, and the batch is a power of two
            or a multiple of 4 (on a CPU in a graph: if the batch is known). An odd last batch is not compiled, so it
            causes no delay. "always" compiles every shape once, also on a CPU.

    Raises:
        ValueError: if `mode` is not one of these.

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
    """Returns the current mode."""
    return _mode
