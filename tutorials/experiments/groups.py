"""What the groups of Group Normalization are: neighbors by index, shuffled channels, similar channels.

    python tutorials/experiments/groups.py                 # the digits
    python tutorials/experiments/groups.py --dataset fashion_mnist --train-images 5000

Trains the same small network from the same seeds for each way to form the groups. After the first epoch it measures
the mean and the standard deviation of each channel before the normalization, and forms the groups anew, except where
they stay as they were. All runs then go on from where they are. At the start, then, and at the end it measures how
alike the channels of a group are, beside random groups of the same channels (Wu & He, Group Normalization, ECCV 2018,
https://arxiv.org/abs/1803.08494, section 3). Writes a row for each layer of each run to a CSV file; prints the tables
and draws the figure.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from command_line import Progress, parser, positive, record
from keras_norm.tutorials import figures, grouping, tables
from keras_norm.tutorials.data import ImageData, load
from keras_norm.tutorials.training import compile_classifier, error

BATCH_SIZE = 32
STAGES = {"start": "start", "early": "after an epoch", "trained": "trained"}
QUANTITIES = {"mean": "means", "deviation": "deviations"}

Order = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""Makes the order of a layer's channels from their statistics, the number of groups, and chance."""


def shuffled(statistics: np.ndarray, groups: int, generator: np.random.Generator) -> np.ndarray:
    """A random order."""
    return generator.permutation(statistics.shape[1])


def similar(statistics: np.ndarray, groups: int, generator: np.random.Generator) -> np.ndarray:
    """Channels of like statistics side by side."""
    return grouping.similar(statistics, groups)


def mixed(statistics: np.ndarray, groups: int, generator: np.random.Generator) -> np.ndarray:
    """In each group channels of all statistics."""
    return grouping.mixed(statistics, groups)


GROUPINGS: dict[str, tuple[Order | None, Order | None]] = {
    "by_index": (None, None),
    "shuffled": (shuffled, None),
    "reshuffled": (None, shuffled),
    "similar": (None, similar),
    "mixed": (None, mixed),
}
"""How the groups are formed before the training, and anew after the first epoch; None leaves them as they are."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    if args.channels % args.groups or args.channels == args.groups:
        flags.error(
            f"--groups: must divide the channels, with several in a group. "
            f"Received: {args.groups} of {args.channels} channels"
        )
    try:
        data = load(args.dataset, args.train_images, args.data_dir)
        data.train(BATCH_SIZE, seed=0)
    except ValueError as error:
        flags.error(str(error))
    print(f"{args.dataset}: {data.train_size} training images of shape {data.image_shape}, {args.epochs} epochs a run")
    runs = record(experiment(data, args), args.output / "groups.csv")
    draw(runs, args.output / "groups.png")
    tables.show(results(runs))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    add = flags.add_argument
    add("--groupings", nargs="+", choices=GROUPINGS, default=list(GROUPINGS), help="what to compare")
    add("--channels", type=positive, default=32, metavar="N", help="channels of each layer")
    add("--groups", type=positive, default=8, metavar="N", help="groups of each layer")
    add("--epochs", type=positive, default=12, metavar="N", help="passes over the training images; the first is early")
    add("--learning-rate", type=float, default=0.05, help="falls to 0")
    return flags


def experiment(data: ImageData, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trains, measures and tests every grouping from every seed, whole seeds first; a row for each layer."""
    for seed in range(args.seeds):
        for name in args.groupings:
            progress = Progress(f"{name:>10}, seed {seed}", args.epochs)
            rows = run(data, name, seed, args, progress)
            progress.finish(f"error {rows[0]['error']:4.1f} %, in other groups {rows[0]['error_elsewhere']:4.1f} %")
            yield from rows


