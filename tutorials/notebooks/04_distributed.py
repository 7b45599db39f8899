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
# # Cross-replica Batch Normalization sees the batch of all devices, exactly
#
# A device with memory for two images gives Batch Normalization a mean and a variance of two images, however many
# devices there are. Cross-replica (synchronized) Batch Normalization takes the statistics of all devices together, as
# Peng et al. did to train an object detector on up to 128 GPUs with batches of up to 256 images (*MegDet*, CVPR 2018,
# [arXiv:1711.07240](https://arxiv.org/abs/1711.07240)). The Group Normalization paper (Wu & He, ECCV 2018,
# [arXiv:1803.08494](https://arxiv.org/abs/1803.08494), table 2) takes the other way out, a normalization without a
# batch: with two images a GPU its ResNet-50 has a validation error of 24.1 % on ImageNet, against 34.7 % with Batch
# Normalization that is not synchronized. It does not measure a synchronized one there.
#
# Devices here are parts of the CPU, so that the notebook runs everywhere and alike; on GPUs it is the same code with
# `tf.distribute.MirroredStrategy()`. It takes less than two minutes on two CPU cores.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("keras_norm") is None:  # Colab, or a checkout that is not installed
    package = "..[tutorials]" if Path("../setup.cfg").exists() else "keras_norm[tutorials]"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import json
import os
import socket
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

tf.get_logger().setLevel("ERROR")
tfds.disable_progress_bar()

DATASET = "digits"  # or "fashion_mnist", "cifar10"
FAST = os.environ.get("FAST") == "1"  # a smaller run, to test the notebook

REPLICAS, IMAGES_A_REPLICA = 2, 2
TRAIN_IMAGES = 64 if FAST else 1500  # at most: small batches are many steps
EPOCHS = 1 if FAST else 4

# %% [markdown]
# ## Two devices
#
# The CPU is divided before TensorFlow does anything else with it. All devices of a strategy are given at once, and a
# process has one strategy: TensorFlow's collectives remember the number of replicas of the first. While a replica waits
# for the sums of the others it holds a thread, of which there must be enough.

# %%
tf.config.set_visible_devices([], "GPU")
tf.config.threading.set_inter_op_parallelism_threads(4 * REPLICAS)
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
replicas = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])
one_device = tf.distribute.get_strategy()

# %% [markdown]
# ## The statistics, against one device
#
# The replicas get parts of different sizes and of different distributions, 3 and 5 samples, as in an uneven last batch.
# A mean of the two means would be wrong here: sums and counts cross the replicas.

# %%
RNG = np.random.default_rng(0)
PARTS = [RNG.normal(0, 1, (3, 8, 8, 16)).astype("float32"), RNG.normal(4, 2, (5, 8, 8, 16)).astype("float32")]


def outputs(strategy, parts, synchronized):
    """What the replicas give for a part each, joined, and the moving statistics that this leaves."""
    with strategy.scope():
        layer = kn.BatchNormalization(synchronized=synchronized)
        layer.build(parts[0].shape)
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )
    run = tf.function(lambda x: strategy.run(lambda part: layer(part, training=True), [x]))
    y = np.concatenate(strategy.experimental_local_results(run(values)))
    return {"outputs": y, "moving mean": layer.moving_mean.numpy(), "moving variance": layer.moving_variance.numpy()}


want = outputs(one_device, [np.concatenate(PARTS)], synchronized=False)
rows = ["| largest difference from one device | synchronized | not synchronized |", "| --- | --- | --- |"]
found = {synchronized: outputs(replicas, PARTS, synchronized) for synchronized in (True, False)}
difference = {s: {name: np.abs(found[s][name] - want[name]).max() for name in want} for s in found}
rows += [f"| {name} | {difference[True][name]:.1e} | {difference[False][name]:.1e} |" for name in want]
display(Markdown("\n".join(rows)))

# %% [markdown]
# What is left is the rounding of float32 sums that were added in another order.
#
# ## The data
#
# `batch` counts the images of all devices together. A batch that divides by the devices weighs every image alike. Both
# splits are read to the end before they are trained on: under a strategy Keras reads one batch and begins anew, and a
# `cache()` that is given up while it fills may keep what it has and count as full.

# %%
(train, test), info = tfds.load(DATASET, split=["train", "test"], as_supervised=True, with_info=True)
train, test = train.take(TRAIN_IMAGES).cache(), test.cache()
train_size, classes = int(train.cardinality()), info.features["label"].num_classes
pixels = np.stack([image for image, _ in train.as_numpy_iterator()])
image_shape, mean, deviation = pixels.shape[1:], pixels.mean(), pixels.std()


def standardize(images, labels):
    """Pixels of mean 0 and deviation 1 over the training images."""
    return (tf.cast(images, tf.float32) - mean) / deviation, labels


