"""Batch normalizations worked into the weights of the layers beside them, for inference."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from keras.layers import Layer

from keras_norm.arguments import Tensor
from keras_norm.layers import BatchInstanceNormalization
from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.models import linear
from keras_norm.models.conversion import check, convert
from keras_norm.models.graph import Place, places
from keras_norm.models.kinds import is_batch_normalization, layers_inside

OWNER = "fold_batch_normalization"


@keras.saving.register_keras_serializable("keras_norm")
class Folded(keras.layers.Identity):
    """Passes its inputs on, where the class of a layer may call it with all that a batch normalization takes."""

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        return inputs

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        return super().compute_output_spec(inputs)


def fold_batch_normalization(model: keras.Model, verbose: bool = True, *, in_place: bool = False) -> keras.Model:
    """A copy of a model for inference, whose batch normalizations are part of the weights beside them.

    In inference a batch normalization is a scale a and a shift b of each channel,

        a_c = gamma_c / sqrt(moving_variance_c + epsilon)        b_c = beta_c - a_c moving_mean_c

    A linear layer before it, W x + w, gives the same by the weights a W and a w + b; a linear layer after it,
    W (a x + b) + w, by W a and W b + w. Dense, Conv, ConvTranspose, DepthwiseConv and SeparableConv layers take one
    beside them in, with or without a bias, and `keras.layers.Identity` takes its place. A normalization stays where an
    activation, another operation or a branch comes between, where it or the layer is called more than once, and in
    front of a layer that pads its inputs (the padding is 0 and not b) or is transposed. Predictions are the same up to
    rounding.

    What comes before and after is seen in a symbolic call of the model and of each layer that holds a batch
    normalization, with `training=False`: as Keras calls a layer in a Functional model. A layer that can only be called
    with numbers keeps its normalizations. `call` is what counts: do not fold a layer that other methods use otherwise.

    Args:
        model: a built model, as in `replace_normalization`.
        verbose: whether to print how many were folded, and why the others stay.
        in_place: whether to convert the model itself.

    Returns:
        The new model. It is not compiled.

    Raises:
        TypeError: if the model is no Keras model.
        ValueError: if the model is not built or cannot be copied.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.BatchNormalization()])
        >>> folded = fold_batch_normalization(model)
        1 of 1 batch normalizations folded.
        >>> [type(layer).__name__ for layer in folded.layers]
        ['Dense', 'Identity']

    Reference: Jacob et al., Quantization and Training of Neural Networks, CVPR 2018,
        https://arxiv.org/abs/1712.05877, eq. 14.
    """
    check(OWNER, model)
    found = places(model, _keeps_statistics)
    hosts: dict[int, linear.Weights] = {}  # of the layers that take a normalization in, by id
    folded: set[int] = set()
    stay = []
    for layer in filter(_keeps_statistics, layers_inside(model)):
        place = found[id(layer)]
        host, scale = _host(place)
        if host is not None:
            hosts[id(host)] = scale(host, hosts.get(id(host)) or linear.weights_of(host), *_scale_and_shift(layer))
            folded.add(id(layer))
        else:
            stay.append(f"  {layer.name} stays: {place if isinstance(place, str) else _surroundings(place)}.")
    taken: list[tuple[Layer, linear.Weights]] = []
    graphs = [layer for layer in layers_inside(model) if isinstance(layer, (keras.Function, keras.Sequential))]
    of_graphs = {id(layer) for graph in graphs for layer in graph.layers}

    def change(layer: Layer) -> Layer:
        if id(layer) in folded:
            kind = keras.layers.Identity if id(layer) in of_graphs else Folded
            return kind(name=layer.name, dtype=layer.dtype_policy.name)
        host = type(layer).from_config(layer.get_config() | {"use_bias": True})
        taken.append((host, hosts[id(layer)]))
        return host

    result = convert(OWNER, model, lambda layer: id(layer) in folded or id(layer) in hosts, change, in_place)
    for host, weights in taken:
        for weight in host.weights:
            weight.assign(weights[weight.name])
    if verbose:
        print("\n".join([f"{len(folded)} of {len(folded) + len(stay)} batch normalizations folded.", *stay]))
    return result


def _host(place: Place | str) -> tuple[Layer | None, Callable[..., linear.Weights]]:
    """The layer beside a batch normalization that can take it in, and how."""
    if isinstance(place, str) or isinstance(_inner(place.layer), BatchInstanceNormalization):
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


def _surroundings(place: Place) -> str:
    """Where a layer stands, for who wonders why it stays."""
    before, after = (type(layer).__name__ if layer else "a branch, an operation or an end" for layer in place[1:])
    return f"it stands between {before} and {after}"


def _inner(layer: Layer) -> Layer:
    return layer.layer if isinstance(layer, FrozenBatchNormalization) else layer


def _keeps_statistics(layer: Layer) -> bool:
    return is_batch_normalization(_inner(layer))
