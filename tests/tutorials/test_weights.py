"""The experiment on weights: on a tiny budget, its measures, and what the stored runs show."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import weights
from keras_norm.reparametrization import SpectralNormalization
from keras_norm.tutorials import gan, tables
from keras_norm.tutorials.networks import without_residuals
from support.backends import tensorflow_only
from support.notebooks import tables_of, text_of
from weights import CLASSIFIERS, DISCRIMINATORS

pytestmark = tensorflow_only

STORED = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.slow
def test_both_experiments_write_their_rows_and_figures(data_dir, tmp_path):
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
    assert [(row["discriminator"], row["step"]) for row in rows] == [(d, s) for d in DISCRIMINATORS for s in "012"]
    assert all(float(row["frechet_distance"]) > 0 for row in rows)
    for picture in ("weights_classifier", "weights_gan", "weights_gan_samples", "weights_singular_values"):
        assert (output / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_mean_and_standard_deviation_of_some_epochs_over_the_seeds():
    errors = {0: (9.0, 7.0, 6.0, 3.0, 2.0), 1: (8.0, 7.0, 6.0, 5.0, 4.0)}
    rows = [("batch", seed, epoch, e) for seed, all_of in errors.items() for epoch, e in enumerate(all_of, 1)]
    runs = pd.DataFrame(rows, columns=["normalization", "seed", "epoch", "error"])
    (table,) = weights.results(runs).values()
    assert table.loc["BN"].to_dict() == {1: "8.5 ± 0.7", 2: "7.0 ± 0.0", 4: "4.0 ± 1.4", 5: "3.0 ± 1.4"}


def test_the_tables_of_the_gan_have_three_moments_and_the_last_singular_values():
    columns = ["discriminator", "seed", "step", "frechet_distance", "sigma_1", "sigma_2"]
    runs = pd.DataFrame([("none", 0, step, 40.0 - step, 1.0 + step, 2.0) for step in (0, 10, 20)], columns=columns)
    distances, largest = weights.results(runs).values()
    assert distances.loc["none"].to_dict() == {0: "40.0", 10: "30.0", 20: "20.0"}
    assert largest.loc["none"].to_dict() == {"layer 1": "21.0", "layer 2": "2.0"}


def test_the_frechet_distance_of_a_set_to_itself_is_0():
    images = np.random.default_rng(0).normal(size=(50, 2, 2, 1))
    np.testing.assert_allclose(gan.frechet_distance(images, images), 0.0, atol=1e-9)


def test_the_frechet_distance_adds_the_square_of_a_shift_and_of_the_change_of_deviations():
    images = np.random.default_rng(0).normal(size=(50, 2, 2, 1))
    deviations = np.sqrt(np.linalg.eigvalsh(np.cov(images.reshape(50, 4).T)))
    expected = 4 * 3.0**2 + (deviations**2).sum()
    shifted = 2 * images - images.mean(0) + 3.0
    np.testing.assert_allclose(gan.frechet_distance(images, shifted), expected, rtol=1e-9)


def test_the_singular_values_of_a_spectral_layer_are_those_that_it_works_with():
    plain, normalized = keras.layers.Dense(4), SpectralNormalization(keras.layers.Dense(3), power_iterations=50)
    model = keras.Sequential([keras.Input((5,)), plain, keras.layers.ReLU(), normalized])
    found = gan.largest_singular_values(model)
    kernel = normalized.layer.kernel.numpy()
    expected = [np.linalg.svd(plain.kernel.numpy())[1][0], np.linalg.svd(kernel)[1][0] / np.linalg.norm(kernel, 2)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_generator_makes_images_of_the_range_of_the_pixels():
    images = gan.generator((12, 8, 3)).predict(np.ones((2, gan.NOISE)), verbose=0)
    assert images.shape == (2, 12, 8, 3)
    assert np.abs(images).max() <= 1
    with pytest.raises(ValueError, match=r"divisible by 4. Received: \(10, 8, 3\)"):
        gan.generator((10, 8, 3))


def test_every_layer_with_a_kernel_is_wrapped():
    model = gan.discriminator((8, 8, 1), SpectralNormalization)
    assert [type(layer) for layer in model.layers if layer.weights] == 4 * [SpectralNormalization]


def test_the_classifier_has_eight_convolutions_and_no_residuals():
    model = without_residuals((8, 8, 1), 10, weights.plain)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == 8 and "Add" not in kinds
    assert model.layers[-3].output.shape[1:3] == (2, 2)


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


# What the stored runs show


def last_errors():
    runs = tables.read(STORED / "weights_classifier_digits.csv")
    return runs[runs["epoch"] == 8].groupby("normalization")["error"]


def test_only_a_start_from_data_lets_weight_normalization_train_the_deep_network():
    best, worst = last_errors().min(), last_errors().max()
    assert worst["weight_norm"] < 4 and worst["none_he"] < 4 and worst["weight_norm_mean_only"] < 4
    assert min(best["none"], best["weight_norm_no_data"]) > 25


def test_batch_normalization_is_the_fastest_classifier():
    runs = tables.read(STORED / "weights_classifier_digits.csv")
    means = runs.groupby(["epoch", "normalization"])["error"].mean().unstack()
    for epoch in (1, 2, 4):
        assert means.loc[epoch].idxmin() == "batch"


def test_spectral_normalization_keeps_the_gan_learning_and_bounds_its_kernels():
    runs = tables.read(STORED / "weights_gan_digits.csv")
    means = runs.groupby(["discriminator", "step"]).mean(numeric_only=True)
    distance = means["frechet_distance"]
    assert distance["none", 600] > 4 * distance["spectral_norm", 600]
    assert distance["none", 600] > distance["none", 300] - 1 and distance["spectral_norm", 600] < 5
    assert means["sigma_2"]["none", 0] < 1.2 and means["sigma_2"]["none", 600] > 20
    spectral = runs[runs["discriminator"] == "spectral_norm"]
    assert spectral[["sigma_1", "sigma_2", "sigma_3", "sigma_4"]].to_numpy().max() < 1.2


def test_the_notebook_shows_that_the_start_from_data_trains_the_deep_network():
    errors, _ = tables_of("06_weights_and_gans")
    for epoch in "12345":
        assert errors["none", epoch] == errors["weight norm, not from data", epoch]
    assert errors.measured("none", "5").mean > 85
    assert max(errors.measured(name, "5").mean for name in ("weight norm, from data", "BN")) < 3


def test_the_notebook_shows_that_spectral_normalization_bounds_the_discriminator():
    _, last = tables_of("06_weights_and_gans")
    assert float(last["spectral norm", "frechet_distance"]) < 0.6 * float(last["none", "frechet_distance"])
    layers = [f"sigma_{layer}" for layer in (1, 2, 3, 4)]
    assert max(float(last["spectral norm", layer]) for layer in layers) < 1.3
    assert float(last["none", "sigma_2"]) > 10
    assert re.search(r"largest cosine of v and its gradient: \de-0[5-9]", text_of("06_weights_and_gans"))
