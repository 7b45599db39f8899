"""Batch Normalization on several devices: what a small batch on each of them does, and what synchronizing mends.

    python tutorials/distributed.py                # all GPUs, or two logical devices of the CPU
    python tutorials/distributed.py --replicas 4
    python tutorials/distributed.py --workers 2    # two processes; then once more, and one of them is killed

A replica's part of the batch is all that a plain BatchNormalization sees. With 2 images in it the statistics are
noise; `synchronized=True` takes those of all replicas together, and GroupNormalization those of each image alone.

To remember: what counts is the batch that the statistics see. Cross-replica BN is BN on one device with the batch of
all replicas, to rounding; GN needs neither a large batch nor other replicas.
"""

import argparse
import csv
import json
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_norm as kn
import workers
from keras_norm.distribute import DistributedModel
from keras_norm.tutorials.data import load

NORMALIZATIONS = {
    "BN": lambda: kn.BatchNormalization(momentum=0.9),
    "cross-replica BN": lambda: kn.BatchNormalization(momentum=0.9, synchronized=True),
    "GN": lambda: kn.GroupNormalization(groups=8),
}
KILL_AT = "epoch 2, step 3"


def network(normalization, shape, classes, model_class=keras.Model):
    """Four convolutions, each with a normalization."""
    x = keras.Input(shape)
    h = x
    for filters, strides in ((16, 1), (32, 2), (32, 2), (64, 2)):
        h = keras.layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(h)
        h = keras.layers.ReLU()(normalization()(h))
    return model_class(x, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(h)))


