"""What synchronized statistics cost on many replicas: collectives and bytes counted, and a model of their time.

    python -m benchmarks.scaling --replicas 2     # counts, on two logical CPU devices
    python -m benchmarks.scaling --replicas 4     # counts, also for groups of two replicas
    python -m benchmarks.scaling                  # the model for 8 to 1,024 replicas, and its picture

Counting traces a training step under MirroredStrategy and reads the collectives of one replica from the graph. The
bytes are those of the tensors that are added. How many of them cross the wires depends on the algorithm.
"""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHANNELS = 256  # of the layer that is counted alone
LAYERS, ALL_CHANNELS, WEIGHTS = 53, 26_560, 25_583_592
"""The batch normalizations of a ResNet-50, their channels, and the trainable weights of the network."""

# Latency of a step in seconds, and bandwidth of a link in bytes a second.
START = {"ring": 3.6e-6, "tree": 4.4e-6}
INSIDE = {"ring": 0.47e-6, "tree": 0.52e-6}
BETWEEN = {"ring": 2.7e-6, "tree": 5.0e-6}
"""Latencies of NCCL 2.10's own tuning model for its low-latency protocol: `baseLat` and `hwLat` (NVLink, network) in
src/graph/tuning.cc, commit 01afd20a77b5804e0ecf1042509dd9d20ebf9e93."""
INSIDE_BANDWIDTH, BETWEEN_BANDWIDTH = 235e9, 25e9
"""`busBw` of an A100 in the same file, and a network of 200 Gb/s for each replica."""
MACHINE = 8  # replicas of one machine


class Count(NamedTuple):
    """The collectives of one replica in a step, and the bytes that they add."""

    collectives: int
    bytes: int


def count(step: Callable[[], Any], strategy: Any) -> Count:
    """Traces a step of all replicas, and counts the collectives of one."""
    import tensorflow as tf

    graph = tf.function(lambda: strategy.run(step), autograph=False).get_concrete_function().graph
    added = [o for o in graph.get_operations() if o.type.startswith("CollectiveReduce")]
    size = sum(o.outputs[0].shape.num_elements() * o.outputs[0].dtype.size for o in added)
    replicas = strategy.num_replicas_in_sync
    return Count(len(added) // replicas, size // replicas)


def kinds(replicas: int) -> dict[str, Callable[..., Any]]:
    """The layers that are counted, each as a function of its arguments."""
    import keras

    import keras_norm as kn

    found = {
        "`synchronized=False`": lambda **kwargs: kn.BatchNormalization(**kwargs),
        "`synchronized=True`": lambda **kwargs: kn.BatchNormalization(synchronized=True, **kwargs),
        "`synchronized=2`": lambda **kwargs: kn.BatchNormalization(synchronized=2, **kwargs),
        "`keras.layers`, `synchronized=True`": lambda **kwargs: keras.layers.BatchNormalization(
            synchronized=True, **kwargs
        ),
        "`GroupNormalization`": lambda **kwargs: kn.GroupNormalization(32, **kwargs),
    }
    return found if replicas > 2 else {name: make for name, make in found.items() if name != "`synchronized=2`"}


def counted(replicas: int, of_network: bool = True) -> dict[str, list[Count]]:
    """By kind: a layer forward, a layer forward and backward, and the step of a ResNet-50."""
    import keras
    import tensorflow as tf

    import keras_norm as kn

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    found = {}
    for name, make in kinds(replicas).items():
        with strategy.scope():
            layer = make()
            layer.build((None, 7, 7, CHANNELS))
        x = tf.ones((2, 7, 7, CHANNELS))
        found[name] = [count(_forward(layer, x), strategy), count(_backward(layer, x), strategy)]
        if of_network:
            with strategy.scope():
                network = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3))
                network = kn.models.replace_normalization(network, lambda old, make=make: make(name=old.name))
            found[name].append(count(_backward(network, tf.ones((2, 32, 32, 3))), strategy))
    return found


def _forward(model: Any, x: Any) -> Callable[[], Any]:
    return lambda: model(x, training=True)


def _backward(model: Any, x: Any) -> Callable[[], Any]:
    """Forward and backward, without the sum of the gradients over the replicas."""
    import tensorflow as tf

    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(model(x, training=True)))
        return tape.gradient(loss, [x, *(w.value for w in model.trainable_weights)])

    return step


def all_reduce(algorithm: str, replicas: int, size: float) -> float:
    """Seconds to add `size` bytes over the replicas, `MACHINE` of which share a machine."""
    machines = math.ceil(replicas / MACHINE)
    bandwidth = INSIDE_BANDWIDTH if machines == 1 else BETWEEN_BANDWIDTH
    if algorithm == "ring":
        steps, between = 2 * (replicas - 1), 2 * (machines - 1)
        latency = (steps - between) * INSIDE["ring"] + between * BETWEEN["ring"]
        return START["ring"] + latency + steps / replicas * size / bandwidth
    of_one = min(replicas, MACHINE) - 1
    latency = 2 * (of_one * INSIDE["tree"] + math.log2(machines) * BETWEEN["tree"])
    return START["tree"] + latency + 2 * size / bandwidth


