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
# # In video, a smaller batch costs Batch Normalization accuracy that Group Normalization keeps
#
# A clip is many images, so that a device holds few clips: frames times clips is what memory allows. Longer clips tell
# more of a motion; they also leave fewer of them in a batch, and Batch Normalization pays for that. Group Normalization
# takes its statistics from one clip, over time as well as space. The paper (Wu & He, *Group Normalization*, ECCV 2018,
# [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), section 4.3, table 8) trains a ResNet-50 I3D, pre-trained on
# ImageNet, on the videos of Kinetics. Its top-1 accuracy in percent:
#
# | frames a clip | 32 | 32 | 64 |
# | --- | --- | --- | --- |
# | clips on a GPU | 8 | 4 | 4 |
# | Batch Normalization | 73.3 | 72.1 | 73.3 |
# | Group Normalization | 73.0 | 72.8 | 74.5 |
#
# With Batch Normalization the longer clips of the third column only win back what the smaller batch of the second has
# cost. With Group Normalization there is nothing to win back.
#
# This notebook makes the experiment with a small 3-D network on clips of moving images, where memory for 64 frames is
# spent on 8 clips or on 2. It takes about six minutes on two CPU cores.

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

TRAIN_IMAGES, TEST_IMAGES = (64, 64) if FAST else (1400, 1000)  # at most, a clip each
EPOCHS, SEEDS = (1, 1) if FAST else (16, 2)
SETTINGS = ((8, 8), (8, 2), (32, 2))  # frames a clip, clips a batch: the columns of the paper's table
NOISE = 1.0  # of a pixel in a frame, in standard deviations of the images

# %% [markdown]
# ## The clips
#
# A clip shows a real image that moves over its frame, by a pixel from frame to frame, up, down, left or right, and
# comes in again on the other side when it leaves. Every frame has noise of its own. The network is to tell what moves:
# what one frame leaves open the others can say, so that longer clips are easier. `tf.data` makes the clips while the
# model trains, with other motions and other noise in every epoch.

# %%
(train, test), info = tfds.load(DATASET, split=["train", "test"], as_supervised=True, with_info=True)
train, test = train.take(TRAIN_IMAGES).cache(), test.take(TEST_IMAGES).cache()
train_size, classes = int(train.cardinality()), info.features["label"].num_classes
pixels = np.stack([image for image, _ in train.as_numpy_iterator()])
mean, deviation = pixels.mean(), pixels.std()
side = min(pixels.shape[1], 16)  # larger images are resized
frame_shape = side, side, pixels.shape[-1]
MOVES = tf.constant([(-1, 0), (1, 0), (0, -1), (0, 1)])


def clip(image, seed, frames):
    """An image in motion and noise, of shape (frames, height, width, channels)."""
    image = (tf.image.resize(tf.cast(image, tf.float32), (side, side)) - mean) / deviation
    move = MOVES[tf.random.stateless_uniform([], seed, maxval=4, dtype=tf.int32)]
    places = tf.range(frames)[:, None] * move
    rows, columns = ((tf.range(side) - places[:, axis, None]) % side for axis in (0, 1))
    moving = tf.gather(tf.gather(image, rows), columns, axis=2, batch_dims=1)
    return moving + NOISE * tf.random.stateless_normal([frames, *frame_shape], seed + 1)


def clips(images, frames, size, seed, anew):
    """Batches of clips and labels, with motions and noise that are other ones in each epoch, or the same."""
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=anew).batch(2)

    def made(example, seed):
        image, label = example
        return clip(image, tf.cast(seed, tf.int32), frames), label

    return tf.data.Dataset.zip(images, seeds).map(made, tf.data.AUTOTUNE).batch(size).prefetch(tf.data.AUTOTUNE)


def train_clips(frames, size, seed):
    """A clip of each training image, in batches of exactly so many."""
    shuffled = train.shuffle(train_size, seed=seed).take(train_size // size * size)
    return clips(shuffled, frames, size, seed, anew=True)


def test_clips(frames):
    """A clip of each test image."""
    return clips(test, frames, 100, seed=1, anew=False)


shown, labels = next(iter(clips(train, 8, 4, seed=0, anew=False)))
names = info.features["label"].names
figure, panels = plt.subplots(4, 8, figsize=(9, 4.8), layout="constrained")
for row, frames, label in zip(panels, shown.numpy(), labels.numpy(), strict=True):
    for i, (axes, frame) in enumerate(zip(row, frames, strict=True), 1):
        axes.imshow((frame - shown.numpy().min()) / np.ptp(shown), cmap="gray")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{names[label]}: frame 1" if i == 1 else f"{i}", fontsize=8)
figure.suptitle(f"Four clips of 8 frames from {DATASET}, {side}x{side} pixels")
plt.show()

# %% [markdown]
# ## The network
#
# 3-D convolutions, each with its normalization. Both normalizations take their statistics over time and space: Batch
# Normalization over (N, T, H, W) for a channel, Group Normalization over (T, H, W) and the channels of a group. The
# network averages over time, so that clips of any length fit. Its maps get small: in the last of them a frame has few
# pixels, and what a channel of Batch Normalization sees are mostly the frames of the clips.

# %%
NORMALIZATIONS = {"Batch Normalization": kn.BatchNormalization, "Group Normalization": lambda: kn.GroupNormalization(8)}


def network(normalization):
    """A 3-D convolutional network, from clips of any number of frames to the logits of the classes."""
    x = inputs = keras.Input((None, *frame_shape))
    for filters, strides in ((16, (1, 2, 2)), (32, (2, 2, 2)), (64, (2, 2, 2)), (64, (1, 2, 2))):
        x = layers.Conv3D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(normalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling3D()(x)))


