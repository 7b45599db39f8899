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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/keras_norm/blob/main/tutorials/notebooks/05_feature_distributions.ipynb)
#
# *Runtime: about 1 minute on two CPU cores. Data: the digits of scikit-learn, which come with the package.
# Accelerator: none needed.*
#
# A layer learns from the outputs of the layers before it, and these learn too. How far does the distribution of its
# responses move meanwhile? The Group Normalization paper (Wu & He, ECCV 2018,
# [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), figure 6) draws the 1st, 20th, 80th and 99th percentile of the
# responses of conv5_3, the last convolution of VGG-16, before its normalization and ReLU, over a training on ImageNet
# with 32 images a GPU. It finds Batch and Group Normalization alike there, and no normalization far from both; of the
# two, GN has the lower validation error in this network, by 0.4 percentage points (section 4.1).
#
# This notebook makes the figure for a small network of VGG's kind, by a callback of the package,
# `keras_norm.callbacks.ResponsePercentiles`.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/keras_norm"  # the package is not on PyPI yet

if importlib.util.find_spec("keras_norm") is None:
    package = f"keras_norm[tutorials] @ git+{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

import keras_norm as kn
from keras_norm.callbacks import ResponsePercentiles
from keras_norm.tutorials import FAST, data, figures, tables, training

tf.get_logger().setLevel("ERROR")  # each run traces a new network, which is no mistake here

DATASET = "digits"  # or "fashion_mnist", "cifar10"
TRAIN_IMAGES = 256 if FAST else 1437
EPOCHS, SEEDS = (2, 1) if FAST else (12, 3)
BATCH_SIZE = 32
EVERY = 4  # steps from record to record

# %% [markdown]
# ## The network
#
# VGG's plan on a smaller scale: pairs of 3x3 convolutions, each followed by its normalization and a ReLU, and a pooling
# after each pair. There are no residuals. The initializer is He's, without which a deep plain network hardly starts.

# %%
images = data.load(DATASET, TRAIN_IMAGES)
print(f"{DATASET}: {images.train_size} training images of shape {images.image_shape}, {images.classes} classes")

NORMALIZATIONS = {
    "none": layers.Identity,
    "batch": lambda: kn.BatchNormalization(momentum=0.9),
    "group": lambda: kn.GroupNormalization(groups=8),
}
LAST = "conv3_2"


def network(normalization):
    """Six convolutions in three blocks, and a linear classifier."""
    x = inputs = keras.Input(images.image_shape)
    for block, filters in enumerate((16, 32, 64), 1):
        for i in (1, 2):
            x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"conv{block}_{i}")(x)
            x = layers.ReLU()(normalization()(x))
        x = layers.MaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(images.classes)(layers.Flatten()(x)))


# %% [markdown]
# ## The training
#
# The callback calls the model as in training, always with the same images, and keeps the percentiles of the layer's
# outputs. The training itself is unaffected, bit for bit. With `log_dir` the callback also writes the percentiles for
# TensorBoard.

# %%
LOGS = Path(tempfile.mkdtemp())
SHOWN, _ = next(iter(images.test(128)))


def trained(name, seed):
    """The records of the last convolution during a training, and the test error after it in percent."""
    keras.utils.set_random_seed(seed)
    model = network(NORMALIZATIONS[name])
    steps = EPOCHS * (images.train_size // BATCH_SIZE)
    training.compile_classifier(model, 0.02, steps, jit_compile=False, steps_per_execution=1)  # a record between steps
    records = ResponsePercentiles(SHOWN, layers=[LAST], every=EVERY, log_dir=LOGS / f"{name}_{seed}")
    model.fit(images.train(BATCH_SIZE, seed), epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[records])
    return records, training.error(model, images.test())


runs = {name: [trained(name, seed) for seed in range(SEEDS)] for name in NORMALIZATIONS}

# %% [markdown]
# ## The figure
#
# Four lines for each network, trained from the first seed: of a hundred responses of the layer, one is below the lowest line, one above the highest,
# and sixty are between the two in the middle.

# %%
figure, panels = plt.subplots(1, len(runs), figsize=(12, 4), sharey=True, layout="constrained")
for axes, (name, ((records, error), *_)) in zip(panels, runs.items(), strict=True):
    label, color, _ = figures.style(name)
    low, middle_low, middle_high, high = records.history[LAST].T
    axes.fill_between(records.steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.fill_between(records.steps, middle_low, middle_high, color=color, alpha=0.3, linewidth=0)
    for percentile, values in zip(records.percentiles, records.history[LAST].T, strict=True):
        axes.plot(records.steps, values, color=color, linewidth=1)
        end = records.steps[-1], values[-1]
        axes.annotate(f"{percentile:g} %", end, (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(title=f"{label}, test error {error:.1f} %", xlabel="training step")
    axes.margins(x=0)
    axes.grid(alpha=0.3)
panels[0].set_ylabel(f"response of {LAST}, before normalization")
figure.suptitle(f"Percentiles of the last convolution's responses, {DATASET}, batch size {BATCH_SIZE}")
plt.show()

# %% [markdown]
# The width of the distribution, from the 1st to the 99th percentile, mean and standard deviation over the seeds:

# %%
table = {}
for name, trainings in runs.items():
    lows, highs = (np.array([records.history[LAST][:, k] for records, _ in trainings]) for k in (0, -1))
    widths = highs - lows  # by seed and record
    table[figures.style(name).label] = {
        "before the first step": tables.spread(widths[:, 0]),
        "after the last": tables.spread(widths[:, -1]),
        "widest / first": tables.spread(widths.max(1) / widths[:, 0]),
        "test error (%)": tables.spread(error for _, error in trainings),
    }
pd.DataFrame.from_dict(table, orient="index")

# %% [markdown]
# Without normalization the distribution grows to 3.1 ± 0.3 times its width, with Batch Normalization to 1.5 ± 0.1 and
# with Group Normalization to 1.8 ± 0.0 times. With a normalization, the inputs of each convolution were standardized one
# layer before, and its responses depend on its own weights alone. Without, each layer passes on what all the layers
# before it have grown by. All three networks learn the digits (1.2 ± 0.2, 0.8 ± 0.3 and 1.3 ± 0.6 %), as VGG-16 learns
# ImageNet in the paper without a normalization: this figure shows how a network works inside, and the spread of the
# errors allows no order.
#
# ## In TensorBoard
#
# The same records are in the folder `LOGS`, a folder for each training with a folder for each percentile: a chart for
# each layer and a line for each percentile. `pip install tensorboard`, then in a notebook
#
# ```
# %load_ext tensorboard
# %tensorboard --logdir {LOGS}
# ```
#
# or `tensorboard --logdir FOLDER` on the command line. These trainings are there:

# %%
print(*sorted(folder.name for folder in LOGS.iterdir()))

# %% [markdown]
# ## What to remember
#
# A normalization keeps the responses of the layers behind it within a range that training hardly moves, whether its
# statistics are those of a batch or of groups of channels. Without one, the range of a deep layer is the product of what
# all layers before it have learned. `ResponsePercentiles` shows it for any layer of any model, and changes nothing.
#
# ## Exercises
#
# 1. Record the first convolution too, by `layers=["conv1_1", LAST]`. How far does it drift without normalization, and
#    why less than the last?
# 2. Train all three networks at learning rates of `0.1` and `0.5`. Which of them still learn, and what do the
#    percentiles say of one that does not?
