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
# # Fine-tune with frozen statistics, and batch normalization folds away at deployment
#
# A network was trained with batch normalization (BN) at a batch of 32. It is to learn another task on a device that
# holds 2 images at a time. The mean and variance of 2 images are noise, so something must be done about its
# normalizations, and `keras_norm.models` has a function for each thing that people do:
#
# | way | what happens to each BN | function |
# | --- | --- | --- |
# | BN | nothing | |
# | BN, recalibrated at the end | statistics of the new data, after training | `recalibrate_batch_normalization` |
# | BN, frozen | runs on the statistics of its first training, which stay | `freeze_batch_normalization` |
# | BN, recalibrated and frozen | runs on the statistics of the new data, which stay | both |
# | GN in its place | a group normalization with the same gamma and beta | `replace_normalization` |
#
# Object detectors are trained with 2 images a device, from networks that were trained with 32. Detectron's table has
# 38.6 box AP on COCO with frozen BN, its default, and 40.3 with GN, there with GN in the first training as well
# ([Detectron](https://github.com/facebookresearch/Detectron/tree/main/projects/GN), Mask R-CNN, ResNet-50-FPN, of [Wu &
# He 2018](https://arxiv.org/abs/1803.08494)). Recalibration is the subject of [Wu & Johnson
# 2021](https://arxiv.org/abs/2105.07576), folding for inference of [Jacob et al.
# 2018](https://arxiv.org/abs/1712.05877), section 3.2.
#
# Here: the digits, one half of the classes first and the other half then, in less than two minutes on two CPU cores.

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

import tempfile
import time
import warnings

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

TRAIN_IMAGES = 400 if FAST else 2000  # at most: larger sets take longer, not other code
SEEDS = 1 if FAST else 2
PRETRAINING_EPOCHS = 2 if FAST else 15
EPOCHS = 1 if FAST else 4

# %% [markdown]
# ## The data, in halves
#
# The first half of the classes is what the network learns at a batch of 32, the second half what it learns at a batch
# of 2.

# %%
splits, info = tfds.load(DATASET, split=["train", "test"], as_supervised=True, with_info=True)
image_shape, classes = info.features["image"].shape, info.features["label"].num_classes // 2
largest = max(int(image.max()) for image, _ in splits[0].take(TRAIN_IMAGES).as_numpy_iterator())


def half(split, which):
    """Images from -1 to 1 of the first or the second half of the classes, counted from 0 again."""
    mine = split.take(TRAIN_IMAGES).filter(lambda _, label: label // classes == which)
    mine = mine.map(
        lambda image, label: (tf.cast(image, tf.float32) / largest * 2 - 1, label - which * classes)
    ).cache()
    return mine.apply(tf.data.experimental.assert_cardinality(mine.reduce(np.int64(0), lambda n, _: n + 1)))


def training_batches(images, batch_size, seed):
    """Batches of exactly `batch_size` images, in a new order each epoch."""
    return (
        images.shuffle(images.cardinality(), seed=seed)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


(first, first_test), (second, second_test) = ([half(split, which) for split in splits] for which in (0, 1))
for name, images in (("first", first), ("second", second)):
    print(
        f"{DATASET}, {name} half: {int(images.cardinality())} training images of shape {image_shape}, {classes} classes"
    )

# %% [markdown]
# ## The first training
#
# A residual network with BN behind each convolution. Each block halves the map, until it is one pixel.


# %%
def network():
    """Residual blocks down to one pixel, and a dense layer."""

    def convolution(x, filters, size, strides):
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
        return kn.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input(image_shape)
    x = layers.ReLU()(convolution(inputs, 32, 3, 2))
    while max(x.shape[1:3]) > 1:
        h = layers.ReLU()(convolution(x, 64, 3, 2))
        x = layers.ReLU()(layers.Add()([convolution(x, 64, 1, 2), convolution(h, 64, 3, 1)]))
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(x)))


