"""Every way to fine-tune, on a tiny budget."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest

import fine_tuning
from fine_tuning import WAYS, Run, half, summary, table
from support.backends import tensorflow_only

pytestmark = tensorflow_only


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
    assert [row["way"] for row in rows] == list(WAYS)
    assert all((row["dataset"], row["devices"]) == ("digits", "2") and 0 <= float(row["error"]) <= 100 for row in rows)
    assert (tmp_path / "fine_tuning.png").read_bytes().startswith(b"\x89PNG")
    assert "7 of 7 batch normalizations folded." in done.stdout
    before, after = (line.split("|") for line in done.stdout.splitlines() if line.startswith(("| frozen", "| folded")))
    assert int(after[2].replace(",", "")) < int(before[2].replace(",", ""))
    assert int(after[3]) < int(before[3])
    assert float(done.stdout.split("largest difference of a logit: ")[1].split()[0]) < 1e-4


def test_the_halves_of_the_classes_are_all_images_and_share_none(data_dir):
    images = fine_tuning.load("digits", 300, str(data_dir))
    halves = [half(images, which) for which in (0, 1)]
    assert sum(part.train_size for part in halves) == 300
    assert [part.classes for part in halves] == [5, 5]
    for part in halves:
        labels = np.concatenate([labels for _, labels in part.test().as_numpy_iterator()])
        assert set(labels) == set(range(5))


def test_the_table_has_mean_and_standard_deviation_over_seeds():
    runs = [Run("digits", way, seed, 2, 4, 1, 3.0 + 2 * seed) for way in WAYS for seed in (0, 1)]
    assert summary(runs)["BN"] == (4.0, np.std([3, 5], ddof=1))
    assert "| BN | 4.0 ± 1.4 |" in table(runs)
