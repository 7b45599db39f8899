"""Batch normalizations worked into the weights of the layers beside them, for inference."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from keras.layers import Layer

from keras_norm._keras import become
from keras_norm.layers import BatchInstanceNormalization
from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.models import linear
from keras_norm.models.conversion import check, copy
from keras_norm.models.copying import build_like, is_container
from keras_norm.models.graph import Place, places
from keras_norm.models.kinds import is_batch_normalization, layers_inside

OWNER = "fold_batch_normalization"


def fold_batch_normalization(model: keras.Model, verbose: bool = True) -> keras.Model:
    """A copy of a model for inference, whose batch normalizations are part of the weights beside them.

    In inference a batch normalization is a scale a and a shift b of each channel,

        a_c = gamma_c / sqrt(moving_variance_c + epsilon)        b_c = beta_c - a_c moving_mean_c

    A linear layer before it, W x + w, gives the same by the weights a W and a w + b; a linear layer after it,
    W (a x + b) + w, by W a and W b + w. Dense, Conv, ConvTranspose, DepthwiseConv and SeparableConv layers take one
    beside them in, with or without a bias. A normalization stays where an activation, another operation or a branch
    comes between, where it or the layer is called more than once, and in front of a layer that pads its inputs (the
    padding is 0 and not b) or is transposed. Predictions are the same up to rounding. The copy is not compiled, and
    the model stays as it was. A Functional model whose class has its own constructor becomes a plain `keras.Model`.

    Args:
        model: a built Functional or Sequential model; models inside it are folded with it.
        verbose: whether to print how many were folded, and between which layers the others stand.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is subclassed.
        ValueError: if the model is not built.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.BatchNormalization()])
        >>> folded = fold_batch_normalization(model)
        1 of 1 batch normalizations folded.
        >>> [layer.name for layer in folded.layers] == [model.layers[0].name]
        True

    Reference: Jacob et al., Quantization and Training of Neural Networks, CVPR 2018,
        https://arxiv.org/abs/1712.05877, eq. 14.
    """
    if not is_container(model):
        raise TypeError(
            f"{OWNER}: model must be Functional or Sequential, whose layers Keras can tell apart. "
            f"Received: model of {type(model).__name__} (fold the Functional and Sequential models inside it)."
        )
    check(OWNER, model)
    found = {id(place.layer): place for place in places(model)}
    layers = [layer for layer in layers_inside(model) if _keeps_statistics(layer)]
    hosts: dict[int, linear.Weights] = {}  # of the layers that take a normalization in, by id
    folded: set[int] = set()
    for layer in layers:
        host, scale = _host(found.get(id(layer)))
        if host is not None:
            hosts[id(host)] = scale(host, hosts.get(id(host)) or linear.weights_of(host), *_scale_and_shift(layer))
            folded.add(id(layer))
    result, twins = copy(OWNER, model, "fold the models inside it", is_graph=is_container, without=folded)
    for key, weights in hosts.items():
        host = twins[key]
        become(host, _with_weights(host, weights))
    if verbose:
        print(f"{len(folded)} of {len(layers)} batch normalizations folded.")
        for layer in layers:
            if id(layer) not in folded:
                print(f"  {layer.name} stays: {_surroundings(found.get(id(layer)))}.")
    return result


def _host(place: Place | None) -> tuple[Layer | None, Callable[..., linear.Weights]]:
    """The layer beside a batch normalization that can take it in, and how."""
    if place is None or isinstance(_inner(place.layer), BatchInstanceNormalization):
        return None, linear.scale_outputs
    rank = len(place.layer.get_build_config()["input_shape"])
    axis = _inner(place.layer).axis % rank

    def mixes(layer: Layer | None) -> bool:
        return linear.is_linear(layer) and linear.channel_axis(layer, rank) == axis

    if mixes(place.before) and linear.gives_it_out(place.before):
        return place.before, linear.scale_outputs
    if mixes(place.after) and linear.sees_no_padding(place.after):
        return place.after, linear.scale_inputs
    return None, linear.scale_outputs


def _with_weights(layer: Layer, weights: linear.Weights) -> Layer:
    """The layer with a bias and these weights."""
    new = type(layer).from_config(layer.get_config() | {"use_bias": True})
    build_like(layer, new, layer)
    new.trainable = layer.trainable
    for weight in new.weights:
        weight.assign(weights[weight.name])
    return new


def _scale_and_shift(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """a and b of each channel, in float64."""
    layer = _inner(layer)
    mean, variance = (
        np.asarray(ops.convert_to_numpy(v), "float64") for v in (layer.moving_mean, layer.moving_variance)
    )
    a = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        a = a * ops.convert_to_numpy(layer.gamma)
    b = -a * mean
    return a, b + ops.convert_to_numpy(layer.beta) if layer.center else b


def _surroundings(place: Place | None) -> str:
    """Where a layer stands, for who wonders why it stays."""
    if place is None:
        return "it is called more than once, or by a layer that is no model"
    before, after = (type(layer).__name__ if layer else "a branch or an end" for layer in place[1:])
    return f"it stands between {before} and {after}"


def _inner(layer: Layer) -> Layer:
    return layer.layer if isinstance(layer, FrozenBatchNormalization) else layer


def _keeps_statistics(layer: Layer) -> bool:
    return is_batch_normalization(_inner(layer))
