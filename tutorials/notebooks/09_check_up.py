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
# # Normalization fails silently, and a check-up finds where
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/keras_norm/blob/main/tutorials/notebooks/09_check_up.ipynb)
#
# *Runtime: about 2 minutes on two CPU cores. Data: Fashion-MNIST, which `tensorflow_datasets` downloads once (30 MB).
# Accelerator: none needed.*
#
# A network that is normalized wrongly raises no error. It is accurate in `fit` and poor in `evaluate`, or learns
# nothing, or gives other answers for other padding. This notebook trains a healthy network, breaks it in five ways, and
# shows for each way what its user sees, what `keras_norm.models.examine` reports, and the same numbers after the cure
# of the report:
#
# | fault | finding |
# | --- | --- |
# | moving averages with a momentum for thousands of steps, and some dozens of steps | `stale_moving_statistics` |
# | a batch of 2 images | `small_sets` |
# | instance normalization of a map of one pixel | `one_position_sets` |
# | a layer that averages over padding | `mask_ignored` |
# | frozen convolutions, with normalizations that go on learning | `frozen_but_updating` |
#
# The second is what the Group Normalization paper is about: ResNet-50 on ImageNet has an error of 34.7 % with batch
# normalization (BN) and 2 images a device, and of 24.1 % with group normalization (GN) ([Wu & He
# 2018](https://arxiv.org/abs/1803.08494), table 2). The first and the last are pitfalls of [Wu & Johnson
# 2021](https://arxiv.org/abs/2105.07576). All findings, with their cures: [Troubleshooting
# normalization](https://github.com/OWNER/keras_norm/blob/main/docs/troubleshooting.md).

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
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds
from IPython.display import display
from keras import layers
from matplotlib_inline.backend_inline import set_matplotlib_formats

import keras_norm as kn
import keras_norm.digits  # registers the digits with TFDS
from keras_norm.models import examine
from keras_norm.tutorials import FAST

set_matplotlib_formats("png")  # `display` draws a figure
tf.get_logger().setLevel("ERROR")  # each model traces a new network, which is no mistake here
tfds.disable_progress_bar()

DATASET = "digits" if FAST else "fashion_mnist"  # or "cifar10"
TRAIN_IMAGES = 400 if FAST else 6000
EPOCHS = 1 if FAST else 3
BATCH_SIZE = 64

# %% [markdown]
# ## A healthy network
#
# Convolutions that halve the map, each with a normalization, and a linear classifier. The pixels are as they are in the
# files, from 0 on: a batch normalization takes any scale.

# %%
(train, test), info = tfds.load(DATASET, split=["train", "test"], as_supervised=True, with_info=True)


def arrays(split, images):
    """The first `images` images of a split as they are stored, and their labels."""
    pairs = list(split.take(images).as_numpy_iterator())
    return np.stack([image for image, _ in pairs]).astype("float32"), np.array([label for _, label in pairs])


x, y = arrays(train, TRAIN_IMAGES)
test_x, test_y = arrays(test, 2000)
image_shape, classes = x.shape[1:], info.features["label"].num_classes
print(f"{DATASET}: {len(x)} training and {len(test_x)} test images of shape {image_shape}, pixels up to {x.max():.0f}")


def backbone(norm, blocks=3, name="backbone"):
    """Convolutions that halve the map. `norm` makes a normalization of a name."""
    model = keras.Sequential([keras.Input(image_shape)], name=name)
    for k in range(1, blocks + 1):
        model.add(layers.Conv2D(16 * k, 3, strides=2, padding="same", use_bias=False, name=f"conv_{k}"))
        model.add(norm(f"norm_{k}"))
        model.add(layers.ReLU(name=f"relu_{k}"))
    model.add(layers.GlobalAveragePooling2D(name="pool"))
    return model


def classifier(norm, blocks=3, name="classifier"):
    keras.utils.set_random_seed(0)
    model = backbone(norm, blocks, name)
    model.add(layers.Dense(classes, name="head"))
    return compiled(model)


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    return model


def fitted(model, images=TRAIN_IMAGES, batch_size=BATCH_SIZE, epochs=EPOCHS):
    """Trains, and returns the accuracy that `fit` shows in the last epoch."""
    return model.fit(x[:images], y[:images], batch_size, epochs, verbose=0).history["accuracy"][-1]


def evaluated(model, images=TRAIN_IMAGES):
    """The accuracy that `evaluate` shows for the same images."""
    return model.evaluate(x[:images], y[:images], batch_size=500, verbose=0)[1]


