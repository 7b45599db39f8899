"""Which normalization survives another contrast, brightness or stroke in each image, and which gates BIN learns.

    python tutorials/experiments/contrast.py                 # the digits, in 7 minutes on a CPU core
    python tutorials/experiments/contrast.py --dataset fashion_mnist --train-images 5000 --test-images 2000

Trains the same small network for each normalization and seed, once on the images as they are and once on images that
are changed anew in each epoch. Tests it on images whose contrast, brightness and stroke differ from image to image,
each change apart and all together, at several strengths. The papers: Ulyanov et al., Instance Normalization, 2016,
https://arxiv.org/abs/1607.08022; Nam & Kim, Batch-Instance Normalization (BIN), NeurIPS 2018,
https://arxiv.org/abs/1805.07925. BIN starts with gates of 1, as in its paper, and with gates of 0.5.

Writes the errors to one CSV file and the gates to another; prints the tables and draws the figures.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_norm as kn
from command_line import Progress, parser, positive, record
from keras_norm.tutorials import appearance, figures, tables
from keras_norm.tutorials.data import ImageData, in_memory, load
from keras_norm.tutorials.training import error

BATCH_SIZE = 32
NORMALIZATIONS: dict[str, appearance.Normalization] = {
    "batch": kn.BatchNormalization,
    "instance": kn.InstanceNormalization,
    "batch_instance": kn.BatchInstanceNormalization,
    "batch_instance_half": partial(kn.BatchInstanceNormalization, rho_initializer=keras.initializers.Constant(0.5)),
    "group": partial(kn.GroupNormalization, groups=8),
}
TRAININGS: dict[str, Callable | None] = {"as they are": None, "changed": appearance.augmentation}
"""How the training images are changed, by the name of the training."""
TESTS = {"contrast": ("contrast",), "brightness": ("brightness",), "stroke": ("stroke",), "all": appearance.CHANGES}
"""The changes of the test images, by the name of the test."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    try:
        data = load(args.dataset, args.train_images, args.data_dir)
        data.train(BATCH_SIZE, seed=0)
    except ValueError as error:
        flags.error(str(error))
    print(f"{args.dataset}: {data.train_size} training images of shape {data.image_shape}, {args.epochs} epochs a run")
    gates = args.output / "contrast_rho.csv"
    runs = record(experiment(data, args, gates), args.output / "contrast.csv")
    draw(runs, args.output / "contrast.png")
    tables.show(results(runs))
    if gates.exists():
        draw_gates(tables.read(gates), args.output / "contrast_rho.png")
        tables.show(results(tables.read(gates)))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    add = flags.add_argument
    add("--normalizations", nargs="+", choices=NORMALIZATIONS, default=list(NORMALIZATIONS), help="what to compare")
    add("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS), help="which training images")
    add(
        "--strengths",
        nargs="+",
        type=float,
        default=[0.25, 0.5, 0.75, 1.0],
        metavar="S",
        help="of the changes in the test images",
    )
    add("--epochs", type=positive, default=12, metavar="N", help="passes over the training images, in every run")
    add("--learning-rate", type=float, default=0.05, help="falls to 0; ten times as much for the gates of BIN")
    add("--test-images", type=positive, default=10000, metavar="N", help="use at most so many test images")
    return flags


def experiment(data: ImageData, args: argparse.Namespace, gates: Path) -> Iterator[dict[str, Any]]:
    """Trains and tests every normalization on both kinds of images, then all of them again from the next seed.

    Yields a row for each test, and writes the gates so far to the file `gates`.
    """
    gates.unlink(missing_ok=True)
    sets, learned = test_sets(data, args), []
    for seed, training, name in itertools.product(range(args.seeds), args.trainings, args.normalizations):
        progress = Progress(f"seed {seed}, {training:>11}, {name:>19}", args.epochs)
        model = trained(data, name, training, seed, args, progress)
        errors = {test: error(model, batches) for test, batches in sets.items()}
        progress.finish(f"error {errors['unchanged', 0]:4.1f} %, at most {max(errors.values()):4.1f} %")
        run = {"dataset": args.dataset, "normalization": name, "training": training, "seed": seed}
        learned += [run | gate for gate in gates_of(model)]
        if learned:
            pd.DataFrame(learned).to_csv(gates, index=False)
        for (test, strength), percent in errors.items():
            yield run | {"test": test, "strength": strength, "epochs": args.epochs, "error": percent}


def test_sets(data: ImageData, args: argparse.Namespace) -> dict[tuple[str, float], tf.data.Dataset]:
    """The test images, by the changes and their strength; the same changes for every run."""
    images = data.test(min(500, args.test_images)).take(-(-args.test_images // 500))
    sets = {("unchanged", 0.0): in_memory(images)}
    for (test, changes), strength in itertools.product(TESTS.items(), args.strengths):

        def change(
            x: tf.Tensor, y: tf.Tensor, changes: Sequence[str] = changes, strength: float = strength
        ) -> tuple[tf.Tensor, tf.Tensor]:
            return appearance.changed(x, [0, 1], strength, changes), y

        sets[test, strength] = in_memory(images.map(change))
    return sets


def trained(
    data: ImageData, name: str, training: str, seed: int, args: argparse.Namespace, progress: Progress
) -> keras.Model:
    """The network with normalization `name`, after its training."""
    keras.utils.set_random_seed(seed)
    model = appearance.network(data.image_shape, data.classes, NORMALIZATIONS[name])
    steps = args.epochs * (data.train_size // BATCH_SIZE)
    appearance.compile_with_fast_gates(model, args.learning_rate, steps)
    batches = data.train(BATCH_SIZE, seed, TRAININGS[training])
    model.fit(batches, epochs=args.epochs, shuffle=False, verbose=0, callbacks=[progress])
    return model


def gates_of(model: keras.Model) -> list[dict[str, Any]]:
    """A row for each gate of the network; none where it has no gates."""
    return [
        {"layer": layer, "channel": channel, "rho": round(float(rho), 4)}
        for layer, values in enumerate(appearance.gates(model), 1)
        for channel, rho in enumerate(values)
    ]


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables of the experiment: of the rows with errors, or of those with gates."""
    dataset = runs["dataset"][0]
    if "rho" in runs:
        return {f"{dataset}, gates": gates_by_layer(runs)}
    shown = runs[runs["strength"].isin([0, runs["strength"].max()])]
    return {
        f"{dataset}, trained on images {training}: test error (%)": tables.summary(
            part, "normalization", "test", "error"
        )
        for training, part in shown.groupby("training", sort=False)
    }


def gates_by_layer(gates: pd.DataFrame) -> pd.DataFrame:
    """The mean gate of each layer and of all layers, and the shares of gates near 0 and near 1, over the seeds."""
    table = {}
    for (name, training), part in gates.groupby(["normalization", "training"], sort=False):
        start = "0.5" if name == "batch_instance_half" else "1"
        parts = {f"layer {layer}": of_layer for layer, of_layer in part.groupby("layer")} | {"all layers": part}
        for where, gates_there in parts.items():
            by_seed = gates_there.groupby("seed")["rho"]
            table[f"rho from {start}, images {training}, {where}"] = {
                "mean": tables.spread(by_seed.mean(), 2),
                "below 0.1 (%)": tables.spread(by_seed.agg(lambda rho: 100 * (rho < 0.1).mean()), 0),
                "above 0.9 (%)": tables.spread(by_seed.agg(lambda rho: 100 * (rho > 0.9).mean()), 0),
            }
    return pd.DataFrame.from_dict(table, orient="index")


def draw(runs: pd.DataFrame, path: Path) -> None:
    """Error against strength: a row of panels for each training, a column for each change."""
    trainings = runs["training"].unique()
    figure, panels = plt.subplots(
        len(trainings),
        len(TESTS),
        figsize=(11, 3 * len(trainings) + 1),
        layout="constrained",
        sharex=True,
        sharey="row",
    )
    for row, training in zip(np.atleast_2d(panels), trainings, strict=True):
        row[0].set_ylabel(f"trained on images {training}:\ntest error (%)")
        for axes, test in zip(row, TESTS, strict=True):
            part = runs[(runs["training"] == training) & runs["test"].isin(["unchanged", test])]
            for name in part["normalization"].unique():
                errors = part[part["normalization"] == name].pivot(index="seed", columns="strength", values="error")
                figures.curve(axes, name, errors.columns, errors)
            axes.set_title("all three" if test == "all" else test)
            axes.grid(alpha=0.3)
    for axes in np.atleast_2d(panels)[-1]:
        axes.set_xlabel("strength in the test images")
    figure.suptitle(f"{runs['dataset'][0]}, {runs['epochs'][0]} epochs, {runs['seed'].nunique()} seeds")
    handles = np.atleast_2d(panels)[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, title="normalization")
    figures.save(figure, path)


def draw_gates(gates: pd.DataFrame, path: Path) -> None:
    """Histograms of the gates: a row of panels for each start, a column for each layer, two kinds of training."""
    names, layers = gates["normalization"].unique(), gates["layer"].unique()
    figure, panels = plt.subplots(
        len(names), len(layers), figsize=(11, 2.5 * len(names) + 1), layout="constrained", sharex=True, sharey=True
    )
    for row, name in zip(np.atleast_2d(panels), names, strict=True):
        row[0].set_ylabel(f"rho from {0.5 if name == 'batch_instance_half' else 1}:\nshare of channels")
        for axes, layer in zip(row, layers, strict=True):
            part = gates[(gates["normalization"] == name) & (gates["layer"] == layer)]
            figures.gate_histogram(axes, {training: of["rho"] for training, of in part.groupby("training", sort=False)})
    for axes, layer in zip(np.atleast_2d(panels)[0], layers, strict=True):
        axes.set_title(f"layer {layer}")
    for axes in np.atleast_2d(panels)[-1]:
        axes.set_xlabel("rho (0: instance, 1: batch)")
    figure.suptitle(f"{gates['dataset'][0]}: the gates of BIN after training, {gates['seed'].nunique()} seeds")
    handles = np.atleast_2d(panels)[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, title="training images")
    figures.save(figure, path)


if __name__ == "__main__":
    main()
