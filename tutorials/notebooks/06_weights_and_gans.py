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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/keras_norm/blob/main/tutorials/notebooks/06_weights_and_gans.ipynb)
#
# *Runtime: about 2 minutes on two CPU cores. Data: the digits of scikit-learn, which come with the package.
# Accelerator: none needed.*
#
# A normalization of activations makes the output of a layer independent of the scale of its weights. Normalizing the
# weights themselves does the same, and needs no batch:
#
# * *Weight normalization* ([Salimans & Kingma 2016](https://arxiv.org/abs/1602.07868)): `w = g v / ||v||` for each unit.
#   A first batch sets `g` and the bias. In the paper this learns CIFAR-10 about as fast as Batch Normalization. Its best
#   network (7.31 % test error, table 1) takes the mean from the batch as well.
# * *Spectral normalization* ([Miyato et al. 2018](https://arxiv.org/abs/1802.05957)): `W / sigma(W)`, whose largest
#   singular value is 1. It bounds how steep the discriminator of a GAN can be. In the paper (figure 1) it works in all six
#   settings of the optimizer, A to F. Settings D to F have high learning rates or momenta, and some of the other methods
#   fail there.
#
# Here: a classifier of eight convolutions, then a small GAN.

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
from keras_norm.tutorials import FAST, data, figures, gan, networks, tables, training

tf.get_logger().setLevel("ERROR")  # each run traces a new network, which is no mistake here

DATASET = "digits"  # or "fashion_mnist", "cifar10"
TRAIN_IMAGES = 500 if FAST else 1437
SEEDS = 1 if FAST else 2
EPOCHS = 1 if FAST else 5
STEPS = 10 if FAST else 200

# %% [markdown]
# ## The data

# %%
images = data.load(DATASET, TRAIN_IMAGES)
print(f"{DATASET}: {images.train_size} training images of shape {images.image_shape}, {images.classes} classes")

# %% [markdown]
# ## What the wrapper does
#
# `kn.WeightNormalization(layer)` keeps the layer's kernel as the direction `v`, adds the lengths `g`, and computes the
# effective kernel in each call. The gradient passes through the norm, so it is orthogonal to `v` in each unit.

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
# ## A network that is too deep to train from its initialization
#
# Eight convolutions without residuals. With Keras' default initialization each ReLU halves the variance, so little is left
# of the input, and of the gradient. Four networks differ only in this:
#
# * no normalization;
# * weight normalization, not from data: the wrapper alone, which starts as the plain layer does;
# * weight normalization, from data: `initialize_from_data` sets `g` and the bias so that the outputs of each layer have
#   mean 0 and variance 1 on one batch;
# * Batch Normalization.

# %%
CLASSIFIERS = {  # the layers in place of a convolution
    "none": lambda convolution: [convolution],
    "weight_norm_no_data": lambda convolution: [kn.WeightNormalization(convolution)],
    "weight_norm": lambda convolution: [kn.WeightNormalization(convolution)],
    "batch": lambda convolution: [convolution, kn.BatchNormalization(momentum=0.9)],
}


