"""Finds the kernels of a layer and reshapes them to matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import keras
from keras import ops

from keras_norm._keras import layers_in_file_order
from keras_norm.arguments import integer
from keras_norm.kernel_layouts import unit_axes
from keras_norm.tensors import Tensor, known_shape
from keras_norm.walk import all_layers

_DEFAULT_NAMES = (
    ("recurrent_kernel",),
    ("kernel",),
    ("embeddings",),
    ("depthwise_kernel", "pointwise_kernel"),
)


@dataclass(frozen=True)
class Kernel:
    """A weight, the layer that created it, and for each of its axes whether it is one of output units.

    The flags are booleans, because `torch.compile` treats integers as variables and fails to look them up.
    """

    layer: keras.layers.Layer
    weight: keras.Variable
    is_unit_axis: tuple[bool, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the output units."""
        return tuple(a for a, is_unit in enumerate(self.is_unit_axis) if is_unit)

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
        """The order of axes that puts the unit axes last."""
        return [a for a, is_unit in enumerate(self.is_unit_axis) if not is_unit] + list(self.axes)


def find_kernels(
    owner: str, layer: keras.layers.Layer, names: str | Sequence[str] | None, axis: int | Sequence[int] | None
) -> tuple[Kernel, ...]:
    """Finds the weights with one of these names in a built layer and its sublayers.

    Args:
        owner: the class in error messages.
        layer: a built layer.
        names: None for the recurrent kernel of an RNN, else the kernel, else the embeddings, else both kernels of a
            separable convolution.
        axis: the axes of the output units; None for the default of the layer's type.
    """
    weights = [(inner, weight) for inner in layers_in_file_order(layer) for weight in _own_weights(inner)]
    present = [weight.name for _, weight in weights]
    for candidates in _DEFAULT_NAMES if names is None else [[names] if isinstance(names, str) else names]:
        if set(candidates) <= set(present):
            found = [(inner, weight) for name in candidates for inner, weight in weights if weight.name == name]
            return tuple(_kernel(owner, inner, weight, axis) for inner, weight in found)
    raise ValueError(
        f"{owner}: weight_name must name weights of the wrapped layer. "
        f"Received: weight_name={names!r}, layer={layer.name!r} ({type(layer).__name__}) with weights {present}."
    )


def _transpose(x: Tensor, order: list[int]) -> Tensor:
    """`x` with its axes in `order`. Most kernels are in order already, and a transpose would copy them."""
    return x if order == sorted(order) else ops.transpose(x, order)


def _own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights of the layer without those of its sublayers."""
    inherited = {id(weight) for inner in all_layers(layer)[1:] for weight in inner.weights}
    return [weight for weight in layer.weights if id(weight) not in inherited]


def _kernel(owner: str, layer: keras.layers.Layer, weight: keras.Variable, axis: int | Sequence[int] | None) -> Kernel:
    """The kernel with its unit axes: `axis`, or the default."""
    rank = len(weight.shape)
    if axis is None:
        axes = unit_axes(layer, weight.name, rank)
    else:
        listed = [integer(owner, "axis", a) for a in (axis if isinstance(axis, list | tuple) else [axis])]
        axes = tuple({a % rank for a in listed if -rank <= a < rank})
        if len(axes) < len(listed) or not axes:
            raise ValueError(
                f"{owner}: axis must name axes of the kernel, each once. "
                f"Received: axis={axis}, {weight.name} of shape {tuple(weight.shape)}."
            )
    return Kernel(layer, weight, tuple(a in axes for a in range(rank)))
