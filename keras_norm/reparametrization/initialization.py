"""Data-dependent initialization of weight-normalized layers."""

from collections.abc import Callable
from typing import Any

import keras

from keras_norm.intercept import intercept
from keras_norm.reparametrization.weight import WeightNormalization
from keras_norm.walk import all_layers


def initialize_from_data(model: keras.layers.Layer, batch: Any, training: bool = False) -> list[WeightNormalization]:
    """Sets g and bias so that each weight-normalized unit has mean 0 and variance 1 on a batch.

    With mean m_c and variance s_c^2 of the pre-activation of unit c over the batch and all positions,

        g_c <- g_c / s_c        bias_c <- (bias_c - m_c) / s_c

    The model is called on the batch once, eagerly. Each `WeightNormalization` is initialized before its first call, so
    later layers see its new outputs. Without a bias a unit gets only variance 1, and a unit that is constant on the
    batch gets only mean 0. Dense, EinsumDense and convolution layers are initialized. Wrapped RNNs and embeddings, and
    wrappers with a custom `axis`, do not change.

    Args:
        model: a model, or any layer, that holds `WeightNormalization` layers.
        batch: inputs for `model`, such as a few hundred samples of the training data.
        training: whether to call the model in training mode. In inference mode dropout adds no noise.

    Returns:
        The initialized wrappers, in the order of the calls.

    Raises:
        ValueError: if the model has no such wrapper.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), WeightNormalization(keras.layers.Dense(3))])
        >>> batch = np.random.default_rng(0).normal(5.0, 2.0, (100, 4))
        >>> layers = initialize_from_data(model, batch)
        >>> np.round(np.std(model(batch), 0), 3)
        array([1., 1., 1.], dtype=float32)

    Reference: Salimans & Kingma, Weight Normalization, NeurIPS 2016, https://arxiv.org/abs/1602.07868, section 3.
    """
    # A subclassed model may be built while layers inside it are not.
    if not all(layer.built for layer in all_layers(model)):
        model(batch, training=training)
    layers = all_layers(model)
    wrappers = [x for x in layers if isinstance(x, WeightNormalization) and x.has_pre_activations()]
    if not wrappers:
        raise ValueError(
            "initialize_from_data: model must hold a WeightNormalization of a Dense, EinsumDense or convolution layer. "
            f"Received: model={model.name!r} with layers {[type(layer).__name__ for layer in layers[1:]]}."
        )
    initialized: list[WeightNormalization] = []

    def initialize_first(wrapper: Any, call: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if wrapper not in initialized:
            wrapper.initialize_from(inputs)
            initialized.append(wrapper)
        return call(inputs, *args, **kwargs)

    with intercept(wrappers, initialize_first):
        model(batch, training=training)
    return initialized
