"""Where the time of a layer goes on a GPU: its kernels, and the calls on the host. TensorFlow.

    python -m benchmarks.profile --layers batch group --modes xla graph eager

Times one step, forward and backward: until the call returns (the host), until the GPU is done (all), and while a kernel
runs (the sum over the kernels, from TensorFlow's profiler). Writes one row per kernel.
"""

import argparse
import csv
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.__main__ import LAYERS, MODES, shape

if TYPE_CHECKING:
    from benchmarks.backends import Step  # which imports Keras


class Kernel(NamedTuple):
    """A row of the CSV: a kernel by name, its launches and its time in a step."""

    mode: str
    layer: str
    shape: str
    kernel: str
    launches: float
    ms: float


def kernels(profile: Path, steps: int) -> list[tuple[str, float, float]]:
    """Name, launches and milliseconds in one of the `steps` of a profile, the longest kernel first."""
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    times: dict[str, list[float]] = defaultdict(list)
    for plane in XSpace.FromString(profile.read_bytes()).planes:
        if plane.name.startswith("/device:GPU"):
            for event in (event for line in plane.lines if line.name.startswith("Stream") for event in line.events):
                times[plane.event_metadata[event.metadata_id].name].append(event.duration_ps / 1e9)
    found = [(name, len(of_name) / steps, round(sum(of_name) / steps, 5)) for name, of_name in times.items()]
    return sorted(found, key=lambda kernel: -kernel[2])


def profiled(step: "Step", steps: int) -> list[tuple[str, float, float]]:
    """The kernels of a step, as the profiler of TensorFlow records them."""
    import tensorflow as tf

    from benchmarks.backends import tensorflow as backend

    with TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(steps):
                backend.wait(step())
        (profile,) = Path(folder).rglob("*.xplane.pb")
        return kernels(profile, steps)


def timed(step: "Step", turns: int) -> tuple[float, float]:
    """The medians in milliseconds until the call returns, and until the GPU is done."""
    from benchmarks.backends import tensorflow as backend

    host, whole = [], []
    for _ in range(turns):
        start = time.perf_counter()
        outputs = step()
        host.append(time.perf_counter() - start)
        backend.wait(outputs)
        whole.append(time.perf_counter() - start)
    return 1e3 * median(host), 1e3 * median(whole)


def rows(args: argparse.Namespace) -> Iterator[Kernel]:
    """Prints a line for each layer and mode, and yields the kernels."""
    import keras

    from benchmarks.backends import tensorflow as backend
    from benchmarks.layers import pair, shape_of

    x, dy = (keras.random.normal(args.shape, 2.0, 3.0, seed=seed) for seed in range(2))
    print(f"copy: {timed(lambda: [x + 1], args.turns)[1]:.3f} ms")
    for name in args.layers:
        for mode in args.modes:
            layer: Any = pair(name)["keras_norm"]
            layer.build(x.shape)
            _, step = backend.steps(layer, x, dy, {"training": True} if name == "batch" else {}, mode)
            timed(step, 3)
            (host, whole), found = timed(step, args.turns), profiled(step, 3)
            busy = sum(ms for *_, ms in found)
            print(f"{name:>8} {mode:>5}: host {host:.2f} ms, all {whole:.2f} ms, kernels {busy:.2f} ms", flush=True)
            yield from (Kernel(mode, name, shape_of(x), *kernel) for kernel in found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS)
    parser.add_argument("--modes", nargs="+", choices=MODES["tensorflow"], default=MODES["tensorflow"])
    parser.add_argument("--shape", type=shape, default=(256, 56, 56, 256))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("results"))
    args = parser.parse_args(arguments)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # which Keras reads on import
    from benchmarks.backends import tensorflow as backend

    if not backend.GPUS:
        raise SystemExit("benchmarks.profile: needs a GPU, because it reads GPU kernels. TensorFlow sees none.")
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "kernels_tensorflow.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Kernel._fields)
        writer.writerows(rows(args))


if __name__ == "__main__":
    main()