def train_batches(size):
    """Batches of exactly so many training images, in the same order in every run and epoch."""
    shuffled = train.shuffle(train_size, seed=0, reshuffle_each_iteration=False)
    batches = shuffled.batch(size, drop_remainder=True)
    return batches.map(standardize, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


test_batches = test.batch(500).map(standardize).prefetch(tf.data.AUTOTUNE)
test_size = test.reduce(0, lambda count, _: count + 1)
print(f"{DATASET}: {train_size} training and {test_size} test images of {image_shape}")

# %% [markdown]
# ## Training with two images on each device
#
# Three normalizations on two devices, and Batch Normalization on one device with the images of both. Model, optimizer
# and metrics are made inside the scope of the strategy.

# %%
BATCH_SIZE = REPLICAS * IMAGES_A_REPLICA
NORMALIZATIONS = {
    "BN": lambda: kn.BatchNormalization(momentum=0.9),
    "synchronized BN": lambda: kn.BatchNormalization(momentum=0.9, synchronized=True),
    "GN": lambda: kn.GroupNormalization(groups=8),
}


def compiled(normalization, strategy):
    """A small convolutional network, ready to train."""
    with strategy.scope():
        x = inputs = keras.Input(image_shape)
        for filters, strides in ((16, 1), (32, 2), (32, 2), (64, 2)):
            x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
            x = layers.ReLU()(normalization()(x))
        model = keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))
        model.compile(
            optimizer=keras.optimizers.SGD(0.1 * BATCH_SIZE / 32, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return model


def errors(name, strategy):
    """The test error in percent after each epoch."""
    keras.utils.set_random_seed(0)  # the same initial weights in every run
    model = compiled(NORMALIZATIONS[name], strategy)
    training = model.fit(
        train_batches(BATCH_SIZE), validation_data=test_batches, epochs=EPOCHS, shuffle=False, verbose=0
    )
    found = [100 * (1 - accuracy) for accuracy in training.history["val_accuracy"]]
    print(f"{name}, devices: {strategy.num_replicas_in_sync}, error {found[-1]:.1f} %", flush=True)
    return found


curves = {f"{name}, {REPLICAS} devices": errors(name, replicas) for name in NORMALIZATIONS}
curves["BN, 1 device"] = errors("BN", one_device)

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, curve), style in zip(curves.items(), ("-o", "-s", "-^", "--x"), strict=True):
    axes.plot(range(1, EPOCHS + 1), curve, style, label=name)
axes.set_yscale("log")
axes.set_yticks(ticks := [1, 2, 5, 10, 20, 50, 100], labels=ticks)
axes.minorticks_off()
axes.set_xticks(range(1, EPOCHS + 1))
axes.set_xlabel("epoch")
axes.set_ylabel("test error (%)")
axes.set_title(f"{DATASET}: {BATCH_SIZE} images a step, {IMAGES_A_REPLICA} on each of {REPLICAS} devices")
axes.grid(alpha=0.3)
figure.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
statistics_over = [IMAGES_A_REPLICA, BATCH_SIZE, 1, BATCH_SIZE]
last = {name: curve[-1] for name, curve in curves.items()}
rows = ["| | images that share a mean and a variance | test error, % |", "| --- | --- | --- |"]
rows += [f"| {name} | {n} | {error:.1f} |" for n, (name, error) in zip(statistics_over, last.items(), strict=True)]
alone, joined, _, one = last.values()
display(
    Markdown(
        "\n".join(rows) + f"\n\nAfter {EPOCHS} epochs the error of Batch Normalization on {REPLICAS} devices is "
        f"{alone:.1f} %, synchronized {joined:.1f} %, and on one device with the same images {one:.1f} %. One seed."
    )
)

# %% [markdown]
# Synchronized Batch Normalization on two devices and Batch Normalization on one differ by rounding in each step, and a
# training makes such differences larger from step to step: the curves begin together, and need not end so.
#
# ## Two workers
#
# The same on several machines: each runs the same program, and is told of the others by `TF_CONFIG`. Here they are two
# processes on this one. `kn.distribute.DistributedModel` is a `keras.Model` that `fit` can train on several workers.

# %%
FOLDER = Path(tempfile.mkdtemp())
PROGRAM = """
import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_norm as kn
from keras_norm.distribute import DistributedModel

strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
keras.utils.set_random_seed(0)  # the same on all workers, so that they start and shuffle alike

data = np.load("images.npz")
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
batches = tf.data.Dataset.from_tensor_slices((data["images"], data["labels"]))
batches = batches.shuffle(1000, seed=0).batch(16, drop_remainder=True).with_options(options)

with strategy.scope():
    inputs = keras.Input(data["images"].shape[1:])
    x = layers.Conv2D(16, 3, use_bias=False)(inputs)
    x = layers.ReLU()(kn.BatchNormalization(momentum=0.9, synchronized=True)(x))
    model = DistributedModel(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
history = model.fit(batches, epochs=3, shuffle=False, verbose=0).history
print(f"worker {index}: loss by epoch {[round(float(value), 3) for value in history['loss']]}")
np.savez(f"worker_{index}.npz", *model.get_weights())
"""
(FOLDER / "train.py").write_text(PROGRAM)
labels = np.array([label for _, label in train.take(256).as_numpy_iterator()])
np.savez(FOLDER / "images.npz", images=standardize(pixels[:256], None)[0], labels=labels)


# %%
def start(workers):
    """Starts the program once for each worker."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    cluster = {"worker": [f"localhost:{s.getsockname()[1]}" for s in sockets]}
    for s in sockets:
        s.close()
    processes = []
    for index in range(workers):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "train.py"]
        processes.append(
            subprocess.Popen(
                command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return processes


for process in start(2):
    said, errors_said = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(errors_said[-3000:])
    print(said, end="")

weights = [np.load(FOLDER / f"worker_{index}.npz") for index in range(2)]
largest = max(np.abs(weights[0][name] - weights[1][name]).max() for name in weights[0])
display(Markdown(f"Largest difference between the weights of the workers, moving statistics included: {largest:.1e}."))

# %% [markdown]
# ## What to remember
#
# What counts is the batch that the statistics see. `synchronized=True` makes it that of all devices, for parts of any
# size, at the price of communication in every layer and step; Group Normalization sees one image and needs no other
# device. Build and compile in the scope of the strategy, and on several workers make the model a `DistributedModel`.
#
# ## Exercises
#
# 1. Set `IMAGES_A_REPLICA` to 8. What becomes of the difference between the three normalizations on two devices?
# 2. Train the two workers with `synchronized=False`. Their replicas see different images, and still all weights come
#    out the same, moving statistics included: what must the layer do with the latter?
