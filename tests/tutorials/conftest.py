"""The experiments, importable as they import each other, and a place for their data."""

import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

import keras_norm.digits  # noqa: F401  registers "digits"

sys.path.insert(0, str(Path(__file__).parents[2] / "tutorials" / "experiments"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    tfds.builder("digits", data_dir=folder).download_and_prepare()  # says things of an empty folder, once
    return folder
