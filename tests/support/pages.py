"""The code blocks of a page of docs, as the programs that a reader would run."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field

from support.processes import ROOT, TESTS, free_ports

BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
FILE = re.compile(r"Save this as\s`(\w+\.py)`[^`]*```python\n(.*?)```", re.DOTALL)
SETS_BACKEND = re.compile(r'^os\.environ\["KERAS_BACKEND"\] = "(\w+)"', re.MULTILINE)
TWO_CPUS = """import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
"""


@dataclass
class Program:
    """The blocks of a page that run in one process, in order, and what the page shows under each (None: nothing)."""

    backend: str
    blocks: list[str] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)


def programs_of(page):
    """A program begins with the page, and with each block that sets the backend."""
    found = [Program("tensorflow")]
    for code, shown in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        if backend := SETS_BACKEND.search(code):
            found.append(Program(backend[1]))
        found[-1].blocks.append(code)
        found[-1].shown.append(shown or None)
    return [program for program in found if program.blocks]


def save_files_of(page, folder):
    """Writes the blocks that a reader is to save."""
    for name, code in FILE.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        (folder / name).write_text(code, encoding="utf-8")


def printed_by(program, folder):
    """What each block prints, run in `folder`."""
    parts = [*([TWO_CPUS] if program.backend == "tensorflow" else [""]), *program.blocks]
    script = folder / "page.py"
    script.write_text("print('\\0', flush=True)\n".join(parts), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"KERAS_BACKEND": program.backend, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if program.backend == "torch":  # what torchrun tells a single rank
        environment |= {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(free_ports(1)[0]),
        }
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(TESTS), str(folder)])
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout.split("\0\n")[1:]
