"""Normalizing the weights in place of the activations: two experiments of the papers, small.

    python tutorials/experiments/weights.py                # both, on the digits, in a few minutes on two CPU cores
    python tutorials/experiments/weights.py --part classifier --dataset cifar10 --epochs 20
    python tutorials/experiments/weights.py --part gan --dataset fashion_mnist --steps 4000

classifier: a network of eight convolutions without residuals, which is too deep to train from Keras' initialization. It
has no normalization (from two initializations), weight normalization (from data or not, or with mean-only Batch
Normalization beside it), or Batch Normalization (Salimans & Kingma, Weight Normalization, NeurIPS 2016,
https://arxiv.org/abs/1602.07868).

gan: a generator against a discriminator that takes five steps to its one, at a learning rate that is too high for a
discriminator without normalization (Miyato et al., Spectral Normalization, ICLR 2018, https://arxiv.org/abs/1802.05957).
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # grappler calls an optimization that it cannot make an error

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import keras_norm as kn
from command_line import Progress, parser, positive, record
from keras_norm.tutorials import figures, gan, tables
from keras_norm.tutorials.data import ImageData, load
from keras_norm.tutorials.networks import without_residuals

PARTS = ("classifier", "gan")
BATCH = 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    try:
        data = load(args.dataset, args.train_images, args.data_dir)
        data.train(BATCH, seed=0)
        if "gan" in args.part:
            gan.generator(data.image_shape)
    except ValueError as error:
        flags.error(str(error))
    print(f"{args.dataset}: {data.train_size} training images of shape {data.image_shape}")
    if "classifier" in args.part:
        runs = record(compare_classifiers(data, args), args.output / "weights_classifier.csv")
        draw_classifiers(runs, args.output / "weights_classifier.png")
        tables.show(results(runs))
    if "gan" in args.part:
        samples: dict[str, np.ndarray] = {}
        runs = record(compare_discriminators(data, args, samples), args.output / "weights_gan.csv")
        draw_samples(samples, args.output / "weights_gan_samples.png")
        draw_gans(runs, args.output / "weights_gan.png")
        draw_singular_values(runs, args.output / "weights_singular_values.png")
        tables.show(results(runs))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    add = flags.add_argument
    add("--part", nargs="+", choices=PARTS, default=PARTS, help="which of the experiments")
    add("--epochs", type=positive, default=8, metavar="N", help="passes of the classifiers over the training images")
    add("--learning-rate", type=float, default=0.01, help="of the classifiers, constant")
    add("--steps", type=positive, default=600, metavar="N", help="steps of the generators")
    add("--gan-learning-rate", type=float, default=0.01, help="of generator and discriminator")
    return flags


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables of one of the experiments: mean and standard deviation over the seeds."""
    if "normalization" in runs:
        shown = runs[runs["epoch"].isin([1, 2, 4, runs["epoch"].max()])]
        return {"test error (%) by epoch": tables.summary(shown, "normalization", "epoch", "error")}
    steps = sorted(runs["step"].unique())
    shown = runs[runs["step"].isin([steps[0], steps[len(steps) // 2], steps[-1]])]
    last = runs[runs["step"] == steps[-1]].rename(columns=layer_names(runs))
    sigmas = last.melt(["discriminator", "seed"], list(layer_names(runs).values()), "layer")
    return {
        "Fréchet distance by step": tables.summary(shown, "discriminator", "step", "frechet_distance"),
        "largest singular value at the end": tables.summary(sigmas, "discriminator", "layer", "value"),
    }


def layer_names(runs: pd.DataFrame) -> dict[str, str]:
    """The columns with the largest singular value of each layer, and how to call the layers."""
    return {name: name.replace("sigma_", "layer ") for name in runs if name.startswith("sigma_")}


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
CLASSIFIERS: dict[str, tuple[Callable, bool]] = {
    "none": (plain, False),
    "none_he": (from_he, False),
    "weight_norm_no_data": (weight_normalized, False),
    "weight_norm": (weight_normalized, True),
    "weight_norm_mean_only": (with_mean_only, True),
    "batch": (batch_normalized, False),
}


def compare_classifiers(data: ImageData, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trains every classifier, then all of them again from the next seed; a row for each epoch."""
    for seed, name in itertools.product(range(args.seeds), CLASSIFIERS):
        progress = Progress(f"seed {seed}, {name:>21}", args.epochs)
        history = train_classifier(data, name, seed, args, progress)
        errors = [round(100 * (1 - accuracy), 2) for accuracy in history["val_accuracy"]]
        progress.finish(f"error {errors[-1]:4.1f} %")
        run = {"dataset": args.dataset, "normalization": name, "seed": seed}
        for epoch, (loss, error) in enumerate(zip(history["loss"], errors, strict=True), 1):
            yield run | {"epoch": epoch, "loss": round(loss, 4), "error": error}


def train_classifier(
    data: ImageData, name: str, seed: int, args: argparse.Namespace, progress: Progress
) -> dict[str, list[float]]:
    """The history of one training."""
    keras.utils.set_random_seed(seed)
    normalized, from_data = CLASSIFIERS[name]
    model = without_residuals(data.image_shape, data.classes, normalized)
    if from_data:
        images, _ = next(iter(data.train(min(500, data.train_size), seed)))
        kn.initialize_from_data(model, images, training=True)
    model.compile(
        optimizer=keras.optimizers.SGD(args.learning_rate, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        data.train(BATCH, seed),
        epochs=args.epochs,
        validation_data=data.test(),
        shuffle=False,
        verbose=0,
        callbacks=[progress],
    ).history


def draw_classifiers(runs: pd.DataFrame, path: Path) -> None:
    """The test error of each classifier against the epoch, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name in runs["normalization"].unique():
        errors = runs[runs["normalization"] == name].pivot(index="seed", columns="epoch", values="error")
        # Two methods have the same curve until the last epochs: a wide one below a narrow one with dashes.
        options = {
            "none": {"linewidth": 6, "elinewidth": 1, "alpha": 0.4, "markersize": 11},
            "weight_norm_no_data": {"linestyle": "--"},
        }
        figures.curve(axes, name, errors.columns, errors, **options.get(name, {}))
    figures.error_axis(axes)
    axes.set_xlabel("epoch")
    axes.set_title(f"{runs['dataset'][0]}: eight convolutions without residuals, {runs['seed'].nunique()} seeds")
    figure.legend(title="normalization", loc="outside right upper")
    figures.save(figure, path)


# The GAN

DISCRIMINATORS: dict[str, Callable] = {"none": lambda layer: layer, "spectral_norm": kn.SpectralNormalization}


def compare_discriminators(
    data: ImageData, args: argparse.Namespace, samples: dict[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Trains a GAN with each discriminator from every seed; a row each time that it is looked at.

    `samples` gets the real images, and those of the last generator of each kind.
    """
    real = {split: gan.pixels(part) for split, part in (("train", data.train_split), ("test", data.test_split))}
    samples["real"] = real["train"]
    distance = gan.frechet_distance(real["train"], real["test"])
    print(f"Fréchet distance between training and test images: {distance:.1f}")
    for seed, (name, wrap) in itertools.product(range(args.seeds), DISCRIMINATORS.items()):
        progress = Progress(f"seed {seed}, {name:>21}", 1)
        watch = gan.train(real, wrap, args.gan_learning_rate, args.steps, seed)
        samples[name] = watch.images
        progress.finish(f"Fréchet distance {watch.rows[-1]['frechet_distance']:5.1f}")
        for row in watch.rows:
            yield {"dataset": args.dataset, "discriminator": name, "seed": seed} | row


def draw_samples(samples: dict[str, np.ndarray], path: Path) -> None:
    """Real images, and those of each generator."""
    figure, panels = plt.subplots(1, len(samples), figsize=(9, 3.2), layout="constrained")
    for axes, (name, images) in zip(panels, samples.items(), strict=True):
        axes.imshow(gan.grid(images), cmap="gray", vmin=0, vmax=1)
        axes.set_title("real" if name == "real" else f"discriminator: {figures.style(name).label}")
        axes.axis("off")
    figures.save(figure, path)


def draw_gans(runs: pd.DataFrame, path: Path) -> None:
    """The distance of the generated images to the test images against the step."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in runs["discriminator"].unique():
        distances = of_discriminator(runs, name, "frechet_distance")
        figures.curve(axes, name, distances.columns, distances)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("step of the generator")
    axes.set_ylabel("Fréchet distance, log scale")
    axes.set_title(f"{runs['dataset'][0]}, {runs['seed'].nunique()} seeds")
    axes.grid(alpha=0.3)
    axes.legend(title="discriminator")
    figures.save(figure, path)


def draw_singular_values(runs: pd.DataFrame, path: Path) -> None:
    """The largest singular value of each layer of the discriminator against the step, a panel for each layer."""
    names = layer_names(runs)
    figure, panels = plt.subplots(1, len(names), figsize=(11, 3.2), sharey=True, layout="constrained")
    for axes, (column, title) in zip(panels, names.items(), strict=True):
        for name in runs["discriminator"].unique():
            values = of_discriminator(runs, name, column)
            figures.curve(axes, name, values.columns, values)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(title)
        axes.set_xlabel("step of the generator")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("largest singular value, log scale")
    figure.legend(*axes.get_legend_handles_labels(), title="discriminator", loc="outside right upper")
    figures.save(figure, path)


def of_discriminator(runs: pd.DataFrame, name: str, value: str) -> pd.DataFrame:
    """A column of the runs of one kind, by seed and step."""
    return runs[runs["discriminator"] == name].pivot(index="seed", columns="step", values=value)


if __name__ == "__main__":
    main()
