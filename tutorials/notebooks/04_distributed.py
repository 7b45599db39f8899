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
# # Synchronized Batch Normalization has the statistics of the global batch
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/keras_norm/blob/main/tutorials/notebooks/04_distributed.ipynb)
#
# *Runtime: about 2 minutes on two CPU cores. Data: the digits of scikit-learn, which come with the package.
# Accelerator: none needed.*
#
# With two images on each device, Batch Normalization (BN) uses the mean and the variance of two images, however many
# devices there are. Synchronized BN takes the statistics over the images of all devices. Peng et al. used it to train an
# object detector on up to 128 GPUs with batches of up to 256 images (*MegDet*, CVPR 2018,
# [arXiv:1711.07240](https://arxiv.org/abs/1711.07240)). The Group Normalization paper (Wu & He, ECCV 2018,
# [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), table 2) avoids the batch: with two images on a GPU its ResNet-50
# has a validation error of 24.1 % on ImageNet, against 34.7 % with BN that is not synchronized. The table has no
# synchronized BN.
#
# The devices here are two parts of the CPU, so the notebook runs everywhere. On GPUs the code is the same with
# `tf.distribute.MirroredStrategy()`.

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

import tempfile
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_norm as kn
from keras_norm.tutorials import FAST, data, devices, figures, networks, tables, training, workers

tf.get_logger().setLevel("ERROR")  # each run traces a new network, which is no mistake here

DATASET = "digits"  # or "fashion_mnist", "cifar10"
REPLICAS, IMAGES_A_REPLICA = 2, 2
TRAIN_IMAGES = 64 if FAST else 720
EPOCHS = 1 if FAST else 2

# %% [markdown]
# ## Two devices
#
# `devices.cpus` divides the CPU. That has to come before TensorFlow does anything else. Use one strategy in a process:
# TensorFlow's collectives remember the number of replicas of the first.

# %%
replicas = tf.distribute.MirroredStrategy(devices.cpus(REPLICAS))
one_device = tf.distribute.get_strategy()

# %% [markdown]
# ## The statistics, against one device
#
# The replicas get parts of different sizes and of different distributions, 3 and 5 samples, as in an uneven last batch.
# The mean of the two means would be wrong here. The layer adds sums and counts of the replicas.

# %%
RNG = np.random.default_rng(0)
PARTS = [RNG.normal(0, 1, (3, 8, 8, 16)).astype("float32"), RNG.normal(4, 2, (5, 8, 8, 16)).astype("float32")]


def outputs(strategy, parts, synchronized):
    """The joined outputs of the replicas for a part each, and the moving statistics after the call."""
    with strategy.scope():
        layer = kn.BatchNormalization(synchronized=synchronized)
        layer.build(parts[0].shape)
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )
    run = tf.function(lambda x: strategy.run(lambda part: layer(part, training=True), [x]))
    y = np.concatenate(strategy.experimental_local_results(run(values)))
    return {"outputs": y, "moving mean": layer.moving_mean.numpy(), "moving variance": layer.moving_variance.numpy()}


expected = outputs(one_device, [np.concatenate(PARTS)], synchronized=False)
differences = {}
for synchronized in (True, False):
    found = outputs(replicas, PARTS, synchronized)
    column = f"synchronized={synchronized}"
    differences[column] = {name: f"{np.abs(found[name] - expected[name]).max():.0e}" for name in expected}
pd.DataFrame(differences)

# %% [markdown]
# The table has the largest difference from one device that holds all 8 samples. With synchronization only the rounding of
# float32 sums in another order is left.
#
# ## Training with two images on each device
#
# `images.train` takes the batch of all devices together. Both splits are in memory: under a strategy Keras reads one batch
# to build the model and starts again, which would cut short a `cache()` that is still being filled.

# %%
images = data.load(DATASET, TRAIN_IMAGES)
BATCH_SIZE = REPLICAS * IMAGES_A_REPLICA
print(f"{DATASET}: {images.train_size} training images of shape {images.image_shape}, {BATCH_SIZE} a step")

# %% [markdown]
# Three normalizations run on two devices, and BN on one device with the images of both. Model, optimizer and metrics are
# made inside the scope of the strategy. Neither XLA nor `steps_per_execution` works under a strategy in Keras.

# %%
batch_normalization = partial(kn.BatchNormalization, momentum=0.9)
RUNS = {
    "batch": (batch_normalization, replicas),
    "synchronized": (partial(batch_normalization, synchronized=True), replicas),
    "group": (partial(kn.GroupNormalization, groups=8), replicas),
    "batch_one_device": (batch_normalization, one_device),
}

