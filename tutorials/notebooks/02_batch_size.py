# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Batch Normalization needs a batch, Group Normalization does not
#
# Memory decides how many images a device can hold at a time: in detection, segmentation and video often one or two.
# Batch Normalization takes the mean and the variance of a channel from these images, so that its statistics get worse
# as the batch gets smaller. Group Normalization takes them from one image. This notebook trains one network at batch
# sizes from 32 to 2 with several normalizations, and draws the curve that made Group Normalization known (Wu & He,
# *Group Normalization*, ECCV 2018, [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), figure 1).
#
# What the paper measured, with ResNet-50 on ImageNet (validation error in percent,
# [table 2](https://arxiv.org/abs/1803.08494)):
#
# | images on a GPU | 32 | 16 | 8 | 4 | 2 |
# | --- | --- | --- | --- | --- | --- |
# | Batch Normalization | 23.6 | 23.7 | 24.8 | 27.3 | 34.7 |
# | Group Normalization | 24.1 | 24.2 | 24.0 | 24.2 | 24.1 |
#
# The notebook takes about four minutes on two CPU cores.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("keras_norm") is None:  # Colab, or a checkout that is not installed
    package = "..[tutorials]" if Path("../setup.cfg").exists() else "keras_norm[tutorials]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from IPython.display import Markdown, display
from keras import layers

import keras_norm as kn
import keras_norm.digits  # registers the embedded digits with TFDS

tf.get_logger().setLevel("ERROR")
tfds.disable_progress_bar()

DATASET = "digits"  # or "fashion_mnist", "cifar10"
FAST = os.environ.get("FAST") == "1"  # a smaller run, to test the notebook

TRAIN_IMAGES = 128 if FAST else 1500  # at most: small batches are many steps
EPOCHS = 1 if FAST else 6
SEEDS = 1 if FAST else 2
BATCH_SIZES = (32, 2) if FAST else (32, 16, 8, 4, 2)

# %% [markdown]
# ## The data
#
# Each batch has exactly the size that is asked for: a smaller last one would be another batch size in the experiment.

# %%
(train, test), info = tfds.load(DATASET, split=["train", "test"], as_supervised=True, with_info=True)
train, test = train.take(TRAIN_IMAGES).cache(), test.cache()
train_size, classes = int(train.cardinality()), info.features["label"].num_classes
pixels = np.stack([image for image, _ in train.as_numpy_iterator()])
image_shape, mean, deviation = pixels.shape[1:], pixels.mean(), pixels.std()


def standardize(images, labels):
    """Pixels of mean 0 and deviation 1 over the training images."""
    return (tf.cast(images, tf.float32) - mean) / deviation, labels


def train_batches(size, seed):
    """Batches of exactly so many training images, in a new order each epoch."""
    batches = train.shuffle(train_size, seed=seed).take(train_size // size * size).batch(size)
    return batches.map(standardize, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


test_batches = test.batch(500).map(standardize).prefetch(tf.data.AUTOTUNE)
print(f"{DATASET}: {train_size} training and {info.splits['test'].num_examples} test images of {image_shape}")

# %% [markdown]
# ## The network
#
# A small residual network, whose normalization is an argument. Each block halves the map until it is **one pixel**: in
# the last block a batch normalization sees as many values a channel as there are images in the batch. With two images
# it standardizes two values, which gives plus and minus one, whatever they were. That makes the effect larger here than
# in a ResNet-50, whose last map has 7x7 pixels, and lets minutes show it. It also means that Instance Normalization,
# which standardizes a single value there, can pass nothing on.

# %%
NORMALIZATIONS = {
    "batch": kn.BatchNormalization,
    "group": lambda: kn.GroupNormalization(groups=8),
    # The paper's schedule of its two corrections takes tens of thousands of steps, which these trainings do not have.
    "batch renorm": lambda: kn.BatchRenormalization(
        r_max=kn.schedules.PiecewiseLinear([50, 400], [1.0, 3.0]),
        d_max=kn.schedules.PiecewiseLinear([50, 400], [0.0, 5.0]),
    ),
    "batch instance": kn.BatchInstanceNormalization,
    "layer (axis=None)": lambda: kn.LayerNormalization(axis=None),
    "instance": kn.InstanceNormalization,
    "none": layers.Identity,
}
AT_ALL_SIZES = ("batch", "group") if FAST else ("batch", "group", "batch renorm")
AT_BOTH_ENDS = () if FAST else tuple(name for name in NORMALIZATIONS if name not in AT_ALL_SIZES)


def resnet(normalization):
    """A convolution and residual blocks that halve the map until it is one pixel."""

    def convolution(x, filters, size, strides):
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
        return normalization()(x)

    inputs = keras.Input(image_shape)
    filters = 32
    x = layers.ReLU()(convolution(inputs, filters, 3, 2))
    while max(x.shape[1:3]) > 1:
        filters = min(2 * filters, 64)
        h = layers.ReLU()(convolution(x, filters, 3, 2))
        h = convolution(h, filters, 3, 1)
        x = layers.ReLU()(layers.Add()([convolution(x, filters, 1, 2), h]))
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))


