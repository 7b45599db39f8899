"""Files of every release load, and what they hold predicts as it did."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_norm
from golden.add_release import HERE, MODELS, OUTPUTS, inputs, stem
from support.backends import array

FILES = sorted(HERE.glob("*/*.keras"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
BY_STEM = {stem(name): make for name, make in MODELS.items()}


def assert_predicts_as_then(model, path):
    with np.load(path.parent / OUTPUTS) as outputs:
        want = outputs[path.stem]
    np.testing.assert_allclose(array(model(inputs(model))), want, rtol=1e-5, atol=1e-5)


@pytest.mark.quick
@each_file
def test_a_model_of_an_earlier_release_predicts_the_same(path):
    assert_predicts_as_then(keras.models.load_model(path), path)


@each_file
def test_weights_of_an_earlier_release_fit_the_layers_of_today(path):
    model = BY_STEM[path.stem]()
    model.load_weights(Path(path.parent, f"{path.stem}.weights.h5"))
    assert_predicts_as_then(model, path)


def test_this_release_has_its_files():
    assert {path.stem for path in FILES if path.parent.name == keras_norm.__version__} >= set(BY_STEM)
