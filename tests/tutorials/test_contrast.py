"""Contrast, brightness and stroke: the changes, the experiment on a tiny budget, and what the stored rows show."""

import csv
import itertools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import contrast
import keras_norm as kn
from keras_norm.tutorials import appearance, tables
from support.backends import tensorflow_only
from support.notebooks import Table, tables_of

pytestmark = tensorflow_only

STORED = Path(__file__).parents[2] / "docs" / "results"
IMAGES = np.random.default_rng(0).normal(0.5, 2.0, size=(40, 6, 5, 2)).astype("float32")


@pytest.mark.slow
def test_the_experiment_writes_errors_gates_and_figures(data_dir, tmp_path):
    budget = ["--epochs", "1", "--seeds", "2", "--train-images", "64", "--test-images", "50", "--strengths", "0.5", "1"]
    chosen = ["--normalizations", "group", "batch_instance"]
    done = subprocess.run(
        [sys.executable, contrast.__file__, *budget, *chosen, "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "contrast.csv").read_text().splitlines()))
    runs = list(dict.fromkeys((int(row["seed"]), row["training"], row["normalization"]) for row in rows))
    names = ("group", "batch_instance")
    assert runs == [(seed, training, name) for seed in (0, 1) for training in contrast.TRAININGS for name in names]
    tests = [("unchanged", "0.0")] + [(test, strength) for test in contrast.TESTS for strength in ("0.5", "1.0")]
    assert [(row["test"], row["strength"]) for row in rows] == tests * len(runs)
    gates = list(csv.DictReader((tmp_path / "contrast_rho.csv").read_text().splitlines()))
    assert len(gates) == 4 * (16 + 32 + 32 + 32)  # channels of the runs of BIN
    assert all(0 <= float(row["rho"]) <= 1 for row in gates)
    for picture in ("contrast.png", "contrast_rho.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    head = "test error (%) | unchanged | contrast | brightness | stroke | all |"
    assert f"| digits, trained on images as they are: {head}" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--normalizations layr", "invalid choice: 'layr'"),
        ("--trainings new", "invalid choice: 'new'"),
        ("--train-images 20", "Received: batch_size=32 of 20 images"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_trained(flags, message, data_dir, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        contrast.main([*flags.split(), "--data-dir", str(data_dir), "--output", str(tmp_path / "none")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_contrast_is_a_factor_for_each_image():
    factors = appearance.changed(IMAGES, [0, 1], 1.0, ["contrast"]).numpy() / IMAGES
    by_image = factors.mean((1, 2, 3))
    np.testing.assert_allclose(factors, np.broadcast_to(by_image[:, None, None, None], factors.shape), rtol=1e-4)
    assert 0.25 <= by_image.min() < 0.35 and 2.8 < by_image.max() <= 4
    assert 0.3 < (by_image > 1).mean() < 0.7


def test_brightness_is_a_summand_for_each_image():
    summands = appearance.changed(IMAGES, [0, 1], 0.5, ["brightness"]).numpy() - IMAGES
    by_image = summands.mean((1, 2, 3))
    np.testing.assert_allclose(summands, np.broadcast_to(by_image[:, None, None, None], summands.shape), atol=1e-5)
    assert -1 <= by_image.min() < -0.8 and 0.8 < by_image.max() <= 1


@pytest.mark.parametrize(("stroke", "of_window", "share"), [(1, np.max, 1), (-1, np.min, 1), (0.25, np.max, 0.25)])
def test_stroke_blends_with_the_largest_or_smallest_of_nine_pixels(stroke, of_window, share):
    expected = np.empty_like(IMAGES)
    for i, j in np.ndindex(6, 5):
        window = IMAGES[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        expected[:, i, j] = (1 - share) * IMAGES[:, i, j] + share * of_window(window, axis=(1, 2))
    made = appearance.with_stroke(IMAGES, tf.fill([40, 1, 1, 1], float(stroke)))
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_strength_0_and_no_changes_leave_the_images_as_they_are():
    np.testing.assert_array_equal(appearance.changed(IMAGES, [0, 1], 0.0), IMAGES)
    np.testing.assert_array_equal(appearance.changed(IMAGES, [0, 1], 1.0, ()), IMAGES)


def test_the_seed_determines_the_changes_and_the_augmentation_draws_anew():
    np.testing.assert_array_equal(*(appearance.changed(IMAGES, [2, 3]) for _ in range(2)))
    one, other = (appearance.augmentation(tf.constant(IMAGES)).numpy() for _ in range(2))
    assert np.abs(one - other).reshape(40, -1).max(1).min() > 0.01


@pytest.mark.parametrize("size", [8, 28, 32])
def test_the_network_never_has_maps_of_one_pixel(size):
    model = appearance.network((size, size, 1), 10, kn.InstanceNormalization)
    maps = [layer.output.shape[1] for layer in model.layers if isinstance(layer, kn.InstanceNormalization)]
    assert len(maps) == 4 and min(maps) >= 4
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("normalization", "largest"), [(kn.InstanceNormalization, 1e-3), (kn.GroupNormalization, 1e-3)]
)
def test_the_logits_of_in_and_gn_do_not_depend_on_the_contrast(normalization, largest):
    options = {"groups": 8} if normalization is kn.GroupNormalization else {}
    model = appearance.network((8, 8, 1), 10, lambda: normalization(epsilon=1e-7, **options))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    assert np.abs(model(3 * x) - model(x)).max() < largest < 0.01 * np.abs(model(x)).max()


def test_the_logits_of_bn_depend_on_the_contrast():
    model = appearance.network((8, 8, 1), 10, kn.BatchNormalization)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    assert np.abs(model(3 * x) - model(x)).max() > 0.5 * np.abs(model(x)).max()


def test_gates_learn_ten_times_as_fast_as_other_weights():
    rho, gamma = (keras.Variable(np.full(3, 0.5), name=name) for name in ("rho", "gamma"))
    optimizer = appearance.FastGates(0.01, momentum=0.9)
    for _ in range(2):
        optimizer.apply([tf.constant([1.0, -1.0, 0.0])] * 2, [rho, gamma])
    moved = 0.01 * (1 + 1.9) * np.array([-1, 1, 0])  # the second step has 0.9 of the first in it
    np.testing.assert_allclose(gamma, 0.5 + moved, rtol=1e-5)
    np.testing.assert_allclose(rho, 0.5 + 10 * moved, rtol=1e-5)


def test_fit_moves_the_gates_ten_times_as_far_as_sgd_does():
    moved = []
    for optimizer in (appearance.FastGates(1e-4), keras.optimizers.SGD(1e-4)):
        keras.utils.set_random_seed(0)
        half = keras.initializers.Constant(0.5)
        model = appearance.network((8, 8, 1), 10, lambda half=half: kn.BatchInstanceNormalization(rho_initializer=half))
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        before = {weight.path: weight.numpy() for weight in model.trainable_weights}
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
        model.fit(x, np.arange(8), verbose=0)
        moved.append({weight.path: weight.numpy() - before[weight.path] for weight in model.trainable_weights})
    for (path, fast), plain in zip(moved[0].items(), moved[1].values(), strict=True):
        np.testing.assert_allclose(fast, plain * (10 if path.endswith("rho") else 1), rtol=0.02, atol=1e-6)


def test_the_gates_are_read_from_the_first_layer_to_the_last():
    model = appearance.network((8, 8, 1), 10, kn.BatchInstanceNormalization)
    for i, layer in enumerate(la for la in model.layers if isinstance(la, kn.BatchInstanceNormalization)):
        layer.rho.assign(np.full(layer.rho.shape, i / 4))
    assert [(len(rho), rho.mean()) for rho in appearance.gates(model)] == [(16, 0), (32, 0.25), (32, 0.5), (32, 0.75)]
    assert contrast.gates_of(model)[16] == {"layer": 2, "channel": 0, "rho": 0.25}


def test_the_table_of_gates_has_means_and_shares_over_the_seeds():
    rho = {0: (0.0, 0.0, 0.05, 0.95), 1: (0.95, 0.95, 1.0, 0.1)}
    rows = [
        ("digits", "batch_instance", "changed", 1, channel, seed, value)
        for seed, values in rho.items()
        for channel, value in enumerate(values)
    ]
    columns = ["dataset", "normalization", "training", "layer", "channel", "seed", "rho"]
    (table,) = contrast.results(pd.DataFrame(rows, columns=columns)).values()
    assert table.loc["rho from 1, images changed, layer 1"].to_list() == ["0.50 ± 0.35", "38 ± 53", "50 ± 35"]


def test_the_notebook_shows_what_removes_contrast():
    exact, errors, gates, of_bin = tables_of("12_contrast")
    assert exact["x", "IN"] == exact["3 x + 5", "IN"] == "-1.34 -0.45 0.45 1.34"
    assert exact["x", "BN, training"] != exact["3 x + 5", "BN, training"]
    for name in ("IN", "GN"):
        assert errors[name, "contrast"] == errors[name, "unchanged"]
    assert errors.measured("IN", "brightness").mean < 10 < errors.measured("GN", "brightness").mean
    assert errors.measured("GN", "brightness").mean < 20 < errors.measured("BIN", "brightness").mean
    assert clearly(errors, ("IN", "all three"), ("GN", "all three"), ("BIN", "all three"), ("BN", "all three"))
    assert clearly(errors, ("BN", "unchanged"), ("IN", "unchanged"))
    assert clearly(errors, ("IN", "stroke"), ("BN", "stroke"))
    assert clearly(gates, ("changed", "layer 1"), ("changed", "layer 2"), ("changed", "layer 3"))
    assert clearly(gates, ("changed", "layer 2"), ("as they are", "layer 2"))
    assert gates.measured("changed", "layer 1").mean < 0.1 and gates.measured("changed", "layer 4").mean > 0.95
    assert of_bin.measured("BIN, images changed", "all three").mean < 5
    assert of_bin.measured("BIN, images as they are", "all three").mean > 50
    assert of_bin.measured("BIN, images changed", "unchanged").mean < errors.measured("IN", "unchanged").mean - 2


def clearly(table, *cells):
    """Whether the means of the cells rise, each by more than the standard deviations of both."""
    measured = [table.measured(*cell) for cell in cells]
    return all(low.mean + low.spread < high.mean - high.spread for low, high in itertools.pairwise(measured))


def stored(rows):
    """The tables of the stored rows, which docs/results.md shows, by the order in which they stand there."""
    made = contrast.results(tables.read(STORED / f"{rows}.csv")).values()
    return [Table({(row, column): table.loc[row, column] for row in table.index for column in table}) for table in made]


def test_the_stored_errors_show_what_the_page_says():
    as_they_are, changed = stored("contrast_digits")
    for name in ("IN", "GN"):
        assert as_they_are[name, "contrast"] == as_they_are[name, "unchanged"]
    assert clearly(as_they_are, ("IN", "contrast"), ("BN", "contrast"))
    assert clearly(as_they_are, ("IN", "brightness"), ("GN", "brightness"), ("BN", "brightness"))
    assert clearly(as_they_are, ("IN", "stroke"), ("BN", "stroke"))
    means = [as_they_are.measured(name, "all").mean for name in ("IN", "GN", "BIN", "BN")]
    assert means == sorted(means) and means[3] - means[2] < means[2] - means[0]
    assert changed.measured("BIN", "all").mean < changed.measured("BN", "all").mean < changed.measured("IN", "all").mean
    assert clearly(changed, ("BIN", "all"), ("IN", "all"))
    assert max(changed.measured(name, "all").mean for name in ("BN", "IN", "BIN", "GN")) < 10
    for table in (as_they_are, changed):
        errors = {name: table.measured(name, "unchanged").mean for name in ("BN", "IN", "BIN", "GN")}
        assert max(errors, key=errors.get) == "IN"


def test_the_stored_gates_show_what_the_page_says():
    (gates,) = stored("contrast_rho_digits")
    first, second, last = (f"rho from 1, images changed, layer {layer}" for layer in (1, 2, 4))
    for layer in (1, 2):
        before, after = (f"rho from 1, images {kind}, layer {layer}" for kind in ("as they are", "changed"))
        assert clearly(gates, (after, "mean"), (before, "mean"))
    assert clearly(gates, (first, "mean"), (second, "mean"), (last, "mean"))
    for start in ("1", "0.5"):
        assert gates.measured(f"rho from {start}, images changed, layer 1", "mean").mean < 0.15
        assert gates.measured(f"rho from {start}, images changed, layer 4", "mean").mean > 0.97
        everywhere = f"rho from {start}, images changed, all layers"
        assert clearly(gates, (everywhere, "below 0.1 (%)"), (everywhere, "above 0.9 (%)"))
    between = 100 - sum(gates.measured(second, column).mean for column in ("below 0.1 (%)", "above 0.9 (%)"))
    assert between > 50
    starts = [f"rho from {start}, images as they are, layer 1" for start in ("0.5", "1")]
    assert clearly(gates, *((start, "mean") for start in starts))
