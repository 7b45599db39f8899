"""Normalizing the weights in place of the activations: two experiments of the papers, small.

    python tutorials/weights.py                        # both, on the digits, in about two minutes
    python tutorials/weights.py --part classifier --dataset cifar10 --epochs 20
    python tutorials/weights.py --part gan --dataset fashion_mnist --steps 4000

classifier: a plain network of eight convolutions, too deep to start well from Keras' initialization, with no
normalization (and from an initialization made for ReLU), with weight normalization as it is, with its data-dependent
initialization, with mean-only batch normalization beside it, and with batch normalization (Salimans & Kingma,
Weight Normalization, NeurIPS 2016, https://arxiv.org/abs/1602.07868).

gan: a generator against a discriminator that takes five steps to its one, at a learning rate that is far too high
for a plain discriminator (Miyato et al., Spectral Normalization, ICLR 2018, https://arxiv.org/abs/1802.05957).

To remember: weight normalization by itself starts where the plain network starts, its data-dependent initialization
is what makes a deep network train; spectral normalization bounds what a discriminator can do, so that its gradients
stay useful at any learning rate.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # grappler calls an optimization that it cannot make an error

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from keras import layers

import keras_norm as kn
from keras_norm.tutorials.data import SUGGESTED, ImageData, load

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Wrap = Callable[[keras.layers.Layer], keras.layers.Layer]
PARTS = ("classifier", "gan")
BATCH = 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    try:
        data = load(args.dataset, args.train_images, args.data_dir)
        data.train(BATCH, seed=0)
    except ValueError as error:
        parser.error(str(error))
    if "gan" in args.part and any(size % 4 for size in data.image_shape[:2]):
        parser.error(f"--dataset: the generator makes images of sides divisible by 4. Received: {data.image_shape}")
    start = time.monotonic()
    args.output.mkdir(parents=True, exist_ok=True)
    if "classifier" in args.part:
        compare_classifiers(data, args)
    if "gan" in args.part:
        compare_discriminators(data, args)
    print(f"\n{time.monotonic() - start:.0f} s, written to {args.output}/")


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--part", nargs="+", choices=PARTS, default=PARTS, help="which of the experiments")
    add("--dataset", default="digits", help=f"image classification set of TFDS: {', '.join(SUGGESTED)}, ...")
    add("--train-images", type=positive, metavar="N", help="use the first N training images only; all if not given")
    add("--data-dir", help="where TFDS keeps its sets; TFDS_DATA_DIR or ~/tensorflow_datasets if not given")
    add("--seeds", type=positive, default=2, metavar="N", help="runs of each kind")
    add("--epochs", type=positive, default=8, metavar="N", help="passes of the classifiers over the training images")
    add("--learning-rate", type=float, default=0.01, help="of the classifiers")
    add("--steps", type=positive, default=600, metavar="N", help="steps of the generators")
    add("--gan-learning-rate", type=float, default=0.01, help="of generator and discriminator")
    add("--output", type=Path, default=Path("results"), help="folder for what is written")
    return parser


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the text above as it stands, and the defaults."""


def positive(text: str) -> int:
    """`text` as a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text!r}")
    return int(text)


# The classifier


def plain(convolution: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The convolution as it is."""
    return [convolution]


def from_he(convolution: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The same, from random weights whose variance was made for ReLU."""
    convolution.kernel_initializer = keras.initializers.HeNormal()
    return [convolution]


def weight_normalized(convolution: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The length of each filter trained apart from its direction."""
    return [kn.WeightNormalization(convolution)]


def with_mean_only(convolution: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Weight normalization for the variance, the batch for the mean."""
    return [kn.WeightNormalization(convolution), kn.MeanOnlyBatchNormalization(momentum=0.9)]


def batch_normalized(convolution: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Mean and variance from the batch."""
    return [convolution, kn.BatchNormalization(momentum=0.9)]


# How the convolutions are made, and whether they start from data.
CLASSIFIERS = {
    "none": (plain, False),
    "none, He start": (from_he, False),
    "weight norm, no data": (weight_normalized, False),
    "weight norm": (weight_normalized, True),
    "weight norm + mean-only": (with_mean_only, True),
    "batch norm": (batch_normalized, False),
}


class Epoch(NamedTuple):
    """One epoch of a training, a row of the CSV; its error is the share of test images that it gets wrong."""

    dataset: str
    normalization: str
    seed: int
    epoch: int
    loss: float
    error: float


def compare_classifiers(data: ImageData, args: argparse.Namespace) -> None:
    """Trains every classifier from every seed; writes the CSV and the curves."""
    print(f"{args.dataset}: {data.train_size} training images of shape {data.image_shape}, {args.epochs} epochs a run")
    epochs = []
    for name in CLASSIFIERS:
        for seed in range(args.seeds):
            start = time.monotonic()
            epochs += train_classifier(data, name, seed, args)
            print(f"{name:>24}, seed {seed}: error {epochs[-1].error:5.1f} % ({time.monotonic() - start:.0f} s)")
    write(args.output / "weights_classifier.csv", Epoch, epochs)
    print(table("normalization", f"test error % after {args.epochs} epochs", last(epochs, CLASSIFIERS)))
    draw_curves(epochs, args.output / "weights_classifier.png")


def classifier(data: ImageData, normalized: Callable[..., list[keras.layers.Layer]]) -> keras.Model:
    """Eight convolutions and a mean, no residuals."""
    stack: list[Any] = [keras.Input(data.image_shape)]
    for filters, strides in ((24, 1), (24, 1), (24, 1), (48, 2), (48, 1), (48, 1), (48, 2), (48, 1)):
        stack += [*normalized(layers.Conv2D(filters, 3, strides, padding="same")), layers.ReLU()]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(data.classes)])


