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
# # One formula, many sets: Batch, Layer, Instance and Group Normalization
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/keras_norm/blob/main/tutorials/notebooks/01_quickstart.ipynb)
#
# *Runtime: about 3 minutes on two CPU cores. Data: the digits of scikit-learn, which come with the package.
# Accelerator: none needed.*
#
# Every normalization layer computes, for each position i of its input,
#
#     y_i = gamma (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta
#
# and the layers differ in **S_i** alone: the set of positions that share a mean and a variance. This notebook draws
# the sets of four layers on a real tensor, checks the formula, trains one network with each layer, and then changes the
# normalization of a trained network.
#
# The view is that of Wu & He, *Group Normalization*, ECCV 2018 ([arXiv:1803.08494](https://arxiv.org/abs/1803.08494),
# figure 2). There, a ResNet-50 with 32 images on a GPU had a validation error on ImageNet of 23.6 % with Batch
# Normalization, 24.1 % with Group, 25.3 % with Layer and 28.4 % with Instance Normalization (table 1).

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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

import keras_norm as kn
from keras_norm.tutorials import FAST, data, figures, tables, training

tf.get_logger().setLevel("ERROR")  # each run traces a new network, which is no mistake here
keras.utils.set_random_seed(0)

DATASET = "digits"  # or "fashion_mnist", "cifar10"
TRAIN_IMAGES = 256 if FAST else 1437
EPOCHS = 1 if FAST else 10
SEEDS = 1 if FAST else 3
DEPTH = 8  # convolutions

# %% [markdown]
# ## A real tensor
#
# Four images behind a convolution: a tensor of N = 4 samples, a map of H x W, and C = 8 channels. Below, each row is a
# sample and each column a channel.

