"""Times contenders in turns, and returns rows of the CSV."""

import contextlib
import gc
import textwrap
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import keras
import numpy as np

from benchmarks.backends import Step, backend

WARM_UP = 3  # turns, the first of which compiles


class Row(NamedTuple):
    """One line of a CSV.

    `ms` and `spread_ms` are the median and the distance between the quartiles. `ratio` is the time as a multiple of
    ours: above 1 ours is faster. `limits` is the time as a multiple of that of the necessary memory traffic at the
    bandwidth of a copy. `peak_mib` is the peak memory of a step without its inputs, with its outputs: measured by the
    allocator of a GPU, or for compiled steps on JAX by XLA; otherwise None. `difference` is the largest difference of
    an output (y, the gradients or the loss of a model) from ours, relative to the largest value of that output.
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
) -> Iterator[Row]:
    """Times the steps, the first of which is ours, and prints and yields one row per step.

    A step that fails, for example for lack of memory, is reported and left out. If ours fails, there are no rows.

    Args:
        steps: the function to time, by contender.
        *labels: the first fields of the row.
        turns: timed turns of each step. The contenders take turns, so a slowdown of the machine affects all of them.
            Each turn starts with another contender.
        calls: calls of a step per turn; the time is that of one call.
        copy: a step that reads a tensor and writes it.
        moved: the number of such tensors that a step must read or write.
    """
    mode, layer, shape, _, what = labels
    line = f"{layer:>18} {shape:>14} {mode + ', ' + what:>25} {{:>22}}:".format
    differences = _differences(steps, line)
    if not differences:
        return
    steps = {name: steps[name] for name in differences}
    ours = next(iter(steps))
    times = _in_turns(steps | ({"copy": copy} if copy else {}), turns, calls)
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
            _rounded(differences[name]),
        )
        print(line(name), f"{row.ms:9.4g} ms, {row.ratio:5.2f} x ours", flush=True)
        yield row


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
    """Disables automatic garbage collection. Explicit collections only consider new objects."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _differences(steps: dict[str, Step], line: Callable[[str], str]) -> dict[str, float]:
    """The difference of each step's first outputs from ours, on the device. Holds the outputs of two steps only."""
    found: dict[str, float] = {}
    ours: list[Any] = []
    for name, step in steps.items():
        try:
            outputs = step()
            ours = ours or outputs
            found[name] = float(np.max([_difference(a, b) for a, b in zip(ours, outputs, strict=True)]))  # keeps NaN
            del outputs
        except Exception as error:  # each backend has its own out-of-memory error
            print(line(name if found else "all"), textwrap.shorten(f"left out, {error!r}", 500), flush=True)
            if not found:
                break
    return found


def _difference(ours: Any, theirs: Any) -> float:
    a, b = (keras.ops.stop_gradient(keras.ops.convert_to_tensor(t, "float32")) for t in (ours, theirs))
    return float(keras.ops.max(keras.ops.abs(a - b)) / keras.ops.max(keras.ops.abs(a)))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
