"""Models without wrappers, whose predictions are those of the models with them."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_norm as kn
from support.backends import array
from support.networks import assert_untouched, weights
from support.wrapped_layers import BY_NAME, WRAPPERS

every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)
SPECTRAL, WEIGHT = kn.SpectralNormalization, kn.WeightNormalization


def network(wrapper):
    """A model in a model, a wrapper that is called twice, and one in another."""
    inner = keras.Sequential([keras.Input((5,)), wrapper(kl.Dense(5, name="dense"), name="first")], name="inner")
    shared = wrapper(kl.Dense(5, name="dense"), name="shared")
    both = WEIGHT(SPECTRAL(kl.LSTM(4)), weight_name="kernel", name="both")
    inputs = keras.Input((3, 5))
    h = shared(keras.ops.tanh(shared(inputs)))
    return keras.Model(inputs, inner(both(h)[:, :1] + h[:, 0]))


@every_wrapper
def test_the_folded_model_is_plain_and_predicts_the_same(wrapper):
    model, x = network(wrapper), BY_NAME["Dense"].inputs(12).reshape(4, 3, 5)
    for weight in model.trainable_weights:
        weight.assign(weight + 0.1)
    y, before = array(model(x)), weights(model)
    folded = kn.models.fold_weights(model)
    np.testing.assert_allclose(array(folded(x)), y, rtol=1e-5, atol=1e-5)
    assert not [part for part in folded._flatten_layers() if isinstance(part, tuple(WRAPPERS))]
    assert {layer.name for layer in folded.layers} >= {"shared", "both"}
    assert_untouched(model, before)
    np.testing.assert_array_equal(array(model(x)), y)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@every_wrapper
def test_a_folded_model_can_be_quantized(wrapper):
    model, x = BY_NAME["Dense"].model(wrapper), BY_NAME["Dense"].inputs()
    y, folded = array(model(x)), kn.models.fold_weights(model)
    folded.quantize("int8")
    assert [layer.quantization_mode for layer in folded.layers] == ["int8", None, "int8"]
    np.testing.assert_allclose(array(folded(x)), y, atol=0.2)


def test_a_frozen_wrapper_becomes_a_frozen_layer():
    model = BY_NAME["Dense"].model(WEIGHT)
    model.layers[0].trainable = False
    assert not kn.models.fold_weights(model).layers[0].trainable


def test_a_wrapper_inside_a_layer_is_folded_too():
    model, x = keras.Sequential([keras.Input((3, 5)), kl.TimeDistributed(WEIGHT(kl.Dense(2)))]), np.ones((2, 3, 5))
    folded = kn.models.fold_weights(model)
    assert type(folded.layers[0].layer) is kl.Dense
    np.testing.assert_allclose(array(folded(x)), array(model(x)), rtol=1e-5, atol=1e-6)


def test_a_wrapper_inside_a_wrapped_layer_is_refused():
    wrapped = WEIGHT(keras.Sequential([SPECTRAL(kl.LSTM(2), name="in"), kl.Dense(1)]), "kernel", name="out")
    words = r"fold_weights: a wrapped layer must not hold wrappers inside itself\. Received: 'out' around 'in'"
    with pytest.raises(ValueError, match=words):
        kn.models.fold_weights(keras.Sequential([keras.Input((3, 5)), wrapped]))
