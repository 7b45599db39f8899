"""Batch Normalization on several devices: a small batch on each of them, with and without synchronized statistics.

    python tutorials/experiments/distributed.py                # all GPUs, or two logical devices of the CPU
    python tutorials/experiments/distributed.py --replicas 4
    python tutorials/experiments/distributed.py --workers 2    # two processes; then again, and one of them is killed

Trains a small convolutional network with 2 images on each device: Batch Normalization with the statistics of each
device and of all devices, Group Normalization, and Batch Normalization on one device with the images of all. The
learning rate is in proportion to the images of a step.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
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

import keras_norm as kn
from command_line import Progress, parser, positive, record
from keras_norm.distribute import DistributedModel
from keras_norm.tutorials import figures, tables, workers
from keras_norm.tutorials.data import ImageData, load
from keras_norm.tutorials.devices import devices
from keras_norm.tutorials.networks import convolutional
from keras_norm.tutorials.training import compile_classifier

batch_normalization = partial(kn.BatchNormalization, momentum=0.9)
NORMALIZATIONS = {
    "batch": batch_normalization,
    "synchronized": partial(batch_normalization, synchronized=True),
    "group": partial(kn.GroupNormalization, groups=8),
    "batch_one_device": batch_normalization,
}
KILL_AT = "epoch 2, step 3"


def main(arguments: Sequence[str] | None = None) -> None:
    """A worker is the same program: TF_CONFIG says that it is one."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    args.batch_size = args.batch_size or (8 if args.workers else 2)
    if "TF_CONFIG" in os.environ:
        work(args)
        return
    # TensorFlow's devices are divided before the data are read.
    strategy = None if args.workers else tf.distribute.MirroredStrategy(devices(args.replicas))
    try:
        data = load(args.dataset, args.train_images, args.data_dir)  # on disk before several workers ask for it
    except ValueError as error:
        flags.error(str(error))
    if strategy is None:
        train_on_workers(args, sys.argv[1:] if arguments is None else arguments)
    else:
        runs = record(compare(data, args, strategy), args.output / "distributed.csv")
        draw(runs, args.output / "distributed.png")
        tables.show(results(runs))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    add = flags.add_argument
    add("--replicas", type=positive, default=2, metavar="N", help="logical devices of the CPU, where there is no GPU")
    add("--workers", type=positive, metavar="N", help="train on so many local processes instead, from seed 0")
    add("--batch-size", type=positive, metavar="N", help="images on each replica; 2, or 8 on workers, if not given")
    add("--normalizations", nargs="+", choices=NORMALIZATIONS, default=list(NORMALIZATIONS), help="what to compare")
    add("--epochs", type=positive, default=4, metavar="N", help="passes over the training images, in every run")
    return flags


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of the experiment: mean and standard deviation over the seeds."""
    return {"test error (%) by epoch, several devices": tables.summary(runs, "normalization", "epoch", "error")}


def draw(runs: pd.DataFrame, path: Path) -> None:
    """The test error against the epoch, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in runs["normalization"].unique():
        errors = runs[runs["normalization"] == name].pivot(index="seed", columns="epoch", values="error")
        options = {"linestyle": "--"} if name == "batch_one_device" else {}
        figures.curve(axes, name, errors.columns, errors, **options)
    axes.set_xticks(runs["epoch"].unique())
    axes.set_xlabel("epoch")
    figures.error_axis(axes)
    images, replicas = runs["images_a_replica"][0], runs["replicas"].max()
    axes.set_title(f"{runs['dataset'][0]}: {images} images on each of {replicas} devices")
    figure.legend(title="normalization", loc="outside right upper")
    figures.save(figure, path)


# Replicas in one process


def compare(data: ImageData, args: argparse.Namespace, replicas: tf.distribute.Strategy) -> Iterator[dict[str, Any]]:
    """Trains one network for each normalization, then all of them again from the next seed; a row for each epoch."""
    one_device = tf.distribute.get_strategy()
    images = replicas.num_replicas_in_sync * args.batch_size
    for seed, name in itertools.product(range(args.seeds), args.normalizations):
        strategy = one_device if name == "batch_one_device" else replicas
        progress = Progress(f"seed {seed}, {name:>16}", args.epochs)
        _, rows = train(data, args, name, strategy, images, seed, callbacks=[progress])
        progress.finish(f"error {rows[-1]['error']:4.1f} %")
        yield from rows


