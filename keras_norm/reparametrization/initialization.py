"""Data-dependent initialization of weight-normalized layers."""

from collections.abc import Callable
from typing import Any

import keras

from keras_norm._keras import all_layers
from keras_norm.intercept import intercept
from keras_norm.reparametrization.weight import WeightNormalization


def initialize_from_data(model: keras.layers.Layer, batch: Any, training: bool = False) -> list[WeightNormalization]:
    """Sets g and bias so that each weight-normalized unit has mean 0 and variance 1 on a batch.

    With mean m_c and variance s_c^2 of the pre-activation of unit c (what the layer computes before its activation)
    over the batch and all positions,

        g_c <- g_c / s_c        bias_c <- (bias_c - m_c) / s_c

    The model is called on the batch once, eagerly, and each `WeightNormalization` is set when it is first met, so
    that the layers behind it see its new outputs. A layer without a bias gets variance 1 only, and a unit that is
    constant on the batch mean 0 only. Dense, EinsumDense and convolution layers have such units; wrapped RNNs and
    embeddings, and wrappers with an `axis` of their own, are left as they are.

    Args:
        model: a model, or any layer, that holds `WeightNormalization` layers.
        batch: inputs for `model`: some hundred samples of the training data.
        training: as which the model is called; as in inference, dropout adds no noise.

    Returns:
        The wrappers that were set, in the order of the calls.

    Raises:
        ValueError: if there is none.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), WeightNormalization(keras.layers.Dense(3))])
        >>> batch = np.random.default_rng(0).normal(5.0, 2.0, (100, 4))
        >>> layers = initialize_from_data(model, batch)
        >>> np.round(np.std(model(batch), 0), 3)
        array([1., 1., 1.], dtype=float32)

    Reference: Salimans & Kingma, Weight Normalization, NeurIPS 2016, https://arxiv.org/abs/1602.07868, section 3.
    """
    # A subclassed model may count as built while layers inside of it are not.
    if not all(part.built for part in all_layers(model)):
        model(batch, training=training)
    waiting = [part for part in all_layers(model) if isinstance(part, WeightNormalization) and part.has_units()]
    if not waiting:
        held = [type(part).__name__ for part in all_layers(model)[1:]]
        raise ValueError(
            "initialize_from_data: model must hold a WeightNormalization of a Dense, EinsumDense or convolution layer. "
            f"Received: model={model.name!r} with layers {held}."
        )
    were_set: list[WeightNormalization] = []

    def initialize_first(wrapper: Any, call: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if wrapper not in were_set:
            wrapper.initialize_from(inputs)
            were_set.append(wrapper)
        return call(inputs, *args, **kwargs)

    with intercept(waiting, initialize_first):
        model(batch, training=training)
    return were_set
