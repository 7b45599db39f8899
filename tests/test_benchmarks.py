"""The benchmarks run, and write a row for each contender."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from backends import tensorflow_only

ROOT = Path(__file__).parent.parent


@tensorflow_only
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_benchmarks_time_every_layer_against_its_peers(mode, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--shapes", "tiny", "--repeats", "1", "--mode", mode]
    subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    with open(tmp_path / "benchmarks.csv") as file:
        rows = list(csv.DictReader(file))
    contenders = {(row["layer"], row["contender"]) for row in rows}
    layers = ("batch", "group", "instance", "layer")
    assert contenders >= {(layer, name) for layer in layers for name in ("keras_norm", "keras.layers")}
    assert ("batch", "FusedBatchNormV3") in contenders
    assert all(float(row["both_ms"]) > 0 for row in rows)
    assert (tmp_path / "benchmarks.png").stat().st_size > 10_000