model = resnet(NORMALIZATIONS["group"])
maps = [f"{layer.output.shape[1]}x{layer.output.shape[2]}" for layer in model.layers if isinstance(layer, layers.Add)]
print(f"{model.count_params():,} parameters; maps behind the blocks: {', '.join(maps)}")

# %% [markdown]
# ## The experiment
#
# The same number of epochs in every run, and a learning rate in proportion to the batch size, as in the paper. One
# model is compiled for each normalization, and every run starts from new weights in it: compiling costs more than
# training.

# %%
LEARNING_RATE = 0.1  # at batch size 32


def compiled(normalization):
    """The network, ready to train."""
    model = resnet(normalization)
    model.compile(
        optimizer=keras.optimizers.SGD(momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
        steps_per_execution=32,  # a step on two small images is shorter than the call that starts it
    )
    return model


def restart(model, normalization, seed):
    """New weights and a new optimizer in the old model."""
    keras.utils.set_random_seed(seed)
    model.set_weights(resnet(normalization).get_weights())
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))


def cosine(size):
    """The schedule of the learning rate: in proportion to the batch size, falling to 0 by a cosine."""
    rate = LEARNING_RATE * size / 32
    return keras.callbacks.LearningRateScheduler(lambda epoch: rate * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2)


errors = {}  # test errors in percent, one a seed, by normalization and batch size
for name in (*AT_ALL_SIZES, *AT_BOTH_ENDS):
    model = compiled(NORMALIZATIONS[name])
    for size in BATCH_SIZES if name in AT_ALL_SIZES else (BATCH_SIZES[0], BATCH_SIZES[-1]):
        for seed in range(SEEDS):
            restart(model, NORMALIZATIONS[name], seed)
            batches = train_batches(size, seed)
            model.fit(batches, epochs=EPOCHS, shuffle=False, callbacks=[cosine(size)], verbose=0)
            _, accuracy = model.evaluate(test_batches, verbose=0)
            errors.setdefault((name, size), []).append(100 * (1 - accuracy))
    print(f"{name:>18}: {np.mean(errors[name, size]):5.1f} % at a batch size of {size}")

# %% [markdown]
# ## The table

# %%


def cell(runs):
    """Mean and standard deviation over the seeds; nothing where nothing was run."""
    if runs is None:
        return ""
    return f"{np.mean(runs):.1f} ± {np.std(runs, ddof=1):.1f}" if len(runs) > 1 else f"{runs[0]:.1f}"


header = "| batch size | " + " | ".join(map(str, BATCH_SIZES)) + " |\n" + "| --- " * (1 + len(BATCH_SIZES)) + "|\n"
rows = [[name, *(cell(errors.get((name, size))) for size in BATCH_SIZES)] for name in (*AT_ALL_SIZES, *AT_BOTH_ENDS)]
caption = f"Test error in percent on {DATASET}, mean and standard deviation over {SEEDS} seeds, {EPOCHS} epochs a run:"
display(Markdown(f"{caption}\n\n{header}" + "\n".join("| " + " | ".join(row) + " |" for row in rows)))

