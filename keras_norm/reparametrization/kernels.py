"""Which weights of a layer are its kernels, as matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import keras
from keras import ops

from keras_norm._keras import all_layers
from keras_norm.arguments import Tensor, integer, known_shape
from keras_norm.kernel_layouts import unit_axes

_DEFAULT_NAMES = (
    ("recurrent_kernel",),
    ("kernel",),
    ("embeddings",),
    ("depthwise_kernel", "pointwise_kernel"),
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
        return unit_axes(layer, weight.name, len(weight.shape))
    rank = len(weight.shape)
    listed = [integer(owner, "axis", a) for a in (axis if isinstance(axis, list | tuple) else [axis])]
    axes = sorted({a % rank for a in listed if -rank <= a < rank})
    if len(axes) < len(listed) or not axes:
        raise ValueError(
            f"{owner}: axis must name axes of the kernel, each once. "
            f"Received: axis={axis}, {weight.name} of shape {tuple(weight.shape)}."
        )
    return tuple(axes)
