"""Fine-tuning at a small batch: six ways to treat the Batch Normalizations of a trained network.

    python tutorials/experiments/fine_tuning.py                     # the digits, some minutes on two CPU cores
    python tutorials/experiments/fine_tuning.py --dataset cifar10   # any image classification set of TFDS

A residual network learns the first half of the classes at batch 32. Then it learns the other half with 2 images on each
of 4 devices, once for each way to treat its normalizations; everything else is the same. At the end the normalizations
of the frozen network are folded into its convolutions, for deployment.
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
from keras_norm import models
from keras_norm.tutorials import deployment, figures, tables
from keras_norm.tutorials.data import ImageData, half_of_classes, load
from keras_norm.tutorials.devices import devices
from keras_norm.tutorials.networks import copy, resnet
from keras_norm.tutorials.training import compile_classifier, error


def adapt(model: keras.Model, batches: tf.data.Dataset) -> keras.Model:
    """The network with the statistics of the new data, fixed."""
    return models.freeze_batch_normalization(models.recalibrate_batch_normalization(copy(model), batches, verbose=0))


METHODS: dict[str, Callable[[keras.Model, tf.data.Dataset], keras.Model]] = {
    "batch": lambda model, _: copy(model),
    "recalibrated": lambda model, _: copy(model),  # after the training
    "frozen": lambda model, _: models.freeze_batch_normalization(model),
    "recalibrated_frozen": adapt,
    "synchronized": lambda model, _: models.synchronize_batch_normalization(model),
    "replaced": lambda model, _: models.replace_normalization(model, kn.GroupNormalization(groups=8)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    strategy = tf.distribute.MirroredStrategy(devices(args.devices))
    try:
        images = load(args.dataset, args.train_images, args.data_dir)
        first, second = half_of_classes(images, 0), half_of_classes(images, 1)
        first.train(32, seed=0)
        second.train(max(32, args.batch_size * args.devices), seed=0)
    except ValueError as error:
        flags.error(str(error))
    trained: dict[str, keras.Model] = {}
    runs = record(compare(first, second, args, strategy, trained), args.output / "fine_tuning.csv")
    draw(runs, args.output / "fine_tuning.png")
    tables.show(results(runs))
    frozen = copy(trained["frozen"])
    folded = models.fold_batch_normalization(frozen)
    image, _ = next(second.test(1).as_numpy_iterator())
    tables.show({"model": deployment.costs({"frozen": frozen, "folded": folded}, image)})
    print(f"largest difference of a logit: {np.abs(folded(image) - frozen(image)).max():.1e}")


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    flags.set_defaults(seeds=3)
    add = flags.add_argument
    add("--batch-size", type=positive, default=2, metavar="N", help="images on each device in fine-tuning")
    add("--devices", type=positive, default=4, metavar="N", help="logical devices, where there is no GPU")
    add("--pretraining-epochs", type=positive, default=15, metavar="N", help="passes over the first half")
    add("--epochs", type=positive, default=5, metavar="N", help="passes over the second half")
    add("--learning-rate", type=float, default=0.02, help="of fine-tuning; falls to 0")
    return flags


def compare(
    first: ImageData,
    second: ImageData,
    args: argparse.Namespace,
    strategy: tf.distribute.Strategy,
    trained: dict[str, keras.Model],
) -> Iterator[dict[str, Any]]:
    """Fine-tunes by every method, then by all of them again from the next seed; `trained` gets the last networks."""
    replicas = strategy.num_replicas_in_sync
    pretrained: dict[int, keras.Model] = {}
    for seed, name in itertools.product(range(args.seeds), METHODS):
        if seed not in pretrained:
            pretrained[seed] = pretrain(first, args, seed)
        progress = Progress(f"seed {seed}, {name:>19}", args.epochs)
        trained[name] = fine_tune(pretrained[seed], name, second, strategy, args, seed, progress)
        percent = error(trained[name], second.test())
        progress.finish(f"error {percent:4.1f} %")
        run = {"dataset": args.dataset, "method": name, "seed": seed, "images_a_device": args.batch_size}
        yield run | {"devices": replicas, "epochs": args.epochs, "error": percent}


def pretrain(images: ImageData, args: argparse.Namespace, seed: int) -> keras.Model:
    """A network with Batch Normalization, trained on one device at batch 32, with a new last layer."""
    keras.utils.set_random_seed(seed)
    progress = Progress(f"seed {seed}, {'pretraining':>19}", args.pretraining_epochs)
    model = resnet(images.image_shape, images.classes, partial(kn.BatchNormalization, momentum=0.9))
    compile_classifier(model, 0.1, args.pretraining_epochs * (images.train_size // 32))
    batches = images.train(32, seed)
    model.fit(batches, epochs=args.pretraining_epochs, shuffle=False, verbose=0, callbacks=[progress])
    progress.finish(f"error {error(model, images.test()):4.1f} %")
    return keras.Model(model.input, keras.layers.Dense(images.classes)(model.layers[-2].output))


def fine_tune(
    pretrained: keras.Model,
    name: str,
    images: ImageData,
    strategy: tf.distribute.Strategy,
    args: argparse.Namespace,
    seed: int,
    progress: Progress,
) -> keras.Model:
    """The network, converted and trained on all devices."""
    batch_size = args.batch_size * strategy.num_replicas_in_sync
    steps = args.epochs * (images.train_size // batch_size)
    with strategy.scope():
        model = METHODS[name](pretrained, images.train(32, seed))
        compile_classifier(model, args.learning_rate, steps, jit_compile=False, steps_per_execution=1)
    model.fit(images.train(batch_size, seed), epochs=args.epochs, shuffle=False, verbose=0, callbacks=[progress])
    if name == "recalibrated":
        models.recalibrate_batch_normalization(model, images.train(32, seed), verbose=0)
    return model


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of the experiment: mean and standard deviation over the seeds."""
    images, count = (runs[column].astype(str) for column in ("images_a_device", "devices"))
    named = runs.assign(images=images + " images on each of " + count + " devices")
    return {"test error (%) after fine-tuning": tables.summary(named, "method", "images", "error")}


def draw(runs: pd.DataFrame, path: Path) -> None:
    """The error of each method: the mean, and a point for each run."""
    names = runs["method"].unique()
    labels = [figures.style(name).label for name in names]
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for place, name in enumerate(names):
        errors = runs["error"][runs["method"] == name]
        color = figures.style(name).color
        axes.barh(place, errors.mean(), color=color)
        axes.plot(errors, [place] * len(errors), "o", color="white", markeredgecolor="black", markersize=4)
    axes.set_yticks(range(len(names)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("test error (%), mean and runs")
    axes.set_title(f"{runs['dataset'][0]}: {runs['images_a_device'][0]} images on each of {runs['devices'][0]} devices")
    axes.grid(axis="x", alpha=0.3)
    figures.save(figure, path)


if __name__ == "__main__":
    main()
