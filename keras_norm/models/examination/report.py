"""The report of a check-up: a table, its findings, a dictionary, and a picture."""

import html
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from keras.layers import Layer

from keras_norm.models.examination.findings import Examined, Finding, find
from keras_norm.models.examination.measurement import Measured
from keras_norm.models.examination.places import Place, description, positions_in, sets_of

HEADINGS = ("layer", "kind", "set", "positions", "gamma", "mean off", "variance x", "own gap", "gap")
BATCH, MOVING, WORST = "#0072B2", "#E69F00", "#999999"  # of the palette of Okabe and Ito
NEAR_ZERO = 1e-3


@dataclass(frozen=True)
class Line:
    """One call of a normalization. Fields that need data are None without data."""

    layer: str
    """The path of the layer in the model."""
    call: int
    """0 for the first call of this layer."""
    kind: str
    """The class, with the prefix "keras " for Keras layers."""
    set: str
    """The condition for positions k to share statistics with position i."""
    input_shape: tuple[int | None, ...] | None
    positions_per_sample: int | None
    """The number of positions of a set in one sample; None if a size is unknown."""
    positions: int | None
    """The number of positions of a set on one replica."""
    global_positions: int | None
    """The number of positions of a set on all replicas that share it."""
    gamma: tuple[float, float] | None
    """The smallest and the largest gamma."""
    beta: tuple[float, float] | None
    dead_channels: int | None
    """The number of channels with |gamma| below 0.001."""
    constant: float | None
    """The fraction of sets with variance 0."""
    below_epsilon: float | None
    """The fraction of sets with a variance below epsilon, but not 0."""
    largest: float | None
    """The largest absolute input."""
    median_distance: float | None
    """The distance of the batch mean from the moving mean, in standard deviations, for the median channel."""
    worst_distance: float | None
    median_ratio: float | None
    """The batch variance over the moving variance, for the median channel."""
    worst_ratio: float | None
    """The ratio furthest from 1."""
    own_gap: float | None
    """The difference between the layer's outputs in both modes for equal inputs, in standard deviations of the outputs
    within batches."""
    drift: float | None
    """The difference of the inputs' channel means between the modes, in standard deviations."""
    output_gap: float | None
    """The difference of the model's outputs if only this layer runs in training mode; None if the model has no gap."""


