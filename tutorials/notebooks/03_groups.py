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
# # The number of groups matters little between the ends, Layer and Instance Normalization
#
# Group Normalization has one argument, the number of groups. With one group it is Layer Normalization over the whole
# sample, with as many groups as channels it is Instance Normalization. This notebook walks from one end to the other
# (Wu & He, *Group Normalization*, ECCV 2018, [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), table 3).
#
# What the paper measured, with ResNet-50 on ImageNet (validation error in percent,
# [table 3](https://arxiv.org/abs/1803.08494)): once with a number of groups that is the same in all layers, and once
# with a number of channels in a group that is the same.
#
# | groups | 64 | 32 | 16 | 8 | 4 | 2 | 1 (LN) |
# | --- | --- | --- | --- | --- | --- | --- | --- |
# | error | 24.6 | 24.1 | 24.6 | 24.4 | 24.6 | 24.7 | 25.3 |
#
# | channels in a group | 64 | 32 | 16 | 8 | 4 | 2 | 1 (IN) |
# | --- | --- | --- | --- | --- | --- | --- | --- |
# | error | 24.4 | 24.5 | 24.2 | 24.3 | 24.8 | 25.6 | 28.4 |
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

DATASET = "digits"  # or "fashion_mnist", "cifar10"
FAST = os.environ.get("FAST") == "1"  # a smaller run, to test the notebook

TRAIN_IMAGES = 128 if FAST else 5000  # at most
EPOCHS = 1 if FAST else 6
SEEDS = 1 if FAST else 3
CHANNELS = 64  # in each normalized layer
GROUPS = (64, 8, 1) if FAST else (64, 32, 16, 8, 4, 2, 1)

# %% [markdown]
# ## The ends are other layers
#
# One group is Layer Normalization over the sample, one channel a group is Instance Normalization: the same outputs and
# the same gradients.

# %%
keras.utils.set_random_seed(0)
x = tf.constant(np.random.normal(2.0, 3.0, size=(4, 8, 8, CHANNELS)), "float32")
cotangent = tf.random.normal(x.shape)


