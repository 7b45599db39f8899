"""Batch Normalization replaced in a trained network: on a tiny budget, and what the stored runs show."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import replacement
from keras_norm.tutorials import data, tables
from support.backends import tensorflow_only

pytestmark = tensorflow_only

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_job_tests_every_way_before_and_during_fine_tuning(data_dir, tmp_path):
    budget = ["--seeds", "1", "--pretraining-epochs", "1", "--train-images", "200", "--steps", "20", "40"]
    done = subprocess.run(
        [sys.executable, replacement.__file__, *budget, "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "replacement.csv").read_text().splitlines()))
    untrained = [(method, "0.0", "0") for method in replacement.METHODS]
    trained = [(method, str(rate), steps) for method, rate in replacement.TRAININGS for steps in ("20", "40")]
    assert [(row["method"], row["rate"], row["steps"]) for row in rows] == untrained + trained
    assert rows[0]["error"] == rows[2]["error"]  # freezing changes no prediction
    assert (tmp_path / "replacement.png").read_bytes().startswith(b"\x89PNG")
    assert "| test error (%) after steps | 0 | 20 | 40 |" in done.stdout


@pytest.mark.slow
def test_fine_tuning_starts_from_the_same_weights_and_changes_the_copy_alone(data_dir):
    images = data.load("digits", 200, str(data_dir))
    pretrained = replacement.pretrain(images, 1, 0)
    before = [np.copy(w) for w in pretrained.get_weights()]
    model = replacement.METHODS["replaced"](replacement.copy(pretrained), images.train(32, 0))
    assert len(replacement.fine_tune(model, images, 0.02, [20, 40], 0)) == 2
    for now, then in zip(pretrained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


# What the stored runs show


def mean_error(runs, method, rate, steps):
    chosen = runs[(runs["method"] == method) & (runs["rate"] == rate) & (runs["steps"] == steps)]
    assert len(chosen) == 3
    return chosen["error"].mean()


def test_replacement_costs_accuracy_that_some_hundred_steps_bring_back():
    runs = tables.read(DOCS / "results" / "replacement_digits.csv")
    before = mean_error(runs, "batch", 0.0, 0)
    assert before < 2
    assert mean_error(runs, "replaced", 0.0, 0) > 8 * before
    assert mean_error(runs, "replaced", 0.02, 20) > 2 * before
    assert mean_error(runs, "replaced", 0.02, 300) - before < 1
    for steps in (20, 100, 300):
        assert mean_error(runs, "replaced", 0.02, steps) < mean_error(runs, "replaced", 0.1, steps)
        assert abs(mean_error(runs, "frozen", 0.02, steps) - before) < 0.5
    assert mean_error(runs, "frozen", 0.0, 0) == before


def test_the_page_shows_the_table_of_the_stored_rows():
    runs = tables.read(DOCS / "results" / "replacement_digits.csv")
    page = (DOCS / "replacing.md").read_text(encoding="utf-8")
    ((name, table),) = replacement.results(runs).items()
    assert tables.markdown(table, name) in page
