"""The experiment that made Group Normalization known: the error of one network against its batch size.

Trains a small residual network for each normalization, batch size and seed, always for the same number of epochs
and with a learning rate in proportion to the batch size (Wu & He, Group Normalization, ECCV 2018,
https://arxiv.org/abs/1803.08494, figure 1). Prints the table; writes it as CSV and as the paper's figure.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
import tensorflow as tf

from data import SUGGESTED, ImageData, load
from distributed import devices
from resnet import NETWORKS, NORMALIZATIONS

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class Run(NamedTuple):
    """One training, a row of the CSV; its error is the share of test images that it gets wrong, in percent."""

    dataset: str
    normalization: str
    batch_size: int
    seed: int
    epochs: int
    error: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    if "synchronized" in args.normalizations and args.replicas == 1:
        parser.error("--normalizations synchronized: takes statistics over replicas, of which --replicas asks for one")
    strategy = tf.distribute.get_strategy()
    if args.replicas > 1:
        strategy = tf.distribute.MirroredStrategy(devices(args.replicas))
    try:
        data = load(args.dataset, args.train_images, args.data_dir)
        data.train(max(args.batch_sizes) * args.replicas, seed=0)
    except ValueError as error:
        parser.error(str(error))
    print(f"{args.dataset}: {data.train_size} training images of shape {data.image_shape}, {args.epochs} epochs a run")

    start, runs = time.monotonic(), []
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "batch_size.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Run._fields)
        for run in experiment(data, args, strategy):
            runs.append(run)
            writer.writerow(run)
            file.flush()
    draw(runs, args.output / "batch_size.png")
    print(f"\n{table(runs)}\n\n{len(runs)} runs in {time.monotonic() - start:.0f} s, written to {args.output}/")


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--dataset", default="digits", help=f"image classification set of TFDS: {', '.join(SUGGESTED)}, ...")
    add("--train-images", type=positive, metavar="N", help="use the first N training images only; all if not given")
    add("--data-dir", help="where TFDS keeps its sets; TFDS_DATA_DIR or ~/tensorflow_datasets if not given")
    add("--network", choices=NETWORKS, default="small", help="resnet8 halves the images first, resnet20 does not")
    add("--normalizations", nargs="+", choices=NORMALIZATIONS, default=["batch", "group"], help="what to compare")
    add(
        "--batch-sizes",
        nargs="+",
        type=positive,
        default=[32, 16, 8, 4, 2],
        metavar="N",
        help="images a step, on each device",
    )
    add("--replicas", type=positive, default=1, metavar="N", help="devices that see a batch each, at every step")
    add("--epochs", type=positive, default=10, metavar="N", help="passes over the training images, in every run")
    add("--seeds", type=positive, default=2, metavar="N", help="runs of each normalization and batch size")
    add("--learning-rate", type=float, default=0.1, help="at batch size 32, in proportion at others; falls to 0")
    add("--output", type=Path, default=Path("results"), help="folder for batch_size.csv and batch_size.png")
    return parser


def positive(text: str) -> int:
    """`text` as a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text!r}")
    return int(text)


def experiment(data: ImageData, args: argparse.Namespace, strategy: tf.distribute.Strategy) -> Iterator[Run]:
    """Trains and tests every normalization at every batch size from every seed."""
    for normalization in args.normalizations:
        for batch_size in args.batch_sizes:
            title = f"{normalization:>14}, batch size {batch_size:>3}"
            errors = errors_by_seed(data, normalization, batch_size * args.replicas, strategy, args, title)
            for seed, error in enumerate(errors):
                yield Run(args.dataset, normalization, batch_size, seed, args.epochs, error)


def errors_by_seed(
    data: ImageData,
    normalization: str,
    images: int,
    strategy: tf.distribute.Strategy,
    args: argparse.Namespace,
    title: str,
) -> Iterator[float]:
    """The test error in percent after a training from each seed, with so many images at a step."""
    steps = args.epochs * (data.train_size // images)
    alone = strategy.num_replicas_in_sync == 1
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate(args, images), steps)

    def network() -> keras.Model:
        return NETWORKS[args.network](data.image_shape, data.classes, NORMALIZATIONS[normalization])

    with strategy.scope():
        model = network()
        model.compile(
            optimizer=keras.optimizers.SGD(schedule, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            # Steps on small batches are short: compiled, and 32 at a call, one on 2 digits takes 1/7 of the CPU time.
            jit_compile=alone,
            steps_per_execution=32 if alone else 1,
        )
    for seed in range(args.seeds):
        keras.utils.set_random_seed(seed)
        # New weights in the old model: compiling another takes about as long as training it on the digits.
        model.set_weights(network().get_weights())
        for variable in model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        progress = Progress(f"{title}, seed {seed}", args.epochs)
        model.fit(data.train(images, seed), epochs=args.epochs, shuffle=False, verbose=0, callbacks=[progress])
        _, accuracy = model.evaluate(data.test(), verbose=0)
        error = round(100 * (1 - accuracy), 2)
        progress.finish(f"error {error:4.1f} %")
        yield error


def learning_rate(args: argparse.Namespace, images: int) -> float:
    """The first learning rate with so many images at a step, in proportion to them."""
    return args.learning_rate * images / 32


class Progress(keras.callbacks.Callback):
    """One line for each run: on a terminal rewritten at each epoch, at the end the result."""

    def __init__(self, title: str, epochs: int) -> None:
        super().__init__()
        self.title, self.epochs, self.start = title, epochs, time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if sys.stdout.isatty():
            print(f"{self.title}: epoch {epoch + 1:>2} of {self.epochs}, loss {logs['loss']:.3f}", end="\r", flush=True)

    def finish(self, result: str) -> None:
        """Leaves the line with the result on it."""
        print(f"{self.title}: {result} ({time.monotonic() - self.start:.0f} s)".ljust(70), flush=True)


def summary(runs: Iterable[Run]) -> dict[str, dict[int, tuple[float, float]]]:
    """Mean and standard deviation of the error over the seeds, 0 for one, by normalization and batch size."""
    errors: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        errors.setdefault(run.normalization, {}).setdefault(run.batch_size, []).append(run.error)
    return {
        normalization: {size: (np.mean(cell), np.std(cell, ddof=len(cell) > 1)) for size, cell in row.items()}
        for normalization, row in errors.items()
    }


def table(runs: list[Run]) -> str:
    """The summary as a Markdown table, batch sizes falling to the right."""
    rows = summary(runs)
    sizes = sorted({run.batch_size for run in runs}, reverse=True)
    lines = [["error % by batch size", *map(str, sizes)], ["---"] * (1 + len(sizes))]
    # One seed has no spread to show.
    cell = "{:.1f} ± {:.1f}" if any(run.seed > 0 for run in runs) else "{:.1f}"
    lines += [[name, *(cell.format(*row[size]) for size in sizes)] for name, row in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(runs: list[Run], path: Path) -> None:
    """Figure 1 of the paper: error against batch size, on a log axis that falls to the right."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, row in summary(runs).items():
        sizes = sorted(row)
        means, deviations = zip(*(row[size] for size in sizes), strict=True)
        axes.errorbar(sizes, means, deviations, marker="o", capsize=3, label=name)
    sizes = sorted({run.batch_size for run in runs})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, map(str, sizes))
    axes.invert_xaxis()
    axes.set_xlabel("batch size (images a step, on each device)")
    axes.set_ylabel("test error (%)")
    axes.set_title(f"{runs[0].dataset}, {runs[0].epochs} epochs")
    axes.grid(alpha=0.3)
    figure.legend(title="normalization", loc="outside right upper")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
