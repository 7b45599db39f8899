"""Separate processes: TensorFlow takes one strategy and one number of replicas per process."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
SECONDS = 600  # they share a machine with other tests


def start(script, *args, **variables):
    """Starts a script of `tests/processes` on the CPU."""
    paths = [str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")]
    # Where a process crashes it then says where it was.
    settings = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(paths)}
    environment = os.environ | settings | variables
    command = [sys.executable, str(TESTS / "processes" / script), *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_workers(script, *args, count=2):
    """Starts the script once a worker, each told of all by TF_CONFIG; its last argument is the worker's index."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(count)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(count)]
    return [start(script, *args, i, TF_CONFIG=json.dumps(task)) for i, task in enumerate(tasks)]


def start_jax_processes(script, *args, count=2):
    """Starts the script in several processes of `keras.distribution`, each told of all by Keras' own variables."""
    address = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{free_ports(1)[0]}"}
    address["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(count)
    return [start(script, *args, **address, KERAS_DISTRIBUTION_PROCESS_ID=str(i)) for i in range(count)]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def finish(processes):
    """Waits until each has succeeded, and shows what one that failed has said."""
    try:
        for process in processes:
            said, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, said[-5000:]
    finally:
        stop(processes)


def finish_one(process):
    """Waits until it has succeeded, or has crashed where Keras drops a strategy's iterator: False then.

    With one replica and on a loaded machine TensorFlow does so about once in six runs, in `EpochIterator.reset` of
    `evaluate`, whose iterator still reads ahead after the batch that built the model.
    """
    try:
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        stop([process])
    if process.returncode == -signal.SIGSEGV and "epoch_iterator.py" in said:
        return False
    assert process.returncode == 0, said[-5000:]
    return True


def stop(processes):
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def results(path):
    with np.load(path) as file:
        return dict(file)
