"""Fine-tuning at a small batch: six things to do with the batch normalizations of a trained network.

    python tutorials/fine_tuning.py                     # the digits, some minutes on two CPU cores
    python tutorials/fine_tuning.py --dataset cifar10   # any image classification set of TFDS

A residual network learns the first half of the classes at batch 32. Then it learns the other half with 2 images a
device on 4 devices, once for each way to treat its normalizations; everything else is the same. At the end the
normalizations of the frozen network are folded into its convolutions, for deployment.

To remember: BN with 2 images a device trains on noise. Recalibrating afterwards mends what that noise did to the
statistics and not what it did to the weights; freezing them or joining the devices avoids it.
"""

import argparse
import csv
import dataclasses
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np
import tensorflow as tf

import keras_norm as kn
from command_line import positive
from distributed import devices
from keras_norm import models
from keras_norm.tutorials.data import ImageData, in_memory, load
from keras_norm.tutorials.networks import resnet

matplotlib.use("Agg")
from matplotlib import pyplot as plt

AFTERWARDS = "BN, recalibrated at the end"


def copy(model: keras.Model) -> keras.Model:
    """The same network with weights of its own."""
    return models.replace_normalization(model, lambda norm: norm)


def adapt(model: keras.Model, batches: tf.data.Dataset) -> keras.Model:
    """The network with the statistics of the new data, fixed."""
    return models.freeze_batch_normalization(models.recalibrate_batch_normalization(copy(model), batches, verbose=0))


WAYS: dict[str, Callable[[keras.Model, tf.data.Dataset], keras.Model]] = {
    "BN": lambda model, _: copy(model),
    AFTERWARDS: lambda model, _: copy(model),
    "BN, frozen": lambda model, _: models.freeze_batch_normalization(model),
    "BN, recalibrated and frozen": adapt,
    "cross-replica BN": lambda model, _: models.synchronize_batch_normalization(model),
    "GN in its place": lambda model, _: models.replace_normalization(model, kn.GroupNormalization(groups=8)),
}


class Run(NamedTuple):
    """One fine-tuning, a row of the CSV; its error is the share of test images that it gets wrong, in percent."""

    dataset: str
    way: str
    seed: int
    images_a_device: int
    devices: int
    epochs: int
    error: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    args = argument_parser().parse_args(arguments)
    tf.get_logger().setLevel("ERROR")  # that each network is traced anew is no mistake here
    # Each device holds a thread while it waits for the sums of the others.
    tf.config.threading.set_inter_op_parallelism_threads(4 * args.devices)
    strategy = tf.distribute.MirroredStrategy(devices(args.devices))
    images = load(args.dataset, args.train_images)
    first, second = half(images, 0), half(images, 1)
    args.output.mkdir(parents=True, exist_ok=True)

    runs: list[Run] = []
    for seed in range(args.seeds):
        pretrained = pretrain(first, args, seed)
        for way in WAYS:
            model, error = fine_tune(pretrained, way, second, strategy, args, seed)
            runs.append(
                Run(args.dataset, way, seed, args.batch_size, strategy.num_replicas_in_sync, args.epochs, error)
            )
            print(f"seed {seed}, {way}: error {error:.1f} %", flush=True)
            if way == "BN, frozen":
                frozen = model
    with open(args.output / "fine_tuning.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Run._fields)
        writer.writerows(runs)
    draw(runs, args.output / "fine_tuning.png")
    print(f"\n{table(runs)}\n\n{deployment(frozen, second)}\n\nwritten to {args.output}/")


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="digits", help="image classification set of TFDS")
    add("--train-images", type=positive, metavar="N", help="use the first N training images only; all if not given")
    add("--batch-size", type=positive, default=2, metavar="N", help="images a device in fine-tuning")
    add("--devices", type=positive, default=4, metavar="N", help="logical devices, where there is no GPU")
    add("--pretraining-epochs", type=positive, default=15, metavar="N", help="passes over the first half")
    add("--epochs", type=positive, default=5, metavar="N", help="passes over the second half")
    add("--seeds", type=positive, default=3, metavar="N", help="runs of each way")
    add("--learning-rate", type=float, default=0.02, help="of fine-tuning; falls to 0")
    add("--output", type=Path, default=Path("results"), help="folder for fine_tuning.csv and fine_tuning.png")
    return parser


