"""Where the units of a layer lie: in its kernels and in its outputs. Shared by re-parametrization and folding."""

from math import prod

import numpy as np
from keras import layers as kl
from keras.layers import Layer

TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)


def unit_axes(layer: Layer, name: str, rank: int) -> tuple[int, ...]:
    """The axes along which output units lie, counted from 0, of the layer's kernel of that name and rank."""
    if isinstance(layer, kl.EinsumDense):
        kernel, output = _einsum_letters(layer)
        return tuple(a for a, letter in enumerate(kernel) if letter in output)
    if isinstance(layer, DEPTHWISE) or name == "depthwise_kernel":
        return rank - 2, rank - 1
    return (rank - 2,) if isinstance(layer, TRANSPOSED) else (rank - 1,)


def output_axes(layer: Layer) -> tuple[int, ...] | None:
    """The axes of a layer's output along which its units lie, in the order of the kernel's axes; None if unknown."""
    if isinstance(layer, kl.EinsumDense):
        kernel, output = _einsum_letters(layer)
        # Behind a leading ellipsis letters count from the end.
        start = -len(output) if output.startswith(".") else 0
        return tuple(start + output.index(letter) for letter in kernel if letter in output)
    if isinstance(layer, CONVOLUTIONS):
        return (1,) if layer.data_format == "channels_first" else (-1,)
    return (-1,) if isinstance(layer, kl.Dense) else None


def along_units(values: np.ndarray, layer: Layer, name: str, kernel: np.ndarray) -> np.ndarray:
    """A value for each output unit, shaped to broadcast against the layer's kernel of that name."""
    axes = unit_axes(layer, name, kernel.ndim)
    return values.reshape([size if a in axes else 1 for a, size in enumerate(kernel.shape)])


def number_of_units(layer: Layer, name: str, kernel: np.ndarray) -> int:
    """The number of output units of the layer's kernel of that name."""
    return prod(kernel.shape[a] for a in unit_axes(layer, name, kernel.ndim))


def _einsum_letters(layer: kl.EinsumDense) -> tuple[str, str]:
    """The letters of the kernel and those of the output in the equation `input,kernel->output`."""
    inputs, output = layer.equation.split("->")
    return inputs.split(",")[1], output
