"""What the package asks of Keras' private names holds on this version of Keras."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_norm._keras import in_export
from support.backends import tensorflow_only


@pytest.mark.quick
@tensorflow_only
def test_a_layer_is_told_that_it_is_exported_and_only_then(tmp_path):
    found = []

    class Recorder(layers.Layer):
        def call(self, x):
            found.append(in_export())
            return x

    model = keras.Sequential([keras.Input((3,)), Recorder()])
    model.compile(run_eagerly=False)
    model.predict(np.ones((2, 3)), verbose=0)
    assert found and not any(found)
    found.clear()
    model.export(tmp_path / "model", verbose=False)
    assert found and all(found)
