"""The benchmarks run, and write a row for each contender."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.backends import BACKEND, tensorflow_only

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
LAYERS = ("batch", "group", "instance", "layer")


def run(*command):
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.skipif(BACKEND == "torch", reason="torch is a peer here and no backend")
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"] if BACKEND == "tensorflow" else ["jit"])
def test_benchmarks_time_every_layer_against_its_peers(mode, tmp_path):
    options = ["--backend", "jax"] if mode == "jit" else ["--mode", mode]
    run("-m", "benchmarks", "--shapes", "tiny", "--repeats", "1", "--output", str(tmp_path), *options)
    rows = rows_of(tmp_path / "layers.csv")
    contenders = {(row["layer"], row["contender"]) for row in rows}
    assert contenders >= {(layer, name) for layer in LAYERS for name in ("keras_norm", "keras.layers")}
    assert (("batch", "FusedBatchNormV3") in contenders) == (BACKEND == "tensorflow")
    assert {row["mode"] for row in rows} == {mode}
    assert all(float(row["both_ms"]) > 0 for row in rows)
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


STEPS = """
import sys
from pathlib import Path
import keras
from benchmarks import report, steps

def network(image_size):
    batch = [keras.layers.Conv2D(32, 3), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((image_size, image_size, 3)), *batch, keras.layers.Dense(10)])

steps.network = network  # of a ResNet-50 a step on a CPU takes too long for a test
steps.STEPS = 1
rows = list(steps.compare([2], 8, "float32", 1))
report.write(rows, Path(sys.argv[1], "steps.csv"))
report.draw_steps(rows, Path(sys.argv[1], "steps.png"))
"""


@tensorflow_only
def test_benchmarks_time_steps_compiled_or_not_and_on_replicas(tmp_path):
    run("-c", STEPS, str(tmp_path))
    rows = rows_of(tmp_path / "steps.csv")
    groups = ["keras_norm GN", "keras.layers GN"]
    expected = [(way, name) for way in ("jit", "no jit", "2 replicas") for name in groups]
    expected += [("2 replicas", name) for name in ("cross-replica BN", "BN", "keras.layers cross-replica BN")]
    assert [(row["run"], row["normalization"]) for row in rows] == expected
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