# %%
images = data.load(DATASET, TRAIN_IMAGES)
print(f"{DATASET}: {images.train_size} training images of shape {images.image_shape}, {images.classes} classes")
four, _ = next(iter(images.test(4)))
strides = max(images.image_shape[0] // 8, 1)
x = layers.Conv2D(8, 3, strides, "same", kernel_initializer="he_normal")(four).numpy()
print("x has shape", x.shape)


def tiles(x):
    """The maps of (N, H, W, C) side by side: a row for each sample, a column for each channel."""
    n, h, w, c = x.shape
    return x.transpose(0, 1, 3, 2).reshape(n * h, c * w)


def grid(ax, title):
    """Lines between the maps, and names on the axes."""
    n, h, w, c = x.shape
    ax.set_xticks(np.arange(c) * w + w / 2 - 0.5, range(c))
    ax.set_yticks(np.arange(n) * h + h / 2 - 0.5, range(n))
    ax.set(title=title, xlabel="channel", ylabel="sample")
    ax.hlines(np.arange(1, n) * h - 0.5, -0.5, c * w - 0.5, "white", linewidth=2)
    ax.vlines(np.arange(1, c) * w - 0.5, -0.5, n * h - 0.5, "white", linewidth=2)


figure, ax = plt.subplots(figsize=(7.5, 4), layout="constrained")
picture = ax.imshow(tiles(x), cmap="gray")
grid(ax, f"Responses of a convolution to four images of {DATASET}")
figure.colorbar(picture, label="response")
plt.show()

# %% [markdown]
# ## The sets, drawn
#
# Nothing about the layers has to be known for it: S_i is where x moves y_i, that is, where the gradient of y_i is not
# zero. The position i is the red one, in sample 1 and channel 2.

# %%
LAYERS = {
    "BatchNormalization()": kn.BatchNormalization(),
    "LayerNormalization(axis=None)": kn.LayerNormalization(axis=None),
    "InstanceNormalization()": kn.InstanceNormalization(),
    "GroupNormalization(2)": kn.GroupNormalization(2),
}


def set_of(layer, i):
    """True where the gradient of y_i to x is not zero."""
    source = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(source)
        y_i = layer(source, training=True)[i]
    return tape.gradient(y_i, source).numpy() != 0


i = (1, x.shape[1] // 2, x.shape[2] // 2, 2)
here = np.zeros(x.shape, bool)
here[i] = True
brightness = (tiles(x) - x.min()) / (x.max() - x.min())
figure, axes = plt.subplots(2, 2, figsize=(11, 6.8), layout="constrained", sharex=True, sharey=True)
for ax, (title, layer) in zip(axes.flat, LAYERS.items(), strict=True):
    members = tiles(set_of(layer, i))
    rgb = np.where(members[..., None], (0.35, 0.65, 1.0), (0.8, 0.8, 0.8)) * (0.4 + 0.6 * brightness[..., None])
    rgb[tiles(here)] = (1.0, 0.1, 0.1)
    ax.imshow(rgb)
    grid(ax, title)
    ax.label_outer()
figure.suptitle("Blue: the positions that share mean and variance with the red one")
plt.show()

# %% [markdown]
# ## The formula, checked
#
# The same sets written down in NumPy, and the formula over them, at positions drawn at random: how far it is from the
# layer's output at most, and whether the set that was drawn from gradients is the set of the definition.

# %%
n, h, w, c = np.indices(x.shape)
DEFINITIONS = {  # the positions k that are in S_i
    "BatchNormalization()": lambda i: c == i[3],
    "LayerNormalization(axis=None)": lambda i: n == i[0],
    "InstanceNormalization()": lambda i: (n == i[0]) & (c == i[3]),
    "GroupNormalization(2)": lambda i: (n == i[0]) & (c * 2 // x.shape[3] == i[3] * 2 // x.shape[3]),
}
positions = [tuple(np.random.randint(0, x.shape)) for _ in range(20)]
for name, layer in LAYERS.items():
    y = layer(x, training=True).numpy()
    differences = []
    for i in positions:
        members = x[DEFINITIONS[name](i)].astype(np.float64)
        y_i = (x[i] - members.mean()) / np.sqrt(members.var() + layer.epsilon)
        differences.append(abs(y[i] - y_i))
    same = all((set_of(layer, i) == DEFINITIONS[name](i)).all() for i in positions[:5])
    print(f"{name:>30}: difference {max(differences):.0e}, sets equal: {same}")
    assert same and max(differences) < 1e-5

# %% [markdown]
# ## One network, each layer
#
# Eight convolutions and a classifier, from Keras' default initialization: too deep to start well without normalization.
# The normalization is an argument; the rest stays as it is. An epoch has 44 steps, so the moving averages of Batch
# Normalization need a momentum that fits: with the default of `0.99` they would still hold a part of their initial
# values after two epochs.

# %%
NORMALIZATIONS = {
    "batch": lambda: kn.BatchNormalization(momentum=0.9),
    "group": lambda: kn.GroupNormalization(groups=8),
    "layer": lambda: kn.LayerNormalization(axis=None),
    "instance": kn.InstanceNormalization,
    "none": layers.Identity,
}


def network(normalization):
    """Convolutions, each with its normalization, and a classifier."""
    model = keras.Sequential([keras.Input(images.image_shape)])
    for i in range(DEPTH):
        model.add(layers.Conv2D(32, 3, strides if i == 0 else 1, "same", use_bias=False))
        model.add(normalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(images.classes))
    return model


def fit(model, epochs, learning_rate, seed):
    """Trains the model, with a learning rate that falls to 0; the test error in percent after each epoch."""
    steps = epochs * (images.train_size // 32)
    training.compile_classifier(model, learning_rate, steps, steps_per_execution=8)
    history = model.fit(
        images.train(32, seed), epochs=epochs, validation_data=images.test(), shuffle=False, verbose=0
    ).history
    return 100 * (1 - np.array(history["val_accuracy"]))


runs, trained = [], {}
for name, normalization in NORMALIZATIONS.items():
    for seed in range(SEEDS):
        keras.utils.set_random_seed(seed)
        trained[name] = network(normalization)
        errors = fit(trained[name], EPOCHS, 0.05, seed)
        runs += [(name, seed, epoch, error) for epoch, error in enumerate(errors, 1)]
    print(f"{name:>8}: {errors[-1]:.1f} % after {EPOCHS} epochs in the last run")
runs = pd.DataFrame(runs, columns=["normalization", "seed", "epoch", "error"])

# %% [markdown]
# Test error in percent after some epochs, mean and standard deviation over the seeds:

# %%
shown = runs[runs["epoch"].isin([1, 2, 5, EPOCHS])]
tables.summary(shown, "normalization", "epoch", "error")

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, part in runs.groupby("normalization", sort=False):
    errors = part.pivot(index="seed", columns="epoch", values="error")
    figures.curve(ax, name, errors.columns, errors)
ax.set(title=f"{DEPTH} convolutions on {DATASET}, {SEEDS} seeds", xlabel="epoch", ylabel="test error (%), log scale")
ax.set_yscale("log")
ax.set_yticks((1, 2, 5, 10, 20, 50, 100), ("1", "2", "5", "10", "20", "50", "100"))
ax.yaxis.set_minor_formatter("")
ax.set_xticks(range(1, EPOCHS + 1))
ax.grid(alpha=0.3)
ax.legend(title="normalization")
plt.show()

# %% [markdown]
# Without a normalization the network barely starts: 45.2 ± 33.2 % of the test images are wrong after ten epochs. With
# Batch Normalization the error is 0.6 ± 0.0 %, with Group and Instance Normalization 1.2 ± 0.4 % each, which is two test
# images more. Layer Normalization over the whole sample learns most slowly here (14.1 ± 5.8 %). The paper has Batch and
# Group Normalization first and second, too, but Instance Normalization last: a digit, unlike a photograph, can be read
# at any contrast. To change the layer, one argument was changed.

# %% [markdown]
# ## Your own model
#
# `keras_norm.models` takes a trained model and returns another. Here the network that was trained with Batch
# Normalization gets Group Normalization: its other weights are kept, but they were trained for other statistics, so
# a short fine-tuning follows. For deployment, Batch Normalization folds into the convolutions.

# %%
model = trained["batch"]
grouped = kn.models.replace_normalization(model, kn.GroupNormalization(8))
training.compile_classifier(grouped, 0.01, images.train_size // 32)
steps = {
    "Batch Normalization, as trained": training.error(model, images.test()),
    "Group Normalization in its place": training.error(grouped, images.test()),
    "after one epoch of fine-tuning": fit(grouped, 1, 0.01, seed=0)[-1],
}
pd.DataFrame({"test error (%)": [f"{error:.1f}" for error in steps.values()]}, index=list(steps))

# %%
folded = kn.models.fold_batch_normalization(model)
logits, logits_folded = (each.predict(images.test(), verbose=0) for each in (model, folded))
print(f"weights: {model.count_params():,}, folded {folded.count_params():,}")
print(
    f"largest difference of a logit: {abs(logits - logits_folded).max():.0e}, deviation of the logits: {logits.std():.1f}"
)

# %% [markdown]
# ## What to remember
#
# A normalization layer is its set S_i: the rest of the formula is the same for all. A set within one sample makes a
# layer that does not depend on the batch and is the same in training and inference; a set across the batch does not. A
# layer can be exchanged in a trained model, which then needs a short fine-tuning.
#
# ## Exercises
#
# 1. Add `kn.LayerNormalization(axis=-1)`, the layer of transformers, to `LAYERS`, and write its set into `DEFINITIONS`.
# 2. Give `set_of` the argument `training=False` for Batch Normalization. What is left of its set, and why?
# 3. Set `DEPTH` to 3. Which of the curves change?
