"""The benchmarks run, compare what computes the same, and write a row for each contender."""

import csv
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from benchmarks import profile, report, small_calls, steps
from benchmarks.__main__ import LAYERS, MODES, main
from benchmarks.timing import Row, compare
from support.backends import BACKEND, tensorflow_only

ROOT = Path(__file__).parent.parent
NATIVE = {"tensorflow": "FusedBatchNormV3", "jax": "flax.nnx", "torch": "torch.nn.functional"}[BACKEND]
DEFAULT, *OTHERS = MODES[BACKEND]
LIBRARIES = ["keras_norm", "keras.layers"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)  # which the benchmarks set for good
    monkeypatch.setattr(small_calls, "CALLS", 2)
    monkeypatch.setattr(steps, "CALLS", 1)
    monkeypatch.setattr(steps, "network", network)


def network(image_size):
    """In place of a ResNet-50."""
    inner = [keras.layers.Conv2D(32, 3), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((image_size, image_size, 3)), *inner, keras.layers.Dense(10)])


def rows_of(folder, name, **flags):
    """What a run writes to the CSV of this name, all of it checked for what holds of every row."""
    options = [word for flag, value in flags.items() for word in (f"--{flag}", *value.split())]
    main(["--backend", BACKEND, "--turns", "1", "--output", str(folder), *options])
    return read(folder, name)


def read(folder, name):
    rows = list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
    assert list(rows[0]) == list(Row._fields)
    for row in rows:
        assert all(0 < float(row[field]) < math.inf for field in ("ms", "ratio"))
        assert float(row["spread_ms"]) >= 0
        assert float(row["difference"]) < 1e-3 or row["contender"] == "keras_norm per replica"
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| all | smallest |" in (folder / f"{name}.md").read_text()
    return rows


@pytest.mark.parametrize("mode", [DEFAULT, *(pytest.param(mode, marks=pytest.mark.slow) for mode in OTHERS)])
def test_benchmarks_time_every_layer_against_its_peers(mode, tmp_path):
    layers = LAYERS if mode != "compile" else LAYERS[:1]  # torch compiles for seconds each
    options = {"layers": " ".join(layers), "modes": mode, "shapes": "2x2x3x32"}
    rows = rows_of(tmp_path, f"layers_{BACKEND}_{mode}", parts="layers", **options)
    found = {(row["layer"], row["step"], row["contender"]) for row in rows}
    assert found >= {
        (layer, step, who) for layer in layers for step in ("forward", "forward + backward") for who in LIBRARIES
    }
    with_native = {layer.split()[0] for layer, _, contender in found if contender == NATIVE}
    if BACKEND != "jax" or importlib.util.find_spec("flax"):
        assert with_native == ({"batch"} if BACKEND == "tensorflow" else set(layers))
    assert all(float(row["limits"]) > 0 and row["mode"] == mode for row in rows)


@pytest.mark.skipif(BACKEND != "jax", reason="the others do not tell it on a CPU")
def test_peak_memory_has_room_for_what_a_step_returns(tmp_path):
    rows = rows_of(tmp_path, "layers_jax_jit", parts="layers", layers="group", shapes="2x2x3x32")
    of_x = 2 * 2 * 3 * 32 * 4 / 2**20
    for row in rows:
        assert float(row["peak_mib"]) >= {"forward": 0.99, "forward + backward": 1.99}[row["step"]] * of_x


LABELS = ("eager", "batch", "2", "float32", "call")


def returns(*values):
    return lambda: [keras.ops.convert_to_tensor(values, "float32")]


def fails():
    raise MemoryError("no room")


def test_a_difference_is_relative_to_the_largest_value_of_ours():
    rows = compare({"keras_norm": returns(2, -4), "keras.layers": returns(1, -4)}, *LABELS, turns=1)
    assert [row.difference for row in rows] == [0, 0.25]


def test_a_difference_that_is_not_a_number_is_not_hidden_by_the_other_outputs():
    theirs = {"keras.layers": lambda: [*returns(1)(), *returns(math.nan)()]}
    *_, row = compare({"keras_norm": lambda: returns(1)() * 2, **theirs}, *LABELS, turns=1)
    assert math.isnan(row.difference)


def test_a_contender_that_fails_is_named_and_left_out(capsys):
    contenders = {"keras_norm": returns(1, 2), "keras.layers": fails, "flax.nnx": returns(1, 2)}
    rows = compare(contenders, *LABELS, turns=1)
    assert [row.contender for row in rows] == ["keras_norm", "flax.nnx"]
    assert "keras.layers: left out, MemoryError('no room')" in capsys.readouterr().out


def test_without_ours_there_is_nothing_to_compare(capsys):
    assert not list(compare({"keras_norm": fails, "keras.layers": returns(1, 2)}, *LABELS, turns=1))
    assert "all: left out, MemoryError('no room')" in capsys.readouterr().out


def test_a_run_in_which_all_fail_says_so_and_goes_on(tmp_path, capsys):
    report.write(iter(()), tmp_path / "run", ("step",), "layer", "ms")
    assert "run: all were left out" in capsys.readouterr().out


