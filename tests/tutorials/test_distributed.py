"""The tutorial on several devices, on a tiny budget: its replicas, its workers, and the one that it kills."""

import csv
import os
import re
import subprocess
import sys

import pytest

import distributed
from support.backends import tensorflow_only

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
    said = run(data_dir, "--epochs", 2, "--train-images", 64, "--output", tmp_path)
    runs = [(r["normalization"], r["replicas"], r["statistics over"]) for r in rows_of(tmp_path) if r["epoch"] == "2"]
    assert runs == [("BN", "2", "2"), ("cross-replica BN", "2", "4"), ("GN", "2", "1"), ("BN", "1", "4")]
    _, synchronized, _, one_device = (float(r["loss"]) for r in rows_of(tmp_path) if r["epoch"] == "1")
    assert abs(synchronized - one_device) < 1e-3
    assert (tmp_path / "distributed.png").read_bytes().startswith(b"\x89PNG")
    assert "cross-replica BN on 2 replicas, over 4 images" in said


@pytest.mark.slow
def test_a_killed_worker_resumes_and_ends_with_the_weights_of_the_others_and_of_a_run_in_peace(data_dir, tmp_path):
    chosen = ["--normalizations", "cross-replica BN", "--epochs", 2, "--train-images", 128]
    said = run(data_dir, "--workers", 2, *chosen, "--output", tmp_path)
    assert said.count("TF_CONFIG") == 6
    assert re.search(r"killed process \d+", said)
    differences = {name: float(value) for name, value in re.findall(r"  (.*): (\d\.\de[+-]\d+)", said)}
    assert set(differences) == {
        "cross-replica BN, workers, worker 0 and worker 1",
        "cross-replica BN, killed, worker 0 and worker 1",
        "cross-replica BN, killed and never killed",
    }
    assert max(differences.values()) <= 1e-6
    assert len(rows_of(tmp_path / "workers")) == 2
    assert len(rows_of(tmp_path / "killed")) == 1
