"""Scales and shifts of each channel, worked into the weights of a layer that is linear before its activation."""

import keras
import numpy as np
from keras import layers as kl
from keras.layers import Layer

Array = np.ndarray
Weights = dict[str, Array]
"""The weights of a layer by their names, in float64, with a bias."""

TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
LINEAR = (kl.Dense, kl.Conv1D, kl.Conv2D, kl.Conv3D, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)


def is_linear(layer: Layer | None) -> bool:
    """Whether the layer is known to be linear before its activation, and its weights are the layer's own alone."""
    names = {"kernel", "bias", "depthwise_kernel", "pointwise_kernel"}  # others quantize, or adapt at low rank
    return layer is not None and type(layer) in LINEAR and {weight.name for weight in layer.weights} <= names


def gives_it_out(layer: Layer) -> bool:
    """Whether the layer's output is linear too."""
    return layer.activation is keras.activations.linear


def sees_no_padding(layer: Layer) -> bool:
    """Whether each output reads as many inputs as any other, so that a shift of the inputs shifts all of them alike."""
    if isinstance(layer, kl.Dense):
        return True
    return not isinstance(layer, TRANSPOSED) and (layer.padding == "valid" or set(layer.kernel_size) == {1})


def channel_axis(layer: Layer, rank: int) -> int:
    """The axis of the channels that the weights mix, counted from 0."""
    return 1 if not isinstance(layer, kl.Dense) and layer.data_format == "channels_first" else rank - 1


def weights_of(layer: Layer) -> Weights:
    """The weights, and a bias of 0 where there is none."""
    weights = {weight.name: np.asarray(keras.ops.convert_to_numpy(weight), "float64") for weight in layer.weights}
    if isinstance(layer, DEPTHWISE):
        channels = np.prod(weights["kernel"].shape[-2:])
    else:
        channels = layer.units if isinstance(layer, kl.Dense) else layer.filters
    return {"bias": np.zeros(channels), **weights}


def scale_outputs(layer: Layer, weights: Weights, a: Array, b: Array) -> Weights:
    """The weights that give a y + b where the layer gave y."""
    name = "pointwise_kernel" if isinstance(layer, SEPARABLE) else "kernel"
    if isinstance(layer, DEPTHWISE):
        along = a.reshape(weights[name].shape[-2:])
    else:
        along = a[:, None] if isinstance(layer, TRANSPOSED) else a  # (..., out, in) or (..., in, out)
    return weights | {name: weights[name] * along, "bias": weights["bias"] * a + b}


def scale_inputs(layer: Layer, weights: Weights, a: Array, b: Array) -> Weights:
    """The weights that give for x what the layer gave for a x + b."""
    name = "depthwise_kernel" if isinstance(layer, SEPARABLE) else "kernel"
    kernel = weights[name]
    if isinstance(layer, (*DEPTHWISE, *SEPARABLE)):
        a, b = a[:, None], b[:, None]  # each input channel has filters of its own
        shift = (kernel * b).sum(tuple(range(kernel.ndim - 2))).reshape(-1)
        if isinstance(layer, SEPARABLE):
            shift = shift @ weights["pointwise_kernel"].reshape(shift.size, -1)
    else:
        groups = 1 if isinstance(layer, kl.Dense) else layer.groups
        # Filter o reads the input channels of its group: (C, ) becomes (C / groups, filters).
        a, b = (np.repeat(v.reshape(groups, -1).T, kernel.shape[-1] // groups, axis=1) for v in (a, b))
        shift = (kernel * b).sum(tuple(range(kernel.ndim - 1)))
    return weights | {name: kernel * a, "bias": weights["bias"] + shift}
