"""The main job, on a tiny budget."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import batch_size
from keras_norm.tutorials import tables
from keras_norm.tutorials.networks import NETWORKS, NORMALIZATIONS
from support.backends import tensorflow_only
from support.notebooks import Table, tables_of

pytestmark = tensorflow_only
RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.slow
def test_the_job_writes_every_cell_and_the_figure(data_dir, tmp_path):
    budget = ["--epochs", "1", "--seeds", "2", "--train-images", "128"]
    cells = ["--normalizations", "group", "none", "--batch-sizes", "64", "32", "--first-seed", "3"]
    output = tmp_path / "new" / "folder"
    done = subprocess.run(
        [sys.executable, batch_size.__file__, *budget, *cells, "--output", output],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((output / "batch_size.csv").read_text().splitlines()))
    found = [(row["normalization"], int(row["batch_size"]), int(row["seed"])) for row in rows]
    assert found == [(name, size, seed) for seed in (3, 4) for name in ("group", "none") for size in (64, 32)]
    assert all(row["dataset"] == "digits" and 0 <= float(row["error"]) <= 100 for row in rows)
    assert (output / "batch_size.png").read_bytes().startswith(b"\x89PNG")
    assert "| test error (%) by batch size | 64 | 32 |" in done.stdout


@pytest.mark.slow
def test_the_job_runs_every_normalization_on_two_replicas(data_dir, tmp_path):
    budget = ["--epochs", "1", "--seeds", "1", "--train-images", "64", "--batch-sizes", "8", "--replicas", "2"]
    done = subprocess.run(
        [sys.executable, batch_size.__file__, *budget, "--normalizations", *NORMALIZATIONS, "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader((tmp_path / "batch_size.csv").read_text().splitlines())
    assert [row["normalization"] for row in rows] == list(NORMALIZATIONS)


def test_the_table_has_mean_and_standard_deviation_over_seeds():
    errors = {("batch", 32): (3.0, 5.0), ("batch", 2): (40.0, 60.0), ("group", 2): (2.0, 2.0)}
    rows = [(*cell, seed, error) for cell, both in errors.items() for seed, error in enumerate(both)]
    (table,) = batch_size.results(pd.DataFrame(rows, columns=["normalization", "batch_size", "seed", "error"])).values()
    assert table.loc["BN"].to_list() == ["4.0 ± 1.4", "50.0 ± 14.1"]  # the root of 2, and of 200
    assert table.loc["GN"].to_list() == ["", "2.0 ± 0.0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--normalizations grup", "instance"),
        ("--normalizations synchronized", "--replicas asks for one"),
        ("--network small --zero-gamma", "is for resnet8 and resnet20. Received: --network small"),
        ("--first-seed -1", "must not be negative. Received: -1"),
        ("--batch-sizes 0", "must be a positive integer. Received: '0'"),
        ("--batch-sizes 2000", "Received: batch_size=2000 of 1437 images"),
        ("--dataset fashion_mnits", "Received: 'fashion_mnits' (close: fashion_mnist"),
    ],
)
def test_a_wrong_value_is_answered_by_the_right_ones(data_dir, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        batch_size.main([*flags.split(), "--data-dir", str(data_dir)])
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "size", [pytest.param(8, marks=pytest.mark.slow), 28, pytest.param(32, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_network_halves_the_map_until_it_is_one_pixel(size, normalization):
    model = NETWORKS["small"]((size, size, 1), 10, NORMALIZATIONS[normalization])
    maps = [layer.output.shape[1] for layer in model.layers if type(layer).__name__ == "Add"]
    expected = [-(-size // 2**k) for k in range(2, 6) if 2 ** (k - 1) < size]
    assert maps == expected and maps[-1] == 1
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(("network", "layers", "last_map"), [("resnet8", 8, 4), ("resnet20", 20, 8)])
def test_the_networks_for_cifar_have_the_layers_of_their_names(network, layers, last_map):
    model = NETWORKS[network]((32, 32, 3), 10, NORMALIZATIONS["group"])
    kernels = [w.shape[:2] for layer in model.layers for w in layer.weights if "kernel" in w.name]
    assert sum(tuple(size) != (1, 1) for size in kernels) == layers  # the shortcuts do not count
    assert model.layers[-3].output.shape[1:3] == (last_map, last_map)
    assert model.output_shape == (None, 10)


def test_a_last_gamma_of_zero_starts_each_block_as_its_shortcut():
    model = NETWORKS["resnet8"]((32, 32, 3), 10, NORMALIZATIONS["group"], last_gamma="zeros")
    gammas = [weight.numpy() for weight in model.weights if weight.name == "gamma"]
    assert sum(not gamma.any() for gamma in gammas) == 3  # blocks
    assert all((gamma == gamma[0]).all() for gamma in gammas)


def test_the_learning_rate_is_in_proportion_to_the_batch_size():
    args = batch_size.argument_parser().parse_args(["--learning-rate", "0.4"])
    rates = {size: batch_size.learning_rate(args, size) for size in (64, 32, 2)}
    assert rates == pytest.approx({64: 0.8, 32: 0.4, 2: 0.025})


def test_the_notebook_shows_a_cliff_where_the_last_map_is_one_pixel_and_none_elsewhere():
    one_pixel, several_pixels = tables_of("02_batch_size")
    cliff, above = (one_pixel.measured("BN", size) for size in ("2", "4"))
    assert cliff.mean - 2 * cliff.spread > 10 * above.mean
    renorm = one_pixel.measured("batch renorm", "2")
    assert above.mean < renorm.mean - renorm.spread and renorm.mean + renorm.spread < cliff.mean - cliff.spread
    errors = [one_pixel.measured("GN", size).mean for size in ("32", "4", "2")]
    assert max(errors) - min(errors) < 0.5
    assert max(several_pixels.measured(name, size).mean for name in ("BN", "GN") for size in ("32", "4", "2")) < 2


@pytest.fixture(scope="module")
def errors_of():
    def measured(name):
        (table,) = batch_size.results(tables.read(RESULTS / f"batch_size_{name}.csv")).values()
        table.columns = table.columns.astype(str)
        return Table(table.stack().to_dict())

    return measured


def test_on_the_digits_batch_normalization_fails_at_two_images_and_group_normalization_does_not(errors_of):
    digits = errors_of("digits")
    cliff = digits.measured("BN", "2")
    assert cliff.mean - 2 * cliff.spread > 10 * digits.measured("GN", "2").mean
    errors = [digits.measured("GN", size).mean for size in ("32", "16", "8", "4", "2")]
    assert max(errors) - min(errors) < 0.5


def test_on_cifar_the_curves_meet_at_two_images_and_synchronization_delays_the_rise(errors_of):
    cifar = errors_of("cifar10")
    rise = cifar.measured("BN", "2").mean - cifar.measured("BN", "16").mean
    assert rise > 3 * cifar.measured("BN", "2").spread
    assert abs(cifar.measured("BN", "2").mean - cifar.measured("GN", "2").mean) < cifar.measured("GN", "2").spread
    synchronized = cifar.measured("synchronized BN", "2")
    assert synchronized.mean + synchronized.spread < cifar.measured("BN", "2").mean
    for size in ("32", "16", "8", "4", "2"):
        others = (cifar.measured(name, size).mean for name in ("batch renorm", "BIN"))
        assert max(others) < cifar.measured("GN", size).mean


def test_on_fashion_mnist_batch_normalization_rises_and_group_normalization_stays_behind(errors_of):
    fashion = errors_of("fashion_mnist")
    low, high = fashion.measured("BN", "8"), fashion.measured("BN", "2")
    assert high.mean - high.spread > low.mean + low.spread
    assert abs(fashion.measured("GN", "8").mean - fashion.measured("GN", "2").mean) < 0.3
    for size in ("32", "8", "2"):
        behind, ahead = fashion.measured("GN", size), fashion.measured("BN", size)
        assert behind.mean - behind.spread > ahead.mean + ahead.spread
