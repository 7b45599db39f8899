"""Layer Normalization in a recurrent network: how fast it learns, and at which learning rates.

    python tutorials/experiments/recurrent.py                  # two tasks, two seeds
    python tutorials/experiments/recurrent.py --seeds 5        # what docs/results.md shows

Trains an LSTM, a layer-normalized LSTM (Ba, Kiros & Hinton, Layer Normalization, 2016,
https://arxiv.org/abs/1607.06450, supplement, eq. 20 to 22) and an LSTM between two batch normalizations, each at
several learning rates from several seeds. One task reads the pixels of an image one by one and then says its class (Le
et al., 2015, https://arxiv.org/abs/1504.00941, section 4.2); the other predicts the next character of a text, the
Python language reference. Writes each point of each learning curve to a CSV file per task; prints the tables and draws
the figure.
"""

import argparse
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from command_line import Progress, parser, positive, record
from keras_norm.tutorials import figures, tables
from keras_norm.tutorials.sequences import METHODS, Sequences, characters, language_reference, network, pixels


class Task(NamedTuple):
    """A network, its training, and what is measured of it at each of `points`, which are `every` so many steps."""

    units: int
    batch_size: int
    points: int
    every: int
    measure: str
    of_logs: Callable[[dict[str, float]], float]
    goal: float
    """What counts as learned."""
    failure: float
    """What counts as nothing learned: close to what a constant answer gives."""


def error(logs: dict[str, float]) -> float:
    """The share of test images in percent that the network gets wrong."""
    return 100 * (1 - logs["val_accuracy"])


def bits(logs: dict[str, float]) -> float:
    """The cross-entropy of a character of the test text in bits."""
    return logs["val_loss"] / math.log(2)


TASKS = {
    # Of ten classes, a constant answer gets 90 % wrong.
    "pixels": Task(
        32, batch_size=64, points=20, every=22, measure="test error (%)", of_logs=error, goal=40.0, failure=80.0
    ),
    # The frequencies of the characters take 4.7 bits.
    "text": Task(
        64, batch_size=32, points=10, every=32, measure="bits per character", of_logs=bits, goal=3.0, failure=4.0
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    parts = []
    for name in args.tasks:
        try:
            sequences = load(name, args)
        except ValueError as wrong:
            flags.error(str(wrong))
        lengths = [len(x) for x, _ in (sequences.train, sequences.test)]
        print(f"{name}: {lengths} sequences to train and test on, of {sequences.train[0].shape[1]} steps")
        parts.append(record(experiment(name, sequences, args), args.output / f"recurrent_{name}.csv"))
    runs = pd.concat(parts, ignore_index=True)
    draw(runs, args.output / "recurrent.png")
    tables.show(results(runs))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    add = flags.add_argument
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="pixels of --dataset, or characters of a text")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS)[:3], help="what to compare")
    add("--learning-rates", nargs="+", type=float, default=[0.003, 0.01, 0.03, 0.1, 0.3], metavar="R", help="of Adam")
    add("--points", type=positive, metavar="N", help="points of a learning curve; 20 of pixels, 10 of text")
    return flags


def load(name: str, args: argparse.Namespace) -> Sequences:
    """The data of a task."""
    if name == "pixels":
        return pixels(args.dataset, args.train_images, args.data_dir)
    return characters(language_reference())


