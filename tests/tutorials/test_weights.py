"""The tutorial on weights, on a tiny budget, and what it measures."""

import csv
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import weights
from keras_norm.reparametrization import SpectralNormalization
from support.backends import tensorflow_only
from weights import CLASSIFIERS, DISCRIMINATORS, Epoch, frechet_distance, last, singular_values, table

pytestmark = tensorflow_only


@pytest.mark.slow
def test_both_experiments_write_their_numbers_and_pictures(data_dir, tmp_path):
    budget = ["--epochs", "1", "--steps", "2", "--seeds", "1", "--train-images", "80"]
    output = tmp_path / "new" / "folder"
    done = subprocess.run(
        [sys.executable, weights.__file__, *budget, "--output", output],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((output / "weights_classifier.csv").read_text().splitlines()))
    assert [row["normalization"] for row in rows] == list(CLASSIFIERS)
    assert all(0 <= float(row["error"]) <= 100 for row in rows)
    rows = list(csv.DictReader((output / "weights_gan.csv").read_text().splitlines()))
    assert {row["discriminator"] for row in rows} == set(DISCRIMINATORS)
    assert all(float(row["frechet_distance"]) > 0 for row in rows)
    for picture in ("weights_classifier.png", "weights_gan.png", "weights_singular_values.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")


def test_the_table_has_mean_and_standard_deviation_of_the_last_epoch_over_the_seeds():
    errors = {(0, 1): 9.0, (0, 2): 3.0, (1, 1): 8.0, (1, 2): 5.0}
    epochs = [Epoch("digits", name, seed, epoch, 1.0, e) for name in CLASSIFIERS for (seed, epoch), e in errors.items()]
    found = table("normalization", "error", last(epochs, CLASSIFIERS))
    assert found.splitlines()[3:] == [f"| {name} | 4.0 ± 1.4 |" for name in CLASSIFIERS]


def test_the_frechet_distance_of_a_set_to_itself_is_0():
    images = np.random.default_rng(0).normal(size=(50, 2, 2, 1))
    np.testing.assert_allclose(frechet_distance(images, images), 0.0, atol=1e-9)


def test_the_frechet_distance_adds_the_square_of_a_shift_and_of_the_change_of_deviations():
    images = np.random.default_rng(0).normal(size=(50, 2, 2, 1))
    deviations = np.sqrt(np.linalg.eigvalsh(np.cov(images.reshape(50, 4).T)))
    expected = 4 * 3.0**2 + (deviations**2).sum()
    shifted = 2 * images - images.mean(0) + 3.0
    np.testing.assert_allclose(frechet_distance(images, shifted), expected, rtol=1e-9)


def test_the_singular_values_of_a_spectral_layer_are_those_that_it_works_with():
    plain, normalized = keras.layers.Dense(4), SpectralNormalization(keras.layers.Dense(3), power_iterations=50)
    model = keras.Sequential([keras.Input((5,)), plain, keras.layers.ReLU(), normalized])
    found = singular_values(model)
    np.testing.assert_allclose(found["layer 1"], np.linalg.svd(plain.kernel.numpy())[1], rtol=1e-5)
    kernel = normalized.layer.kernel.numpy()
    np.testing.assert_allclose(found["layer 2"], np.linalg.svd(kernel)[1] / np.linalg.norm(kernel, 2), rtol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--part autoencoder", "invalid choice: 'autoencoder'"),
        ("--steps 0", "must be a positive integer. Received: '0'"),
        ("--train-images 20", "Received: batch_size=50 of 20 images"),
        ("--dataset digit", "close: digits"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_trained(flags, message, data_dir, tmp_path, capsys):
    with pytest.raises(SystemExit):
        weights.main([*flags.split(), "--data-dir", str(data_dir), "--output", str(tmp_path / "none")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
