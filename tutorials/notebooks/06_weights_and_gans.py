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
# # The weights can be normalized in place of the activations
#
# A normalization of activations makes the output of a layer independent of the scale of its weights. One can have that
# from the weights themselves, without looking at a batch in every step:
#
# * *Weight normalization* ([Salimans & Kingma 2016](https://arxiv.org/abs/1602.07868)): `w = g v / ||v||`
#   for each unit. A first batch sets `g` and the bias, and no later one is needed. In the paper this learns CIFAR-10
#   about as fast as batch normalization; its best network (7.31 % test error, their table 1) takes the mean from the
#   batch as well.
# * *Spectral normalization* ([Miyato et al. 2018](https://arxiv.org/abs/1802.05957)): `W / sigma(W)`, the largest
#   singular value of which is 1. It bounds how steep the discriminator of a GAN can be. The paper reaches an inception
#   score of 8.22 and a Fréchet inception distance of 21.7 on CIFAR-10 (their table 2), and trains at learning rates at
#   which other discriminators fail (their figure 1).
#
# Here: a classifier of eight convolutions, then a small GAN, both on the digits, in less than two minutes on two CPU
# cores.

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

TRAIN_IMAGES = 600 if FAST else 2000  # at most: larger sets take longer, not other code
SEEDS = 1 if FAST else 2
EPOCHS = 2 if FAST else 6
STEPS = 20 if FAST else 500

# %% [markdown]
# ## The data
#
# Images as numbers of mean about 0, in a pipeline that shuffles anew in each epoch.

# %%
(train_split, test_split), info = tfds.load(DATASET, split=["train", "test"], as_supervised=True, with_info=True)
train_split = train_split.take(TRAIN_IMAGES).cache()
train_size = len(list(train_split))
image_shape, classes = info.features["image"].shape, info.features["label"].num_classes
largest = max(int(image.max()) for image, _ in train_split.as_numpy_iterator())


def scaled(image, label):
    """Pixels from -1 to 1."""
    return tf.cast(image, tf.float32) / largest * 2 - 1, label


def batches(batch_size, seed):
    """Batches of training images, in a new order each epoch."""
    images = train_split.map(scaled).cache().shuffle(train_size, seed=seed)
    return images.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


test = test_split.take(TRAIN_IMAGES).map(scaled).batch(500).cache()
print(f"{DATASET}: {train_size} training images of shape {image_shape}, {classes} classes")

# %% [markdown]
# ## What the wrapper does
#
# It keeps the layer's kernel as the direction `v`, adds the lengths `g`, and computes the effective kernel in each
# call. Nothing is assigned, so the gradient passes through the norm: it is orthogonal to `v` in each unit.

# %%
layer = kn.WeightNormalization(layers.Dense(4))
x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.square(layer(x) - 1))
v, gradient = layer.layer.kernel.numpy(), tape.gradient(loss, layer.layer.kernel.value).numpy()
cosines = (v * gradient).sum(0) / np.linalg.norm(v, axis=0) / np.linalg.norm(gradient, axis=0)
print("weights:", [weight.name for weight in layer.weights])
print("length of each effective unit / g:", np.linalg.norm(layer.fold().kernel.numpy(), axis=0) / layer.g[0].numpy())
print(f"largest cosine of v and its gradient: {np.abs(cosines).max():.0e}")

# %% [markdown]
# ## A network that is too deep to start by itself
#
# Eight convolutions without residuals, from Keras' default initialization, at which each ReLU halves the variance.
# After them little is left of the input, and of the gradient. Four networks that differ in nothing but this:
#
# * *none*;
# * *weight norm, no data*: the wrapper alone, which starts as the layer would;
# * *weight norm*: the same, and `initialize_from_data` sets `g` and the bias for outputs of mean 0 and variance 1 on
#   one batch;
# * *batch norm*.


# %%
def plain(convolution):
    """The convolution as it is."""
    return [convolution]


def weight_normalized(convolution):
    """The length of each filter apart from its direction."""
    return [kn.WeightNormalization(convolution)]