def train(
    data: ImageData,
    args: argparse.Namespace,
    name: str,
    strategy: tf.distribute.Strategy,
    images: int,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback],
    model_class: type[keras.Model] = keras.Model,
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """Trains a network with so many images at a step; returns it and a row for each epoch."""
    keras.utils.set_random_seed(seed)  # the same initial weights for each normalization, and on each worker
    steps = args.epochs * (data.train_size // images)
    with strategy.scope():
        model = convolutional(data.image_shape, data.classes, NORMALIZATIONS[name], model_class)
        compile_classifier(model, 0.1 * images / 32, steps, jit_compile=False, steps_per_execution=1)
    training, test = pipelines(data, images, seed)
    history = model.fit(
        training, validation_data=test, epochs=args.epochs, shuffle=False, verbose=0, callbacks=callbacks
    ).history
    run = {"dataset": args.dataset, "normalization": name, "replicas": strategy.num_replicas_in_sync}
    run |= {"images_a_replica": args.batch_size, "seed": seed}
    errors = [round(100 * (1 - accuracy), 2) for accuracy in history["val_accuracy"]]
    epochs = enumerate(zip(history["loss"], errors, strict=True), 1)
    return model, [run | {"epoch": epoch, "loss": round(loss, 4), "error": error} for epoch, (loss, error) in epochs]


def pipelines(data: ImageData, images: int, seed: int) -> list[tf.data.Dataset]:
    """Training and test batches for all replicas together.

    The order of the images is that of the seed in every epoch, so that a run that is started again goes on with the
    same images. Each worker reads all files and takes its share of the images: a small data set is a single file.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA

    def standardize(x: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (tf.cast(x, tf.float32) - data.mean) / data.deviation, label

    shuffled = data.train_split.shuffle(data.train_size, seed=seed, reshuffle_each_iteration=False)
    batches = shuffled.batch(images, drop_remainder=True), data.test_split.batch(500)
    return [part.map(standardize).prefetch(tf.data.AUTOTUNE).with_options(options) for part in batches]


# Replicas in several processes


class Steps(keras.callbacks.Callback):
    """Prints the epoch and the step, for `workers.wait_for`."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        print(f"epoch {self.epoch + 1}, step {batch + 1}", flush=True)


def work(args: argparse.Namespace) -> None:
    """What each worker runs: TF_CONFIG tells it of the others, its backup where to go on."""
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    data = load(args.dataset, args.train_images, args.data_dir)
    rows = []
    for name in several_devices(args):
        callbacks = [keras.callbacks.BackupAndRestore(args.output / f"backup-{index}"), Steps()]
        images = strategy.num_replicas_in_sync * args.batch_size
        model, history = train(data, args, name, strategy, images, 0, callbacks, DistributedModel)
        np.savez(weights_file(args.output, name, index), *model.get_weights())
        rows += history
        print(f"  {name}: test error by epoch, %: {[row['error'] for row in history]}", flush=True)
    if index == 0:
        record(rows, args.output / "distributed.csv")


def several_devices(args: argparse.Namespace) -> list[str]:
    """The normalizations to compare that several workers can train."""
    return [name for name in args.normalizations if name != "batch_one_device"]


def weights_file(folder: Path, name: str, index: int) -> Path:
    """Where a worker leaves its weights."""
    return folder / f"{name}-{index}.npz"


def train_on_workers(args: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Trains on several workers; then once more, kills a worker, starts all again, and compares the weights."""
    whole, killed, name = args.output / "workers", args.output / "killed", "synchronized"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    command = [__file__, *arguments, f"--batch-size={args.batch_size}"]
    print(f"{args.workers} workers, {args.batch_size} images on each")
    workers.finish(workers.start([*command, f"--output={whole}"], whole, args.workers), whole, "test error")

    command += [f"--output={killed}", "--normalizations", name]
    print(f"{name} once more, until worker 1 is killed at {KILL_AT}")
    processes = workers.start(command, killed, args.workers)
    workers.wait_for(f"{KILL_AT}\n", killed, 1, processes[1])
    processes[1].kill()
    workers.stop(processes)  # the others cannot go on alone
    print(f"killed process {processes[1].pid}; all start again, from the backup of worker 0")
    for index in range(1, args.workers):
        shutil.copytree(killed / "backup-0", killed / f"backup-{index}", dirs_exist_ok=True)
    workers.finish(workers.start(command, killed, args.workers), killed, "test error")

    print("largest difference between weights, moving statistics included")
    for run, names in ((whole, several_devices(args)), (killed, [name])):
        for each in names:
            print(f"  {each}, {run.name}, worker 0 and worker 1: {difference(each, (run, 0), (run, 1)):.1e}")
    if name in args.normalizations:
        print(f"  {name}, killed and never killed: {difference(name, (killed, 0), (whole, 0)):.1e}")


def difference(name: str, *runs: tuple[Path, int]) -> float:
    """The largest between the weights of two workers, each a folder and an index."""
    first, second = (np.load(weights_file(folder, name, index)) for folder, index in runs)
    return max(float(np.abs(first[w] - second[w]).max()) for w in first)


if __name__ == "__main__":
    main()
