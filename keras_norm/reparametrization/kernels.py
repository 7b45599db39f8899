"""Which weights of a layer are its kernels, and along which of their axes its output units lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import keras
from keras import ops

from keras_norm._keras import all_layers
from keras_norm.arguments import Tensor, integer, known_shape

_DEFAULT_NAMES = (
    ("recurrent_kernel",),
    ("kernel",),
    ("embeddings",),
    ("depthwise_kernel", "pointwise_kernel"),
)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    *_TRANSPOSED,
    *_DEPTHWISE,
)


@dataclass(frozen=True)
class Kernel:
    """A weight, the layer that made it, and for each of its axes whether output units lie along it.

    `torch.compile` would make variables of integers, and errs when it looks for a number among them.
    """

    owner: keras.layers.Layer
    weight: keras.Variable
    holds_units: tuple[bool, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the output units."""
        return tuple(a for a, holds in enumerate(self.holds_units) if holds)

    @property
    def units(self) -> int:
        """The number of output units."""
        return prod(self.weight.shape[a] for a in self.axes)

    def to_matrix(self, value: Tensor) -> Tensor:
        """`value`, of the kernel's shape, as `(rest, units)`."""
        sizes = known_shape(value)
        return ops.reshape(_transpose(value, self._units_last), (-1, prod(sizes[a] for a in self.axes)))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_matrix`."""
        order = self._units_last
        sizes = known_shape(self.weight.value)
        value = ops.reshape(matrix, [sizes[a] for a in order])
        return _transpose(value, [order.index(a) for a in range(len(order))])

    @property
    def _units_last(self) -> list[int]:
        """The axes of the kernel, those of the units last."""
        return [a for a, holds in enumerate(self.holds_units) if not holds] + list(self.axes)


def find_kernels(
    owner: str, layer: keras.layers.Layer, names: str | Sequence[str] | None, axis: int | Sequence[int] | None
) -> tuple[Kernel, ...]:
    """The weights of a built `layer` that are called one of `names`, those of its sublayers included.

    Args:
        owner: whom an error names.
        layer: a built layer.
        names: None for the recurrent kernel of an RNN, else the kernel, else the embeddings, else both kernels of a
            separable convolution.
        axis: the axes of the output units; None for those that the layer's type tells.
    """
    weights = [(part, weight) for part in all_layers(layer) for weight in _own_weights(part)]
    present = [weight.name for _, weight in weights]
    for listed in _DEFAULT_NAMES if names is None else [[names] if isinstance(names, str) else names]:
        if set(listed) <= set(present):
            found = [(part, weight) for name in listed for part, weight in weights if weight.name == name]
            return tuple(_kernel(part, weight, _unit_axes(owner, part, weight, axis)) for part, weight in found)
    raise ValueError(
        f"{owner}: weight_name must name weights of the wrapped layer. "
        f"Received: weight_name={names!r}, layer={layer.name!r} ({type(layer).__name__}) with weights {present}."
    )


def _kernel(owner: keras.layers.Layer, weight: keras.Variable, axes: tuple[int, ...]) -> Kernel:
    """The kernel whose units lie along `axes`."""
    return Kernel(owner, weight, tuple(a in axes for a in range(len(weight.shape))))


def default_unit_axes(layer: keras.layers.Layer, weight: keras.Variable) -> tuple[int, ...]:
    """The axes of a kernel along which the output units of its layer lie, counted from 0."""
    rank = len(weight.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        kernel, output = _einsum_letters(layer)
        return tuple(a for a, letter in enumerate(kernel) if letter in output)
    if isinstance(layer, _DEPTHWISE) or weight.name == "depthwise_kernel":
        return rank - 2, rank - 1
    return (rank - 2,) if isinstance(layer, _TRANSPOSED) else (rank - 1,)


def output_axes(layer: keras.layers.Layer) -> tuple[int, ...] | None:
    """The axes of a layer's output along which its units lie, in the order of the kernel's axes; None if unknown."""
    if isinstance(layer, keras.layers.EinsumDense):
        kernel, output = _einsum_letters(layer)
        # Behind a leading ellipsis letters count from the end.
        start = -len(output) if output.startswith(".") else 0
        return tuple(start + output.index(letter) for letter in kernel if letter in output)
    if isinstance(layer, _CONVOLUTIONS):
        return (1,) if layer.data_format == "channels_first" else (-1,)
    return (-1,) if isinstance(layer, keras.layers.Dense) else None


def _einsum_letters(layer: keras.layers.EinsumDense) -> tuple[str, str]:
    """The letters of the kernel and those of the output in the equation `input,kernel->output`."""
    inputs, output = layer.equation.split("->")
    return inputs.split(",")[1], output


def _transpose(x: Tensor, order: list[int]) -> Tensor:
    """`x` with its axes in `order`; most kernels are in order already, and a transpose that moves nothing copies."""
    return x if order == sorted(order) else ops.transpose(x, order)


def _own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that the layer itself made, without those of its sublayers."""
    below = {id(weight) for part in all_layers(layer)[1:] for weight in part.weights}
    return [weight for weight in layer.weights if id(weight) not in below]


def _unit_axes(
    owner: str, layer: keras.layers.Layer, weight: keras.Variable, axis: int | Sequence[int] | None
) -> tuple[int, ...]:
    """`axis` counted from 0 and sorted, or the default."""
    if axis is None:
        return default_unit_axes(layer, weight)
    rank = len(weight.shape)
    listed = [integer(owner, "axis", a) for a in (axis if isinstance(axis, list | tuple) else [axis])]
    axes = sorted({a % rank for a in listed if -rank <= a < rank})
    if len(axes) < len(listed) or not axes:
        raise ValueError(
            f"{owner}: axis must name axes of the kernel, each once. "
            f"Received: axis={axis}, {weight.name} of shape {tuple(weight.shape)}."
        )
    return tuple(axes)
