"""The experiment on several devices, on a tiny budget: its replicas, its workers, and the one that it kills."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import distributed
from keras_norm.tutorials import data, tables, workers
from keras_norm.tutorials.networks import convolutional
from support.backends import tensorflow_only
from support.notebooks import tables_of, text_of

pytestmark = tensorflow_only


def run(data_dir, *arguments):
    environment = os.environ | {"TFDS_DATA_DIR": str(data_dir), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, distributed.__file__, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def rows_of(folder):
    return list(csv.DictReader((folder / "distributed.csv").read_text().splitlines()))


@pytest.mark.slow
def test_it_compares_the_normalizations_on_replicas_with_one_device(data_dir, tmp_path):
    said = run(data_dir, "--epochs", 2, "--train-images", 64, "--seeds", 1, "--output", tmp_path)
    runs = [(r["normalization"], r["replicas"]) for r in rows_of(tmp_path) if r["epoch"] == "2"]
    assert runs == [("batch", "2"), ("synchronized", "2"), ("group", "2"), ("batch_one_device", "1")]
    _, synchronized, _, one_device = (float(r["loss"]) for r in rows_of(tmp_path) if r["epoch"] == "1")
    assert abs(synchronized - one_device) < 1e-3
    assert (tmp_path / "distributed.png").read_bytes().startswith(b"\x89PNG")
    assert "| test error (%) by epoch, several devices | 1 | 2 |" in said


@pytest.mark.slow
def test_a_killed_worker_resumes_and_ends_with_the_weights_of_the_others_and_of_a_run_in_peace(data_dir, tmp_path):
    chosen = ["--normalizations", "synchronized", "--epochs", 2, "--train-images", 128]
    said = run(data_dir, "--workers", 2, *chosen, "--output", tmp_path)
    assert said.count("TF_CONFIG") == 6
    assert re.search(r"killed process \d+", said)
    differences = {name: float(value) for name, value in re.findall(r"  (.*): (\d\.\de[+-]\d+)", said)}
    assert set(differences) == {
        "synchronized, workers, worker 0 and worker 1",
        "synchronized, killed, worker 0 and worker 1",
        "synchronized, killed and never killed",
    }
    assert max(differences.values()) <= 1e-6
    assert len(rows_of(tmp_path / "workers")) == 2
    assert len(rows_of(tmp_path / "killed")) == 1


def test_the_table_has_the_epochs_in_order():
    rows = [("batch", seed, epoch, 10.0 * epoch + 2 * seed) for seed in (0, 1) for epoch in (1, 2)]
    runs = pd.DataFrame(rows, columns=["normalization", "seed", "epoch", "error"])
    (table,) = distributed.results(runs).values()
    assert table.loc["BN"].to_dict() == {1: "11.0 ± 1.4", 2: "21.0 ± 1.4"}


def test_the_images_come_in_the_same_order_in_each_epoch_and_in_another_from_another_seed(data_dir):
    images = data.load("digits", 40, str(data_dir))

    def labels(seed):
        batches, _ = distributed.pipelines(images, 10, seed)
        return [np.concatenate([label for _, label in batches.as_numpy_iterator()]) for _ in range(2)]

    first, again = labels(0)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != labels(1)[0])
    assert np.all(np.bincount(first, minlength=10) == np.bincount(labels(1)[0], minlength=10))


def test_the_network_has_four_convolutions_and_no_bias_before_a_normalization():
    model = convolutional((8, 8, 1), 10, distributed.NORMALIZATIONS["group"])
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == kinds.count("GroupNormalization") == 4
    assert not any(layer.use_bias for layer in model.layers if type(layer).__name__ == "Conv2D")
    assert model.output_shape == (None, 10)


def test_a_worker_is_told_of_all_and_its_failure_is_reported(tmp_path, capsys):
    program = "import json, os; print('task', json.loads(os.environ['TF_CONFIG'])['task']['index'])"
    workers.finish(workers.start(["-c", program], tmp_path, 2), tmp_path, "task")
    assert "task 0\n" in capsys.readouterr().out
    assert workers.log(tmp_path, 1).read_text() == "task 1\n"
    with pytest.raises(RuntimeError, match=r"worker 0 failed:\n(.*\n)*.*ValueError: no"):
        workers.finish(workers.start(["-c", "raise ValueError('no')"], tmp_path, 1), tmp_path, "task")


# What the stored notebook shows


def test_the_notebook_has_equal_statistics_and_equal_workers():
    differences, _ = tables_of("04_distributed")
    for name in ("outputs", "moving mean", "moving variance"):
        assert float(differences[name, "synchronized=True"]) < 1e-5
        assert float(differences[name, "synchronized=False"]) > 1e-3
    assert re.search(r"moving statistics included: (0e\+00|\de-0[7-9])", text_of("04_distributed"))


def test_the_notebook_has_plain_batch_normalization_far_behind_the_others():
    _, errors = tables_of("04_distributed")
    others = [float(errors[name, "2"]) for name in ("synchronized BN", "GN", "BN, one device")]
    assert float(errors["BN", "2"]) > 3 * max(others)
    assert abs(others[0] - others[2]) < 0.6  # two of the 360 test images


# What the stored runs show


def test_only_statistics_of_two_images_fail_on_two_devices():
    runs = tables.read(Path(__file__).parents[2] / "docs" / "results" / "distributed_digits.csv")
    errors = runs[runs["epoch"] == 4].groupby("normalization")["error"]
    assert errors.min()["batch"] > 14
    assert errors.max()[["synchronized", "group", "batch_one_device"]].max() < 2.6
    assert abs(errors.mean()["synchronized"] - errors.mean()["batch_one_device"]) < errors.std()["batch_one_device"]


def test_synchronized_statistics_end_where_one_device_does_and_plain_ones_far_above():
    runs = tables.read(Path(__file__).parents[2] / "docs" / "results" / "distributed_digits.csv")
    errors = runs[runs["epoch"] == 4].groupby("normalization")["error"]
    assert errors.min()["batch"] > 5 * errors.max()[["synchronized", "group", "batch_one_device"]].max()
    assert abs(errors.mean()["synchronized"] - errors.mean()["batch_one_device"]) < 0.56  # two test images
