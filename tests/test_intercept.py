"""Interception of a layer's call, and its end."""

import numpy as np
import pytest
from keras import layers

from keras_norm.intercept import intercept
from support.backends import array

pytestmark = pytest.mark.quick
X = np.ones((2, 3), "float32")


def adding(number):
    return lambda layer, call, x: call(x) + number


def test_blocks_may_be_nested_and_a_layer_listed_twice():
    layer = layers.Identity()
    with intercept([layer], adding(1)):
        with intercept([layer, layer], adding(10)):
            np.testing.assert_array_equal(array(layer(X)), X + 21)
        np.testing.assert_array_equal(array(layer(X)), X + 1)
    np.testing.assert_array_equal(array(layer(X)), X)


def test_a_layer_keeps_a_call_that_it_was_given():
    layer = layers.Identity()
    object.__setattr__(layer, "call", lambda x: 2 * x)
    with intercept([layer], adding(1)):
        np.testing.assert_array_equal(array(layer(X)), 2 * X + 1)
    np.testing.assert_array_equal(array(layer(X)), 2 * X)


def test_a_layer_that_cannot_be_intercepted_leaves_the_others_as_they_were():
    layer = layers.Identity()
    with pytest.raises(TypeError), intercept([layer, None], adding(1)):
        pass
    np.testing.assert_array_equal(array(layer(X)), X)