def experiment(name: str, sequences: Sequences, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trains every method at every learning rate from every seed; the seed varies last."""
    points = args.points or TASKS[name].points
    for method, rate, seed in itertools.product(args.methods, args.learning_rates, range(args.seeds)):
        progress = Progress(f"{name:>6}, {method:>15}, rate {rate:<6}, seed {seed}", points)
        curve = learning_curve(TASKS[name], sequences, method, rate, seed, points, progress)
        progress.finish(f"{TASKS[name].measure} {curve[-1]:.2f}")
        run = {"task": name, "method": method, "learning_rate": rate, "seed": seed}
        for point, value in enumerate(curve, 1):
            yield run | {"step": point * TASKS[name].every, "value": round(value, 3)}


def learning_curve(
    task: Task,
    sequences: Sequences,
    method: str,
    learning_rate: float,
    seed: int,
    points: int,
    progress: keras.callbacks.Callback,
) -> list[float]:
    """What the task measures at each point of a training."""
    keras.utils.set_random_seed(seed)
    model = network(sequences, method, task.units)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
        steps_per_execution=task.every,
    )
    logs = model.fit(
        sequences.train_batches(task.batch_size, seed),
        epochs=points,
        steps_per_epoch=task.every,
        validation_data=sequences.test_batches(),
        shuffle=False,
        verbose=0,
        callbacks=[progress],
    ).history
    return [task.of_logs({key: values[point] for key, values in logs.items()}) for point in range(points)]


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each task the last point of the curves, the time to the goal, and the failures, by learning rate."""
    made = {}
    for name, of_task in runs.groupby("task", sort=False):
        task = TASKS[name]
        last = of_task[of_task["step"] == of_task["step"].max()]
        digits = 1 if name == "pixels" else 2
        made[f"{name}: {task.measure}"] = tables.summary(last, "method", "learning_rate", "value", digits)
        steps = of_task.assign(step=of_task["step"].where(of_task["value"] <= task.goal, math.inf))
        first = steps.groupby(["method", "learning_rate", "seed"], sort=False)["step"].min().reset_index()
        made[f"{name}: steps to {task.goal:g}"] = by_rate(first, "step", median_of_reached)
        failed = last.assign(failed=~(last["value"] < task.failure))  # not a number is a failure too
        made[f"{name}: failed runs"] = by_rate(failed, "failed", lambda of: f"{of.sum()} of {len(of)}")
    return made


def median_of_reached(steps: pd.Series) -> str:
    """The median, and how many runs got there; runs that did not count as the longest."""
    median = steps.sort_values().iloc[len(steps) // 2]
    shown = f"{median:.0f}" if math.isfinite(median) else "never"
    return f"{shown} ({np.isfinite(steps).sum()} of {len(steps)})"


def by_rate(runs: pd.DataFrame, value: str, of_seeds: Callable[[pd.Series], str]) -> pd.DataFrame:
    """`of_seeds` of each method at each learning rate."""
    cells = runs.groupby(["method", "learning_rate"])[value].agg(of_seeds).unstack("learning_rate")
    return cells.loc[runs["method"].unique()].rename(index=lambda name: figures.style(name).label)


def draw(runs: pd.DataFrame, path: Path) -> None:
    """For each task the learning curves at a moderate rate and near ten times that rate, and the ends at all rates."""
    names = runs["task"].unique()
    size = (12, 4 * len(names))
    figure, rows = plt.subplots(len(names), 3, figsize=size, layout="constrained", sharey="row", squeeze=False)
    for panels, name in zip(rows, names, strict=True):
        of_task = runs[runs["task"] == name]
        rates = of_task["learning_rate"].unique()
        moderate = rates[(len(rates) - 1) // 3]
        high = rates[np.argmin(np.abs(np.log(rates / (10 * moderate))))]
        for axes, rate in zip(panels, (moderate, high), strict=False):
            draw_curves(axes, of_task[of_task["learning_rate"] == rate], "step")
            axes.set(title=f"{name}, learning rate {rate:g}", xlabel="steps")
        last = of_task[of_task["step"] == of_task["step"].max()]
        draw_curves(panels[2], last, "learning_rate")
        panels[2].set(title=f"{name}, after {last['step'].max()} steps", xlabel="learning rate", xscale="log")
        panels[2].set_xticks(rates, [f"{rate:g}" for rate in rates])
        panels[2].xaxis.set_minor_formatter("")
        for axes in panels:
            axes.set_ylabel(TASKS[name].measure)
            axes.grid(alpha=0.3)
    handles = rows[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4)
    figures.save(figure, path)


def draw_curves(axes: plt.Axes, runs: pd.DataFrame, x: str) -> None:
    """What was measured of each method, over the column `x`."""
    for name in runs["method"].unique():
        values = runs[runs["method"] == name].pivot(index="seed", columns=x, values="value")
        figures.curve(axes, name, values.columns, values, markersize=5, capsize=2)


if __name__ == "__main__":
    main()
