"""Worker processes on this machine, as one would start on several. `TF_CONFIG` tells each of all; each writes a log."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def start(command: Sequence[str], folder: Path, count: int) -> list[subprocess.Popen]:
    """Starts `python command` once for each worker, with its log in `folder`; returns the processes."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    cluster = {"worker": [f"localhost:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
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


def log(folder: Path, index: int) -> Path:
    """The file with what a worker prints."""
    return folder / f"worker-{index}.log"


def wait_for(words: str, folder: Path, index: int, process: subprocess.Popen) -> None:
    """Waits until a worker has printed `words`."""
    while words not in log(folder, index).read_text():
        if process.poll() is not None:
            raise RuntimeError(f"worker {index} ended early:\n{log(folder, index).read_text()[-3000:]}")
        time.sleep(0.05)


def finish(processes: Sequence[subprocess.Popen], folder: Path, words: str) -> None:
    """Waits until all have succeeded, and prints the lines with `words` of the first worker's log."""
    for index, process in enumerate(processes):
        if process.wait():
            stop(processes)
            raise RuntimeError(f"worker {index} failed:\n{log(folder, index).read_text()[-3000:]}")
    for line in log(folder, 0).read_text().splitlines():
        if words in line:
            print(line, flush=True)


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Kills each, by its process id."""
    for process in processes:
        process.kill()
        process.wait()