def table(rows, columns=("in `fit`", "in `evaluate`, same images")):
    """Shows accuracies: a row for each model."""
    cells = {name: [f"{accuracy:.1%}" for accuracy in row] for name, row in rows.items()}
    display(pd.DataFrame.from_dict(cells, orient="index", columns=list(columns)))


# %%
healthy = classifier(lambda name: layers.BatchNormalization(momentum=0.9, name=name))
table({"healthy": (fitted(healthy), evaluated(healthy))})
report = examine(healthy, x, y, batch_size=BATCH_SIZE, verbose=0)
display(report, report.plot())

# %% [markdown]
# The batch and the moving statistics agree: distances near 0, ratios near 1, a small gap between training and
# inference, and no findings. `fit` and `evaluate` agree. Under each panel of the picture stands what its marks are.
#
# ## 1. Stale moving averages
#
# The same network with `momentum=0.999`, a value for trainings of many thousand steps. After as few steps as here, the
# moving statistics are still near those that they began with, a mean of 0 and a variance of 1.

# %%
stale = classifier(lambda name: layers.BatchNormalization(momentum=0.999, name=name))
before = fitted(stale), evaluated(stale)
report = examine(stale, x, y, batch_size=BATCH_SIZE, verbose=0)
display(report, report.plot())

# %% [markdown]
# The report names the fault and its cure, which sets the moving statistics to those of the data. No other weight
# changes.

# %%
cured = compiled(kn.models.recalibrate_batch_normalization(stale, x, verbose=0))
table({"momentum=0.999": before, "recalibrated": (before[0], evaluated(cured))})
print([finding.name for finding in examine(cured, x, y, batch_size=BATCH_SIZE, verbose=0).findings])

# %% [markdown]
# ## 2. A batch of two
#
# The network goes down to one pixel now, and a step has 2 images, as on a device that holds no more. There a channel is
# standardized from two numbers, which become -1 and 1 whatever they are.

# %%
BLOCKS = int(np.ceil(np.log2(max(image_shape[:2]))))  # down to one pixel
FEW = 200 if FAST else 1500  # images: a step takes as long with 2 of them as with more

of_two = classifier(lambda name: layers.BatchNormalization(momentum=0.99, name=name), BLOCKS)
before = fitted(of_two, FEW, batch_size=2), evaluated(of_two, FEW)
report = examine(of_two, x, y, steps=64, batch_size=2, verbose=0)
display(report, report.plot())

# %% [markdown]
# `fit` is below `evaluate` here: training itself is noisy. The noise grows with the depth, as the positions get fewer
# (right in the picture). The last moving variances are found to be too small as well, partly because the variance of
# two values is on average half of that of many. The cure of `small_sets` is groups of channels of one image, in place
# of each batch normalization. Weights that were learnt from noise do not become better by it, so the new network is
# trained from the beginning.

# %%
for finding in report.findings:
    if finding.name == "small_sets":
        print(finding.layer, finding.numbers)
groups = {f"norm_{k}": 2 * k for k in range(1, BLOCKS + 1)}  # of 8 channels each
grouped = classifier(lambda name: kn.GroupNormalization(groups[name], name=name), BLOCKS)
table({"BN, 2 images": before, "GN, 2 images": (fitted(grouped, FEW, batch_size=2), evaluated(grouped, FEW))})
print([finding.name for finding in examine(grouped, x, batch_size=2, verbose=0).findings])

# %% [markdown]
# ## 3. One pixel is its own mean
#
# The same network with instance normalization: the statistics of a channel of one image. Where the map is one pixel,
# each value minus its mean is 0, and the network gives the same answer for all images.

# %%
single = classifier(lambda name: kn.InstanceNormalization(name=name), BLOCKS)
before = fitted(single), evaluated(single)
report = examine(single)
display(report)

# %% [markdown]
# This needs no data: the shapes tell it. `python -m keras_norm examine model.keras` finds it in a file, and exits with
# 1.

# %%
scope = {"keras": keras, "keras_norm": keras_norm, "model": single}
for finding in report.findings:
    print(finding.name, finding.layer)
    exec(finding.cure, scope)
cured = compiled(scope["model"])
table({"instance normalization": before, "groups in its place at the end": (fitted(cured), evaluated(cured))})
print([finding.name for finding in examine(cured).findings])

# %% [markdown]
# ## 4. Padding that is averaged
#
# An image is read row by row, as a sequence, by a recurrent network. Sequences of different lengths are padded, and a
# mask tells the layers which steps are padding. `keras.layers.GroupNormalization` takes no mask.


# %%
def reader(norm):
    keras.utils.set_random_seed(0)
    rows = keras.Input((None, image_shape[1]))
    h = layers.Dense(32, name="dense")(layers.Masking(-1.0, name="masking")(rows))
    return compiled(keras.Model(rows, layers.Dense(classes, name="head")(layers.GRU(32, name="gru")(norm(h)))))


