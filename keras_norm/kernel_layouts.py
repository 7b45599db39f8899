"""The unit axes of kernels and outputs, by type of layer. Shared by re-parametrization and folding."""

from math import prod

import numpy as np
from keras import layers as kl
from keras.layers import Layer

TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)


def unit_axes(layer: Layer, name: str, rank: int) -> tuple[int, ...]:
    """The axes of the output units in the layer's kernel of this name and rank, counted from 0."""
    if isinstance(layer, kl.EinsumDense):
        kernel, output = _einsum_letters(layer)
        return tuple(a for a, letter in enumerate(kernel) if letter in output)
    if isinstance(layer, DEPTHWISE) or name == "depthwise_kernel":
        return rank - 2, rank - 1
    return (rank - 2,) if isinstance(layer, TRANSPOSED) else (rank - 1,)


def output_axes(layer: Layer) -> tuple[int, ...] | None:
    """The axes of the units in the layer's output, in the order of the kernel's axes; None if unknown."""
    if isinstance(layer, kl.EinsumDense):
        kernel, output = _einsum_letters(layer)
        # After a leading ellipsis, axes count from the end.
        start = -len(output) if output.startswith(".") else 0
        return tuple(start + output.index(letter) for letter in kernel if letter in output)
    if isinstance(layer, CONVOLUTIONS):
        return (1,) if layer.data_format == "channels_first" else (-1,)
    return (-1,) if isinstance(layer, kl.Dense) else None


def along_units(values: np.ndarray, layer: Layer, name: str, kernel: np.ndarray) -> np.ndarray:
    """Reshapes a vector with one value per output unit to broadcast against the kernel."""
    axes = unit_axes(layer, name, kernel.ndim)
    return values.reshape([size if a in axes else 1 for a, size in enumerate(kernel.shape)])


def number_of_units(layer: Layer, name: str, kernel: np.ndarray) -> int:
    """The number of output units of the kernel."""
    return prod(kernel.shape[a] for a in unit_axes(layer, name, kernel.ndim))


def _einsum_letters(layer: kl.EinsumDense) -> tuple[str, str]:
    """The kernel's and the output's letters in the equation `input,kernel->output`."""
    inputs, output = layer.equation.split("->")
    return inputs.split(",")[1], output
