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
# # Without normalization features drift as a network trains; with it they keep their scale
#
# A layer learns from what the layers before it give, and these learn too. How far does the distribution of its
# responses move meanwhile? The Group Normalization paper (Wu & He, ECCV 2018,
# [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), figure 6) draws the 1st, 20th, 80th and 99th percentile of the
# responses of conv5_3, the last convolution of VGG-16, before its normalization and ReLU, over a training on ImageNet
# with 32 images a GPU. It finds Batch and Group Normalization alike there, and no normalization far from both; of the
# two, GN has the lower validation error in this network, by 0.4 percentage points (section 4.1).
#
# This notebook makes the figure for a small network of VGG's kind, by a callback of the package,
# `keras_norm.callbacks.ResponsePercentiles`. It takes about one minute on two CPU cores.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("keras_norm") is None:  # Colab, or a checkout that is not installed
    package = "..[tutorials]" if Path("../setup.cfg").exists() else "keras_norm[tutorials]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import os
import tempfile

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
from keras_norm.callbacks import ResponsePercentiles

tf.get_logger().setLevel("ERROR")
tfds.disable_progress_bar()

DATASET = "digits"  # or "fashion_mnist", "cifar10"
FAST = os.environ.get("FAST") == "1"  # a smaller run, to test the notebook

TRAIN_IMAGES = 256 if FAST else 1500  # at most
EPOCHS = 2 if FAST else 12
BATCH_SIZE = 32
EVERY = 4  # steps from record to record

# %% [markdown]
# ## The data

# %%
(train, test), info = tfds.load(DATASET, split=["train", "test"], as_supervised=True, with_info=True)
train, test = train.take(TRAIN_IMAGES).cache(), test.cache()
train_size, classes = int(train.cardinality()), info.features["label"].num_classes
pixels = np.stack([image for image, _ in train.as_numpy_iterator()])
image_shape, mean, deviation = pixels.shape[1:], pixels.mean(), pixels.std()


def standardize(images, labels):
    """Pixels of mean 0 and deviation 1 over the training images."""
    return (tf.cast(images, tf.float32) - mean) / deviation, labels


def train_batches(seed):
    """The training images in a new order each epoch."""
    batches = train.shuffle(train_size, seed=seed).batch(BATCH_SIZE, drop_remainder=True)
    return batches.map(standardize, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


test_batches = test.batch(500).map(standardize).prefetch(tf.data.AUTOTUNE)
print(f"{DATASET}: {train_size} training and {info.splits['test'].num_examples} test images of {image_shape}")

# %% [markdown]
# ## The network
#
# VGG's plan on a smaller scale: pairs of 3x3 convolutions, each followed by its normalization and a ReLU, and a pooling
# after each pair. There are no residuals. The initializer is He's, without which a deep plain network hardly starts.

# %%
NORMALIZATIONS = {
    "no normalization": layers.Identity,
    "Batch Normalization": lambda: kn.BatchNormalization(momentum=0.9),
    "Group Normalization": lambda: kn.GroupNormalization(groups=8),
}
LAST = "conv3_2"


def network(normalization):
    """Six convolutions in three blocks, and a linear classifier."""
    x = inputs = keras.Input(image_shape)
    for block, filters in enumerate((16, 32, 64), 1):
        for i in (1, 2):
            x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"conv{block}_{i}")(x)
            x = layers.ReLU()(normalization()(x))
        x = layers.MaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))


# %% [markdown]
# ## The training
#
# The callback calls the model as in training, always with the same images, and keeps the percentiles of what the layer
# gives. That leaves no trace in the training. With `log_dir` it also writes them for TensorBoard.

# %%
LOGS = Path(tempfile.mkdtemp())
IMAGES, _ = standardize(pixels[:128], None)


