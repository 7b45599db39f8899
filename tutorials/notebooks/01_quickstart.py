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
#
# The notebook takes about one minute on two CPU cores.

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
keras.utils.set_random_seed(0)

DATASET = "digits"  # or "fashion_mnist", "cifar10"
FAST = os.environ.get("FAST") == "1"  # a smaller run, to test the notebook

TRAIN_IMAGES = 256 if FAST else 5000  # at most
EPOCHS = 1 if FAST else 8
SEEDS = 1 if FAST else 2

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
    """Batches of 32 training images, in a new order each epoch that depends on the seed alone."""
    batches = train.shuffle(train_size, seed=seed).batch(32, drop_remainder=True)
    return batches.map(standardize, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


test_batches = test.batch(500).map(standardize).prefetch(tf.data.AUTOTUNE)
print(f"{DATASET}: {train_size} training and {info.splits['test'].num_examples} test images of {image_shape}")

# %% [markdown]
# ## A real tensor
#
# Four images behind a convolution: a tensor of N = 4 samples, a map of H x W, and C = 8 channels. Below, each row is a
# sample and each column a channel.

# %%
images, _ = standardize(pixels[:4], None)
strides = max(image_shape[0] // 8, 1)
x = layers.Conv2D(8, 3, strides, "same", kernel_initializer="he_normal")(images).numpy()
print("x has shape", x.shape)


def tiles(x):
    """The maps of (N, H, W, C) side by side: a row a sample, a column a channel."""
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
# Three convolutions and a classifier. The normalization is an argument; the rest stays as it is.

# %%
NORMALIZATIONS = {
    "BN": kn.BatchNormalization,
    "GN": lambda: kn.GroupNormalization(groups=8),
    "LN": lambda: kn.LayerNormalization(axis=None),
    "IN": kn.InstanceNormalization,
    "none": layers.Identity,
}


def network(normalization):
    """Three convolutions, each with its normalization, and a classifier."""
    model = keras.Sequential([keras.Input(image_shape)])
    for filters, strides in ((16, 1), (32, 2), (64, 2 if image_shape[0] > 8 else 1)):
        model.add(layers.Conv2D(filters, 3, strides, "same", use_bias=False, kernel_initializer="he_normal"))
        model.add(normalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(classes))
    return model


def fit(model, epochs, learning_rate, seed):
    """Trains the model, with a learning rate that falls to 0; the test error in percent after each epoch."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * (train_size // 32))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"], steps_per_execution=4)
    batches = train_batches(seed)
    history = model.fit(batches, epochs=epochs, validation_data=test_batches, shuffle=False, verbose=0)
    return 100 * (1 - np.array(history.history["val_accuracy"]))


errors, models = {}, {}
for name, normalization in NORMALIZATIONS.items():
    runs = []
    for seed in range(SEEDS):
        keras.utils.set_random_seed(seed)
        models[name] = network(normalization)
        runs.append(fit(models[name], EPOCHS, 3e-3, seed))
    errors[name] = np.array(runs)
    print(f"{name:>4}: {errors[name][:, -1].mean():5.1f} % after {EPOCHS} epochs")

# %%
PAPER = {"BN": "23.6", "GN": "24.1", "LN": "25.3", "IN": "28.4", "none": ""}  # ResNet-50, ImageNet, 32 images on a GPU
lines = [f"| layer | {DATASET}, {EPOCHS} epochs, here | ImageNet, in the paper |", "| --- | --- | --- |"]
for name, runs in errors.items():
    spread = f" ± {runs[:, -1].std(ddof=1):.1f}" if SEEDS > 1 else ""
    lines.append(f"| {name} | {runs[:, -1].mean():.1f}{spread} | {PAPER[name]} |")
ranked = sorted(errors, key=lambda name: errors[name][:, -1].mean())
lines += ["", f"From the lowest error to the highest: {', '.join(ranked)}. One test image is "]
lines[-1] += f"{100 / info.splits['test'].num_examples:.2f} %, {SEEDS} seeds a layer."
display(Markdown("Test error in percent, mean and standard deviation over the seeds:\n\n" + "\n".join(lines)))

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, runs in errors.items():
    ax.plot(range(1, EPOCHS + 1), runs.mean(axis=0), marker="o", label=name)
ax.set(title=f"The same network on {DATASET}, a normalization each", xlabel="epoch", ylabel="test error (%)")
ax.set_xticks(range(1, EPOCHS + 1))
ax.set_ylim(bottom=0)
ax.grid(alpha=0.3)
ax.legend(title="normalization")
plt.show()

# %% [markdown]
# The order need not be the paper's: this network is small, so that it trains without a normalization, too; its training
# is short, and a digit is told by less than a photograph. To change the layer, one argument was changed. What each set
# is good at is the subject of the other notebooks.

# %% [markdown]
# ## Your own model
#
# `keras_norm.models` takes a trained model and gives back another. Here the network that was trained with Batch
# Normalization gets Group Normalization: its other weights are kept, but they were trained for other statistics, so
# that a short fine-tuning follows. And for deployment Batch Normalization goes into the convolutions.

# %%
trained = models["BN"]
grouped = kn.models.replace_normalization(trained, kn.GroupNormalization(8))
grouped.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
at_once = 100 * (1 - grouped.evaluate(test_batches, verbose=0)[1])
fine_tuned = fit(grouped, 1, 1e-3, seed=SEEDS)[-1]

folded = kn.models.fold_batch_normalization(trained)
logits, logits_folded = (model.predict(test_batches, verbose=0) for model in (trained, folded))
display(
    Markdown(
        f"The test error is {errors['BN'][-1, -1]:.1f} % with the Batch Normalization of the training, "
        f"{at_once:.1f} % with Group Normalization in its place, and {fine_tuned:.1f} % after one epoch of "
        f"fine-tuning.\n\nFolded, the network has {folded.count_params():,} weights instead of "
        f"{trained.count_params():,}, and its logits differ by at most {abs(logits - logits_folded).max():.0e} (they "
        f"spread by {logits.std():.1f})."
    )
)

# %% [markdown]
# ## What to remember
#
# A normalization layer is its set S_i: the rest of the formula is the same for all. A set within one sample makes a
# layer that does not depend on the batch and is the same in training and inference; a set across the batch does not. A
# layer can be exchanged in a trained model, which then wants a short fine-tuning.
#
# ## Exercises
#
# 1. Add `kn.LayerNormalization(axis=-1)`, the layer of transformers, to `LAYERS`, and write its set into `DEFINITIONS`.
# 2. Give `set_of` the argument `training=False` for Batch Normalization. What is left of its set, and why?
