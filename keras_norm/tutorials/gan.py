"""A small GAN that `fit` trains, and what is measured of it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_norm as kn

NOISE = 32
"""The numbers from which the generator makes an image."""
BATCH = 64
"""The real images, and the generated ones, that the discriminator sees at a step."""
DISCRIMINATOR_STEPS = 5
"""The steps of the discriminator for each one of the generator."""


def generator(image_shape: tuple[int, int, int]) -> keras.Model:
    """Noise to images, in two transposed convolutions."""
    height, width, channels = image_shape
    if height % 4 or width % 4:
        raise ValueError(f"generator: the sides of the images must be divisible by 4. Received: {image_shape}")
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


def discriminator(
    image_shape: tuple[int, int, int], wrap: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Images to a score, high for real ones; `wrap` changes each layer that has a kernel."""
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
    """A generator and a discriminator, trained with the hinge loss by Adam.

    A step takes `DISCRIMINATOR_STEPS * BATCH` real images, for the steps of the discriminator and one of the generator.
    """

    def __init__(self, generator: keras.Model, discriminator: keras.Model, learning_rate: float) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        models = (generator, discriminator)
        self.optimizers = {model: keras.optimizers.Adam(learning_rate, 0.5, 0.9) for model in models}
        for model, optimizer in self.optimizers.items():
            optimizer.build(model.trainable_variables)

    def fakes(self) -> tf.Tensor:
        """A batch of generated images."""
        return self.generator(tf.random.normal((BATCH, NOISE)), training=True)

    def train_step(self, data: tf.Tensor) -> dict[str, tf.Tensor]:
        """Some steps of the discriminator and one of the generator."""
        for images in tf.split(data, DISCRIMINATOR_STEPS):
            both = tf.concat([images, self.fakes()], 0)
            with tf.GradientTape() as tape:
                of_real, of_fake = tf.split(self.discriminator(both, training=True), 2)
                d_loss = tf.reduce_mean(tf.nn.relu(1 - of_real)) + tf.reduce_mean(tf.nn.relu(1 + of_fake))
            self._apply(self.discriminator, tape, d_loss)
        with tf.GradientTape() as tape:
            g_loss = -tf.reduce_mean(self.discriminator(self.fakes(), training=True))
        self._apply(self.generator, tape, g_loss)
        return {"discriminator": d_loss, "generator": g_loss}

    def _apply(self, model: keras.Model, tape: tf.GradientTape, loss: tf.Tensor) -> None:
        gradients = tape.gradient(loss, [weight.value for weight in model.trainable_variables])
        self.optimizers[model].apply(gradients, model.trainable_variables)


class Watch(keras.callbacks.Callback):
    """Records the step, the distance and the singular values in `rows`, at regular steps and before the first.

    Args:
        real: the images to whose distribution the distance is taken.
        samples: how many images to generate, always from the same noise; `images` are the last ones.
    """

    def __init__(self, real: np.ndarray, every: int, samples: int = 1000) -> None:
        super().__init__()
        self.real, self.every = real, every
        self.noise = np.random.default_rng(0).normal(size=(samples, NOISE)).astype("float32")
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._look(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % self.every == 0:
            self._look(batch + 1)

    def _look(self, step: int) -> None:
        self.images = self.model.generator.predict(self.noise, batch_size=1000, verbose=0)
        distance = round(frechet_distance(self.images, self.real), 2)
        values = largest_singular_values(self.model.discriminator)
        largest = {f"sigma_{i}": round(value, 3) for i, value in enumerate(values, 1)}
        self.rows.append({"step": step, "frechet_distance": distance, **largest})


def train(real: dict[str, np.ndarray], wrap: Callable, learning_rate: float, steps: int, seed: int) -> Watch:
    """Trains a GAN from `seed`, and returns its records.

    Args:
        real: pixels from -1 to 1 of the "train" and the "test" images.
        wrap: what changes each layer of the discriminator.
        learning_rate: that of generator and discriminator.
        steps: those of the generator; a multiple of 10.
        seed: determines the weights, the noise and the order of the images.
    """
    keras.utils.set_random_seed(seed)
    image_shape = real["train"].shape[1:]
    model = GAN(generator(image_shape), discriminator(image_shape, wrap), learning_rate)
    watch = Watch(real["test"], every=max(1, steps // 10))
    model.compile(steps_per_execution=watch.every, jit_compile=False)
    images = tf.data.Dataset.from_tensor_slices(real["train"]).shuffle(len(real["train"]), seed=seed).repeat()
    batches = images.batch(DISCRIMINATOR_STEPS * BATCH).prefetch(2)
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch])
    return watch


def pixels(split: tf.data.Dataset) -> np.ndarray:
    """All images of a split, from -1 to 1."""
    images = np.concatenate([images for images, _ in split.batch(1000).as_numpy_iterator()]).astype("float32")
    return images / images.max() * 2 - 1


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance between normal distributions with the means and covariances of two sets of images.

    |mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2)): 0 for sets that agree in both.
    """
    a, b = (x.reshape(len(x), -1).astype("float64") for x in (a, b))
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    # C = x^T x, so that the trace of (C_a C_b)^(1/2) is the sum of the singular values of a b^T.
    return float(shift + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a @ b.T, "nuc"))


def largest_singular_values(discriminator: keras.Model) -> list[float]:
    """Of the kernel that each layer works with, as a matrix of (rest, units)."""
    wrapped = (kn.SpectralNormalization, kn.WeightNormalization)
    plain = [layer.fold() if isinstance(layer, wrapped) else layer for layer in discriminator.layers if layer.weights]
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in plain]
    return [float(np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)) for kernel in kernels]


def grid(images: np.ndarray) -> np.ndarray:
    """64 images of pixels from -1 to 1 in a square, with a frame around each; pixels from 0 to 1."""
    framed = np.pad((images[:64] + 1) / 2, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.5)
    return np.concatenate([np.concatenate(framed[i : i + 8], 1) for i in range(0, 64, 8)], 0)
