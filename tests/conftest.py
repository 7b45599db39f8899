"""Quiet logs, float64 on JAX, the same random numbers in each test, and how normalizations run."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_X64", "1")

import keras
import pytest

from keras_norm import compilation


def pytest_addoption(parser):
    parser.addoption(
        "--compilation", choices=["auto", "always", "never"], default="auto", help="keras_norm.compilation.set_mode"
    )


def pytest_configure(config):
    compilation.set_mode(config.getoption("--compilation"))


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(0)
