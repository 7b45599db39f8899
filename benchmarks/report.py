"""What a run found: the machine, the CSV, the Markdown table and the bar charts."""

import csv
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PEERS = ("tensorflow", "keras", "keras_norm", "torch", "jax", "flax")


def machine(backend: str) -> str:
    """Where this ran, on what, with which versions."""
    versions = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    found = ", ".join(f"{name} {versions[name]}" for name in PEERS if name in versions)
    return f"{_processor()}, {os.cpu_count()} cores, {_accelerators()}; {found}; backend {backend}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _accelerators() -> str:
    if keras.backend.backend() == "jax":
        import jax

        found = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    else:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        found = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return " and ".join(found) or "no GPU"


def write(rows: list[Any], path: Path) -> None:
    """The rows as CSV, their fields on top."""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([rows[0]._fields, *rows])


def table(rows: list[Any]) -> str:
    """Forward and gradient of every layer and shape in units of the limit, a column for each contender."""
    names = list(dict.fromkeys(row.contender for row in rows))
    lines = [["layer", "shape", *names], ["---"] * (2 + len(names))]
    for layer, shape in dict.fromkeys((row.layer, row.shape) for row in rows):
        found = {row.contender: row.both_limits for row in rows if (row.layer, row.shape) == (layer, shape)}
        lines.append([layer, shape, *(f"{found[name]:.1f}" if name in found else "" for name in names)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_layers(rows: list[Any], path: Path) -> None:
    """A group of bars for each layer and shape, a bar for each contender."""
    groups = list(dict.fromkeys((row.layer, row.shape) for row in rows))
    values = {(row.layer, row.shape, row.contender): row.both_limits for row in rows}
    names = list(dict.fromkeys(row.contender for row in rows))
    bars = {name: [values.get((*group, name)) for group in groups] for name in names}
    labels = [f"{layer}\n{shape}" for layer, shape in groups]
    title = f"forward and gradient: {rows[0].mode}, {rows[0].dtype}"
    _draw(labels, bars, "time / limit of the bytes", title, path, limit=1.0)


def draw_steps(rows: list[Any], path: Path) -> None:
    """A group of bars for each run and batch size, a bar for each normalization."""
    groups = list(dict.fromkeys((row.run, row.batch) for row in rows))
    values = {(row.run, row.batch, row.normalization): row.step_ms / row.batch for row in rows}
    names = list(dict.fromkeys(row.normalization for row in rows))
    bars = {name: [values.get((*group, name)) for group in groups] for name in names}
    labels = [f"{run}\nbatch {batch}" for run, batch in groups]
    title = f"a training step of ResNet-50, {rows[0].image_size} pixels, {rows[0].dtype}"
    _draw(labels, bars, "ms / image a replica", title, path)


def _draw(
    labels: list[str], bars: dict[str, list], ylabel: str, title: str, path: Path, limit: float | None = None
) -> None:
    figure, axes = plt.subplots(figsize=(max(6, 0.35 * len(labels) * len(bars)), 4), layout="constrained")
    width = 0.8 / len(bars)
    for i, (name, heights) in enumerate(bars.items()):
        found = [(place, height) for place, height in enumerate(heights) if height is not None]
        offset = (i - (len(bars) - 1) / 2) * width
        axes.bar([place + offset for place, _ in found], [height for _, height in found], width, label=name)
    if limit is not None:
        axes.axhline(limit, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set(ylabel=ylabel, title=title)
    figure.legend(loc="outside lower center", ncols=min(4, len(bars)), frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