def compiled(strategy, normalization, images, batch_size, model_class=keras.Model):
    """Built and compiled inside the scope; the learning rate grows with the batch of all replicas."""
    with strategy.scope():
        model = network(normalization, images.image_shape, images.classes, model_class)
        model.compile(
            optimizer=keras.optimizers.SGD(0.1 * batch_size / 32, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def pipelines(images, batch_size):
    """Training and test batches for all replicas together.

    The order is that of the seed in every epoch, so that a run that is started again goes on with the same images.
    Each worker reads all files and takes its share of the images: a small data set is a single file.
    """
    shuffled = images.train_split.shuffle(images.train_size, seed=0, reshuffle_each_iteration=False)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA

    def standardize(x, label):
        return (tf.cast(x, tf.float32) - images.mean) / images.deviation, label

    batches = shuffled.batch(batch_size, drop_remainder=True), images.test_split.batch(500)
    return [b.map(standardize).prefetch(tf.data.AUTOTUNE).with_options(options) for b in batches]


# Replicas in one process


def devices(count):
    """All GPUs, or the CPU as `count` logical devices."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return [f"GPU:{i}" for i in range(len(gpus))]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return [f"CPU:{i}" for i in range(count)]


def compare(args):
    """Trains one network per normalization on all replicas, and one with BN on a single device."""
    replicas = tf.distribute.MirroredStrategy(devices(args.replicas))
    one_device = tf.distribute.get_strategy()
    rows = []
    for name, strategy in [*((name, replicas) for name in args.normalizations), ("BN", one_device)]:
        _, history = train(args, name, strategy, replicas.num_replicas_in_sync * args.batch_size)
        rows += history
    write(rows, args.output / "distributed.csv")
    draw(rows, args.output / "distributed.png")


def train(args, name, strategy, batch_size, model_class=keras.Model, callbacks=None):
    """Trains a network by fit and prints how it went; returns it and a row for each epoch."""
    keras.utils.set_random_seed(0)  # the same initial weights and order of images in each run
    images = load(args.dataset, args.train_images)
    training, test = pipelines(images, batch_size)
    model = compiled(strategy, NORMALIZATIONS[name], images, batch_size, model_class)
    began = time.perf_counter()
    history = model.fit(
        training, validation_data=test, epochs=args.epochs, shuffle=False, verbose=0, callbacks=callbacks
    ).history
    seconds = time.perf_counter() - began
    replicas = strategy.num_replicas_in_sync
    run = {"normalization": name, "replicas": replicas, "statistics over": over(name, batch_size, replicas)}
    errors = [round(100 * (1 - accuracy), 2) for accuracy in history["val_accuracy"]]
    print(f"  {label(run):<47} test error by epoch, %: {errors}  ({seconds:.0f} s)", flush=True)
    losses = [round(loss, 4) for loss in history["loss"]]
    return model, [
        run | {"epoch": epoch, "loss": loss, "error %": error}
        for epoch, (loss, error) in enumerate(zip(losses, errors, strict=True), 1)
    ]


def over(name, batch_size, replicas):
    """How many images share a mean and a variance."""
    return {"GN": 1, "cross-replica BN": batch_size}.get(name, batch_size // replicas)


def label(row):
    """A run in words."""
    where = "one device" if row["replicas"] == 1 else f"{row['replicas']} replicas"
    images = "each image" if row["statistics over"] == 1 else f"{row['statistics over']} images"
    return f"{row['normalization']} on {where}, over {images}"


def write(rows, path):
    """The rows as CSV."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    print(f"wrote {path}")


def draw(rows, path):
    """Test error against the epoch, a line for each run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in dict.fromkeys(label(row) for row in rows):
        run = [row for row in rows if label(row) == name]
        axes.plot([r["epoch"] for r in run], [r["error %"] for r in run], marker="o", label=name)
    axes.set(xlabel="epoch", ylabel="test error, %", yscale="log", xticks=sorted({r["epoch"] for r in rows}))
    axes.set_yticks(ticks := [1, 2, 5, 10, 20, 50, 100], labels=ticks)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


# Replicas in several processes


class Progress(keras.callbacks.Callback):
    """Says where this worker is."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        print(f"epoch {self.epoch + 1}, step {batch + 1}", flush=True)


def work(args):
    """What each worker runs: TF_CONFIG tells it of the others, its backup where to go on."""
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rows = []
    for name in args.normalizations:
        backup = keras.callbacks.BackupAndRestore(args.output / f"backup-{index}")
        batch_size = strategy.num_replicas_in_sync * args.batch_size
        model, history = train(args, name, strategy, batch_size, DistributedModel, [backup, Progress()])
        np.savez(weights_file(args.output, name, index), *model.get_weights())
        rows += history
    if index == 0:
        write(rows, args.output / "distributed.csv")
        draw(rows, args.output / "distributed.png")


def weights_file(folder, name, index):
    """Where a worker leaves its weights."""
    return folder / f"{name}, worker {index}.npz"


def train_on_workers(args):
    """Trains on several workers; then once more, kills a worker, starts all again, and compares the weights."""
    whole, killed, name = args.output / "workers", args.output / "killed", "cross-replica BN"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    load(args.dataset)  # written to disk before several workers ask for it
    command = [__file__, *sys.argv[1:], f"--batch-size={args.batch_size}"]
    print(f"{args.workers} workers, {args.batch_size} images on each")
    workers.finish(workers.start([*command, f"--output={whole}"], whole, args.workers), whole)

    command += [f"--output={killed}", "--normalizations", name]
    print(f"{name} once more, until worker 1 is killed at {KILL_AT}")
    processes = workers.start(command, killed, args.workers)
    workers.wait_for(f"{KILL_AT}\n", killed, 1, processes[1])
    processes[1].kill()
    workers.stop(processes)  # the others cannot go on alone
    print(f"killed process {processes[1].pid}; all start again, from the backup of worker 0")
    for index in range(1, args.workers):
        shutil.copytree(killed / "backup-0", killed / f"backup-{index}", dirs_exist_ok=True)
    workers.finish(workers.start(command, killed, args.workers), killed)

    print("largest difference between weights, moving statistics included")
    for run, names in ((whole, args.normalizations), (killed, [name])):
        for each in names:
            print(f"  {each}, {run.name}, worker 0 and worker 1: {difference(each, (run, 0), (run, 1)):.1e}")
    print(f"  {name}, killed and never killed: {difference(name, (killed, 0), (whole, 0)):.1e}")


def difference(name, *runs):
    """The largest between the weights of two workers, each a folder and an index."""
    first, second = (np.load(weights_file(folder, name, index)) for folder, index in runs)
    return max(float(np.abs(first[w] - second[w]).max()) for w in first)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2, help="logical devices of the CPU, where there is no GPU")
    parser.add_argument("--workers", type=int, help="train on so many local processes instead")
    parser.add_argument("--batch-size", type=int, help="images on each replica (default: 2; 8 on workers)")
    parser.add_argument("--normalizations", nargs="+", choices=NORMALIZATIONS, default=list(NORMALIZATIONS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--dataset", default="digits", help="digits, or a TFDS data set of images by name")
    parser.add_argument("--train-images", type=int, help="train on so many only")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder for table and picture")
    args = parser.parse_args()
    args.batch_size = args.batch_size or (8 if args.workers else 2)
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def main():
    """A worker is the same program: TF_CONFIG says that it is one."""
    args = arguments()
    if "TF_CONFIG" in os.environ:
        work(args)
    elif args.workers:
        train_on_workers(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
