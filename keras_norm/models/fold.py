"""Folds batch normalizations into the weights of neighboring layers, for inference."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from keras.layers import Layer

from keras_norm.layers import BatchInstanceNormalization, MeanOnlyBatchNormalization, SwitchableNormalization
from keras_norm.models import linear
from keras_norm.models.conversion import check_model, convert
from keras_norm.models.graph import Neighbors, find_neighbors
from keras_norm.models.predicates import is_batch_normalization, is_frozen
from keras_norm.tensors import Tensor
from keras_norm.walk import all_layers

OWNER = "fold_batch_normalization"


@keras.saving.register_keras_serializable("keras_norm")
class Folded(keras.layers.Identity):
    """An identity with the call signature of a batch normalization, for layers that pass `training` or `mask`."""

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        return inputs

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        return super().compute_output_spec(inputs)


def fold_batch_normalization(model: keras.Model, verbose: bool = True, *, in_place: bool = False) -> keras.Model:
    """Returns a copy of a model for inference, with batch normalizations folded into neighboring weights.

    In inference a batch normalization is a scale a and a shift b of each channel,

        a_c = gamma_c / sqrt(moving_variance_c + epsilon)        b_c = beta_c - a_c moving_mean_c

    A linear layer before it, W x + w, gets the weights a W and a w + b. A linear layer after it, W (a x + b) + w, gets
    W a and W b + w. Dense, Conv, ConvTranspose, DepthwiseConv and SeparableConv layers, with or without a bias, absorb
    a neighboring normalization, which becomes `keras.layers.Identity`. A normalization stays if an activation, another
    operation or a branch comes between, if it or the layer is called more than once, or if the next layer is transposed
    or pads its inputs (the padding is 0 and not b). Predictions stay the same up to rounding.

    To find the neighbors, the model and each layer that holds a batch normalization are called with symbolic inputs
    and `training=False`. Normalizations stay in a layer that cannot be traced this way. Only `call` is traced: do not
    fold a layer that other methods use differently.

    Args:
        model: a built model, as in `replace_normalization`.
        verbose: whether to print how many were folded, and why the others were not.
        in_place: whether to convert the model itself.

    Returns:
        The new model. It is not compiled.

    Raises:
        TypeError: if the model is not a Keras model.
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
    check_model(OWNER, model)
    layers = all_layers(model, is_leaf=is_frozen)
    neighbors = find_neighbors(model, _has_statistics)
    absorbed: dict[int, linear.Weights] = {}  # the new weights of the absorbing layers, by id
    folded: set[int] = set()
    messages = []
    for layer in filter(_has_statistics, layers):
        found = neighbors[id(layer)]
        pair = None if isinstance(found, str) else _absorber(found)
        if pair is None:
            messages.append(f"  {layer.name} stays: {found if isinstance(found, str) else _describe(found)}.")
            continue
        absorber, scale = pair
        weights = absorbed.get(id(absorber)) or linear.weights_of(absorber)
        absorbed[id(absorber)] = scale(absorber, weights, *_scale_and_shift(layer))
        folded.add(id(layer))
    assigned: list[tuple[Layer, linear.Weights]] = []
    graphs = [layer for layer in layers if isinstance(layer, (keras.Function, keras.Sequential))]
    in_graphs = {id(layer) for graph in graphs for layer in graph.layers}

    def replacement(layer: Layer) -> Layer:
        if id(layer) in folded:
            cls = keras.layers.Identity if id(layer) in in_graphs else Folded
            return cls(name=layer.name, dtype=layer.dtype_policy.name)
        absorber = type(layer).from_config(layer.get_config() | {"use_bias": True})
        assigned.append((absorber, absorbed[id(layer)]))
        return absorber

    result = convert(OWNER, model, lambda layer: id(layer) in folded or id(layer) in absorbed, replacement, in_place)
    for absorber, weights in assigned:
        for weight in absorber.weights:
            weight.assign(weights[weight.name])
    if verbose:
        print("\n".join([f"{len(folded)} of {len(folded) + len(messages)} batch normalizations folded.", *messages]))
    return result


def _absorber(found: Neighbors) -> tuple[Layer, Callable[..., linear.Weights]] | None:
    """The neighbor that can absorb a batch normalization, and the function that scales its weights."""
    norm = _unwrap(found.layer)
    if isinstance(norm, (BatchInstanceNormalization, SwitchableNormalization)):
        return None  # part of their statistics is taken of each input
    rank = len(found.layer.get_build_config()["input_shape"])
    axis = norm.axis % rank

    def is_aligned(layer: Layer) -> bool:
        return linear.is_linear(layer) and linear.channel_axis(layer, rank) == axis

    if found.before and is_aligned(found.before) and linear.has_linear_output(found.before):
        return found.before, linear.scale_outputs
    if found.after and is_aligned(found.after) and linear.is_unpadded(found.after):
        return found.after, linear.scale_inputs
    return None


def _scale_and_shift(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """a and b of each channel, in float64."""
    norm = _unwrap(layer)
    mean, variance = (np.asarray(ops.convert_to_numpy(v), "float64") for v in (norm.moving_mean, norm.moving_variance))
    a = np.ones_like(mean) if isinstance(norm, MeanOnlyBatchNormalization) else 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        a = a * ops.convert_to_numpy(norm.gamma)
    b = -a * mean
    return a, b + ops.convert_to_numpy(norm.beta) if norm.center else b


def _describe(found: Neighbors) -> str:
    """The neighbors of a layer, to explain why it stays."""
    before, after = (
        type(layer).__name__ if layer else "a branch, an operation or an end" for layer in (found.before, found.after)
    )
    return f"it is between {before} and {after}"


def _unwrap(layer: Layer) -> Layer:
    return layer.layer if is_frozen(layer) else layer


def _has_statistics(layer: Layer) -> bool:
    return is_batch_normalization(_unwrap(layer))
