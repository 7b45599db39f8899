"""Layers and their peers in turns: time, and the memory at its peak."""

import argparse
import time
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks import peers
from benchmarks.peers import Contender


class Row(NamedTuple):
    """One line of the CSV.

    Times in milliseconds; `limits` in units of the bytes' limit; memory at its peak beyond what was there before, in
    units of the tensor, where the device tells it.
    """

    layer: str
    contender: str
    shape: str
    dtype: str
    mode: str
    forward_ms: float
    both_ms: float
    both_spread_ms: float
    forward_limits: float
    both_limits: float
    both_memory: float | None
    ratio_to_ours: float


def compare(layer: str, shape_name: str, shape: tuple[int, ...], args: argparse.Namespace) -> list[Row]:
    """Times all contenders of a layer in turns; prints and returns a row each."""
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(2.0, 3.0, shape).astype("float32") for _ in range(2))
    copy, contenders = peers.contenders(layer, x, dy, args.dtype, args.mode, args.compilation)
    steps = {("copy", "forward"): copy}
    steps |= {(name, which): getattr(c, which) for name, c in contenders.items() for which in ("forward", "both")}
    times = in_turns(steps, args.repeats)
    unit = min(times["copy", "forward"]) / 2  # a copy reads once and writes once
    ours = median(times["keras_norm", "both"])
    rows = []
    for name, contender in contenders.items():
        forward, both = times[name, "forward"], times[name, "both"]
        row = Row(
            layer,
            name,
            shape_name,
            args.dtype,
            "jit" if args.backend == "jax" else args.mode,
            round(median(forward), 2),
            round(median(both), 2),
            round(float(np.subtract(*np.percentile(both, [75, 25]))), 2),
            round(median(forward) / (2 * unit), 2),
            round(median(both) / (5 * unit), 2),
            peak_memory(contender, x.size * (4 if args.dtype == "float32" else 2)),
            round(median(both) / ours, 2),
        )
        print(
            f"{layer:>8} {shape_name:>11} {name:>26}: forward {row.forward_ms:7.2f} ms, with gradient "
            f"{row.both_ms:7.2f} ms = {row.both_limits:5.2f} limits, {row.ratio_to_ours:5.2f} x ours",
            flush=True,
        )
        rows.append(row)
    return rows


def in_turns(steps: dict, repeats: int, warm_up: int = 3) -> dict:
    """The times of each step in milliseconds, one after the other and over again."""
    times: dict = {name: [] for name in steps}
    for turn in range(repeats + warm_up):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def peak_memory(contender: Contender, size: int) -> float | None:
    """What a step with the gradient takes at its peak, in tensors of `size` bytes."""
    if contender.peak is None:
        return None
    return round(contender.peak(contender.both) / size, 2)