def train(model, batches, epochs, learning_rate):
    """SGD with momentum, at a rate that falls to 0."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * int(batches.cardinality()))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), loss)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)


def error(model, images):
    """The share of images that the model gets wrong, in percent."""
    wrong = [tf.argmax(model(x, training=False), -1) != labels for x, labels in images.batch(500)]
    return 100 * float(np.mean(np.concatenate(wrong)))


pretrained = []
for seed in range(SEEDS):
    keras.utils.set_random_seed(seed)
    model = network()
    train(model, training_batches(first, 32, seed), PRETRAINING_EPOCHS, learning_rate=0.1)
    print(f"seed {seed}: test error {error(model, first_test):.1f} % on the first half")
    features = model.layers[-2].output
    pretrained.append(keras.Model(model.input, layers.Dense(classes)(features)))  # a new last layer

# %% [markdown]
# ## The second training, at a batch of 2
#
# Each function takes a model and gives another one; what the network has learnt is carried over. Everything else is the
# same in all runs.

# %%
RECALIBRATED_AFTER = "BN, recalibrated at the end"


def copied(model, batches):
    """The same network with weights of its own."""
    return kn.models.replace_normalization(model, lambda norm: norm)


def frozen(model, batches):
    """On the statistics of the first training."""
    return kn.models.freeze_batch_normalization(model)


def adapted(model, batches):
    """On the statistics of the new data."""
    return frozen(kn.models.recalibrate_batch_normalization(copied(model, batches), batches, verbose=0), batches)


def grouped(model, batches):
    """Group normalization, with gamma and beta as they were."""
    return kn.models.replace_normalization(model, kn.GroupNormalization(groups=8))


WAYS = {
    "BN": copied,
    RECALIBRATED_AFTER: copied,
    "BN, frozen": frozen,
    "BN, recalibrated and frozen": adapted,
    "GN in its place": grouped,
}

models, errors = {}, {}
for way, convert in WAYS.items():
    errors[way] = []
    for seed, model in enumerate(pretrained):
        keras.utils.set_random_seed(seed)
        models[way] = convert(model, training_batches(second, 32, seed))
        train(models[way], training_batches(second, 2, seed), EPOCHS, learning_rate=0.01)
        if way == RECALIBRATED_AFTER:
            kn.models.recalibrate_batch_normalization(models[way], training_batches(second, 32, seed), verbose=0)
        errors[way].append(error(models[way], second_test))
    print(f"{way:>28}: test error {', '.join(f'{each:.1f}' for each in errors[way])} %")

# %%
figure, axes = plt.subplots(figsize=(8, 3.3), layout="constrained")
for place, runs in enumerate(errors.values()):
    axes.barh(place, np.mean(runs), color="C0", alpha=0.6)
    axes.plot(runs, [place] * len(runs), "k.")
axes.set_yticks(range(len(errors)), errors)
axes.invert_yaxis()
axes.set_xlabel("test error on the second half (%), mean and runs")
axes.set_title(f"{DATASET}: fine-tuning with 2 images a step")
axes.grid(axis="x", alpha=0.3)
plt.show()

mean = {way: np.mean(runs) for way, runs in errors.items()}
rows = "\n".join(f"| {way} | {each:.1f} |" for way, each in mean.items())
recalibrating, freezing = (mean[way] - mean["BN"] for way in (RECALIBRATED_AFTER, "BN, frozen"))
replacing = mean["GN in its place"] - mean["BN, frozen"]
display(
    Markdown(
        f"| way | test error % |\n| --- | --- |\n{rows}\n\nThe lowest is *{min(mean, key=mean.get)}*. Against BN as it "
        f"is, recalibrating it afterwards changes the error by {recalibrating:+.1f} points, and freezing it by "
        f"{freezing:+.1f}. Against frozen BN, GN in its place changes it by {replacing:+.1f}."
    )
)

# %% [markdown]
# What GN lacks here is a first training of its own: the weights that it gets were learnt with other statistics. In the
# paper the network is trained with GN from the start.
#
# ## Deployment
#
# A frozen BN multiplies and adds constants, and so does the convolution before it: `fold_batch_normalization` makes
# them one. A GN takes its statistics from the image that it sees, and stays. The fine-tuned networks are saved, loaded
# and exported as they would be on a device, and predict one image at a time.

# %%
plain, gn = (copied(models[way], None) for way in ("BN, frozen", "GN in its place"))  # without an optimizer to save
deployed = {"BN, frozen": plain, "folded": kn.models.fold_batch_normalization(plain), "GN": gn}
image = next(second_test.batch(1).as_numpy_iterator())[0]
difference = np.abs(deployed["folded"](image) - plain(image)).max()
print(f"largest difference of a logit between frozen and folded: {difference:.0e}")


# %%
def exported(model):
    """The sizes of the files in kB, and functions that predict one image: the graph, and the LiteRT interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        saved, lite = Path(folder, "model.keras"), Path(folder, "model.tflite")
        model.save(saved)
        loaded = keras.models.load_model(saved)
        loaded.export(str(lite), format="litert", verbose=False)
        sizes = [path.stat().st_size / 1e3 for path in (saved, lite)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow announces that its interpreter moves to another package
            interpreter = tf.lite.Interpreter(model_content=lite.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    graph = tf.function(lambda x: loaded(x, training=False))
    return sizes, [lambda: graph(image), interpreter.invoke]


def median_times(functions, repeats):
    """Milliseconds of each, taken in turns, so that a slow moment of the machine meets all."""
    times = np.empty((repeats, len(functions)))
    for repeat in times:
        for i, run in enumerate(functions):
            start = time.perf_counter()
            run()
            repeat[i] = 1e3 * (time.perf_counter() - start)
    return np.median(times[repeats // 10 :], 0)


sizes, functions = zip(*(exported(model) for model in deployed.values()), strict=True)
times = median_times([run for each in functions for run in each], repeats=50 if FAST else 500).reshape(-1, 2)
rows = "\n".join(
    f"| {name} | {model.count_params():,} | {keras_kb:.0f} | {lite_kb:.0f} | {graph_ms:.2f} | {lite_ms:.3f} |"
    for (name, model), (keras_kb, lite_kb), (graph_ms, lite_ms) in zip(deployed.items(), sizes, times, strict=True)
)
(graph, lite), lite_file = times[1] / times[0], sizes[1][1] / sizes[0][1]
display(
    Markdown(
        "| model | weights | .keras, kB | LiteRT, kB | graph, ms | LiteRT, ms |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        f"{rows}\n\nMedians on this machine's CPU, for one image of {image_shape}. They change from machine to machine "
        "and from run to run, and serve to compare the rows. Folded over frozen: "
        f"{graph:.2f} of the time in the graph, {lite:.2f} of the time in LiteRT, {lite_file:.2f} of the LiteRT file. "
        f"GN over folded: {times[2, 1] / times[1, 1]:.2f} of the time in LiteRT."
    )
)

# %% [markdown]
# The LiteRT converter folds constants itself, where it recognizes them, so that most of what folding gives it has
# already; the Keras graph, and every step of quantization that wants the final weights, needs
# `fold_batch_normalization`.
#
# ## What to remember
#
# Batch statistics of 2 images harm the weights that train with them, and recalibrating the moving statistics afterwards
# cannot mend that. Freeze them, on the old or the new data, or replace BN by a normalization that does not look at the
# batch. What is frozen folds into the convolutions at the end; what depends on the image stays.
#
# ## Exercises
#
# 1. Train the first half with `kn.GroupNormalization` from the start, and fine-tune it. Does GN overtake the frozen BN?
# 2. Fine-tune at batches of 4, 8 and 16. From where on does BN as it is do as well as frozen BN?
