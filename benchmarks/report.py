"""Results of a run as CSV, as a table of ratios in Markdown and as a bar chart."""

import csv
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean

import keras
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.backends import backend
from benchmarks.timing import Row

VERSIONS = {"tensorflow": ["tensorflow"], "jax": ["jax", "flax"], "torch": ["torch"]}
# The color-blind safe palette of Okabe and Ito.
COLORS = {
    "keras_norm": "#0072B2",
    "keras.layers": "#E69F00",
    "FusedBatchNormV3": "#009E73",
    "flax.nnx": "#CC79A7",
    "torch.nn.functional": "#D55E00",
    "keras_norm per replica": "#56B4E9",
}
UNITS = {"ms": "milliseconds", "limits": "time over that of moving the bytes"}


def machine() -> str:
    """Device and versions of this run."""
    names = [name for name in (*VERSIONS[keras.backend.backend()], "keras", "keras_norm") if find_spec(name)]
    versions = ", ".join(f"{name} {import_module(name).__version__}" for name in names)
    return f"{_processor()}, {os.cpu_count()} cores, {' and '.join(backend.devices()) or 'no GPU'}; {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(rows: Iterable[Row], path: Path, panel: Sequence[str], group: str, height: str) -> None:
    """Writes the CSV, the table and the picture, and prints the table."""
    rows = list(_written(rows, path.with_suffix(".csv")))
    if not rows:
        print(f"\n{path.name}: all were left out")
        return
    text = f"{machine()}\n\nTime over that of keras_norm: above 1 keras_norm is faster.\n\n{table(rows)}\n"
    path.with_suffix(".md").write_text(text)
    print(f"\n{text}")
    draw(rows, path.with_suffix(".png"), panel, group, height)


def _written(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Writes each row to the file immediately, so an interrupted run keeps its rows."""
    with open(path, "w", newline="", buffering=1) as file:
        csv.writer(file).writerow(Row._fields)
        for row in rows:
            csv.writer(file).writerow(row)
            yield row


def table(rows: list[Row]) -> str:
    """The ratios, with one line per layer and shape, and one column per peer and step."""
    ours = rows[0].contender
    several = [field for field in ("mode", "step") if len({getattr(row, field) for row in rows}) > 1]

    def column(row: Row) -> str:
        return ", ".join([row.contender, *(getattr(row, field) for field in several)])

    peers = [row for row in rows if row.contender != ours]
    names = list(dict.fromkeys(row.contender for row in peers))
    columns = list(dict.fromkeys(column(row) for name in names for row in peers if row.contender == name))

    def line(first: str, second: str, of: list[Row], statistic: Callable[[list[float]], float]) -> list[str]:
        found = [[row.ratio for row in of if column(row) == name] for name in columns]
        return [first, second, *(f"{statistic(ratios):.2f}" if ratios else "" for ratios in found)]

    lines = [["layer", "shape", *columns], ["---"] * (2 + len(columns))]
    for layer in dict.fromkeys(row.layer for row in peers):
        of_layer = [row for row in peers if row.layer == layer]
        shapes = list(dict.fromkeys(row.shape for row in of_layer))
        lines += [line(layer, shape, [row for row in of_layer if row.shape == shape], min) for shape in shapes]
        if len(shapes) > 1:
            lines.append(line(layer, "geometric mean", of_layer, geometric_mean))
    lines.append(line("all", "smallest", peers, min))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def draw(rows: list[Row], path: Path, panel: Sequence[str], group: str, height: str) -> None:
    """One panel per value of the fields `panel`, one group of bars per value of `group`, one bar per contender."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(", ".join(getattr(row, field) for field in panel), []).append(row)
    lines = -(-len(panels) // 2)
    figure, grid = plt.subplots(lines, 2, figsize=(8, 1.2 + 1.8 * lines), layout="constrained", squeeze=False)
    grid[-1, -1].set_visible(len(panels) % 2 == 0)
    for axes, (title, found) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(title, fontsize=10)
        _bars(axes, {(getattr(row, group).replace(" ", "\n"), row.contender): getattr(row, height) for row in found})
    handles = {row.contender: plt.Rectangle((0, 0), 1, 1, color=COLORS[row.contender]) for row in rows}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)
    setting = [keras.backend.backend(), *([] if len({row.mode for row in rows}) > 1 else [rows[0].mode]), rows[0].dtype]
    title = f"{', '.join(setting)}: {UNITS[height]}, lower is better"
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _bars(axes: plt.Axes, heights: dict[tuple[str, str], float]) -> None:
    groups, names = (list(dict.fromkeys(key[i] for key in heights)) for i in (0, 1))
    width = 0.8 / len(names)
    for (group, name), height in heights.items():
        place = groups.index(group) + (names.index(name) - (len(names) - 1) / 2) * width
        axes.bar(place, height, width, color=COLORS[name])
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