def padded(images, steps):
    """Images as sequences of rows, with `steps` rows of padding behind them."""
    rows = images.mean(-1) / x.max()
    return np.pad(rows, [(0, 0), (0, steps), (0, 0)], constant_values=-1.0)


def accuracy_by_padding(model):
    model.fit(padded(x, 0), y, BATCH_SIZE, EPOCHS, verbose=0)
    return [model.evaluate(padded(test_x, n), test_y, batch_size=500, verbose=0)[1] for n in PADDING]


PADDING = (0, 7, 28, 84)
ignoring = reader(layers.GroupNormalization(4, name="norm"))
before = accuracy_by_padding(ignoring)
table({"keras.layers": before}, [f"{n} rows of padding" for n in PADDING])
report = examine(ignoring)
display(report)

# %% [markdown]
# Two findings of one layer. The cure of `mask_ignored` leaves the padding out of the statistics. `statistics_over_time`
# says that those of a step include later steps. This does no harm here: the network reads the image to its end before
# it answers.

# %%
scope = {"keras": keras, "keras_norm": keras_norm, "model": ignoring}
(finding,) = [finding for finding in report.findings if finding.name == "mask_ignored"]
print(finding.cure)
exec(finding.cure, scope)
cured = compiled(scope["model"])
after = [cured.evaluate(padded(test_x, n), test_y, batch_size=500, verbose=0)[1] for n in PADDING]
table({"keras.layers": before, "keras_norm": after}, [f"{n} rows of padding" for n in PADDING])
print([finding.name for finding in examine(cured).findings])

# %% [markdown]
# The weights are the same, and so is the accuracy without padding.
#
# ## 5. A frozen network that goes on learning
#
# The healthy network gets a second task: negatives of the images, with a new head. Its convolutions are frozen, so that
# the first head goes on working. But are its normalizations?

# %%
keras.utils.set_random_seed(0)
frozen = backbone(lambda name: layers.BatchNormalization(momentum=0.9, name=name))
frozen.set_weights(healthy.get_weights()[: len(frozen.weights)])
for layer in frozen.layers:
    if isinstance(layer, layers.Conv2D):
        layer.trainable = False


def two_tasks(of):
    """The accuracy of the first head, and that of a second one which is trained on negatives."""
    first, second = (compiled(keras.Sequential([of, layers.Dense(classes, name="head")], name="tasks")) for _ in "ab")
    first.layers[-1].set_weights(healthy.layers[-1].get_weights())
    start = first.evaluate(test_x, test_y, batch_size=500, verbose=0)[1]
    second.fit(x.max() - x, y, BATCH_SIZE, EPOCHS, verbose=0)
    end = first.evaluate(test_x, test_y, batch_size=500, verbose=0)[1]
    return second, (start, end, second.evaluate(x.max() - test_x, test_y, batch_size=500, verbose=0)[1])


COLUMNS = ("first head, before", "first head, after", "second head")
whole = kn.models.freeze_batch_normalization(frozen)
second, before = two_tasks(frozen)
table({"convolutions": before}, COLUMNS)
report = examine(second, x, batch_size=BATCH_SIZE, verbose=0)
display(report, report.plot())

# %% [markdown]
# The first head has lost much of its accuracy, although no weight of it or of the convolutions has changed: the
# normalizations have. Measured on the images of the first task, their moving statistics are stale, since they have
# become those of the negatives. The cure of `frozen_but_updating` was applied to `whole` above, before the second
# training.

# %%
second, after = two_tasks(whole)
table({"convolutions": before, "normalizations too": after}, COLUMNS)
print([finding.name for finding in examine(second, x, batch_size=BATCH_SIZE, verbose=0).findings])

# %% [markdown]
# The first head stays as it was. The second pays for it: its features are standardized by the statistics of other
# images.
#
# ## What to remember
#
# * `print(examine(model, data))` before a long training, and when `fit` and `evaluate` disagree. It changes nothing.
# * Stale moving statistics are repaired without training, by `recalibrate_batch_normalization`.
# * Sets of one position or two are not: the network has to be trained with other sets.
# * What a layer does with a mask, and what a frozen network still learns, no accuracy of training shows.
#
# ## Exercises
#
# 1. Give `fit` the callback `keras_norm.callbacks.NormalizationMonitor(x, y, every=20)` in the first training with
#    `momentum=0.999`. When does it warn, and what is the gap at the end of each epoch?
# 2. Plant a sixth fault: `layers.BatchNormalization(axis=1)`. How many gammas are there, and what does the report say?