def run(data: ImageData, name: str, seed: int, args: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """What a run measures, a row for each layer."""
    keras.utils.set_random_seed(seed)
    generator = np.random.default_rng(seed)
    model = grouping.network(data.image_shape, data.classes, args.channels, args.groups)
    steps = args.epochs * (data.train_size // BATCH_SIZE)
    compile_classifier(model, args.learning_rate, steps, jit_compile=False, steps_per_execution=16)
    batches = data.train(BATCH_SIZE, seed)
    images = next(iter(data.train(min(data.train_size, 1000), seed)))[0]
    before, after = GROUPINGS[name]

    regroup(model, images, before, generator)
    stages = {"start": alike(model, images)}
    model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[progress])
    regroup(model, images, after, generator)
    stages["early"] = alike(model, images)
    model.fit(batches, epochs=args.epochs, initial_epoch=1, shuffle=False, verbose=0, callbacks=[progress])
    stages["trained"] = alike(model, images)

    row = {"dataset": args.dataset, "grouping": name, "channels": args.channels, "groups": args.groups, "seed": seed}
    row |= {"epochs": args.epochs, "error": error(model, data.test())}
    chance = correlations_by_chance(model, images, args.groups, generator)
    row["error_elsewhere"] = error_elsewhere(model, data.test(), images, generator)
    return [
        row
        | {"layer": layer + 1}
        | {f"{measure}_{stage}": value for stage, found in stages.items() for measure, value in found[layer].items()}
        | chance[layer]
        for layer in range(len(chance))
    ]


def regroup(model: keras.Model, images: tf.Tensor, order: Order | None, generator: np.random.Generator) -> None:
    """Forms the groups of all layers by `order`; None leaves them as they are."""
    if order is None:
        return
    statistics = grouping.channel_statistics(model, images)
    for layer, measured in zip(grouping.regrouped_layers(model), statistics, strict=True):
        layer.order.assign(order(measured, layer.groups, generator))


def alike(model: keras.Model, images: tf.Tensor) -> list[dict[str, float]]:
    """For each layer, how alike the channels of a group are in mean and in standard deviation: by name, a measure."""
    rows = []
    for layer, measured in zip(
        grouping.regrouped_layers(model), grouping.channel_statistics(model, images), strict=True
    ):
        row = {}
        for quantity, values in zip(QUANTITIES, measured, strict=True):
            order = layer.order.numpy()
            within, of_means = grouping.variances(values, order, layer.groups)
            row[quantity] = round(grouping.intraclass(values, order, layer.groups), 4)
            row |= {f"{quantity}_within": round(within**0.5, 4), f"{quantity}_between": round(of_means**0.5, 4)}
        rows.append(row)
    return rows


def correlations_by_chance(
    model: keras.Model, images: tf.Tensor, groups: int, generator: np.random.Generator
) -> list[dict[str, float]]:
    """For each layer the mean and the standard deviation of the correlations in random groups of the same channels."""
    rows = []
    for measured in grouping.channel_statistics(model, images):
        row = {}
        for quantity, values in zip(QUANTITIES, measured, strict=True):
            found = grouping.by_chance(values, groups, generator)
            row |= {f"{quantity}_chance": round(found.mean(), 4), f"{quantity}_chance_sd": round(found.std(), 4)}
        rows.append(row)
    return rows


def error_elsewhere(
    model: keras.Model, batches: tf.data.Dataset, images: tf.Tensor, generator: np.random.Generator, draws: int = 3
) -> float:
    """The mean test error in percent with the channels of the trained network in random groups; leaves it so."""
    errors = []
    for _ in range(draws):
        regroup(model, images, shuffled, generator)
        errors.append(error(model, batches))
    return round(float(np.mean(errors)), 2)


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables of the experiment: errors, and how alike the channels of a group are."""
    dataset, last = runs["dataset"][0], runs["layer"].max()
    errors = {"error": "trained", "error_elsewhere": "trained, then other groups"}
    similarity = {
        f"{q}_{stage}": f"{QUANTITIES[q]}, {STAGES[stage]}" for q in QUANTITIES for stage in ("early", "trained")
    }
    return {
        f"{dataset}, test error (%)": by_grouping(runs[runs["layer"] == 1], errors, digits=1),
        f"{dataset}, by index: correlation": by_layer(runs[runs["grouping"] == "by_index"]),
        f"{dataset}, by index: standard deviation": spreads_by_layer(runs[runs["grouping"] == "by_index"]),
        f"{dataset}, last layer: correlation": by_grouping(runs[runs["layer"] == last], similarity, digits=2),
    }


def by_grouping(runs: pd.DataFrame, columns: dict[str, str], digits: int) -> pd.DataFrame:
    """A row for each grouping, and in the columns what was measured."""
    long = runs.melt(["grouping", "seed"], list(columns), "measure").replace({"measure": columns})
    return tables.summary(long, "grouping", "measure", "value", digits)


def by_layer(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each quantity and layer, a column for each stage, and beside them the value of random groups."""
    table = {}
    for quantity, label in QUANTITIES.items():
        for layer, part in runs.groupby("layer"):
            row = {text: tables.spread(part[f"{quantity}_{stage}"], 2) for stage, text in STAGES.items()}
            chance = part[f"{quantity}_chance"].mean().round(2) + 0.0  # not -0.00
            deviation = part[f"{quantity}_chance_sd"].mean()
            table[f"{label}, layer {layer}"] = row | {"trained, random groups": f"{chance:.2f} ± {deviation:.2f}"}
    return pd.DataFrame.from_dict(table, orient="index")


def spreads_by_layer(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each quantity and layer, in the columns its spread within groups and between their means."""
    table = {}
    for quantity, label in QUANTITIES.items():
        for layer, part in runs.groupby("layer"):
            table[f"{label}, layer {layer}"] = {
                f"{where} groups, {STAGES[stage]}": tables.spread(part[f"{quantity}_{where}_{stage}"], 2)
                for where in ("within", "between")
                for stage in ("start", "trained")
            }
    return pd.DataFrame.from_dict(table, orient="index")


def draw(runs: pd.DataFrame, path: Path) -> None:
    """How alike the channels of a group are, from the start to the end, in each layer."""
    depth = runs["layer"].max()
    figure, panels = plt.subplots(2, depth, figsize=(10, 6), layout="constrained", sharex=True, sharey="row")
    for axes, quantity in zip(panels, QUANTITIES, strict=True):
        axes[0].set_ylabel(f"{QUANTITIES[quantity]}:\nintraclass correlation")
        for layer, ax in enumerate(axes, 1):
            part = runs[runs["layer"] == layer]
            middle, half = part[f"{quantity}_chance"].mean(), 2 * part[f"{quantity}_chance_sd"].mean()
            ax.axhspan(middle - half, middle + half, color="0.9", label="random groups, ± 2 sd")
            for name in part["grouping"].unique():
                values = part.loc[part["grouping"] == name, [f"{quantity}_{stage}" for stage in STAGES]]
                figures.curve(ax, name, range(len(STAGES)), values)
            ax.set_xticks(range(len(STAGES)), ["start", "one\nepoch", "trained"])
            ax.set_xlim(-0.4, len(STAGES) - 0.6)
            ax.grid(alpha=0.3)
    for layer, ax in enumerate(panels[0], 1):
        ax.set_title(f"layer {layer}")
    dataset, groups, channels, epochs = runs.loc[0, ["dataset", "groups", "channels", "epochs"]]
    seeds = runs["seed"].nunique()
    figure.suptitle(f"{dataset}, {groups} groups of {channels // groups} channels, {epochs} epochs, {seeds} seeds")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, title="groups")
    figures.save(figure, path)


if __name__ == "__main__":
    main()
