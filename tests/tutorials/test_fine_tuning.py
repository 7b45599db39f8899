"""Every way to fine-tune: on a tiny budget, and what the stored runs show."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import fine_tuning
from fine_tuning import METHODS
from keras_norm.tutorials import data, deployment, tables
from support.backends import tensorflow_only
from support.notebooks import tables_of

pytestmark = tensorflow_only

STORED = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.slow
def test_the_job_tries_every_way_and_folds_the_frozen_network(data_dir, tmp_path):
    budget = ["--seeds", "1", "--epochs", "1", "--pretraining-epochs", "1", "--train-images", "200", "--devices", "2"]
    done = subprocess.run(
        [sys.executable, fine_tuning.__file__, *budget, "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "fine_tuning.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == list(METHODS)
    assert all((row["dataset"], row["devices"]) == ("digits", "2") and 0 <= float(row["error"]) <= 100 for row in rows)
    assert (tmp_path / "fine_tuning.png").read_bytes().startswith(b"\x89PNG")
    assert "7 of 7 batch normalizations folded." in done.stdout
    before, after = (
        line.split("|") for line in done.stdout.splitlines() if line.startswith(("| frozen |", "| folded"))
    )
    assert int(after[2].replace(",", "")) < int(before[2].replace(",", ""))
    assert int(after[3]) < int(before[3])
    assert float(done.stdout.split("largest difference of a logit: ")[1].split()[0]) < 1e-4


def test_the_halves_of_the_classes_are_all_images_and_share_none(data_dir):
    images = data.load("digits", 300, str(data_dir))
    halves = [data.half_of_classes(images, which) for which in (0, 1)]
    assert sum(part.train_size for part in halves) == 300
    assert [part.classes for part in halves] == [5, 5]
    for which, part in enumerate(halves):
        labels = np.concatenate([labels for _, labels in part.test().as_numpy_iterator()])
        assert set(labels) == set(range(5))
        expected = np.concatenate([labels for _, labels in images.test().as_numpy_iterator()])
        assert np.array_equal(labels, expected[expected // 5 == which] - 5 * which)


def test_the_table_has_mean_and_standard_deviation_over_seeds():
    rows = [("batch", seed, 2, 4, 3.0 + 2 * seed) for seed in (0, 1)]
    runs = pd.DataFrame(rows, columns=["method", "seed", "images_a_device", "devices", "error"])
    (table,) = fine_tuning.results(runs).values()
    assert table.loc["BN"].to_dict() == {"2 images on each of 4 devices": "4.0 ± 1.4"}


def test_the_costs_of_a_model_are_those_of_its_files(monkeypatch):
    paths = []
    export = keras.Model.export
    monkeypatch.setattr(
        keras.Model, "export", lambda model, path, **kw: (paths.append(path), export(model, path, **kw))
    )
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1000)])
    costs = deployment.costs({"dense": model}, np.ones((1, 4), "float32"), repeats=20).loc["dense"]
    assert [type(path) for path in paths] == [str]  # Keras 3.13 takes no Path
    assert costs["weights"] == "5,000"
    # 4 bytes for each of the 4,000 weights of the kernel; a file may leave out the bias, which is 0.
    assert 16 <= int(costs["LiteRT, kB"]) < 30 and 16 <= int(costs[".keras, kB"]) < 60
    assert float(costs["graph, ms"]) > 0 and float(costs["LiteRT, ms"]) > 0


def test_a_copy_has_weights_of_its_own():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    copy = fine_tuning.copy(model)
    np.testing.assert_array_equal(copy.get_weights()[0], model.get_weights()[0])
    copy.layers[0].kernel.assign(np.zeros((4, 2)))
    assert np.any(model.get_weights()[0])


# What the stored runs show


def test_batch_statistics_of_two_images_harm_and_recalibrating_does_not_repair():
    errors = tables.read(STORED / "fine_tuning_digits.csv").groupby("method")["error"]
    assert errors.min()["batch"] > 13 and errors.min()["recalibrated"] > 13
    assert abs(errors.mean()["batch"] - errors.mean()["recalibrated"]) < 1
    others = ["frozen", "recalibrated_frozen", "synchronized", "replaced"]
    assert errors.max()[others].max() < 4


def test_the_notebook_has_the_same_order_and_folds_without_loss():
    errors, costs = tables_of("07_fine_tuning_and_deployment")
    measured = {
        name: errors.measured(name, "test error (%)")
        for name in ("BN", "BN, recalibrated", "frozen BN", "BN replaced by GN")
    }
    harmed, spared = list(measured.values())[:2], list(measured.values())[2:]
    assert min(error.mean - error.spread for error in harmed) > 5 * max(error.mean for error in spared)
    weights = {name: int(costs[name, "weights"].replace(",", "")) for name in ("frozen BN", "folded")}
    assert weights["folded"] < weights["frozen BN"]
    assert float(costs["GN", "LiteRT, ms"]) > 1.3 * float(costs["folded", "LiteRT, ms"])
    assert abs(float(costs["frozen BN", "LiteRT, ms"]) / float(costs["folded", "LiteRT, ms"]) - 1) < 0.1