def test_a_run_that_is_stopped_leaves_the_rows_that_it_has_found(tmp_path):
    row = Row(*LABELS, "keras_norm", 1.0, 0.0, 1.0, None, None, 0.0)

    def rows():
        yield row
        assert len((tmp_path / "run.csv").read_text().splitlines()) == 2  # the fields, and the row
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report.write(rows(), tmp_path / "run", ("step",), "layer", "ms")


def test_benchmarks_compare_torch_on_the_memory_of_keras_and_on_its_own(tmp_path):
    rows = rows_of(tmp_path, f"layers_{BACKEND}_{DEFAULT}", parts="layers", layers="group", shapes="2x2x3x32")
    own = {("group axis=1", "2x32x2x3")} if BACKEND == "torch" else set()
    assert {(row["layer"], row["shape"]) for row in rows} == {("group", "2x2x3x32"), *own}


def test_benchmarks_time_small_calls_and_tiny_models(tmp_path):
    rows = rows_of(tmp_path, f"small_calls_{BACKEND}", parts="small_calls")
    timed = dict.fromkeys((row["step"], row["layer"]) for row in rows)
    one = ["batch training", "group", "instance", "layer"]
    assert set(timed) == {
        ("call", "batch inference"),
        *((step, layer) for step in ("call", "train_on_batch") for layer in one),
    }
    assert [row["contender"] for row in rows] == LIBRARIES * len(timed)


@pytest.mark.parametrize(
    "mode", [DEFAULT, *(pytest.param(mode, marks=pytest.mark.slow) for mode in OTHERS if mode != "compile")]
)
def test_benchmarks_time_training_steps(mode, tmp_path):
    options = {"batches": "2 3", "image-size": "8", "modes": mode}
    rows = rows_of(tmp_path, f"steps_{BACKEND}", parts="steps", **options)
    expected = [(f"{n}x8x8x3", layer, who) for n in (2, 3) for layer in ("batch", "group") for who in LIBRARIES]
    assert [(row["shape"], row["layer"], row["contender"]) for row in rows] == expected


def test_benchmarks_time_steps_of_the_layers_that_are_asked_for(tmp_path):
    options = {"layers": "layer group", "batches": "2", "image-size": "8"}
    assert {row["layer"] for row in rows_of(tmp_path, f"steps_{BACKEND}", parts="steps", **options)} == {"group"}


REPLICAS = """
import sys
from benchmarks import __main__, steps
from test_benchmarks import network

steps.CALLS, steps.network = 1, network
__main__.main(["--parts", "replicas", "--turns", "1", "--batches", "2", "--image-size", "8", "--output", sys.argv[1]])
"""


def run(*command):
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@tensorflow_only
def test_benchmarks_time_training_steps_on_replicas(tmp_path):
    run("-c", "import sys; sys.path.append('tests')" + REPLICAS, str(tmp_path))
    rows = read(tmp_path, "replicas_tensorflow")
    expected = [("batch", who) for who in (*LIBRARIES, "keras_norm per replica")] + [
        ("group", who) for who in LIBRARIES
    ]
    assert [(row["layer"], row["contender"]) for row in rows] == expected


@pytest.mark.slow
def test_benchmarks_run_as_a_command(tmp_path):
    options = ["--parts", "layers", "--layers", "layer", "--shapes", "2x3x32", "--turns", "1", "--cpu"]
    run("-m", "benchmarks", "--backend", BACKEND, "--output", str(tmp_path), *options)
    assert {row["shape"] for row in read(tmp_path, f"layers_{BACKEND}_{DEFAULT}")} == {"2x3x32"}


def test_benchmarks_refuse_a_mode_that_the_backend_has_not(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--backend", "jax", "--modes", "xla", "--output", str(tmp_path)])
    assert "jax has jit" in capsys.readouterr().err


@tensorflow_only
@pytest.mark.quick
def test_a_profile_is_summed_by_kernel(tmp_path):
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    space = XSpace()
    for plane_name, line_name in (
        ("/device:GPU:0", "Stream #7"),
        ("/device:GPU:0", "Steps"),
        ("/host:CPU", "Stream #7"),
    ):
        plane = space.planes.add(name=plane_name)
        plane.event_metadata[1].name, plane.event_metadata[2].name = "short", "long"
        line = plane.lines.add(name=line_name)
        for kernel, duration in ((1, 10**9), (2, 4 * 10**9), (1, 10**9), (2, 6 * 10**9)):
            line.events.add(metadata_id=kernel, duration_ps=duration)
    (tmp_path / "a.xplane.pb").write_bytes(space.SerializeToString())
    assert profile.kernels(tmp_path / "a.xplane.pb", steps=2) == [("long", 1.0, 5.0), ("short", 1.0, 1.0)]


@tensorflow_only
@pytest.mark.quick
def test_a_profile_needs_a_gpu(tmp_path, monkeypatch):
    from benchmarks.backends import tensorflow as backend

    monkeypatch.setattr(backend, "GPUS", [])
    with pytest.raises(SystemExit, match="needs a GPU"):
        profile.main(["--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