def trained(name):
    """The records of the last convolution during a training, and the test error after it in percent."""
    keras.utils.set_random_seed(0)
    model = network(NORMALIZATIONS[name])
    model.compile(
        optimizer=keras.optimizers.SGD(0.02, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    records = ResponsePercentiles(IMAGES, layers=[LAST], every=EVERY, log_dir=LOGS / name)
    model.fit(train_batches(seed=0), epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[records])
    _, accuracy = model.evaluate(test_batches, verbose=0)
    error = 100 * (1 - accuracy)
    print(f"{name}: {records.steps[-1]} steps, test error {error:.1f} %", flush=True)
    return records, error


runs = {name: trained(name) for name in NORMALIZATIONS}

# %% [markdown]
# ## The figure
#
# Four lines for each network: of a hundred responses of the layer one lies below the lowest, one above the highest, and
# sixty between the two in the middle.

# %%
figure, panels = plt.subplots(1, len(runs), figsize=(13, 4), sharey=True, layout="constrained")
for axes, (name, (records, error)) in zip(panels, runs.items(), strict=True):
    low, middle_low, middle_high, high = records.history[LAST].T
    axes.fill_between(records.steps, low, high, color="C0", alpha=0.15, linewidth=0)
    axes.fill_between(records.steps, middle_low, middle_high, color="C0", alpha=0.3, linewidth=0)
    for percentile, values in zip(records.percentiles, records.history[LAST].T, strict=True):
        axes.plot(records.steps, values, color="C0", linewidth=1)
        end = records.steps[-1], values[-1]
        axes.annotate(f"{percentile:g} %", end, (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_title(f"{name}\ntest error {error:.1f} %")
    axes.set_xlabel("training step")
    axes.margins(x=0)
    axes.grid(alpha=0.3)
panels[0].set_ylabel(f"response of {LAST}, before normalization")
figure.suptitle(f"Percentiles of the last convolution's responses, {DATASET}, batch size {BATCH_SIZE}")
plt.show()


# %%
def widths(records):
    """From the 1st to the 99th percentile, at each record."""
    low, *_, high = records.history[LAST].T
    return high - low


rows = ["| | before the first step | after the last | widest | widest / first |", "| --- | --- | --- | --- | --- |"]
growth = {}
for name, (records, _) in runs.items():
    width = widths(records)
    growth[name] = width.max() / width[0]
    rows.append(f"| {name} | {width[0]:.1f} | {width[-1]:.1f} | {width.max():.1f} | {growth[name]:.1f} |")
most, least = max(growth, key=growth.get), min(growth, key=growth.get)
display(
    Markdown(
        "Width of the distribution, from the 1st to the 99th percentile of the responses:\n\n"
        + "\n".join(rows)
        + "\n\n"
        f"It grew most in the network with {most}, to {growth[most]:.1f} times what it was, and least in the one with "
        f"{least}, to {growth[least]:.1f} times. That is one seed, and {runs[most][0].steps[-1]} steps."
    )
)

# %% [markdown]
# With a normalization the inputs of each convolution were standardized one layer before, and its responses depend on
# its own weights alone. Without, each layer passes on what all the layers before it have grown by. All three networks
# learn their task, as VGG-16 learns ImageNet in the paper without a normalization: this figure shows how a network
# works inside, and its test error is no verdict.
#
# ## In TensorBoard
#
# The same records lie in the folder `LOGS`, a chart for each layer and a line for each percentile, which is a run of
# TensorBoard. `pip install tensorboard`, then in a notebook
#
# ```
# %load_ext tensorboard
# %tensorboard --logdir {LOGS}
# ```
#
# or `tensorboard --logdir FOLDER` on the command line. These runs are there:

# %%
for run in sorted(path.parent.relative_to(LOGS) for path in LOGS.rglob("events.*")):
    print(run.as_posix())

# %% [markdown]
# ## What to remember
#
# A normalization keeps the responses of the layers behind it within a range that training hardly moves, whether its
# statistics are those of a batch or of groups of channels. Without one the range of a deep layer is the product of what
# all layers before it have learned. `ResponsePercentiles` shows it for any layer of any model, and changes nothing.
#
# ## Exercises
#
# 1. Record the first convolution too, by `layers=["conv1_1", LAST]`. How far does it drift without normalization, and
#    why less than the last?
# 2. Train all three networks at learning rates of `0.1` and `0.5`. Which of them still learn, and what do the
#    percentiles say of one that does not?