class Report:
    """The result of `keras_norm.models.examine`.

    `print` shows a table, and a notebook shows it as HTML. Its columns:

        set          the axes along which the positions of a set share an index: C for batch normalization, N, C for
                     instance normalization
        positions    the number of positions of a set, on one replica
        gamma        the smallest and the largest value
        mean off     the distance of the batch mean from the moving mean, in standard deviations, for the median and
                     the worst channel
        variance x   the batch variance over the moving variance, for the median and the worst channel
        own gap      the difference between the layer's outputs in training and inference mode, for equal inputs
        gap          the difference of the model's outputs if only this layer changes its mode

    Attributes:
        lines: one `Line` per call of a normalization, in the order of the calls.
        findings: the problems, the most severe first. Each has `name`, `layer`, `severity` ("severe", "warning" or
            "note"), `message`, `numbers` and `cure`, a line of Python with the names `keras`, `keras_norm`,
            `model` and `data`.
        gap: the difference between the model's outputs in training and inference mode, in standard deviations of the
            outputs (the smaller of the two); None without data.
        losses: the losses with batch statistics and in inference mode; None without labels.
        finite: whether no output of the model is NaN or infinite; None without data.
        samples: the number of measured samples.
        passes: the number of forward passes.
        not_examined: the reasons why calls of normalizations are unknown, by path.
    """

    def __init__(self, examined: Examined) -> None:
        measurement = examined.measurement
        self.model = examined.model.name
        self.lines = list(_lines(examined))
        self.findings: list[Finding] = find(examined)
        self.gap = measurement.gap if measurement else None
        self.losses = measurement.losses if measurement else None
        self.finite = measurement.finite if measurement else None
        self.samples = measurement.samples if measurement else 0
        self.passes = measurement.passes if measurement else 0
        self.not_examined = {
            place.path: "it is called step by step in a loop" if place.in_loop else place.unknown
            for place in examined.places
            if place.in_loop or (place.unknown and not place.calls)
        }

    def to_dict(self) -> dict[str, Any]:
        """The report as numbers, strings, lists and dictionaries."""
        return {
            "model": self.model,
            "gap": self.gap,
            "finite": self.finite,
            "losses": None if self.losses is None else list(self.losses),
            "samples": self.samples,
            "passes": self.passes,
            "lines": [{name: _plain(value) for name, value in asdict(line).items()} for line in self.lines],
            "findings": [finding._asdict() for finding in self.findings],
            "not_examined": dict(self.not_examined),
        }

    def __str__(self) -> str:  # noqa: D105
        width = max(shutil.get_terminal_size().columns, 80)
        rows = [HEADINGS, *map(_cells, self.lines)]
        used = [k for k, heading in enumerate(HEADINGS) if any(row[k] for row in rows[1:]) or heading == "layer"]
        rows = [tuple(row[k] for k in used) for row in rows]
        widths = [max(len(row[k]) for row in rows) for k in range(len(used))]
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        widths[0] = max(widths[0] - max(excess, 0), min(widths[0], 20))
        table = [
            "  ".join(_shortened(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        summary = textwrap.fill(self._summary(), 100)
        return "\n".join([summary, "", table[0], "-" * len(table[0]), *table[1:], "", *self._texts()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(line)) + "</tr>" for line in self.lines
        )
        texts = "".join(
            f"<li><b>{finding.name}</b> ({finding.severity}, <code>{html.escape(layers)}</code>): "
            f"{html.escape(finding.message)}<br><code>{html.escape(finding.cure)}</code></li>"
            for finding, layers in self._grouped()
        )
        return (
            f"<p>{html.escape(self._summary())}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<ul>{texts or '<li>No findings.</li>'}</ul>"
        )

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the table as a picture, by matplotlib (`pip install "keras_norm[tutorials]"`).

        Left, for each batch normalization the distance of the batch's means from the moving ones and the ratio of the
        variances, the median channel and the worst. Right, the gap through the depth of the model: that of a layer's
        inputs, of its outputs for equal inputs, and of the model's outputs when it alone changes its mode.

        Args:
            path: the file to write, such as "report.png"; None to write none.

        Returns:
            The figure of matplotlib.

        Raises:
            ValueError: if there is nothing to draw: no data, or no batch normalization.
        """
        lines = [line for line in self.lines if line.median_distance is not None]
        if not lines:
            raise ValueError(
                "Report.plot: there must be batch normalizations that were measured. "
                f"Received: a report of {len(self.lines)} calls without any (examine the model with data)."
            )
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, MaxNLocator

        figure = Figure(figsize=(9, 1.6 + 0.22 * len(lines)), layout="constrained")
        means, variances, gaps = figure.subplots(1, 3, sharey=True)
        depth = np.arange(len(lines))

        def draw(axes: Any, name: str, label: str, color: str, marker: str, line: str = "none") -> None:
            values = [getattr(line, name) for line in lines]
            if any(value is not None for value in values):
                axes.plot(np.array(values, "float64"), depth, marker, color=color, linestyle=line, label=label)

        draw(means, "worst_distance", "worst channel", WORST, "x")
        draw(means, "median_distance", "median", BATCH, "o")
        draw(variances, "worst_ratio", "worst channel", WORST, "x")
        draw(variances, "median_ratio", "median", BATCH, "o")
        draw(gaps, "drift", "inputs", WORST, "x", "-")
        draw(gaps, "own_gap", "layer", BATCH, "o", "-")
        draw(gaps, "output_gap", "model", MOVING, "s")
        variances.set_xscale("log", base=2)
        variances.xaxis.set_major_locator(LogLocator(2, numticks=6))
        variances.xaxis.set_major_formatter(_power_of_two)
        # At least these ranges, so that a healthy model looks healthy and has ticks besides 1.
        smallest, largest = variances.get_xlim()
        variances.set_xlim(min(smallest, 0.45), max(largest, 2.2))
        variances.axvline(1, color="black", linewidth=0.8)
        means.set_yticks(depth, [line.layer if not line.call else f"{line.layer} ({line.call + 1})" for line in lines])
        means.set_ylim(len(lines) - 0.4, -0.6)
        for axes, title in (
            (means, "Batch mean from moving mean\nin standard deviations"),
            (variances, "Batch variance\nover moving variance"),
            (gaps, "Training from inference mode\nin standard deviations"),
        ):
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 2.5}
            axes.legend(**below, ncols=3, frameon=False, fontsize=7, columnspacing=1.5, handletextpad=0.5)
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.grid(axis="x", linewidth=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in (means, gaps):
            axes.set_xlim(0, max(axes.get_xlim()[1], 0.1))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter("{x:g}")
        figure.suptitle(f"Normalizations of {self.model}", fontsize=10, fontweight="bold")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def _summary(self) -> str:
        text = f"Normalizations of {self.model}: {len(self.lines)} {'call' if len(self.lines) == 1 else 'calls'}"
        if self.gap is None:
            return f"{text}. Not measured: give `data` to compare the batch with the moving statistics."
        text += f", {self.samples} samples, {self.passes} forward passes. "
        text += f"Gap between training and inference: {self.gap:.2g}"
        if self.losses is not None:
            text += " (loss {:.3g} and {:.3g})".format(*self.losses)
        return f"{text}." if self.finite else f"{text}. Outputs are NaN or infinite."

    def _texts(self) -> Iterator[str]:
        """The findings, grouped by name."""
        for finding, layers in self._grouped():
            message = textwrap.fill(finding.message, 92, initial_indent="    ", subsequent_indent="    ")
            yield f"{finding.severity}: {finding.name} ({layers})\n{message}\n    >>> {finding.cure}"
            more = len({other.cure for other in self.findings if other.name == finding.name}) - 1
            if more:
                yield f"    ... {more} more for the other layers, in `findings`"
        if not self.findings:
            yield "No findings."
        for path, reason in self.not_examined.items():
            yield f"Not examined: {path} ({reason})."

    def _grouped(self) -> Iterator[tuple[Finding, str]]:
        """The first finding of each name, and its layers."""
        by_name: dict[str, list[Finding]] = {}
        for finding in self.findings:
            by_name.setdefault(finding.name, []).append(finding)
        for first, *others in by_name.values():
            more = [finding.layer for finding in others[:2]] + ([f"{len(others) - 2} more"] if len(others) > 2 else [])
            yield first, ", ".join([first.layer, *more])


def _lines(examined: Examined) -> Iterator[Line]:
    if examined.measurement is None:
        for place in examined.places:
            for number in range(max(len(place.calls), 1)):
                yield _line(place, number, None)
        return
    measured = {(place.path, number): (place, found) for place, number, found in examined.measurement.calls}
    for (_, number), (place, found) in measured.items():
        yield _line(place, number, found)
    for place in examined.places:
        if (place.path, 0) not in measured:
            yield _line(place, 0, None)


def _line(place: Place, number: int, found: Measured | None) -> Line:
    norm, per_sample = place.norm, None
    call = place.calls[number] if number < len(place.calls) else None
    gamma, beta = (_values(norm, name) for name in ("gamma", "beta"))
    which = "unknown"
    if call is not None:
        which = description(norm, call)
        each = [positions_in(of, call.shape) for of in sets_of(norm, call)]
        per_sample = None if None in each or not each else min(n for n in each if n is not None)
    distance, ratio = (found.distance, found.ratio) if found else (None, None)
    return Line(
        layer=place.path,
        call=number,
        kind=place.kind,
        set=which,
        input_shape=call.shape if call else None,
        positions_per_sample=per_sample,
        positions=found.positions if found else None,
        global_positions=found.global_positions if found else None,
        gamma=_range(gamma),
        beta=_range(beta),
        dead_channels=None if gamma is None else int((abs(gamma) < NEAR_ZERO).sum()),
        constant=found.constant if found else None,
        below_epsilon=found.below_epsilon if found else None,
        largest=found.largest if found else None,
        median_distance=None if distance is None else float(np.median(distance)),
        worst_distance=None if distance is None else float(distance.max()),
        median_ratio=None if ratio is None else float(np.median(ratio)),
        worst_ratio=None if ratio is None else float(ratio[np.abs(np.log(ratio)).argmax()]),
        own_gap=found.own_gap if found and place.uses_batch else None,
        drift=found.drift if found and distance is not None else None,
        output_gap=found.output_gap if found else None,
    )


def _values(norm: Layer, name: str) -> np.ndarray | None:
    weight = getattr(norm, name, None)
    return None if weight is None else np.asarray(ops.convert_to_numpy(weight), "float64")


def _range(values: np.ndarray | None) -> tuple[float, float] | None:
    return None if values is None or not values.size else (float(values.min()), float(values.max()))


def _cells(line: Line) -> tuple[str, ...]:
    def numbers(*values: float | None, separator: str = "/") -> str:
        return "" if None in values else separator.join(dict.fromkeys(f"{value:.2g}" for value in values))

    def small(*values: float | None) -> str:
        return numbers(*(value and round(value, 2) for value in values))

    positions = "?" if line.positions_per_sample is None else str(line.positions_per_sample)
    if line.positions is not None:
        positions = str(line.positions)
        if line.global_positions != line.positions:
            positions += f" of {line.global_positions}"
    elif "k_N" not in line.set and line.set not in ("none", "unknown"):
        positions += " N"
    return (
        line.layer if not line.call else f"{line.layer} ({line.call + 1})",
        line.kind.replace("Normalization", ""),
        re.sub(r"k_(\w+) = i_\1", r"\1", line.set),
        "" if line.set == "none" else positions,
        numbers(*line.gamma, separator=" to ") if line.gamma else "",
        small(line.median_distance, line.worst_distance),
        numbers(line.median_ratio, line.worst_ratio),
        small(line.own_gap),
        small(line.output_gap),
    )


def _power_of_two(value: float, _: Any = None) -> str:
    """The label of a tick: 1/4, 1/2, 1, 2, 4."""
    exponent = round(np.log2(value))
    if abs(exponent) > 10:
        return f"$2^{{{exponent}}}$"
    return f"{2**exponent}" if exponent >= 0 else f"1/{2**-exponent}"


def _shortened(text: str, size: int) -> str:
    return text if len(text) <= size else "..." + text[len(text) - size + 3 :]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
