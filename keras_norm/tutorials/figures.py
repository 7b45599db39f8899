"""One map from the name of a method to its label, color and marker, for all figures of the project.

The colors are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with color blindness can tell
apart; the markers tell the curves apart in print.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE, GRAY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"


class Style(NamedTuple):
    """How a method is written and drawn."""

    label: str
    color: str
    marker: str


STYLES: dict[str, Style] = {
    "batch": Style("BN", BLUE, "o"),
    "group": Style("GN", VERMILLION, "s"),
    "synchronized": Style("synchronized BN", SKY, "D"),
    "frozen": Style("frozen BN", GRAY, "h"),
    "recalibrated": Style("BN, recalibrated", GREEN, "p"),
    "frozen_group": Style("frozen BN, GN in the heads", PURPLE, "8"),
    "converted": Style("GN, backbone trained with BN", ORANGE, "H"),
    "batch_renorm": Style("batch renorm", PURPLE, "^"),
    "batch_instance": Style("BIN", YELLOW, "v"),
    "batch_instance_half": Style("BIN, rho from 0.5", SKY, "<"),
    "layer": Style("LN", GREEN, "P"),
    "instance": Style("IN", ORANGE, "X"),
    "none": Style("none", BLACK, "x"),
    "none_he": Style("none, He initialization", GRAY, "+"),
    "weight_norm_no_data": Style("weight norm, not from data", ORANGE, "v"),
    "weight_norm": Style("weight norm, from data", GREEN, "^"),
    "weight_norm_mean_only": Style("weight norm and mean-only BN", PURPLE, "<"),
    "spectral_norm": Style("spectral norm", VERMILLION, "D"),
    "batch_one_device": Style("BN, one device", BLACK, "."),
    "recalibrated_frozen": Style("BN, recalibrated and frozen", PURPLE, "d"),
    "replaced": Style("BN replaced by GN", ORANGE, "H"),
    "lstm": Style("LSTM", BLACK, "x"),
    "layer_norm_lstm": Style("LN-LSTM", GREEN, "P"),
    "layer_norm_lstm_sum": Style("LN-LSTM, state kept as a sum", SKY, "*"),
    "batch_norm_lstm": Style("BN around the LSTM", BLUE, "o"),
    "by_index": Style("by index", VERMILLION, "s"),
    "shuffled": Style("shuffled before training", SKY, "d"),
    "reshuffled": Style("shuffled after an epoch", BLACK, "*"),
    "similar": Style("similar, after an epoch", GREEN, "<"),
    "mixed": Style("mixed, after an epoch", PURPLE, ">"),
}


def style(name: str) -> Style:
    """The style of the method `name`, which is a key of `STYLES`."""
    if name not in STYLES:
        raise ValueError(f"style: name must be one of {', '.join(STYLES)}. Received: {name!r} (add it to STYLES).")
    return STYLES[name]


def curve(axes: Axes, name: str, x: Sequence[float], runs: Any, label: str | None = None, **kwargs: Any) -> None:
    """Draws the mean of `runs` over `x`; with error bars of one standard deviation if there are several.

    Args:
        axes: where to draw.
        name: the method, a key of `STYLES`.
        x: the horizontal coordinate of each point.
        runs: an array of shape (runs, points).
        label: the label in the legend, in place of that of the method.
        kwargs: passed to `Axes.errorbar`.
    """
    runs = np.asarray(runs)
    label_of_method, color, marker = style(name)
    spread = runs.std(0, ddof=1) if len(runs) > 1 else None
    options: dict[str, Any] = {"color": color, "marker": marker, "capsize": 3, "markeredgecolor": _edge(color)}
    axes.errorbar(x, runs.mean(0), spread, label=label or label_of_method, **options | kwargs)


def bars(axes: Axes, groups: Sequence[str], values: Mapping[str, Any], **kwargs: Any) -> None:
    """Draws one bar per group and method for the mean, and one point per run.

    Args:
        axes: where to draw.
        groups: the labels under the groups of bars.
        values: by method, an array of shape (runs, groups).
        kwargs: passed to `Axes.bar`.
    """
    width = 0.8 / len(values)
    for i, (name, runs) in enumerate(values.items()):
        label, color, _ = style(name)
        runs = np.asarray(runs)
        places = np.arange(len(groups)) + width * (i - (len(values) - 1) / 2)
        axes.bar(places, runs.mean(0), 0.9 * width, color=color, edgecolor=_edge(color), label=label, **kwargs)
        axes.plot(
            np.broadcast_to(places, runs.shape).T, runs.T, "o", color="white", markeredgecolor=BLACK, markersize=3
        )
    axes.set_xticks(np.arange(len(groups)), groups)


def gate_histogram(axes: Axes, gates: Mapping[str, Sequence[float]]) -> None:
    """Draws a histogram of the gates rho in ten bins from 0 to 1, one outline per training.

    Args:
        axes: where to draw.
        gates: the gates of the channels, by the name of the training; at most two.
    """
    for (label, values), color, fill in zip(gates.items(), (BLACK, PURPLE), (False, True), strict=False):
        weights = np.full(len(values), 1 / len(values))
        options: dict[str, Any] = {"histtype": "step", "linewidth": 1.5}
        if fill:
            options = {"histtype": "stepfilled", "alpha": 0.6}
        axes.hist(
            values, list(np.linspace(0, 1, 11)), weights=weights, color=color, label=label, zorder=2 - fill, **options
        )
    axes.set_ylim(0, 1.05)
    axes.set_xticks([0, 0.5, 1])
    axes.grid(alpha=0.3)


def batch_size_axis(axes: Axes, sizes: Iterable[int]) -> None:
    """A logarithmic axis of batch sizes that fall to the right, as in figure 1 of Wu & He."""
    sizes = sorted(sizes)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.invert_xaxis()
    axes.set_xlabel("batch size (images per step, on each device)")


def error_axis(axes: Axes) -> None:
    """A logarithmic vertical axis of test errors in percent, with a grid."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_ylabel("test error (%), log scale")
    axes.grid(alpha=0.3)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG and closes it."""
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _edge(color: str) -> str:
    """Yellow needs an outline on white."""
    return BLACK if color == YELLOW else color
