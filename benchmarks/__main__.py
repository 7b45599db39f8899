"""Times each layer and its peers, forward and with the gradient, as a multiple of what the memory allows.

The unit of a time is the limit: the bytes that must move (forward: read x, write y; with the gradient three more: read
x and dy, write dx) at the bandwidth of a copy measured in the same run. Layers and peers take turns, so that a
machine that slows down slows all of them. Prints the table; writes it as CSV and as a bar chart.
"""

import argparse
import csv
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
import tensorflow as tf

from benchmarks.peers import LAYERS, contenders

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SHAPES = {
    "resnet_1": (16, 56, 56, 64),
    "resnet_2": (16, 28, 28, 256),
    "transformer": (8, 1024, 768),
    "video": (2, 16, 28, 28, 64),
    "tiny": (2, 4, 4, 32),
}


class Row(NamedTuple):
    """One line of the CSV; times in milliseconds, `limits` in units of the bytes' limit."""

    layer: str
    contender: str
    shape: str
    dtype: str
    mode: str
    forward_ms: float
    both_ms: float
    both_spread_ms: float
    both_limits: float
    ratio_to_ours: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["resnet_1", "resnet_2"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--mode", choices=["eager", "graph", "xla"], default="graph")
    parser.add_argument("--repeats", type=int, default=15, help="timed turns of each contender")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder of the CSV and the PNG")
    args = parser.parse_args(arguments)

    machine = f"{platform.machine()}, {os.cpu_count()} cores, {len(tf.config.list_physical_devices('GPU'))} GPUs"
    print(f"{machine}; TensorFlow {tf.__version__}, Keras {keras.__version__}; {args.dtype}, {args.mode}")
    rows = [
        row
        for layer in args.layers
        for shape in args.shapes
        for row in compare(layer, shape, args.dtype, args.mode, args.repeats)
    ]
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "benchmarks.csv", "w", newline="") as file:
        csv.writer(file).writerows([Row._fields, *rows])
    draw(rows, f"{args.mode}, {args.dtype} ({machine})", args.output / "benchmarks.png")
    print(f"written to {args.output}/")


def compare(layer: str, shape_name: str, dtype: str, mode: str, repeats: int) -> list[Row]:
    """Times all contenders of a layer in turns."""
    shape = SHAPES[shape_name]
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.normal(2.0, 3.0, shape), dtype) for _ in range(2))
    steps: dict[str, Callable[[], Any]] = {"copy": tf.function(lambda: x + tf.ones([], dtype))}
    for name, (forward, both) in contenders(layer, shape, dtype, mode, x, dy).items():
        steps[f"{name}, forward"], steps[f"{name}, both"] = forward, both
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    unit = median(times["copy"]) / 2  # a copy reads once and writes once
    ours = median(times["keras_norm, both"])
    rows = []
    for name in (n.removesuffix(", both") for n in steps if n.endswith(", both")):
        both = times[f"{name}, both"]
        row = Row(
            layer,
            name,
            shape_name,
            dtype,
            mode,
            round(median(times[f"{name}, forward"]), 2),
            round(median(both), 2),
            round(float(np.subtract(*np.percentile(both, [75, 25]))), 2),
            round(median(both) / (5 * unit), 2),
            round(median(both) / ours, 2),
        )
        print(
            f"{layer:>8} {shape_name:>11} {name:>26}: forward {row.forward_ms:7.2f} ms, with gradient "
            f"{row.both_ms:7.2f} ms = {row.both_limits:5.2f} limits, {row.ratio_to_ours:5.2f} x ours",
            flush=True,
        )
        rows.append(row)
    return rows


def draw(rows: list[Row], title: str, path: Path) -> None:
    """A group of bars for each layer and shape, a bar for each contender."""
    groups = list(dict.fromkeys((row.layer, row.shape) for row in rows))
    names = list(dict.fromkeys(row.contender for row in rows))
    figure, ax = plt.subplots(figsize=(max(6, 1.6 * len(groups)), 4))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        found = [(groups.index((row.layer, row.shape)), row.both_limits) for row in rows if row.contender == name]
        ax.bar([g + (i - (len(names) - 1) / 2) * width for g, _ in found], [v for _, v in found], width, label=name)
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(groups)), [f"{layer}\n{shape}" for layer, shape in groups], fontsize=8)
    ax.set(ylabel="time / limit of the bytes", title=f"forward and gradient: {title}")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
