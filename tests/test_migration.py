"""What docs/migration.md says of weights and arguments, against Keras' own layers."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call, keras_with_renorm
from support.cases import random_input

PAGE = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
X = random_input(8, 6, dtype="float32")


def test_the_example_of_the_page_runs():
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "migration.md", "exec"), {})


def test_the_page_names_every_layer_of_the_package():
    layers = [name for name, value in vars(kn).items() if isinstance(value, type)]
    assert [name for name in layers if f"`{name}`" not in PAGE and f"`{name}(" not in PAGE] == []


def test_the_page_names_every_normalization_of_keras():
    names = [name for name in vars(keras.layers) if name.endswith("Normalization")]
    assert [name for name in names if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize(("a", "b"), [(1.5, 0.5), (3.0, 5.0)])
@keras_with_renorm
def test_clipping_and_statistics_of_keras_renorm_carry_over(a, b):
    clipping = {"rmax": a, "rmin": 1 / a, "dmax": b}
    old = keras.layers.BatchNormalization(renorm=True, renorm_clipping=clipping, renorm_momentum=0.9)
    for _ in range(3):
        call(old, X, training=True)
    new = kn.BatchRenormalization(momentum=0.9, r_max=a, d_max=b)
    new.build(X.shape)
    for name in ("gamma", "beta"):
        getattr(new, name).assign(getattr(old, name))
    new.moving_mean.assign(old.renorm_mean)
    new.moving_variance.assign(old.renorm_stddev**2 - old.epsilon)
    np.testing.assert_allclose(call(new, X * 2, training=True), call(old, X * 2, training=True), rtol=1e-4, atol=1e-5)


def test_the_vector_u_of_keras_spectral_normalization_carries_over():
    old = keras.layers.SpectralNormalization(keras.layers.Dense(4), power_iterations=20)
    call(old, X, training=True)
    new = kn.SpectralNormalization(keras.layers.Dense(4))
    new.build(X.shape)
    new.layer.set_weights(old.layer.get_weights())
    new.u[0].assign(array(old.vector_u)[0])
    np.testing.assert_allclose(call(new, X), call(old, X), rtol=1e-4, atol=1e-4)
