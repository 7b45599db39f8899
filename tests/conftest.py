"""Quiet logs, float64 on JAX, the same random numbers in each test, and how normalizations run."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_X64", "1")

import pytest

# For benchmarks/, behind the installed package, which is what is tested.
sys.path.append(str(Path(__file__).parent.parent))


def pytest_addoption(parser):
    parser.addoption(
        "--compilation",
        choices=["auto", "always", "never", "as on a GPU"],
        default="auto",
        help="keras_norm.compilation.set_mode; the last has the library find a GPU and compute on the CPU",
    )


def pytest_configure(config):
    chosen = config.getoption("--compilation")
    # The process that hands out the tests runs none, and Keras takes seconds to import.
    if chosen == "auto" or (config.getoption("numprocesses", None) and not hasattr(config, "workerinput")):
        return
    from keras_norm import compilation, kernels

    if chosen == "as on a GPU":
        chosen = "always"
        kernels.has_accelerator = lambda: True
    compilation.set_mode(chosen)


@pytest.fixture(autouse=True)
def fixed_seed():
    import keras

    keras.utils.set_random_seed(0)