def half(images: ImageData, which: int) -> ImageData:
    """The first or the second half of the classes, counted from 0 again."""
    classes = images.classes // 2

    def of_half(split: tf.data.Dataset) -> tf.data.Dataset:
        mine = split.filter(lambda _, label: label // classes == which)
        return in_memory(mine.map(lambda image, label: (image, label - which * classes)))

    train, test = of_half(images.train_split), of_half(images.test_split)
    size = int(train.cardinality())
    return dataclasses.replace(images, classes=classes, train_size=size, train_split=train, test_split=test)


def compiled(model: keras.Model, learning_rate: float, steps: int) -> keras.Model:
    """The model with SGD, momentum and a rate that falls to 0."""
    model.compile(
        optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(learning_rate, steps), momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def pretrain(images: ImageData, args: argparse.Namespace, seed: int) -> keras.Model:
    """A network with BN, trained on one device at batch 32, with a new last layer."""
    keras.utils.set_random_seed(seed)
    model = resnet(images.image_shape, images.classes, lambda: kn.BatchNormalization(momentum=0.9))
    compiled(model, 0.1, args.pretraining_epochs * (images.train_size // 32))
    model.fit(images.train(32, seed), epochs=args.pretraining_epochs, shuffle=False, verbose=0)
    print(f"seed {seed}, pretraining: error {test_error(model, images):.1f} %", flush=True)
    return keras.Model(model.input, keras.layers.Dense(images.classes)(model.layers[-2].output))


def fine_tune(
    pretrained: keras.Model,
    way: str,
    images: ImageData,
    strategy: tf.distribute.Strategy,
    args: argparse.Namespace,
    seed: int,
) -> tuple[keras.Model, float]:
    """The network converted and trained on all devices, and its error in percent."""
    batch_size = args.batch_size * strategy.num_replicas_in_sync
    with strategy.scope():
        model = WAYS[way](pretrained, images.train(32, seed))
        compiled(model, args.learning_rate, args.epochs * (images.train_size // batch_size))
    model.fit(images.train(batch_size, seed), epochs=args.epochs, shuffle=False, verbose=0)
    if way == AFTERWARDS:
        models.recalibrate_batch_normalization(model, images.train(32, seed), verbose=0)
    return model, test_error(model, images)


def test_error(model: keras.Model, images: ImageData) -> float:
    """The share of test images that the model gets wrong, in percent."""
    logits = model.predict(images.test(), verbose=0)
    labels = np.concatenate([labels for _, labels in images.test().as_numpy_iterator()])
    return round(100 * float(np.mean(logits.argmax(-1) != labels)), 2)


def summary(runs: list[Run]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the error over the seeds, by way."""
    errors = {way: [run.error for run in runs if run.way == way] for way in WAYS}
    return {way: (np.mean(cell), np.std(cell, ddof=len(cell) > 1)) for way, cell in errors.items()}


def table(runs: list[Run]) -> str:
    """The summary as a Markdown table."""
    where = f"{runs[0].images_a_device} images a device, {runs[0].devices} devices"
    rows = [f"| {way} | {mean:.1f} ± {deviation:.1f} |" for way, (mean, deviation) in summary(runs).items()]
    return "\n".join([f"| {where} | test error % |", "| --- | --- |", *rows])


def draw(runs: list[Run], path: Path) -> None:
    """A bar for each way, with its spread and the runs themselves."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for place, (way, (mean, deviation)) in enumerate(summary(runs).items()):
        axes.barh(place, mean, xerr=deviation, capsize=3, color="C0", alpha=0.6)
        errors = [run.error for run in runs if run.way == way]
        axes.plot(errors, [place] * len(errors), "k.", markersize=4)
    axes.set_yticks(range(len(WAYS)), WAYS)
    axes.invert_yaxis()
    axes.set_xlabel("test error (%)")
    axes.set_title(f"{runs[0].dataset}: fine-tuning with {runs[0].images_a_device} images a device")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def deployment(model: keras.Model, images: ImageData) -> str:
    """What folding does to the files, to the time of a prediction and to the predictions, as a Markdown table."""
    model = copy(model)  # a compiled model is saved with the state of its optimizer
    folded = models.fold_batch_normalization(model)
    x, _ = next(images.test(1).as_numpy_iterator())
    rows = [measured(name, each, x) for name, each in (("frozen", model), ("folded", folded))]
    difference = np.abs(folded(x) - model(x)).max()
    head = "| model | weights | .keras kB | graph ms | LiteRT kB | LiteRT ms |\n" + "| --- " * 6 + "|\n"
    return head + "\n".join(rows) + f"\n\nlargest difference of a logit: {difference:.1e}"


def measured(name: str, model: keras.Model, x: np.ndarray) -> str:
    """Sizes of the files, and the median time of a prediction for one image."""
    with tempfile.TemporaryDirectory() as folder:
        saved, exported = Path(folder, "model.keras"), Path(folder, "model.tflite")
        model.save(saved)
        loaded = keras.models.load_model(saved)  # as it is deployed: without the strategy of its training
        loaded.export(str(exported), format="litert", verbose=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow 2.20 on says that its interpreter will move to another package
            interpreter = tf.lite.Interpreter(str(exported))
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        graph = tf.function(lambda x: loaded(x, training=False))
        sizes = saved.stat().st_size / 1e3, exported.stat().st_size / 1e3
        graph_time, interpreter_time = median_time(lambda: graph(x)), median_time(interpreter.invoke)
    weights = model.count_params()
    return f"| {name} | {weights:,} | {sizes[0]:.0f} | {graph_time:.2f} | {sizes[1]:.0f} | {interpreter_time:.3f} |"


def median_time(run: Callable[[], object], repeats: int = 200) -> float:
    """The median time of a run, in milliseconds, after a few to warm up."""

    def times() -> Iterator[float]:
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            yield 1e3 * (time.perf_counter() - start)

    return float(np.median(list(times())[repeats // 10 :]))


if __name__ == "__main__":
    main()
