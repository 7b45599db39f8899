"""Two worker processes against one device, and what DistributedModel stands for."""

import re
import time

import keras
import numpy as np
import pytest

from keras_norm.distribute import DistributedModel
from support import processes, trainings
from support.backends import BACKEND, tensorflow_only

WORKERS = [0, 1]


def two_workers(test):
    """Marks what needs the processes of two workers."""
    return pytest.mark.slow(pytest.mark.xdist_group("workers")(test))


@pytest.fixture(scope="module")
def one_device():
    return trainings.trained(trainings.convolutional())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two workers found, by name."""
    folder = tmp_path_factory.mktemp("workers")
    processes.finish(processes.start_workers("on_workers.py", "all", folder))
    return [processes.results(folder / f"all-{i}.npz") for i in WORKERS]


@tensorflow_only
@two_workers
@pytest.mark.parametrize("worker", WORKERS)
def test_fit_on_two_workers_equals_one_device_validation_included(found, one_device, worker):
    assert {"history loss", "history val_loss", "evaluate", "predict"} <= set(one_device)
    for name, want in one_device.items():
        np.testing.assert_allclose(found[worker][f"fit True {name}"], want, rtol=1e-4, atol=1e-4, err_msg=name)
    assert np.abs(found[worker]["fit False predict"] - one_device["predict"]).max() > 0.01


@tensorflow_only
@two_workers
@pytest.mark.parametrize("worker", WORKERS)
def test_a_loop_of_your_own_on_two_workers_equals_one_device(found, one_device, worker):
    weights = {name: value for name, value in one_device.items() if name.startswith("weight")}
    assert len(weights) == 8
    for name, want in weights.items():
        np.testing.assert_allclose(found[worker][f"loop {name}"], want, rtol=1e-4, atol=1e-4, err_msg=name)


@tensorflow_only
@two_workers
@pytest.mark.parametrize("worker", WORKERS)
def test_groups_of_one_worker_each_train_like_workers_that_are_not_synchronized(found, worker):
    names = [name.removeprefix("fit 1 ") for name in found[worker] if name.startswith("fit 1 ")]
    assert "predict" in names
    for name in names:
        got, want = (found[worker][f"fit {synchronized} {name}"] for synchronized in (1, False))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=name)


@tensorflow_only
@two_workers
@pytest.mark.parametrize("synchronized", [True, False, 1])
def test_both_workers_hold_the_same_weights(found, synchronized):
    names = [name for name in found[0] if name.startswith(f"fit {synchronized} weight")]
    assert len(names) == 8
    for name in names:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


@tensorflow_only
@two_workers
@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("Model", "PerReplica"),
        ("KerasBuild", "PerReplica"),
        ("KerasLogs", "Invalid reduction dimension 0"),
    ],
)
def test_keras_still_needs_each_override_on_several_workers(found, without, words):
    assert words in str(found[0][f"error of {without}"])


@tensorflow_only
@two_workers
def test_killed_workers_resume_and_reach_the_weights_of_an_uninterrupted_run(found, tmp_path):
    workers = processes.start_workers("on_workers.py", "stall", tmp_path)
    try:
        wait_for(tmp_path / "stalled")
        workers[1].kill()
    finally:
        processes.stop(workers)  # without worker 1 its peer can only wait
    processes.finish(processes.start_workers("on_workers.py", "resumable", tmp_path))
    for worker in WORKERS:
        resumed = processes.results(tmp_path / f"resumable-{worker}.npz")
        assert len(resumed["history loss"]) == trainings.EPOCHS - 1
        for name, value in resumed.items():
            if "history" not in name:
                np.testing.assert_allclose(value, found[worker][f"fit True {name}"], rtol=1e-6, atol=1e-6, err_msg=name)


def wait_for(path):
    deadline = time.monotonic() + processes.SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.1)


def test_on_one_device_it_is_keras_model():
    ours, keras_own = (
        trainings.trained(trainings.convolutional(DistributedModel)),
        trainings.trained(trainings.convolutional()),
    )
    for name, value in keras_own.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_it_is_saved_as_what_it_is(tmp_path):
    model = trainings.convolutional(DistributedModel)
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    x, _ = trainings.images(5)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@tensorflow_only
def test_the_example_of_the_page_on_several_devices_runs():
    page = (processes.ROOT / "docs" / "distributed.md").read_text()
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})


@pytest.mark.skipif(BACKEND != "torch", reason="its subject is torch.distributed")
def test_the_example_of_the_page_on_pytorch_runs(monkeypatch):
    torchrun = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": processes.free_ports(1)[0]}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, str(value))
    page = (processes.ROOT / "docs" / "distributed.md").read_text().split("## PyTorch")[1]
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})
