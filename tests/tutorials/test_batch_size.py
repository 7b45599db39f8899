"""The main job, on a tiny budget."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest

import batch_size
from batch_size import NORMALIZATIONS, Run, summary, table
from support.backends import tensorflow_only

pytestmark = tensorflow_only


@pytest.mark.slow
def test_the_job_writes_every_cell_and_the_figure(data_dir, tmp_path):
    budget = ["--epochs", "1", "--seeds", "2", "--train-images", "128"]
    cells = ["--normalizations", "group", "none", "--batch-sizes", "64", "32"]
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
    assert found == [(name, size, seed) for name in ("group", "none") for size in (64, 32) for seed in (0, 1)]
    assert all(row["dataset"] == "digits" and 0 <= float(row["error"]) <= 100 for row in rows)
    assert (output / "batch_size.png").read_bytes().startswith(b"\x89PNG")
    assert "| error % by batch size | 64 | 32 |" in done.stdout


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
    runs = [Run("digits", "batch", size, seed, 1, error) for size, seed, error in [(2, 0, 40.0), (2, 1, 60.0)]]
    runs += [Run("digits", "batch", 32, 0, 1, 3.0)]
    assert summary(runs) == {"batch": {2: (50.0, np.std([40, 60], ddof=1)), 32: (3.0, 0.0)}}
    assert table(runs).splitlines()[-1] == "| batch | 3.0 ± 0.0 | 50.0 ± 14.1 |"


def test_the_table_claims_no_spread_of_one_seed():
    assert table([Run("digits", "batch", 2, 0, 1, 40.0)]).splitlines()[-1] == "| batch | 40.0 |"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--normalizations grup", "instance"),
        ("--normalizations synchronized", "--replicas asks for one"),
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
@pytest.mark.parametrize("normalization", batch_size.NORMALIZATIONS)
def test_the_network_halves_the_map_until_it_is_one_pixel(size, normalization):
    model = batch_size.NETWORKS["small"]((size, size, 1), 10, batch_size.NORMALIZATIONS[normalization])
    maps = [layer.output.shape[1] for layer in model.layers if type(layer).__name__ == "Add"]
    expected = [-(-size // 2**k) for k in range(2, 6) if 2 ** (k - 1) < size]
    assert maps == expected and maps[-1] == 1
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(("network", "layers", "last_map"), [("resnet8", 8, 4), ("resnet20", 20, 8)])
def test_the_networks_for_cifar_have_the_layers_of_their_names(network, layers, last_map):
    model = batch_size.NETWORKS[network]((32, 32, 3), 10, batch_size.NORMALIZATIONS["group"])
    kernels = [w.shape[:2] for layer in model.layers for w in layer.weights if "kernel" in w.name]
    assert sum(tuple(size) != (1, 1) for size in kernels) == layers  # the shortcuts do not count
    assert model.layers[-3].output.shape[1:3] == (last_map, last_map)
    assert model.output_shape == (None, 10)


def test_the_learning_rate_is_in_proportion_to_the_batch_size():
    args = batch_size.argument_parser().parse_args(["--learning-rate", "0.4"])
    rates = {size: batch_size.learning_rate(args, size) for size in (64, 32, 2)}
    assert rates == pytest.approx({64: 0.8, 32: 0.4, 2: 0.025})