def train_classifier(data: ImageData, name: str, seed: int, args: argparse.Namespace) -> list[Epoch]:
    """One training, epoch by epoch."""
    normalized, from_data = CLASSIFIERS[name]
    keras.utils.set_random_seed(seed)
    model = classifier(data, normalized)
    if from_data:
        images, _ = next(iter(data.train(min(500, data.train_size), seed)))
        kn.initialize_from_data(model, images, training=True)
    model.compile(
        optimizer=keras.optimizers.SGD(args.learning_rate, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    progress = keras.callbacks.LambdaCallback(on_epoch_end=lambda i, _: progress_line(f"{name}: epoch {i + 1}"))
    history = model.fit(
        data.train(BATCH, seed),
        epochs=args.epochs,
        validation_data=data.test(),
        shuffle=False,
        verbose=0,
        callbacks=[progress],
    ).history
    errors = [round(100 * (1 - accuracy), 2) for accuracy in history["val_accuracy"]]
    numbered = enumerate(zip(history["loss"], errors, strict=True), 1)
    return [Epoch(args.dataset, name, seed, i, round(loss, 4), error) for i, (loss, error) in numbered]


def draw_curves(epochs: list[Epoch], path: Path) -> None:
    """The test error of each classifier against the epoch: the mean of the seeds, and their spread."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name in CLASSIFIERS:
        runs = by_seed([e for e in epochs if e.normalization == name], "error")
        steps = np.arange(1, runs.shape[1] + 1)
        (line,) = axes.plot(steps, runs.mean(0), marker="o", markersize=3, label=name)
        axes.fill_between(steps, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.set_xlabel("epoch")
    axes.set_ylabel("test error (%), mean and range of the seeds")
    axes.set_title(f"{epochs[0].dataset}: eight convolutions, no residuals")
    axes.grid(alpha=0.3)
    figure.legend(title="normalization", loc="outside right center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


# The GAN


class Step(NamedTuple):
    """A moment of a GAN's training, a row of the CSV."""

    dataset: str
    discriminator: str
    seed: int
    step: int
    frechet_distance: float


DISCRIMINATORS: dict[str, Wrap] = {"none": lambda layer: layer, "spectral norm": kn.SpectralNormalization}
NOISE, GAN_BATCH, DISCRIMINATOR_STEPS, SAMPLES, CHECKS = 32, 64, 5, 1000, 10


class Trained(NamedTuple):
    """What is drawn of a trained GAN."""

    samples: np.ndarray
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]


def compare_discriminators(data: ImageData, args: argparse.Namespace) -> None:
    """Trains a GAN with each discriminator from every seed; writes the CSV and the pictures."""
    real = {split: pixels(part) for split, part in (("train", data.train_split), ("test", data.test_split))}
    distance = frechet_distance(real["train"], real["test"])
    print(f"\nFréchet distance between training and test images: {distance:.1f}")
    steps, trained = [], {}
    for name in DISCRIMINATORS:
        for seed in range(args.seeds):
            start = time.monotonic()
            run, gan = train_gan(real, name, seed, args)
            steps += run
            trained.setdefault(name, gan)  # the pictures are of the first seed
            distance = run[-1].frechet_distance
            print(f"{name:>24}, seed {seed}: distance {distance:5.1f} ({time.monotonic() - start:.0f} s)")
    write(args.output / "weights_gan.csv", Step, steps)
    print(table("discriminator", f"Fréchet distance after {args.steps} steps", last(steps, DISCRIMINATORS)))
    draw_samples(real["train"], trained, steps, args.output / "weights_gan.png")
    draw_singular_values(trained, args.output / "weights_singular_values.png")
    for name, gan in trained.items():
        pairs = zip(gan.before.values(), gan.after.values(), strict=True)
        tops = ", ".join(f"{before[0]:.2f} to {after[0]:.2f}" for before, after in pairs)
        print(f"{name:>24}, seed 0: largest singular values, layer by layer, from {tops}")


def pixels(split: tf.data.Dataset) -> np.ndarray:
    """All images of a split, from -1 to 1."""
    images = np.concatenate([images for images, _ in split.batch(1000).as_numpy_iterator()]).astype("float32")
    return images / images.max() * 2 - 1


def generator(image_shape: tuple[int, int, int]) -> keras.Model:
    """Noise to images, in two transposed convolutions."""
    height, width, channels = image_shape
    return keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(height // 4 * (width // 4) * 64, use_bias=False),
            kn.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Reshape((height // 4, width // 4, 64)),
            layers.Conv2DTranspose(32, 4, 2, padding="same", use_bias=False),
            kn.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2DTranspose(channels, 4, 2, padding="same", activation="tanh"),
        ]
    )


def discriminator(image_shape: tuple[int, int, int], wrap: Wrap) -> keras.Model:
    """Images to a score, high for real ones."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            wrap(layers.Conv2D(32, 4, 2, padding="same")),
            layers.LeakyReLU(0.1),
            wrap(layers.Conv2D(64, 4, 2, padding="same")),
            layers.LeakyReLU(0.1),
            layers.Flatten(),
            wrap(layers.Dense(64)),
            layers.LeakyReLU(0.1),
            wrap(layers.Dense(1)),
        ]
    )


def train_gan(
    real: dict[str, np.ndarray], name: str, seed: int, args: argparse.Namespace
) -> tuple[list[Step], Trained]:
    """Trains one GAN, and looks at it ten times on the way."""
    keras.utils.set_random_seed(seed)
    image_shape = real["train"].shape[1:]
    g, d = generator(image_shape), discriminator(image_shape, DISCRIMINATORS[name])
    step = training_step(g, d, args.gan_learning_rate)
    images = tf.data.Dataset.from_tensor_slices(real["train"]).shuffle(len(real["train"]), seed=seed).repeat()
    batches = iter(images.batch(GAN_BATCH).batch(DISCRIMINATOR_STEPS).prefetch(2))
    noise = np.random.default_rng(0).normal(size=(SAMPLES, NOISE)).astype("float32")
    before = singular_values(d)
    checks = {round(args.steps * (i + 1) / CHECKS) for i in range(CHECKS)}
    run = []
    for i in range(1, args.steps + 1):
        step(next(batches))
        if i in checks:
            progress_line(f"{name}: step {i} of {args.steps}")
            samples = g.predict(noise, batch_size=SAMPLES, verbose=0)
            run.append(Step(args.dataset, name, seed, i, round(frechet_distance(samples, real["test"]), 2)))
    return run, Trained(samples, before, singular_values(d))


def training_step(g: keras.Model, d: keras.Model, learning_rate: float) -> Callable[[tf.Tensor], None]:
    """Some steps of the discriminator and one of the generator, on the hinge loss."""
    optimizers = {model: keras.optimizers.Adam(learning_rate, beta_1=0.5, beta_2=0.9) for model in (g, d)}
    for model, optimizer in optimizers.items():
        optimizer.build(model.trainable_variables)

    def fakes():
        return g(tf.random.normal((GAN_BATCH, NOISE)), training=True)

    def minimize(model, loss_of):
        with tf.GradientTape() as tape:
            loss = loss_of()
        gradients = tape.gradient(loss, [w.value for w in model.trainable_variables])
        optimizers[model].apply(gradients, model.trainable_variables)

    @tf.function
    def step(batches):
        for images in tf.unstack(batches, DISCRIMINATOR_STEPS):
            both = tf.concat([images, fakes()], 0)

            def hinge(both=both):
                of_real, of_fake = tf.split(d(both, training=True), 2)
                return tf.reduce_mean(tf.nn.relu(1 - of_real)) + tf.reduce_mean(tf.nn.relu(1 + of_fake))

            minimize(d, hinge)
        minimize(g, lambda: -tf.reduce_mean(d(fakes(), training=True)))

    return step


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions of the means and covariances of two sets of images, pixel by pixel.

    |mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2)): 0 for sets that agree in both.
    """
    a, b = (x.reshape(len(x), -1).astype("float64") for x in (a, b))
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    # C = x^T x, so that the trace of (C_a C_b)^(1/2) is the sum of the singular values of a b^T.
    return float(shift + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a @ b.T, "nuc"))


def singular_values(d: keras.Model) -> dict[str, np.ndarray]:
    """Of the kernel that each layer works with, as a matrix of (outputs, rest), the largest first."""
    found = {}
    for layer in d.layers:
        if layer.weights:
            plain = layer.fold() if isinstance(layer, kn.SpectralNormalization) else layer
            kernel = keras.ops.convert_to_numpy(plain.kernel)
            found[f"layer {len(found) + 1}"] = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
    return found


def draw_samples(real: np.ndarray, trained: dict[str, Trained], steps: list[Step], path: Path) -> None:
    """Real images, those of each generator, and the distance between them as training went."""
    figure, panels = plt.subplots(1, 4, figsize=(14, 3.7), layout="constrained")
    shown = {"real": real[:64]} | {name: gan.samples[:64] for name, gan in trained.items()}
    for axes, (name, images) in zip(panels, shown.items(), strict=False):
        framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0)
        rows = [np.concatenate(framed[i : i + 8], 1) for i in range(0, 64, 8)]
        axes.imshow((np.concatenate(rows, 0) + 1) / 2, cmap="gray", vmin=0, vmax=1)
        axes.set_title("real" if name == "real" else f"generated, discriminator: {name}")
        axes.axis("off")
    for name in trained:
        of_name = [s for s in steps if s.discriminator == name]
        runs = by_seed(of_name, "frechet_distance")
        counts = sorted({s.step for s in of_name})
        (line,) = panels[-1].plot(counts, runs.mean(0), marker="o", markersize=3, label=name)
        panels[-1].fill_between(counts, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    panels[-1].set_ylim(bottom=0)
    panels[-1].set_xlabel("steps of the generator")
    panels[-1].set_ylabel("Fréchet distance to the test images")
    panels[-1].set_title("mean and range of the seeds")
    panels[-1].grid(alpha=0.3)
    panels[-1].legend(title="discriminator")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_singular_values(trained: dict[str, Trained], path: Path) -> None:
    """Each layer's singular values before and after training, a panel for each discriminator."""
    figure, panels = plt.subplots(1, len(trained), figsize=(11, 3.7), sharey=True, layout="constrained")
    for axes, (name, gan) in zip(panels, trained.items(), strict=True):
        for i, layer in enumerate(gan.after):
            for values, style, fill, when in (
                (gan.before[layer], ":", "none", "before"),
                (gan.after[layer], "-", "full", "after"),
            ):
                place = np.linspace(0, 1, len(values)) if len(values) > 1 else [0]
                marker = "o" if len(values) == 1 else ""  # a layer of one unit has one singular value
                axes.plot(place, values, style, marker=marker, fillstyle=fill, color=f"C{i}", label=f"{layer}, {when}")
        axes.set_yscale("log")
        axes.set_title(f"discriminator: {name}")
        axes.set_xlabel("rank of the singular value (0: largest, 1: smallest)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("singular value")
    figure.legend(*panels[0].get_legend_handles_labels(), title="training", loc="outside right center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


# Both


def last(rows: list[Any], names: Iterable[str]) -> dict[str, np.ndarray]:
    """What each kind came to at the end, seed by seed: the second field of a row is its kind, the last its value."""
    kind, value = rows[0]._fields[1], rows[0]._fields[-1]
    return {name: by_seed([row for row in rows if getattr(row, kind) == name], value)[:, -1] for name in names}


def table(kind: str, measure: str, values: dict[str, np.ndarray]) -> str:
    """Mean and standard deviation over the seeds, as a Markdown table."""
    rows = [f"| {name} | {v.mean():.1f} ± {v.std(ddof=len(v) > 1):.1f} |" for name, v in values.items()]
    return "\n".join(["", f"| {kind} | {measure} |", "| --- | --- |", *rows])


def by_seed(rows: list[Any], field: str) -> np.ndarray:
    """A field of the rows as (seeds, moments)."""
    seeds = sorted({row.seed for row in rows})
    return np.array([[getattr(row, field) for row in rows if row.seed == seed] for seed in seeds])


def write(path: Path, kind: type, rows: list[Any]) -> None:
    """The rows as a CSV with the names of their fields."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(kind._fields)
        writer.writerows(rows)


def progress_line(text: str) -> None:
    """Shows how far a run is, on a terminal only."""
    if sys.stdout.isatty():
        print(f"{text:<60}", end="\r", flush=True)


if __name__ == "__main__":
    main()