def output_and_gradient(layer):
    """What comes out, and the gradient to x of its product with `cotangent`."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    return y, tape.gradient(y, x, cotangent)


for groups, name, end in (
    (1, "LayerNormalization(axis=None)", kn.LayerNormalization(axis=None)),
    (CHANNELS, "InstanceNormalization()", kn.InstanceNormalization()),
):
    pairs = zip(output_and_gradient(kn.GroupNormalization(groups)), output_and_gradient(end), strict=True)
    differences = [np.abs(ours - theirs).max() for ours, theirs in pairs]
    print(f"GroupNormalization({groups}) and {name}: outputs differ by {differences[0]:.0e}, gradients by", end=" ")
    print(f"{differences[1]:.0e}")
    assert max(differences) < 1e-5

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
# ## The network
#
# Three convolutions of 64 channels each. Since all layers have the same number of channels, G groups are 64 / G
# channels in a group: the paper's two tables are one here, read from its two ends. (In a ResNet-50, where layers have
# 64 to 2048 channels, they are two experiments.) The last maps are 4x4 or 5x5 pixels, large enough for the statistics
# of a single channel.

# %%


def network(groups):
    """Three convolutions with Group Normalization, and a classifier."""
    model = keras.Sequential([keras.Input(image_shape)])
    for strides in (max(image_shape[0] // 8, 1), 2, 1):
        model.add(layers.Conv2D(CHANNELS, 3, strides, "same", use_bias=False, kernel_initializer="he_normal"))
        model.add(kn.GroupNormalization(groups))
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(classes))
    return model


print("maps:", [layer.output.shape[1:] for layer in network(1).layers if isinstance(layer, layers.ReLU)])

# %% [markdown]
# ## The experiment
#
# The same training for each number of groups, from the same seeds, on the same images in the same order.

# %%
STEPS = EPOCHS * (train_size // 32)


def compiled(groups):
    """The network, ready to train."""
    model = network(groups)
    schedule = keras.optimizers.schedules.CosineDecay(0.05, STEPS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), loss, metrics=["accuracy"], steps_per_execution=4)
    return model


def restart(model, groups, seed):
    """New weights and a new optimizer in the old model: to compile another takes longer than to train it."""
    keras.utils.set_random_seed(seed)
    model.set_weights(network(groups).get_weights())
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))


errors, losses = {}, {}  # test error in percent, and training loss of the last epoch: a row of seeds for each G
for groups in GROUPS:
    model = compiled(groups)
    for seed in range(SEEDS):
        restart(model, groups, seed)
        history = model.fit(train_batches(seed), epochs=EPOCHS, shuffle=False, verbose=0)
        _, accuracy = model.evaluate(test_batches, verbose=0)
        errors.setdefault(groups, []).append(100 * (1 - accuracy))
        losses.setdefault(groups, []).append(history.history["loss"][-1])
    print(
        f"{groups:>2} groups of {CHANNELS // groups:>2} channels: {np.mean(errors[groups]):.1f} % after {EPOCHS} epochs"
    )

# %% [markdown]
# ## The table

# %%
PAPER_GROUPS = {64: 24.6, 32: 24.1, 16: 24.6, 8: 24.4, 4: 24.6, 2: 24.7, 1: 25.3}  # table 3
PAPER_CHANNELS = {64: 24.4, 32: 24.5, 16: 24.2, 8: 24.3, 4: 24.8, 2: 25.6, 1: 28.4}  # by channels in a group


def cell(runs, digits):
    """Mean and standard deviation over the seeds."""
    return f"{np.mean(runs):.{digits}f}" + (f" ± {np.std(runs, ddof=1):.{digits}f}" if len(runs) > 1 else "")


columns = {
    "groups": [str(g) for g in GROUPS],
    "channels in a group": [str(CHANNELS // g) for g in GROUPS],
    "test error (%)": [cell(errors[g], 1) for g in GROUPS],
    "training loss": [cell(losses[g], 3) for g in GROUPS],
    "paper, by groups (%)": [str(PAPER_GROUPS[g]) for g in GROUPS],
    "paper, by channels in a group (%)": [str(PAPER_CHANNELS[CHANNELS // g]) for g in GROUPS],
}
lines = [" | ".join(columns), " | ".join(["---"] * len(columns)), *map(" | ".join, zip(*columns.values(), strict=True))]
means = {g: np.mean(errors[g]) for g in GROUPS}
best, worst = min(means, key=means.get), max(means, key=means.get)
inner = [means[g] for g in GROUPS if 1 < g < CHANNELS]
text = (
    f"{DATASET}, {EPOCHS} epochs, {SEEDS} seeds. The lowest mean error is at {best} groups ({means[best]:.1f} %), the "
    f"highest at {worst} ({means[worst]:.1f} %). Between the ends it goes from {min(inner):.1f} to {max(inner):.1f} %; "
    f"the ends have {means[1]:.1f} % (LN) and {means[CHANNELS]:.1f} % (IN). One test image is "
    f"{100 / info.splits['test'].num_examples:.2f} %."
)
display(Markdown("\n".join(f"| {line} |" for line in lines) + f"\n\n{text}"))

# %% [markdown]
# ## The picture

# %%
figure, (here, paper) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
spread = [np.std(errors[g], ddof=SEEDS > 1) for g in GROUPS]
here.errorbar(GROUPS, [means[g] for g in GROUPS], spread, marker="o", capsize=3, label="GN, mean and deviation")
here.set_title(f"Measured here: {DATASET}, {CHANNELS} channels a layer")
here.set_ylim(bottom=0)
by_channels = [PAPER_CHANNELS[CHANNELS // g] for g in PAPER_GROUPS]
paper.plot(list(PAPER_GROUPS), list(PAPER_GROUPS.values()), "o-", label="groups fixed (lower axis)")
paper.plot(list(PAPER_GROUPS), by_channels, "s--", label="channels in a group fixed (upper axis)")
paper.set_title("The paper: ImageNet, ResNet-50")
for ax in (here, paper):
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(PAPER_GROUPS), [f"{g}" for g in PAPER_GROUPS])
    ax.set(xlabel="groups (1 is LN)", ylabel="error (%)")
    ax.grid(alpha=0.3)
    ax.legend()
    above = ax.twiny()
    above.set(xscale="log", xlim=ax.get_xlim(), xlabel="channels in a group (1 is IN)")
    above.set_xticks(list(PAPER_GROUPS), [f"{CHANNELS // g}" for g in PAPER_GROUPS])
    above.minorticks_off()
plt.show()

# %% [markdown]
# The paper's differences are of one to four points on a task where the error is about 24 %
# ([table 3](https://arxiv.org/abs/1803.08494)), and its steepest end is IN. On a small task an error is a handful of
# images, so that differences between neighbours are chance; compare them with the standard deviation in the table, and
# the ends with what lies between.

# %% [markdown]
# ## What to remember
#
# Group Normalization is a family with Layer Normalization (one group) and Instance Normalization (one channel a group)
# at its ends. Between them the number of groups is not an argument to search over: the paper's 32 groups, or 16
# channels in a group, are where to start. What costs most in the paper is a group of a single channel.
#
# ## Exercises
#
# 1. Groups are runs of neighbouring channels. Shuffle the channels of a trained network's convolutions before each
#    normalization, and measure: have the channels learned which group they are in?
# 2. Give the network 64, 128 and 256 channels, so that the number of groups and the channels in a group become two
#    experiments, as in the paper.
