"""Worker processes of a tutorial on this machine: each is told of all by TF_CONFIG, and writes a log."""

import json
import os
import socket
import subprocess
import sys
import time


def start(command, folder, count):
    """Starts `command` once a worker, as one would on `count` machines; returns the processes."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    cluster = {"worker": [f"localhost:{s.getsockname()[1]}" for s in sockets]}
    for s in sockets:
        s.close()
    folder.mkdir(parents=True, exist_ok=True)
    processes = []
    for index in range(count):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        print(f"  TF_CONFIG='{config}'", flush=True)
        environment = os.environ | {"TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"}  # they cannot share GPUs
        with log(folder, index).open("w") as file:
            worker = subprocess.Popen([sys.executable, *command], env=environment, stdout=file, stderr=file)
        processes.append(worker)
    return processes


def log(folder, index):
    """What a worker says."""
    return folder / f"worker-{index}.log"


def wait_for(words, folder, index, process):
    """Waits until that worker says so."""
    while words not in log(folder, index).read_text():
        if process.poll() is not None:
            raise SystemExit(f"worker {index} ended early:\n{log(folder, index).read_text()[-3000:]}")
        time.sleep(0.05)


def finish(processes, folder):
    """Waits until all have succeeded, and prints what worker 0 reports."""
    for index, process in enumerate(processes):
        if process.wait():
            stop(processes)
            raise SystemExit(f"worker {index} failed:\n{log(folder, index).read_text()[-3000:]}")
    for line in log(folder, 0).read_text().splitlines():
        if "test error" in line:
            print(line, flush=True)


def stop(processes):
    """Kills each, by its process id."""
    for process in processes:
        process.kill()
        process.wait()