# %%
first, last = BATCH_SIZES[0], BATCH_SIZES[-1]
changes = {name: [np.mean(errors[name, size]) for size in (first, last)] for name in (*AT_ALL_SIZES, *AT_BOTH_ENDS)}
untrained = [name for name, ends in changes.items() if min(ends) > 50]
trained = {name: ends for name, ends in changes.items() if name not in untrained}
rising = [f"{name} by {ends[1] - ends[0]:.1f}" for name, ends in trained.items() if ends[1] - ends[0] > 3]
steady = [f"{name} by {ends[1] - ends[0]:+.1f}" for name, ends in trained.items() if ends[1] - ends[0] <= 3]
lines = [
    f"From a batch of {first} to a batch of {last}, the error in percent\n",
    f"* rises by more than three points: {', '.join(rising) or 'none'};",
    f"* changes less, or falls: {', '.join(steady) or 'none'};",
    f"* is above 50 % in both: {', '.join(untrained) or 'none'}.",
]
display(Markdown("\n".join(lines)))

# %% [markdown]
# Three of the layers use the batch. Batch Renormalization corrects the statistics of the batch towards the moving ones,
# as far as its clipping lets it. Batch-Instance Normalization mixes in Instance Normalization, which is no help where a
# map is one pixel. Group and Layer Normalization (`axis=None`) see one image at any batch size, so that nothing of the
# batch remains but the training itself. A net as shallow as this one learns without a normalization, too.

# %% [markdown]
# ## The picture

# %%
PAPER = {"batch": (23.6, 23.7, 24.8, 27.3, 34.7), "group": (24.1, 24.2, 24.0, 24.2, 24.1)}  # table 2
COLORS = dict(zip(NORMALIZATIONS, plt.colormaps["tab10"].colors, strict=False))


def draw(ax, name, sizes, runs):
    """One curve: the mean over the seeds, with its standard deviation."""
    spread = [np.std(cell, ddof=len(cell) > 1) for cell in runs]
    ax.errorbar(sizes, np.mean(runs, axis=1), spread, color=COLORS[name], marker="o", capsize=3, label=name)


figure, (here, paper) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for name in AT_ALL_SIZES:
    draw(here, name, BATCH_SIZES, [errors[name, size] for size in BATCH_SIZES])
for name, values in PAPER.items():
    draw(paper, name, (32, 16, 8, 4, 2), [[value] for value in values])
here.set_title(f"Measured here: {DATASET}, small residual net")
here.set_ylim(bottom=0)
paper.set_title("The paper: ImageNet, ResNet-50")
for ax in (here, paper):
    ax.set_xscale("log", base=2)
    ax.set_xticks((32, 16, 8, 4, 2), ("32", "16", "8", "4", "2"))
    ax.invert_xaxis()
    ax.set_xlabel("batch size (images)")
    ax.set_ylabel("error (%)")
    ax.grid(alpha=0.3)
    ax.legend(title="normalization")
plt.show()

# %% [markdown]
# On ImageNet the curve of Batch Normalization bends at 8 images and rises by a half at 2
# ([table 2](https://arxiv.org/abs/1803.08494)). A flatter curve with a steeper end is what the last map of one pixel
# makes: with four images it still has four values a channel, with two a sign is left. The paper has Batch Normalization
# ahead at 32 by half a point. On the digits half a point is two test images, and no such order can be read from them.

# %% [markdown]
# ## What to remember
#
# Batch Normalization is as good as its statistics: it fails where a channel has few values on a device, images times
# pixels. Group Normalization has the same statistics at any batch size, so that memory, not the normalization, decides
# the batch. The learning rate has to follow the batch size in either case.
#
# ## Exercises
#
# 1. Change the `while` loop of the network to stop at maps of two pixels. How much of the cliff is left, and why?
# 2. Evaluate the network of Batch Normalization at the smallest batch with `kn.models.recalibrate_batch_normalization`
#    on all training images: is it the training that fails, or the moving statistics of the inference?