def test_error(name, frames, size, seed):
    """The test error in percent after a training on clips of so many frames, so many at a step."""
    keras.utils.set_random_seed(seed)
    model = network(NORMALIZATIONS[name])
    rate = keras.optimizers.schedules.CosineDecay(0.2 * size / 32, EPOCHS * (train_size // size))
    model.compile(
        optimizer=keras.optimizers.SGD(rate, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=10,  # a step on two clips is short
    )
    model.fit(train_clips(frames, size, seed), epochs=EPOCHS, shuffle=False, verbose=0)
    _, accuracy = model.evaluate(test_clips(frames), verbose=0)
    error = 100 * (1 - accuracy)
    print(f"{name}: {size} clips of {frames} frames, seed {seed}, error {error:.1f} %", flush=True)
    return error


errors = {
    name: np.array([[test_error(name, *setting, seed) for setting in SETTINGS] for seed in range(SEEDS)])
    for name in NORMALIZATIONS
}

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
places = np.arange(len(SETTINGS))
for offset, (name, runs) in zip((-0.2, 0.2), errors.items(), strict=True):
    bars = axes.bar(places + offset, runs.mean(0), 0.38, label=name)
    axes.bar_label(bars, fmt="%.1f", label_type="center", color="white")
    axes.plot(places + offset, runs.T, "k.", markersize=5)
axes.plot([], [], "k.", label="a seed")
axes.set_xticks(places, [f"{size} clips of\n{frames} frames" for frames, size in SETTINGS])
axes.set_xlabel("what a step trains on; the first and the last take the same memory")
axes.set_ylabel("test error (%)")
axes.set_title(f"{DATASET} in motion and noise, {EPOCHS} epochs")
figure.legend(loc="outside upper right", ncols=3)
plt.show()

# %% [markdown]
# Read the bars in two steps, as the paper reads its table. From the first setting to the second the clips stay as long
# as they are and the batch gets smaller: that is what the batch costs. From the second to the last the batch stays and
# the clips get longer: that is what the frames bring.


# %%
def cell(changes):
    """The mean over the seeds, and each of them."""
    return f"{changes.mean():+.1f} ({', '.join(f'{change:+.1f}' for change in changes)})"


rows = ["| | fewer clips, as long | then longer clips | both together |", "| --- | --- | --- | --- |"]
for name, runs in errors.items():
    many, few, long = runs.T
    rows.append(f"| {name} | {cell(few - many)} | {cell(long - few)} | {cell(long - many)} |")
means = {name: runs.mean(0) for name, runs in errors.items()}
ahead = [
    f"{size} clips of {frames} frames: {min(means, key=lambda name, i=i: means[name][i])} is ahead."
    for i, (frames, size) in enumerate(SETTINGS)
]
test_size = int(test.cardinality())
share = min(mean.min() for mean in means.values()) / 100
chance = 100 * (share * (1 - share) / test_size) ** 0.5
display(
    Markdown(
        "Change of the test error in percentage points, a minus for the better, and in brackets by seed:\n\n"
        + "\n".join(rows)
        + "\n\n"
        + " ".join(ahead)
        + f"\n\nBy chance of the {test_size} test clips alone the lowest of the errors, "
        f"{100 * share:.1f} %, has a standard deviation of {chance:.1f} points in one seed, and the others more."
    )
)

# %% [markdown]
# What differs from the paper: its network is large, pre-trained, and trained for long. Here the training is short, and
# sees the same number of clips in each setting: with fewer clips at a step it makes more steps, which helps whatever
# learns slowly. So the first column is not only what a small batch does to the statistics; between the second setting
# and the last the number of steps is the same. And it is the changes within a row that can be compared with the paper:
# which normalization is ahead, and by how much, depends on how long both are trained. Where the two seeds
# disagree on the sign of a change, they tell of none.
#
# ## What to remember
#
# A device has room for so many frames, and a longer clip takes the room of another clip. Batch Normalization ties the
# choice to the batch that its statistics need, Group Normalization leaves it to the task.
#
# ## Exercises
#
# 1. Raise `NOISE` to `1.5`, and train twice as long. What do the longer clips bring now?
# 2. Give Batch Normalization cheap company: train it on 8 clips of 32 frames. Does it need the clips or the frames?
