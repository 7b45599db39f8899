"""Folds a scale and a shift per channel into the weights of a layer that is linear before its activation."""

import keras
import numpy as np
from keras import layers as kl
from keras.layers import Layer

from keras_norm.kernel_layouts import (
    CONVOLUTIONS,
    DEPTHWISE,
    SEPARABLE,
    TRANSPOSED,
    along_units,
    number_of_units,
    output_axes,
)

Array = np.ndarray
Weights = dict[str, Array]
"""The weights of a layer by their names, in float64, with a bias."""

LINEAR = (kl.Dense, *CONVOLUTIONS)


def is_linear(layer: Layer) -> bool:
    """Whether the layer is linear before its activation and has no weights of quantization or LoRA."""
    names = {"kernel", "bias", "depthwise_kernel", "pointwise_kernel"}
    return type(layer) in LINEAR and {weight.name for weight in layer.weights} <= names


def has_linear_output(layer: Layer) -> bool:
    """Whether the layer has no activation."""
    return layer.activation is keras.activations.linear


def is_unpadded(layer: Layer) -> bool:
    """Whether every output reads the same number of inputs, so that a shift of the inputs shifts all outputs alike."""
    if isinstance(layer, kl.Dense):
        return True
    return not isinstance(layer, TRANSPOSED) and (layer.padding == "valid" or set(layer.kernel_size) == {1})


def channel_axis(layer: Layer, rank: int) -> int:
    """The axis of the channels that the kernel acts on, counted from 0."""
    axes = output_axes(layer)
    assert axes is not None  # it is known for linear layers
    return axes[0] % rank


def weights_of(layer: Layer) -> Weights:
    """The weights, with a zero bias if the layer has none."""
    weights = {weight.name: np.asarray(keras.ops.convert_to_numpy(weight), "float64") for weight in layer.weights}
    name = _last_kernel(layer)
    return {"bias": np.zeros(number_of_units(layer, name, weights[name])), **weights}


def scale_outputs(layer: Layer, weights: Weights, a: Array, b: Array) -> Weights:
    """The weights of a layer that returns a y + b where this one returns y."""
    name = _last_kernel(layer)
    kernel = weights[name]
    return weights | {name: kernel * along_units(a, layer, name, kernel), "bias": weights["bias"] * a + b}


def _last_kernel(layer: Layer) -> str:
    """The name of the kernel that produces the layer's output units."""
    return "pointwise_kernel" if isinstance(layer, SEPARABLE) else "kernel"


def scale_inputs(layer: Layer, weights: Weights, a: Array, b: Array) -> Weights:
    """The weights of a layer that returns for x what this one returns for a x + b."""
    name = "depthwise_kernel" if isinstance(layer, SEPARABLE) else "kernel"
    kernel = weights[name]
    if isinstance(layer, (*DEPTHWISE, *SEPARABLE)):
        a, b = a[:, None], b[:, None]  # each input channel has its own filters
        shift = (kernel * b).sum(tuple(range(kernel.ndim - 2))).reshape(-1)
        if isinstance(layer, SEPARABLE):
            shift = shift @ weights["pointwise_kernel"].reshape(shift.size, -1)
    else:
        groups = 1 if isinstance(layer, kl.Dense) else layer.groups
        # Filter o reads the input channels of its group: (C, ) becomes (C / groups, filters).
        a, b = (np.repeat(v.reshape(groups, -1).T, kernel.shape[-1] // groups, axis=1) for v in (a, b))
        shift = (kernel * b).sum(tuple(range(kernel.ndim - 1)))
    return weights | {name: kernel * a, "bias": weights["bias"] + shift}