def batch_normalized(convolution):
    """Mean and variance from the batch."""
    return [convolution, kn.BatchNormalization(momentum=0.9)]


CLASSIFIERS = {  # how the convolutions are made, and whether they start from data
    "none": (plain, False),
    "weight norm, no data": (weight_normalized, False),
    "weight norm": (weight_normalized, True),
    "batch norm": (batch_normalized, False),
}


def classifier(normalized):
    """Eight convolutions and a mean."""
    stack = [keras.Input(image_shape)]
    for filters, strides in ((24, 1), (24, 1), (24, 1), (48, 2), (48, 1), (48, 1), (48, 2), (48, 1)):
        stack += [*normalized(layers.Conv2D(filters, 3, strides, padding="same")), layers.ReLU()]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(classes)])


def test_errors(name, seed):
    """The test error in percent after each epoch."""
    normalized, from_data = CLASSIFIERS[name]
    keras.utils.set_random_seed(seed)
    model = classifier(normalized)
    if from_data:
        images, _ = next(iter(batches(500, seed)))
        kn.initialize_from_data(model, images, training=True)
    model.compile(
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(batches(50, seed), epochs=EPOCHS, validation_data=test, shuffle=False, verbose=0).history
    return 100 * (1 - np.array(history["val_accuracy"]))


errors = {}
for name in CLASSIFIERS:
    errors[name] = np.array([test_errors(name, seed) for seed in range(SEEDS)])
    print(f"{name:>20}: {', '.join(f'{error:.1f}' for error in errors[name][:, -1])} % after {EPOCHS} epochs")

# %%
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
for (name, runs), style in zip(errors.items(), ("-", "--", "-", "-"), strict=True):
    epochs = np.arange(1, EPOCHS + 1)
    (line,) = axes.plot(epochs, runs.mean(0), style, marker="o", markersize=3, label=name)
    axes.fill_between(epochs, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
axes.set(xlabel="epoch", ylabel="test error (%)", ylim=(0, 100))
axes.set_title(f"{DATASET}: eight convolutions, no residuals (mean and range of {SEEDS} seed{'s'[: SEEDS > 1]})")
axes.grid(alpha=0.3)
axes.legend(title="normalization", loc="center right")
plt.show()

last = {name: runs[:, -1].mean() for name, runs in errors.items()}
rows = "\n".join(f"| {name} | {runs[:, 0].mean():.1f} | {runs[:, -1].mean():.1f} |" for name, runs in errors.items())
display(
    Markdown(
        f"| normalization | test error after epoch 1, % | after epoch {EPOCHS}, % |\n| --- | --- | --- |\n{rows}\n\n"
        f"Weight normalization that starts from data ends {last['none'] - last['weight norm']:.1f} points below no "
        f"normalization, and {last['weight norm'] - last['batch norm']:+.1f} points from batch normalization. Without "
        f"the data it is {last['weight norm, no data'] - last['none']:+.1f} points from none."
    )
)

# %% [markdown]
# The start is what the data give here. A start that was made for ReLU (`kernel_initializer="he_normal"`) helps
# the plain network as well; `initialize_from_data` finds it without knowing what stands between the layers.
#
# The network was made so that the start decides; from a good start all kinds come closer to each other.
#
# ## A discriminator at a learning rate that is far too high
#
# A generator against a discriminator that takes five steps to its one, on the hinge loss, by Adam at a rate of `0.01`,
# once with plain layers and once with each in `kn.SpectralNormalization`.

# %%
NOISE, BATCH, DISCRIMINATOR_STEPS, SAMPLES = 32, 64, 5, 1000
DISCRIMINATORS = {"none": lambda layer: layer, "spectral norm": kn.SpectralNormalization}


def generator():
    """Noise to images, in two transposed convolutions."""
    height, width, channels = image_shape
    return keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(height // 4 * (width // 4) * 64, use_bias=False),
            kn.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Reshape((height // 4, width // 4, 64)),
            layers.Conv2DTranspose(32, 4, 2, padding="same", use_bias=False),
            kn.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2DTranspose(channels, 4, 2, padding="same", activation="tanh"),
        ]
    )


def discriminator(wrap):
    """Images to a score, high for real ones."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            wrap(layers.Conv2D(32, 4, 2, padding="same")),
            layers.LeakyReLU(0.1),
            wrap(layers.Conv2D(64, 4, 2, padding="same")),
            layers.LeakyReLU(0.1),
            layers.Flatten(),
            wrap(layers.Dense(64)),
            layers.LeakyReLU(0.1),
            wrap(layers.Dense(1)),
        ]
    )


class GAN(keras.Model):
    """A generator and a discriminator that `fit` trains: batches of real images in, the two losses out."""

    def __init__(self, g, d, learning_rate):
        super().__init__()
        self.g, self.d = g, d
        self.g_optimizer, self.d_optimizer = (keras.optimizers.Adam(learning_rate, 0.5, 0.9) for _ in range(2))
        self.compile()

    def fakes(self):
        return self.g(tf.random.normal((BATCH, NOISE)), training=True)

    def train_step(self, data):
        for images in tf.split(data, DISCRIMINATOR_STEPS):
            both = tf.concat([images, self.fakes()], 0)
            with tf.GradientTape() as tape:
                of_real, of_fake = tf.split(self.d(both, training=True), 2)
                d_loss = tf.reduce_mean(tf.nn.relu(1 - of_real)) + tf.reduce_mean(tf.nn.relu(1 + of_fake))
            self.step(tape, d_loss, self.d, self.d_optimizer)
        with tf.GradientTape() as tape:
            g_loss = -tf.reduce_mean(self.d(self.fakes(), training=True))
        self.step(tape, g_loss, self.g, self.g_optimizer)
        return {"discriminator": d_loss, "generator": g_loss}

    @staticmethod
    def step(tape, loss, model, optimizer):
        gradients = tape.gradient(loss, [weight.value for weight in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)


# %% [markdown]
# Samples are looked at, and measured by the Fréchet distance of the normal distributions with the means m and the
# covariances C of the pixels, of generated images (a) and test images (b):
#
#     ||m_a - m_b||^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2))
#
# (The paper takes this distance between features of an Inception network, so its values are on another scale.)


# %%
def frechet_distance(a, b):
    """0 for sets of images of equal means and covariances, pixel by pixel."""
    a, b = (images.reshape(len(images), -1).astype("float64") for images in (a, b))
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    # C = x^T x, so that the trace of (C_a C_b)^(1/2) is the sum of the singular values of a b^T.
    return shift + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a @ b.T, "nuc")


def singular_values(d):
    """Of the kernel that each layer works with, as a matrix of (rest, units)."""
    plain_layers = [layer.fold() if isinstance(layer, kn.SpectralNormalization) else layer for layer in d.layers]
    kernels = [layer.kernel.numpy() for layer in plain_layers if layer.weights]
    return [np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False) for kernel in kernels]


class Distance(keras.callbacks.Callback):
    """Records the distance to the test images now and then."""

    def __init__(self, noise, real, every):
        super().__init__()
        self.noise, self.real, self.every = noise, real, every
        self.steps, self.distances = [], []

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            self.steps.append(batch + 1)
            samples = self.model.g(self.noise, training=False).numpy()
            self.distances.append(frechet_distance(samples, self.real))


real_train = np.concatenate([images for images, _ in train_split.map(scaled).batch(500).as_numpy_iterator()])
real_test = np.concatenate([images for images, _ in test.as_numpy_iterator()])
noise = np.random.default_rng(0).normal(size=(SAMPLES, NOISE)).astype("float32")
gans = {}
for name, wrap in DISCRIMINATORS.items():
    keras.utils.set_random_seed(0)
    gan = GAN(generator(), discriminator(wrap), learning_rate=0.01)
    before, distance = singular_values(gan.d), Distance(noise, real_test, every=STEPS // 10)
    images = batches(DISCRIMINATOR_STEPS * BATCH, seed=0).map(lambda images, _: images).repeat()
    gan.fit(images, steps_per_epoch=STEPS, shuffle=False, verbose=0, callbacks=[distance])
    samples = gan.g(noise, training=False).numpy()
    gans[name] = {"samples": samples, "before": before, "after": singular_values(gan.d), "distance": distance}
    print(f"{name:>13}: Fréchet distance {distance.distances[-1]:.1f} after {STEPS} steps of the generator")
print(f"{'(real images':>13}: {frechet_distance(real_train, real_test):.1f} between the training and the test images)")


# %%
def grid(images):
    """64 images in a square, with a frame around each."""
    framed = np.pad((images[:64] + 1) / 2, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.5)
    return np.concatenate([np.concatenate(framed[i : i + 8], 1) for i in range(0, 64, 8)], 0)


shown = {"real images": real_train} | {f"discriminator: {name}": gan["samples"] for name, gan in gans.items()}
figure, panels = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
for axes, (title, images) in zip(panels, shown.items(), strict=True):
    axes.imshow(grid(images), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.axis("off")
plt.show()

# %%
figure, axes = plt.subplots(figsize=(7, 3.7), layout="constrained")
for name, gan in gans.items():
    axes.plot(gan["distance"].steps, gan["distance"].distances, marker="o", markersize=3, label=name)
axes.set(xlabel="steps of the generator", ylabel="Fréchet distance to the test images", ylim=(0, None))
axes.set_title(f"{DATASET}: Adam at a learning rate of 0.01")
axes.grid(alpha=0.3)
axes.legend(title="discriminator")
plt.show()

# %% [markdown]
# What became of the weights: all singular values of each layer of the discriminator, before and after. Plain ones grow
# with the learning rate. Normalized ones have 1 as their largest, but for what the weights move between two steps of
# the power iteration, of which each call in training makes one.

# %%
figure, panels = plt.subplots(1, 2, figsize=(12, 4), sharey=True, layout="constrained")
for axes, (name, gan) in zip(panels, gans.items(), strict=True):
    for when, style, fill in (("before", ":", "none"), ("after", "-", "full")):
        for i, values in enumerate(gan[when]):
            place = np.linspace(0, 1, len(values)) if len(values) > 1 else [0]
            marker = "o" if len(values) == 1 else ""  # a layer of one unit has one singular value
            axes.plot(
                place, values, style, marker=marker, fillstyle=fill, color=f"C{i}", label=f"layer {i + 1}, {when}"
            )
    axes.set(yscale="log", title=f"discriminator: {name}")
    axes.set_xlabel("rank of the singular value (0: largest, 1: smallest)")
    axes.grid(alpha=0.3)
panels[0].set_ylabel("singular value")
figure.legend(*axes.get_legend_handles_labels(), title="training", loc="outside right center")
plt.show()

steepest = {
    name: {when: np.prod([values[0] for values in gan[when]]) for when in ("before", "after")}
    for name, gan in gans.items()
}
rows = "\n".join(
    f"| {name} | {steepest[name]['before']:.3g} | {steepest[name]['after']:.3g} | {gan['distance'].distances[-1]:.1f} |"
    for name, gan in gans.items()
)
display(
    Markdown(
        "| discriminator | product of the largest singular values, before | after | Fréchet distance |\n"
        f"| --- | --- | --- | --- |\n{rows}"
    )
)

# %% [markdown]
# ## What to remember
#
# Weight normalization by itself starts where the plain network starts; one batch of data at the beginning is what lets
# a deep network train, with no statistics afterwards and the same function in training and inference. Spectral
# normalization bounds how steep a discriminator gets, so that its gradients stay of use to the generator at a learning
# rate that lets plain weights grow without end. Both compute the kernel in each call, and `fold()` gives the plain
# layer back.
#
# ## Exercises
#
# 1. Lower the learning rate of the GAN until the plain discriminator works. How do its singular values change?
# 2. Add `kn.MeanOnlyBatchNormalization` behind `kn.WeightNormalization` in the classifier, as the paper's best network
#    has it, and `kernel_initializer="he_normal"` to the plain convolutions. What is left of the difference?