def fastest(replicas: int, size: float) -> float:
    """Seconds of the faster algorithm."""
    return min(all_reduce(algorithm, replicas, size) for algorithm in START)


def step_time(replicas: int, collectives: int, size: float) -> float:
    """Seconds that the collectives of a step take, one after another and each of the mean size."""
    return collectives * fastest(replicas, size / collectives)


def noise(samples: float) -> float:
    """Standard error of a mean over so many independent samples, in standard deviations of one."""
    return samples**-0.5


def useful_group(samples: int, tolerance: float) -> int:
    """The replicas whose samples together bring the noise down to the tolerance."""
    return math.ceil(round(tolerance**-2 / samples, 9))


def grouped(replicas: int, size: int) -> Count:
    """A step of the network with `synchronized=size`: a row of sums for each group."""
    return Count(4 * LAYERS, (24 * replicas // size + 12) * ALL_CHANNELS)


SIZES = [2**k for k in range(3, 11)]
MODEL = {  # by way: collectives of a step of ResNet-50, and their bytes on so many replicas
    "synchronized=True": lambda replicas: Count(3 * LAYERS, 24 * ALL_CHANNELS),
    "synchronized=8": lambda replicas: grouped(replicas, 8),
    "synchronized=False": lambda replicas: Count(LAYERS, 12 * ALL_CHANNELS),
    "keras.layers, synchronized=True": lambda replicas: Count(5 * LAYERS, 20 * ALL_CHANNELS),
    "all gradients, in one collective": lambda replicas: Count(1, 4 * WEIGHTS),
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def counts_table(found: dict[str, list[Count]]) -> str:
    """What was counted: a row for each kind, collectives and bytes in a cell."""
    head = ["", "layer, forward", "layer, forward and backward", "ResNet-50, forward and backward"]
    cells = {name: [f"{c.collectives}, {c.bytes:,} bytes" for c in counts] for name, counts in found.items()}
    rows = [[name, *row] for name, row in cells.items()]
    return table(head[: len(rows[0])], rows)


def model_table() -> str:
    """The time of each way in milliseconds a step."""
    sizes = [8, 64, 256, 1024]
    rows = [
        [name, *(f"{1e3 * step_time(r, *of(r)):.2f}" for r in sizes)] for name, of in MODEL.items()
    ]  # fmt: skip
    return table(["ms a step", *(f"{r:,} replicas" for r in sizes)], rows)


def groups_table() -> str:
    """How many replicas bring the noise of the statistics down to a tolerance."""
    samples = [2, 4, 8, 16, 32]
    rows = [
        [f"{tolerance:.2f} ({round(tolerance**-2)} samples)", *(str(useful_group(n, tolerance)) for n in samples)]
        for tolerance in (0.25, 0.1)
    ]
    return table(["noise", *(f"{n} a replica" for n in samples)], rows)


def draw(path: Path) -> None:
    """The time of each way, and the noise of the statistics, against the number of replicas."""
    import matplotlib.pyplot as plt

    from keras_norm.tutorials import figures

    styles = dict(
        zip(
            MODEL, [figures.style(n) for n in ("synchronized", "weight_norm_mean_only", "batch", "layer")], strict=False
        )
    )
    figure, (times, noises) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, of in MODEL.items():
        _, color, marker = styles.get(name, ("", figures.BLACK, "x"))
        seconds = [1e3 * step_time(r, *of(r)) for r in SIZES]
        times.plot(SIZES, seconds, color=color, marker=marker, linestyle="-" if name in styles else "--", label=name)
    times.set_yscale("log")
    times.set_ylabel("ms a step (model), lower is better")
    times.set_title("ResNet-50")
    for samples, name in ((2, "group"), (8, "instance"), (32, "frozen")):
        _, color, marker = figures.style(name)
        values = [noise(samples * r) for r in [1, 2, 4, *SIZES]]
        noises.plot([1, 2, 4, *SIZES], values, color=color, marker=marker, label=f"{samples} samples a replica")
    noises.axhline(0.25, color=figures.BLACK, linestyle=":", label="16 samples")
    noises.set_yscale("log")
    noises.set_ylabel("noise of a batch mean, in standard deviations")
    noises.set_title("what more replicas bring")
    for axes in (times, noises):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel("replicas in a group" if axes is noises else "replicas")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figures.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Counts, or evaluates the model."""
    flags = argparse.ArgumentParser(
        "python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--replicas", type=int, choices=[2, 4], help="count on so many logical CPU devices")
    flags.add_argument("--layers-only", action="store_true", help="without the network, which takes minutes to trace")
    flags.add_argument("--output", type=Path, default=Path("results"), help="folder for the picture of the model")
    args = flags.parse_args(arguments)
    if args.replicas:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "-1"}
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        print(counts_table(counted(args.replicas, of_network=not args.layers_only)))
    else:
        args.output.mkdir(parents=True, exist_ok=True)
        draw(args.output / "scaling.png")
        print(f"{model_table()}\n\n{groups_table()}")


if __name__ == "__main__":
    main()
