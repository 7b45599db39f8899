"""Error messages: `Owner: rule. Received: names=values (hint).`"""

import keras
import numpy as np
import pytest

import keras_norm as kn
from keras_norm import functional

pytestmark = pytest.mark.quick

X = np.ones((2, 4, 6), "float32")

GROUP, LAYER, BATCH = kn.GroupNormalization, kn.LayerNormalization, kn.BatchNormalization
CONDITIONAL = kn.ConditionalNormalization
CASES = [
    (lambda: GROUP(0), ValueError, "GroupNormalization: groups must be positive, or -1 for one per channel. Received: groups=0"),
    (lambda: GROUP(-2), ValueError, "groups must be positive, or -1 for one per channel. Received: groups=-2"),
    (lambda: GROUP(2.0), TypeError, "GroupNormalization: groups must be an integer. Received: groups=2.0 (float)"),
    (lambda: GROUP(True), TypeError, "groups must be an integer. Received: groups=True (bool)"),
    (lambda: GROUP("2"), TypeError, "groups must be an integer. Received: groups='2' (str)"),
    (lambda: GROUP(4)(X), ValueError, "groups must divide the channel axis. Received: groups=4, axis=-1 with 6 channels (divisors: 1, 2, 3, 6)"),
    (lambda: GROUP(4).build((None, 6)), ValueError, "groups must divide the channel axis"),
    (lambda: GROUP(2, axis=[1, 2]), TypeError, "GroupNormalization: axis must be an integer. Received: axis=[1, 2] (list)"),
    (lambda: GROUP(2, axis=1.0), TypeError, "axis must be an integer. Received: axis=1.0 (float)"),
    (lambda: GROUP(2, axis=None), TypeError, "axis must be an integer. Received: axis=None (NoneType)"),
    (lambda: GROUP(2, axis=3)(X), ValueError, "axis must be an axis of the input. Received: axis=3 for an input of rank 3 (use -3 to 2)"),
    (lambda: GROUP(2, axis=-4)(X), ValueError, "axis must be an axis of the input. Received: axis=-4"),
    (lambda: GROUP(2, axis=0)(X), ValueError, "axis must not be 0, because samples are normalized separately. Received: axis=0"),
    (lambda: kn.InstanceNormalization(axis=-3)(X), ValueError, "InstanceNormalization: axis must not be 0"),
    (lambda: GROUP(2).build((6,)), ValueError, "inputs must have a batch axis and at least one more. Received: input_shape=(6,)"),
    (lambda: GROUP(2)(keras.Input((4, None))), ValueError, "axes with weights must have known sizes. Received: axis=-1, input_shape=(None, 4, None)"),
    (lambda: LAYER(axis=[1, 2])(keras.Input((None, 6))), ValueError, "LayerNormalization: axes with weights must have known sizes"),
    (lambda: LAYER(axis="channels"), TypeError, "LayerNormalization: axis must be an integer. Received: axis='channels' (str)"),
    (lambda: LAYER(axis=[1, 2.0]), TypeError, "axis must be an integer. Received: axis=2.0 (float)"),
    (lambda: LAYER(axis=[1, -2])(X), ValueError, "axis must name at least one axis, and each only once. Received: axis=[1, -2]"),
    (lambda: LAYER(axis=[])(X), ValueError, "axis must name at least one axis"),
    (lambda: LAYER(axis=5)(X), ValueError, "axis must be an axis of the input. Received: axis=5"),
    (lambda: LAYER(epsilon=0), ValueError, "LayerNormalization: epsilon must be positive. Received: epsilon=0"),
    (lambda: LAYER(epsilon=-1e-3), ValueError, "epsilon must be positive. Received: epsilon=-0.001"),
    (lambda: LAYER(epsilon="1e-3"), TypeError, "epsilon must be a number. Received: epsilon='1e-3' (str)"),
    (lambda: LAYER(epsilon=float("nan")), ValueError, "epsilon must be positive. Received: epsilon=nan"),
    (lambda: LAYER(center="yes"), TypeError, "center must be True or False. Received: center='yes' (str)"),
    (lambda: LAYER(scale=None), TypeError, "scale must be True or False. Received: scale=None (NoneType)"),
    (lambda: BATCH(momentum=1.5), ValueError, "BatchNormalization: momentum must lie in [0, 1]. Received: momentum=1.5"),
    (lambda: BATCH(momentum=-0.1), ValueError, "momentum must lie in [0, 1]. Received: momentum=-0.1"),
    (lambda: BATCH(momentum=None), TypeError, "momentum must be a number. Received: momentum=None (NoneType)"),
    (lambda: BATCH(synchronized="yes"), TypeError, "synchronized must be True, False or an integer. Received: synchronized='yes' (str)"),
    (lambda: BATCH(synchronized=2.0), TypeError, "synchronized must be True, False or an integer. Received: synchronized=2.0 (float)"),
    (lambda: BATCH(synchronized=0), ValueError, "synchronized must be positive if it is a number. Received: synchronized=0"),
    (lambda: BATCH(synchronized=-2), ValueError, "synchronized must be positive if it is a number. Received: synchronized=-2"),
    (lambda: BATCH(axis=7)(X), ValueError, "BatchNormalization: axis must be an axis of the input. Received: axis=7"),
    (lambda: GROUP(2)(X, mask=np.ones((2, 3), bool)), ValueError, "mask must have the leading axes of the input. Received: mask.shape=(2, 3), inputs.shape=(2, 4, 6)"),
    (lambda: BATCH()(X, training=True, mask=np.ones((2, 4, 6, 1), bool)), ValueError, "mask must have the leading axes of the input"),
    (lambda: called_with_other_channels(), ValueError, "expected axis -1 of input shape to have value 6"),
    (lambda: functional.group_norm(X, None, None, 4), ValueError, "group_norm: groups must divide the channel axis. Received: groups=4"),
    (lambda: functional.group_norm(X, np.ones(3), None, 2), ValueError, "group_norm: gamma must have one value per position along its axes. Received: gamma.shape=(3,)"),
    (lambda: functional.layer_norm(X, None, np.ones((6, 4)), axis=[1, 2]), ValueError, "layer_norm: beta must have one value per position"),
    (lambda: functional.batch_norm(X, None, None, axis=3), ValueError, "batch_norm: axis must be an axis of the input"),
    (lambda: kn.BatchRenormalization(r_max=0.5), ValueError, "BatchRenormalization: r_max must be at least 1. Received: r_max=0.5"),
    (lambda: kn.BatchRenormalization(d_max=-1), ValueError, "d_max must be at least 0. Received: d_max=-1"),
    (lambda: kn.BatchRenormalization(d_max="5"), TypeError, "d_max must be a number. Received: d_max='5' (str)"),
    (lambda: kn.BatchInstanceNormalization(axis=0)(X), ValueError, "BatchInstanceNormalization: axis must not be 0"),
    (lambda: kn.schedules.PiecewiseLinear([5, 2], [0, 1]), ValueError, "PiecewiseLinear: steps must be at least two and increase, with a value for each. Received: steps=[5, 2], values=[0, 1]"),
    (lambda: kn.schedules.PiecewiseLinear([5, 7], [0]), ValueError, "steps must be at least two and increase"),
    (lambda: kn.schedules.PiecewiseLinear([5, 7.5], [0, 1]), TypeError, "PiecewiseLinear: steps must be an integer. Received: steps=7.5"),
    (lambda: GROUP(2, unknown=1), ValueError, "Unrecognized keyword arguments"),
    (lambda: kn.GhostBatchNormalization(0), ValueError, "GhostBatchNormalization: ghost_size must be positive. Received: ghost_size=0"),
    (lambda: kn.GhostBatchNormalization(2.0), TypeError, "GhostBatchNormalization: ghost_size must be an integer"),
    (lambda: kn.GhostBatchNormalization(2, axis=0)(X), ValueError, "GhostBatchNormalization: axis must not be 0"),
    (lambda: kn.SwitchableNormalization(axis=0)(X), ValueError, "SwitchableNormalization: axis must not be 0"),
    (lambda: kn.RMSNormalization(axis="channels"), TypeError, "RMSNormalization: axis must be an integer"),
    (lambda: kn.RMSNormalization(axis=None), TypeError, "RMSNormalization: axis must be an integer"),
    (lambda: kn.DynamicTanh(epsilon=1.0), ValueError, "DynamicTanh: epsilon is not an argument of this layer, which sets it itself. Received: epsilon=1.0 (leave it out)"),
    (lambda: kn.DynamicTanh(alpha_initializer=None), TypeError, "DynamicTanh: alpha_initializer must be an initializer. Received: alpha_initializer=None (leave it out for the default)"),
    (lambda: kn.DynamicTanh(alpha_initializer=True), ValueError, "Could not interpret initializer identifier: True"),
    (lambda: LAYER(gamma_initializer=None), TypeError, "LayerNormalization: gamma_initializer must be an initializer. Received: gamma_initializer=None"),
    (lambda: BATCH(moving_mean_initializer=None), TypeError, "BatchNormalization: moving_mean_initializer must be an initializer"),
    (lambda: kn.BatchInstanceNormalization(rho_initializer=None), TypeError, "rho_initializer must be an initializer"),
    (lambda: kn.SwitchableNormalization(logits_initializer=None), TypeError, "logits_initializer must be an initializer"),
    (lambda: kn.ThresholdedLinearUnit(tau_initializer=None), TypeError, "tau_initializer must be an initializer"),
    (lambda: CONDITIONAL(LAYER), TypeError, "ConditionalNormalization: normalization must be a layer of one input. Received: <class"),
    (lambda: CONDITIONAL(CONDITIONAL(LAYER())), TypeError, "ConditionalNormalization: normalization must be a layer of one input. Received: <Cond"),
    (lambda: CONDITIONAL(keras.layers.Dense(3))(X, X[:, 0]), ValueError, "ConditionalNormalization: normalization must keep the shape of its inputs. Received: normalization=<Dense"),
    (lambda: CONDITIONAL(LAYER(), axis=1.0), TypeError, "ConditionalNormalization: axis must be an integer. Received: axis=1.0"),
    (lambda: CONDITIONAL(LAYER())([X, X]), ValueError, "ConditionalNormalization: it must be called with two inputs. Received: inputs of type ['list'] (call layer(inputs, condition), without a list)"),
    (lambda: kn.AdaptiveInstanceNormalization()([X, X]), ValueError, "AdaptiveInstanceNormalization: it must be called with two inputs. Received: inputs of type ['list'] (call layer(inputs, style), without a list)"),
    (lambda: CONDITIONAL(LAYER())(keras.Input((4, 6)), keras.Input((None,))), ValueError, "the condition must fit: its channels must be of known size (give it to keras.Input). Received: condition.shape=(None, None)"),
    (lambda: CONDITIONAL(LAYER())(keras.Input((4, 6)), keras.Input((4, None))), ValueError, "its channels must be of known size"),
    (lambda: called_twice(X[:, 0], X), ValueError, "the condition must fit: it must have the 2 axes that the layer was built for. Received: condition.shape=(2, 4, 6)"),
    (lambda: called_twice(X, X[:, 0]), ValueError, "the condition must fit: it must have the 3 axes that the layer was built for. Received: condition.shape=(2, 6)"),
    (lambda: CONDITIONAL(LAYER(), 3)(X, np.ones(2, "float32")), ValueError, "ConditionalNormalization: with num_classes the condition must be integers. Received: condition.dtype=float32, num_classes=3 (an input of a model is keras.Input((), dtype='int32'))"),
    (lambda: CONDITIONAL(LAYER(), 3)(keras.Input((4, 6)), keras.Input(())), ValueError, "with num_classes the condition must be integers. Received: condition.dtype=float32"),
    (lambda: CONDITIONAL(LAYER(), num_classes=0), ValueError, "ConditionalNormalization: num_classes must be positive"),
    (lambda: CONDITIONAL(LAYER(), kernel_size=1.5), TypeError, "ConditionalNormalization: kernel_size must be an integer"),
    (lambda: CONDITIONAL(LAYER(), zero_initialized=3), TypeError, "ConditionalNormalization: zero_initialized must be True or False"),
    (lambda: CONDITIONAL(LAYER())(X, np.ones(2, "int32")), ValueError, "the condition must fit: it must be a vector (N, D), or a map of the rank and the spatial sizes of the inputs. Received: condition.shape=(2,), inputs.shape=(2, 4, 6), num_classes=None (classes need num_classes; resize a map to the inputs)"),
    (lambda: CONDITIONAL(LAYER(), 3)(X, np.ones((2, 5), "float32")), ValueError, "the condition must fit: with num_classes it must be integers of shape (N,)"),
    (lambda: CONDITIONAL(LAYER())(X, np.ones((2, 3, 6), "float32")), ValueError, "a map of the rank and the spatial sizes of the inputs"),
]  # fmt: skip


def called_with_other_channels():
    layer = GROUP(2)
    layer(X)
    layer(X[..., :4])


def called_twice(*conditions):
    layer = CONDITIONAL(LAYER())
    for condition in conditions:
        layer(X, condition)


@pytest.mark.parametrize(("broken", "error", "words"), CASES, ids=[words for _, _, words in CASES])
def test_bad_input_is_told_the_rule_and_what_was_received(broken, error, words):
    with pytest.raises(error) as caught:
        broken()
    assert words in str(caught.value)