def test_errors(name, seed):
    """The test error in percent after each epoch."""
    keras.utils.set_random_seed(seed)
    model = networks.without_residuals(images.image_shape, images.classes, CLASSIFIERS[name])
    if name == "weight_norm":
        batch, _ = next(iter(images.train(500, seed)))
        kn.initialize_from_data(model, batch, training=True)
    # Compiling with XLA takes longer than this short training.
    training.compile_classifier(model, 0.02, EPOCHS * (images.train_size // 50), jit_compile=False)
    history = model.fit(
        images.train(50, seed), epochs=EPOCHS, validation_data=images.test(), shuffle=False, verbose=0
    ).history
    return [100 * (1 - accuracy) for accuracy in history["val_accuracy"]]


runs = pd.DataFrame(
    [
        (name, seed, epoch, error)
        for name in CLASSIFIERS
        for seed in range(SEEDS)
        for epoch, error in enumerate(test_errors(name, seed), 1)
    ],
    columns=["normalization", "seed", "epoch", "error"],
)

# %% [markdown]
# Test error in percent by epoch, mean and standard deviation over the seeds:

# %%
tables.summary(runs, "normalization", "epoch", "error")

# %%
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
# Two methods have nearly the same curve: a wide one below a narrow one with dashes.
options = {
    "none": {"linewidth": 6, "elinewidth": 1, "alpha": 0.4, "markersize": 11},
    "weight_norm_no_data": {"linestyle": "--"},
}
for name in CLASSIFIERS:
    errors = runs[runs["normalization"] == name].pivot(index="seed", columns="epoch", values="error")
    figures.curve(axes, name, errors.columns, errors, **options.get(name, {}))
figures.error_axis(axes)
axes.set_xlabel("epoch")
axes.set_title(f"{DATASET}: eight convolutions without residuals")
figure.legend(title="normalization", loc="outside right upper")
plt.show()

# %% [markdown]
# The plain network does not start in five epochs: 91.5 ± 1.0 % of the test images are wrong, which is chance. Weight
# normalization by itself starts as the plain layer does, and has the same curve to the last digit. With its
# initialization from data the same network has an error of 2.1 ± 0.2 %. Batch Normalization, which normalizes in each
# step and not only before the first, needs no such initialization (1.7 ± 0.8 %).
#
# ## A discriminator at a learning rate that is too high
#
# A generator is trained against a discriminator that takes five steps to its one, with the hinge loss and Adam at a learning
# rate of `0.01`. `discriminator(image_shape, wrap)` applies `wrap` to each convolution and each dense layer:

# %%
DISCRIMINATORS = {"none": lambda layer: layer, "spectral_norm": kn.SpectralNormalization}
gan.discriminator(images.image_shape, kn.SpectralNormalization).summary()

# %% [markdown]
# The samples are compared with the test images by the Fréchet distance between normal distributions with the means m and
# the covariances C of the pixels, of generated images (a) and test images (b):
#
#     ||m_a - m_b||^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2))
#
# The paper takes this distance between features of an Inception network, so its values are on another scale.

# %%
real = {split: gan.pixels(part) for split, part in (("train", images.train_split), ("test", images.test_split))}
print(f"distance between training and test images: {gan.frechet_distance(real['train'], real['test']):.1f}")
watches = {name: gan.train(real, wrap, 0.01, STEPS, seed=0) for name, wrap in DISCRIMINATORS.items()}
last = pd.DataFrame({figures.style(name).label: watch.rows[-1] for name, watch in watches.items()}).T
last.round(1)

# %%
figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained")
shown = {"real": real["train"]} | {figures.style(name).label: watch.images for name, watch in watches.items()}
for axes, (title, pictures) in zip(panels, shown.items(), strict=True):
    axes.imshow(gan.grid(pictures), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title if title == "real" else f"discriminator: {title}")
    axes.axis("off")
plt.show()

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
columns = {"frechet_distance": "Fréchet distance to the test images", "sigma_2": "largest singular value of layer 2"}
for axes, (column, label) in zip(panels, columns.items(), strict=True):
    for name, watch in watches.items():
        rows = pd.DataFrame(watch.rows)
        figures.curve(axes, name, rows["step"], [rows[column]])
    axes.set(yscale="log", xlabel="step of the generator", ylabel=f"{label}, log scale")
    axes.grid(alpha=0.3)
figure.legend(*axes.get_legend_handles_labels(), title="discriminator", loc="outside right upper")
plt.show()

# %% [markdown]
# With the plain discriminator the images are at a Fréchet distance of 15.2 from the test images after this short training,
# with spectral normalization at 7.7: one seed each. Two seeds of three times as many steps have 18.5 ± 0.9 and 3.8 ± 0.4
# ([results](https://github.com/OWNER/keras_norm/blob/main/docs/results.md#normalized-weights)). The singular values show why: the
# largest ones of the plain discriminator grow to 14.9 in the second layer, so that the discriminator can change
# without bound and leaves the generator behind; those of the other stay near 1.
#
# In the paper (Miyato et al. 2018, [arXiv:1802.05957](https://arxiv.org/abs/1802.05957), figure 1), some of the other
# methods fail in the settings D to F, which have high learning rates or momentum, and spectral normalization does not.
#
# ## What to remember
#
# Weights can be normalized in place of activations. Weight normalization separates the length of each filter from its
# direction; what makes a deep network train is its initialization from data. Spectral normalization bounds what a
# discriminator can do. Both compute the kernel in each call and assign nothing, so the gradient passes through the norm.
#
# ## Exercises
#
# 1. Put `kn.MeanOnlyBatchNormalization(momentum=0.9)` behind each weight-normalized convolution. What does the batch still
#    contribute, and what not?
# 2. Lower the learning rate of the GAN by a factor of ten. Which of the two discriminators gains more, and why?