runs = []
for name, (normalization, strategy) in RUNS.items():
    keras.utils.set_random_seed(0)  # the same initial weights in every run
    with strategy.scope():
        model = networks.convolutional(images.image_shape, images.classes, normalization)
        steps = EPOCHS * (images.train_size // BATCH_SIZE)
        training.compile_classifier(model, 0.1 * BATCH_SIZE / 32, steps, jit_compile=False, steps_per_execution=1)
    batches = images.train(BATCH_SIZE, seed=0)
    history = model.fit(batches, validation_data=images.test(), epochs=EPOCHS, shuffle=False, verbose=0).history
    runs += [(name, epoch, 100 * (1 - accuracy)) for epoch, accuracy in enumerate(history["val_accuracy"], 1)]
runs = pd.DataFrame(runs, columns=["normalization", "epoch", "error"])

# %% [markdown]
# Test error in percent by epoch, one seed:

# %%
tables.summary(runs, "normalization", "epoch", "error")

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name in RUNS:
    curve = runs[runs["normalization"] == name]
    options = {"linestyle": "--"} if name == "batch_one_device" else {}
    figures.curve(axes, name, curve["epoch"], [curve["error"]], **options)
figures.error_axis(axes)
axes.set_xticks(range(1, EPOCHS + 1))
axes.set_xlabel("epoch")
axes.set_title(f"{DATASET}: {IMAGES_A_REPLICA} images on each of {REPLICAS} devices")
figure.legend(title="normalization", loc="outside right upper")
plt.show()

# %% [markdown]
# After two epochs BN on two devices has an error of 22.2 %: each device takes its statistics from two images. With the
# statistics of both devices it has 5.3 %, and BN on one device with all four images 5.6 %: the difference is a single
# test image, since rounding in another order leads two trainings apart. GN, whose statistics come from one image, has 3.1 %.
# This is one seed of a short training: the gap between 22.2 % and the others is far larger than what seeds change (see the
# [results](https://github.com/OWNER/keras_norm/blob/main/docs/results.md#batch-size) on the batch size), the order of the
# other three is not.
#
# ## Two workers
#
# On several machines each runs the same program, and `TF_CONFIG` tells it of the others. Here two processes of one machine
# do so; `workers.start` starts them. `kn.distribute.DistributedModel` is a `keras.Model` that `fit` can train on several
# workers. Each worker reads all images and takes its share of each batch (`AutoShardPolicy.DATA`).

# %%
PROGRAM = """
import json
import os
import sys
from functools import partial

import keras
import numpy as np
import tensorflow as tf

import keras_norm as kn
from keras_norm.distribute import DistributedModel
from keras_norm.tutorials import data, networks, training

strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
keras.utils.set_random_seed(0)  # the same on all workers, so that they start and shuffle alike

images = data.load(sys.argv[1], 256)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
with strategy.scope():
    normalization = partial(kn.BatchNormalization, momentum=0.9, synchronized=True)
    model = networks.convolutional(images.image_shape, images.classes, normalization, DistributedModel)
    training.compile_classifier(model, 0.05, steps=32, jit_compile=False, steps_per_execution=1)
history = model.fit(images.train(16, seed=0).with_options(options), epochs=2, shuffle=False, verbose=0).history
print(f"worker {index}: loss by epoch {[round(loss, 3) for loss in history['loss']]}")
np.savez(f"{sys.argv[2]}/worker-{index}.npz", *model.get_weights())
"""

with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    (folder / "train.py").write_text(PROGRAM)
    processes = workers.start([str(folder / "train.py"), DATASET, str(folder)], folder, 2)
    workers.finish(processes, folder, "loss by epoch")
    first, second = (dict(np.load(folder / f"worker-{index}.npz")) for index in range(2))
largest = max(np.abs(first[name] - second[name]).max() for name in first)
print(f"largest difference between the weights of the workers, moving statistics included: {largest:.0e}")

# %% [markdown]
# The weights of the workers, moving statistics included, are equal to the last bit, although each worker has seen other
# images: gradients and statistics are those of the global batch.
#
# ## What to remember
#
# What counts is the number of images that the statistics see. `synchronized=True` gives BN the statistics of the global
# batch, exactly, also where devices have parts of different sizes. GN needs neither a large batch nor other devices.
# Model, optimizer and metrics are made inside the scope of the strategy, and the learning rate follows the global batch.
#
# ## Exercises
#
# 1. Set `REPLICAS` to 4. Which of the errors change, and how do you keep the comparison fair?
# 2. `synchronized=2` pools pairs of neighboring replicas. With four replicas, how many images does it see?
