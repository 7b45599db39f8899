"""Contenders in turns: the time of each, and a row of the CSV."""

import contextlib
import gc
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import keras
import numpy as np

from benchmarks.backends import Step, backend

WARM_UP = 3  # turns, the first of which compiles


class Row(NamedTuple):
    """One line of a CSV: what was timed, and what was found.

    `ms` and `spread_ms` are the median and the distance between the quartiles. `ratio` is the time as a multiple of
    ours: above 1 ours is faster. `limits` is the time as a multiple of what moving the tensors in and out of memory
    takes, at the bandwidth of a copy. `peak_mib` is left out where the device does not tell it. `difference` is the
    largest distance of an output (y and, with the backward pass, the gradients; of a model its loss) from ours, over
    the largest value of that output.
    """

    mode: str
    layer: str
    shape: str
    dtype: str
    step: str
    contender: str
    ms: float
    spread_ms: float
    ratio: float
    limits: float | None
    peak_mib: float | None
    difference: float


def compare(
    steps: dict[str, Step],
    *labels: str,
    turns: int,
    calls: int = 1,
    copy: Step | None = None,
    moved: int = 0,
) -> list[Row]:
    """Times the steps, the first of which is ours, and prints and returns a row each.

    Args:
        steps: what to time, by contender.
        *labels: the first fields of the row.
        turns: timed turns of each step. The contenders take turns, so that a machine that slows down slows all of
            them, and each turn starts with another one.
        calls: calls of a step in a turn; the time is that of one.
        copy: a step that reads a tensor and writes it.
        moved: how many such tensors a step must read or write.
    """
    outputs = {name: [_array(t) for t in step()] for name, step in steps.items()}
    times = _in_turns(steps | ({"copy": copy} if copy else {}), turns, calls)
    ours = next(iter(steps))
    rows = []
    for name, step in steps.items():
        ms, peak = median(times[name]), backend.peak_memory(step)
        row = Row(
            *labels,
            name,
            _rounded(ms),
            _rounded(float(np.subtract(*np.percentile(times[name], [75, 25])))),
            _rounded(ms / median(times[ours])),
            _rounded(ms / (moved * min(times["copy"]) / 2)) if copy else None,
            None if peak is None else _rounded(peak / 2**20),
            _rounded(_difference(outputs[ours], outputs[name])),
        )
        what = f"{row.layer:>18} {row.shape:>13} {row.mode + ', ' + row.step:>25}"
        print(f"{what} {name:>22}: {row.ms:9.4g} ms, {row.ratio:5.2f} x ours", flush=True)
        rows.append(row)
    return rows


def _in_turns(steps: dict[str, Step], turns: int, calls: int) -> dict[str, list[float]]:
    """The times of a call of each step, in milliseconds."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        for turn in range(-WARM_UP, turns):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                begin = time.perf_counter()
                outputs = [steps[name]() for _ in range(calls)]
                backend.wait(outputs)
                if turn >= 0:
                    times[name].append(1e3 * (time.perf_counter() - begin) / calls)
                del outputs
            gc.collect()
    return times


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """But where it is called for, when it looks at what is new alone."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float64")


def _difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return max(float(abs(a - b).max() / abs(a).max()) for a, b in zip(ours, theirs, strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
