"""The experiment that made Group Normalization known: the error of one network against its batch size.

    python tutorials/experiments/batch_size.py                 # the digits, in a few minutes on two CPU cores
    python tutorials/experiments/batch_size.py --dataset cifar10 --network resnet20 --augment mirror --epochs 40

Trains a small residual network for each normalization, batch size and seed, always for the same number of epochs
and with a learning rate in proportion to the batch size (Wu & He, Group Normalization, ECCV 2018,
https://arxiv.org/abs/1803.08494, figure 1). Writes each run to a CSV file; prints the table and draws the figure.
"""

import argparse
import itertools
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from command_line import Progress, parser, positive, record
from keras_norm.tutorials import figures, tables
from keras_norm.tutorials.data import ImageData, load, mirrored, shifted_and_mirrored
from keras_norm.tutorials.devices import devices
from keras_norm.tutorials.networks import NETWORKS, NORMALIZATIONS, Normalization
from keras_norm.tutorials.training import compile_classifier, error

AUGMENTATIONS = {"mirror": mirrored, "shift_and_mirror": shifted_and_mirrored}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    if "synchronized" in args.normalizations and args.replicas == 1:
        flags.error("--normalizations synchronized: takes statistics over replicas, of which --replicas asks for one")
    if args.zero_gamma and args.network == "small":
        flags.error("--zero-gamma: is for resnet8 and resnet20. Received: --network small")
    if args.first_seed < 0:
        flags.error(f"--first-seed: must not be negative. Received: {args.first_seed}")
    strategy = tf.distribute.get_strategy()
    if args.replicas > 1:
        strategy = tf.distribute.MirroredStrategy(devices(args.replicas))
    try:
        data = load(args.dataset, args.train_images, args.data_dir)
        data.train(max(args.batch_sizes) * args.replicas, seed=0)
    except ValueError as error:
        flags.error(str(error))
    print(f"{args.dataset}: {data.train_size} training images of shape {data.image_shape}, {args.epochs} epochs a run")
    runs = record(experiment(data, args, strategy), args.output / "batch_size.csv")
    draw(runs, args.output / "batch_size.png")
    tables.show(results(runs))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    add = flags.add_argument
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
    add("--first-seed", type=int, default=0, metavar="N", help="the seed to start from, to run seeds side by side")
    add("--epochs", type=positive, default=10, metavar="N", help="passes over the training images, in every run")
    add("--learning-rate", type=float, default=0.1, help="at batch size 32, in proportion at others; falls to 0")
    add("--weight-decay", type=float, help="decoupled from the loss; none if not given")
    add("--augment", choices=AUGMENTATIONS, help="how to change the training images; not at all if not given")
    add("--zero-gamma", action="store_true", help="start the last gamma of each residual block at 0")
    add("--r-max", type=float, default=3.0, help="last clip of r in batch_renorm")
    add("--d-max", type=float, default=5.0, help="last clip of d in batch_renorm")
    return flags


def experiment(data: ImageData, args: argparse.Namespace, strategy: tf.distribute.Strategy) -> Iterator[dict[str, Any]]:
    """Trains and tests every normalization at every batch size, then all of them again from the next seed."""
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for seed, name, batch_size in itertools.product(seeds, args.normalizations, args.batch_sizes):
        progress = Progress(f"seed {seed}, {name:>14}, batch size {batch_size:>3}", args.epochs)
        percent = test_error(data, name, batch_size * args.replicas, seed, strategy, args, progress)
        progress.finish(f"error {percent:4.1f} %")
        run = {"dataset": args.dataset, "normalization": name, "batch_size": batch_size, "seed": seed}
        yield run | {"epochs": args.epochs, "error": percent}


def test_error(
    data: ImageData,
    name: str,
    images: int,
    seed: int,
    strategy: tf.distribute.Strategy,
    args: argparse.Namespace,
    progress: Progress,
) -> float:
    """The test error in percent after a training with so many images at a step."""
    keras.utils.set_random_seed(seed)
    alone = strategy.num_replicas_in_sync == 1
    steps = args.epochs * (data.train_size // images)
    with strategy.scope():
        model = network(data, NORMALIZATIONS[name], name, args)
        rate = learning_rate(args, images)
        compile_classifier(
            model, rate, steps, args.weight_decay, jit_compile=alone, steps_per_execution=32 if alone else 1
        )
    batches = data.train(images, seed, AUGMENTATIONS.get(args.augment))
    model.fit(batches, epochs=args.epochs, shuffle=False, verbose=0, callbacks=[progress])
    return error(model, data.test())


def network(data: ImageData, normalization: Normalization, name: str, args: argparse.Namespace) -> keras.Model:
    """The network that the command line asks for."""
    if name == "batch_renorm":
        normalization = partial(normalization, r_max=args.r_max, d_max=args.d_max)
    options = {"last_gamma": "zeros"} if args.zero_gamma else {}
    return NETWORKS[args.network](data.image_shape, data.classes, normalization, **options)


def learning_rate(args: argparse.Namespace, images: int) -> float:
    """The first learning rate with so many images at a step, in proportion to them."""
    return args.learning_rate * images / 32


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of the experiment: mean and standard deviation over the seeds."""
    return {"test error (%) by batch size": tables.summary(runs, "normalization", "batch_size", "error")}


def draw(runs: pd.DataFrame, path: Path) -> None:
    """Figure 1 of the paper: error against batch size, on a log axis that falls to the right.

    The vertical axis is logarithmic where a failure would hide the other curves.
    """
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in runs["normalization"].unique():
        errors = runs[runs["normalization"] == name].pivot(index="seed", columns="batch_size", values="error")
        figures.curve(axes, name, errors.columns, errors)
    if runs["error"].max() > 4 * runs["error"].min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    figures.batch_size_axis(axes, runs["batch_size"].unique())
    axes.set_ylabel("test error (%), " + ("log scale" if axes.get_yscale() == "log" else "axis not from 0"))
    axes.set_title(f"{runs['dataset'][0]}, {runs['epochs'][0]} epochs, {np.unique(runs['seed']).size} seeds")
    axes.grid(alpha=0.3)
    figure.legend(title="normalization", loc="outside right upper")
    figures.save(figure, path)


if __name__ == "__main__":
    main()
