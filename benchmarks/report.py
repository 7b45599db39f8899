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
    """A panel for each layer, in it a group of bars for each shape, a bar for each contender."""
    layers, names = (list(dict.fromkeys(getattr(row, field) for row in rows)) for field in ("layer", "contender"))
    figure, panels = plt.subplots(
        len(layers), 1, figsize=(9, 1 + 2.2 * len(layers)), layout="constrained", squeeze=False
    )
    for axes, layer in zip(panels[:, 0], layers, strict=True):
        found = {(row.shape, row.contender): row.both_limits for row in rows if row.layer == layer}
        _bars(axes, found, names)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(ylabel="time / limit", title=layer)
    _save(figure, panels[0, 0], f"forward and gradient: {rows[0].mode}, {rows[0].dtype}", path)


def draw_steps(rows: list[Any], path: Path) -> None:
    """A group of bars for each run and batch size, a bar for each normalization."""
    names = list(dict.fromkeys(row.normalization for row in rows))
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    _bars(axes, {(f"{row.run}\nbatch {row.batch}", row.normalization): row.step_ms / row.batch for row in rows}, names)
    axes.set_ylabel("ms / image of a replica")
    title = f"a training step of ResNet-50, {rows[0].image_size} pixels, {rows[0].dtype}"
    _save(figure, axes, title, path)


def _bars(axes: Any, heights: dict[tuple[str, str], float], names: list[str]) -> None:
    """A group for each first key, a bar in the colour of its name for each second."""
    groups, width = list(dict.fromkeys(group for group, _ in heights)), 0.8 / len(names)
    for i, name in enumerate(names):
        found = [(place, heights[group, name]) for place, group in enumerate(groups) if (group, name) in heights]
        offset = (i - (len(names) - 1) / 2) * width
        axes.bar(
            [place + offset for place, _ in found], [height for _, height in found], width, color=f"C{i}", label=name
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, with_names: Any, title: str, path: Path) -> None:
    handles, names = with_names.get_legend_handles_labels()
    figure.suptitle(title)
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)
