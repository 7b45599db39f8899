"""The normalizations of a model: their sets, the shapes they are called with, and what comes before them."""

from math import prod
from typing import Any, NamedTuple

import keras
from keras import layers as kl
from keras.layers import Layer

from keras_norm import arguments, layers, sets
from keras_norm._keras import Node, get_keras_mask, node_of
from keras_norm.kernel_layouts import output_axes
from keras_norm.models.graph import Neighbors, Trace, traced
from keras_norm.models.predicates import (
    is_along_axes,
    is_batch_normalization,
    is_frozen,
    is_group_normalization,
    is_normalization,
)
from keras_norm.sets import Sets
from keras_norm.tensors import Tensor
from keras_norm.walk import named_layers

LOOPS = (kl.RNN, kl.TimeDistributed)
"""Layers that call their sublayers in a loop, where calls cannot be observed."""
KEEP_CHANNELS = (kl.Activation, kl.ReLU, kl.LeakyReLU, kl.ELU, kl.PReLU, kl.Dropout)
"""Layers that keep the channel axis, in addition to all normalizations."""

Shape = tuple[int | None, ...]


class Call(NamedTuple):
    """A call of a normalization in a symbolic call of the model."""

    shape: Shape
    masked: bool
    source: Layer | None
    """The layer that produced the channels, if only normalizations, activations and dropout follow it."""


class Place(NamedTuple):
    """A normalization of a model, with the properties that are known without data."""

    path: str
    layer: Layer
    calls: list[Call]
    before: Layer | None
    """The previous layer, if its output goes only to this one."""
    unknown: str | None
    """The reason why calls or neighbors are unknown."""
    in_loop: bool

    @property
    def norm(self) -> Layer:
        """The normalization itself, unwrapped if frozen."""
        return self.layer.layer if is_frozen(self.layer) else self.layer

    @property
    def kind(self) -> str:
        """The name of the class, with the prefix "keras" for Keras layers and "frozen" for frozen ones."""
        name = type(self.norm).__name__ if type(self.norm) is type(self.layer) else f"frozen {type(self.norm).__name__}"
        return f"keras {name}" if type(self.norm).__module__.startswith("keras.") else name

    @property
    def uses_batch(self) -> bool:
        """Whether the layer uses batch statistics in training."""
        return is_batch_normalization(self.layer) and bool(self.layer.trainable)


def find_places(model: keras.Model) -> list[Place]:
    """All normalizations of a model, outer layers first."""
    in_loops = {
        id(inner)
        for _, loop in named_layers(model, is_leaf=is_frozen)
        if isinstance(loop, LOOPS)
        for _, inner in named_layers(loop, is_leaf=is_frozen)
    }
    with traced(model, is_normalization) as trace:
        return [
            _place(trace, path, layer, id(layer) in in_loops)
            for path, layer in named_layers(model, is_leaf=is_frozen)
            if is_normalization(layer)
        ]


def _place(trace: Trace, path: str, layer: Layer, in_loop: bool) -> Place:
    nodes = sorted(trace.calls(layer), key=layer._inbound_nodes.index)
    calls = [_call(node) for node in nodes]
    if not calls and layer.built:
        shape = (layer.get_build_config() or {}).get("input_shape")
        calls = [Call(tuple(shape), False, None)] if shape else []
    found = trace.neighbors(layer)
    before, unknown = (found.before, None) if isinstance(found, Neighbors) else (None, found)
    return Place(path, layer, calls, before, unknown, in_loop)


def _call(node: Node) -> Call:
    x = node.input_tensors[0]
    return Call(tuple(x.shape), get_keras_mask(x) is not None, _source(x))


def _source(x: Tensor) -> Layer | None:
    """The layer that produced the channels of `x`."""
    while (node := node_of(x)) is not None and node.input_tensors:
        layer = node.operation
        if output_axes(layer) is not None:
            return layer
        if not isinstance(layer, KEEP_CHANNELS) and not is_normalization(layer):
            return None
        x = node.input_tensors[0]
    return None


def sets_of(norm: Layer, x: Any) -> list[Sets]:
    """The sets of a normalization for an `x` with a shape; several for a mixture, none for `DynamicTanh`."""
    rank = len(x.shape)
    if isinstance(norm, layers.DynamicTanh):
        return []
    axis: Any = norm.axis
    if is_along_axes(norm):
        if axis is None:
            return [sets.group(x, rank - 1, 1)]
        return [sets.along(arguments.resolve_axes(norm.name, axis, rank))]
    axis = arguments.resolve_axis(norm.name, axis, rank)
    if is_group_normalization(norm):
        return [sets.group(x, axis, arguments.resolve_groups(norm.name, norm.groups, x.shape[axis], axis))]
    if not is_batch_normalization(norm):
        return [sets.instance(x, axis)]
    if isinstance(norm, layers.BatchInstanceNormalization):
        return [sets.batch(x, axis), sets.instance(x, axis)]
    if isinstance(norm, layers.SwitchableNormalization):
        return [sets.batch(x, axis), sets.instance(x, axis), sets.group(x, axis, 1)]
    return [sets.batch(x, axis)]


def positions_in(of: Sets, shape: Shape) -> int | None:
    """The number of positions of a set within one sample; None if a size is unknown."""
    sizes = [shape[a] for a in of.axes if a != 0]
    if of.groups is not None:
        sizes.append((shape[of.groups.axis] or 0) // of.groups.count or None)
    return None if None in sizes else prod(size for size in sizes if size is not None)


def description(norm: Layer, x: Any) -> str:
    """The sets in the notation of the table in `sets.py`."""
    return " and ".join(_description(of, len(x.shape)) for of in sets_of(norm, x)) or "none"


def _description(of: Sets, rank: int) -> str:
    kept = [a for a in range(rank) if a not in of.axes and (of.groups is None or a != of.groups.axis)]
    names = {0: "N"} | ({rank - 1: "C"} if 0 in of.axes or rank - 1 in kept else {})
    equal = ", ".join(f"k_{names.get(a, a)} = i_{names.get(a, a)}" for a in kept)
    return equal if of.groups is None or of.groups.count == 1 else f"{equal}, {of.groups.count} groups"
