"""Replaces the Batch Normalizations of a trained network, and measures how fast its accuracy comes back.

    python tutorials/experiments/replacement.py                           # the digits, some minutes on a CPU core
    python tutorials/experiments/replacement.py --dataset fashion_mnist   # any image classification set of TFDS

A residual network learns with Batch Normalization. Copies of it are tested as they are, with recalibrated moving
statistics, and with Group Normalization in place of Batch Normalization. Then each way is fine-tuned from the same
weights, at a learning rate that falls to 0, and tested on the way.
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
import pandas as pd
import tensorflow as tf

import keras_norm as kn
from command_line import Progress, parser, positive, record
from keras_norm import models
from keras_norm.tutorials import figures, tables
from keras_norm.tutorials.data import ImageData, load
from keras_norm.tutorials.networks import copy, resnet
from keras_norm.tutorials.training import compile_classifier, error

BATCH_SIZE = 32
WITHOUT_XLA: dict[str, Any] = {"jit_compile": False, "steps_per_execution": 20}  # compiling takes longer than the steps
METHODS: dict[str, Callable[[keras.Model, tf.data.Dataset], keras.Model]] = {
    "batch": lambda model, _: models.replace_normalization(model, lambda old: old),
    "recalibrated": lambda model, batches: models.recalibrate_batch_normalization(model, batches, verbose=0),
    "frozen": lambda model, _: models.freeze_batch_normalization(model),
    "replaced": lambda model, _: models.replace_normalization(model, kn.GroupNormalization(groups=8)),
}
TRAININGS = [("batch", 0.02), ("frozen", 0.02), ("replaced", 0.02), ("replaced", 0.1)]
"""The ways that are fine-tuned, with the learning rate of the first step."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    try:
        images = load(args.dataset, args.train_images, args.data_dir)
    except ValueError as error:
        flags.error(str(error))
    runs = record(compare(images, args), args.output / "replacement.csv")
    draw(runs, args.output / "replacement.png")
    tables.show(results(runs))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    flags.set_defaults(seeds=3)
    add = flags.add_argument
    add("--pretraining-epochs", type=positive, default=15, metavar="N", help="passes over the training images")
    add(
        "--steps",
        type=positive,
        nargs="+",
        default=[20, 100, 300],
        metavar="N",
        help="of fine-tuning, at which to test",
    )
    return flags


def compare(images: ImageData, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Tests each way before and during fine-tuning, for one seed after another."""
    for seed in range(args.seeds):
        pretrained = pretrain(images, args.pretraining_epochs, seed)
        run = {"dataset": args.dataset, "seed": seed}
        for method in METHODS:
            model = METHODS[method](copy(pretrained), images.train(BATCH_SIZE, seed))
            compile_classifier(model, 0.1, 1, **WITHOUT_XLA)
            yield run | {"method": method, "rate": 0.0, "steps": 0, "error": error(model, images.test())}
        for method, rate in TRAININGS:
            progress = Progress(f"seed {seed}, {method:>8}, rate {rate:4}", 1)
            model = METHODS[method](copy(pretrained), images.train(BATCH_SIZE, seed))
            errors = fine_tune(model, images, rate, args.steps, seed)
            progress.finish(f"errors {' '.join(f'{percent:4.1f}' for percent in errors)} %")
            for steps, percent in zip(args.steps, errors, strict=True):
                yield run | {"method": method, "rate": rate, "steps": steps, "error": percent}


def pretrain(images: ImageData, epochs: int, seed: int) -> keras.Model:
    """A network with Batch Normalization, trained at batch 32."""
    keras.utils.set_random_seed(seed)
    progress = Progress(f"seed {seed}, pretraining", epochs)
    normalization = partial(kn.BatchNormalization, momentum=0.9)
    model = resnet(images.image_shape, images.classes, normalization)
    compile_classifier(model, 0.1, epochs * (images.train_size // BATCH_SIZE), **WITHOUT_XLA)
    batches = images.train(BATCH_SIZE, seed)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[progress])
    progress.finish(f"error {error(model, images.test()):4.1f} %")
    return model


def fine_tune(model: keras.Model, images: ImageData, rate: float, steps: Sequence[int], seed: int) -> list[float]:
    """Trains the converted network, and gives its test error in percent after each number of steps."""
    keras.utils.set_random_seed(seed)
    compile_classifier(model, rate, steps[-1], **WITHOUT_XLA)
    errors = []
    for begin, end in itertools.pairwise([0, *steps]):
        batches = images.train(BATCH_SIZE, seed + begin).repeat().take(end - begin)
        model.fit(batches, shuffle=False, verbose=0)
        errors.append(error(model, images.test()))
    return errors


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of the experiment: mean and standard deviation over the seeds, a row for each way and rate."""
    rows = [
        runs[(runs["method"] == method) & (runs["rate"].isin([0, rate]))].assign(way=label(method, rate))
        for method, rate in [("recalibrated", 0.0), *TRAININGS]
    ]
    return {"test error (%) after steps": tables.summary(pd.concat(rows).sort_values("steps"), "way", "steps", "error")}


def label(method: str, rate: float) -> str:
    """How a way is written in the table and in the figure."""
    return figures.style(method).label + (f", rate {rate:g}" if rate else "")


def draw(runs: pd.DataFrame, path: Path) -> None:
    """The error against the number of steps: mean and standard deviation."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    trained = runs[runs["steps"] > 0]
    for method, rate in TRAININGS:
        chosen = trained[(trained["method"] == method) & (trained["rate"] == rate)]
        table = chosen.pivot(index="seed", columns="steps", values="error")
        dashed = {"linestyle": "--"} if (method, rate) == ("replaced", 0.02) else {}
        figures.curve(axes, method, list(table.columns), table.to_numpy(), label(method, rate), **dashed)
    before = runs[(runs["steps"] == 0) & (runs["method"] == "batch")]["error"].mean()
    axes.axhline(before, color=figures.BLACK, linestyle=":", label="BN, before fine-tuning")
    axes.set_xscale("log")
    axes.set_xticks(sorted(trained["steps"].unique()), sorted(trained["steps"].unique()))
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(f"steps of fine-tuning, {BATCH_SIZE} images each")
    figures.error_axis(axes)
    axes.legend()
    figures.save(figure, path)


if __name__ == "__main__":
    main()
