"""Image classification data of `tensorflow_datasets`, by name, as standardized `tf.data` pipelines."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_norm.digits  # noqa: F401  registers "digits"

SUGGESTED = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")


@dataclass(frozen=True)
class ImageData:
    """The two splits of a data set, held in memory, and what it takes to feed them to a model."""

    image_shape: tuple[int, int, int]
    classes: int
    train_size: int
    mean: np.ndarray
    deviation: np.ndarray
    train_split: tf.data.Dataset
    test_split: tf.data.Dataset

    def train(self, batch_size: int, seed: int, augment: Callable | None = None) -> tf.data.Dataset:
        """Batches of exactly `batch_size` training images, in a new order each epoch.

        `augment`, if given, changes each batch of images (`mirrored`, for example).
        """
        if batch_size > self.train_size:
            raise ValueError(
                f"train: batch_size must be at most the number of training images. "
                f"Received: batch_size={batch_size} of {self.train_size} images."
            )
        shuffled = self.train_split.shuffle(self.train_size, seed=seed)
        # A smaller last batch would be a second batch size in the experiment, and a second shape to compile.
        batches = self._standardized(shuffled.batch(batch_size, drop_remainder=True))
        return batches if augment is None else batches.map(lambda x, y: (augment(x), y), tf.data.AUTOTUNE)

    def test(self, batch_size: int = 500) -> tf.data.Dataset:
        """All test images, in order."""
        return self._standardized(self.test_split.batch(batch_size))

    def _standardized(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        def standardize(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return (tf.cast(images, tf.float32) - self.mean) / self.deviation, labels

        return batches.map(standardize, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def half_of_classes(images: ImageData, which: int) -> ImageData:
    """The images of the first half of the classes, or of the second (`which` is 0 or 1), counted from 0 again."""
    classes = images.classes // 2

    def of_half(split: tf.data.Dataset) -> tf.data.Dataset:
        mine = split.filter(lambda _, label: label // classes == which)
        return in_memory(mine.map(lambda image, label: (image, label - which * classes)))

    train, test = of_half(images.train_split), of_half(images.test_split)
    size = int(train.cardinality())
    return replace(images, classes=classes, train_size=size, train_split=train, test_split=test)


def mirrored(images: tf.Tensor) -> tf.Tensor:
    """Half of the images, chosen at random, mirrored."""
    return tf.image.random_flip_left_right(images)


def shifted_and_mirrored(images: tf.Tensor) -> tf.Tensor:
    """Each image moved by up to 2 pixels in each direction, and half of them mirrored: the usual choice for CIFAR."""
    n, height, width, _ = images.shape
    padded = tf.pad(images, [[0, 0], [2, 2], [2, 2], [0, 0]], "REFLECT")
    rows, columns = (tf.random.uniform([n, 1], maxval=5, dtype=tf.int32) + tf.range(size) for size in (height, width))
    return mirrored(tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1))


def load(name: str, train_images: int | None = None, data_dir: str | None = None) -> ImageData:
    """The data set `name` of `tensorflow_datasets`, which is downloaded if it is not on disk.

    Args:
        name: any image classification set with a train and a test split and images of one size.
        train_images: how many training images to use, from the first on; all if None.
        data_dir: where TFDS keeps its sets; `TFDS_DATA_DIR` or `~/tensorflow_datasets` if None.

    Raises:
        ValueError: if there is no such set, or it is not one of image classification.
    """
    splits = ["train" if train_images is None else f"train[:{train_images}]", "test"]
    (train, test), info = _load_splits(name, splits, data_dir)
    train, test = in_memory(train), in_memory(test)
    mean, deviation = _pixel_statistics(train)
    image, label = (info.features[key] for key in info.supervised_keys)
    return ImageData(image.shape, label.num_classes, int(train.cardinality()), mean, deviation, train, test)


def in_memory(split: tf.data.Dataset) -> tf.data.Dataset:
    """`split`, read into a cache, with a known size.

    What reads a part of a cache that is being filled and stops may leave it cut short, and from then on it counts as
    whole. Keras does so at the first batch under a strategy.
    """
    cached = split.cache()
    return cached.apply(tf.data.experimental.assert_cardinality(cached.reduce(np.int64(0), lambda n, _: n + 1)))


def _load_splits(
    name: str, splits: list[str], data_dir: str | None
) -> tuple[list[tf.data.Dataset], tfds.core.DatasetInfo]:
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        close = difflib.get_close_matches(name, ["digits", *tfds.list_builders()], n=3)
        raise ValueError(
            f"load: the data set must be one of tensorflow_datasets. Received: {name!r} "
            f"(close: {', '.join(close) or 'none'}; for example {', '.join(SUGGESTED)})."
        ) from None
    _check(name, builder.info)
    try:
        builder.download_and_prepare()
    except OSError:
        # Another process may have prepared the same set meanwhile: TFDS then cannot move its own copy into place.
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            raise
    return builder.as_dataset(split=splits, as_supervised=True), builder.info


def _check(name: str, info: tfds.core.DatasetInfo) -> None:
    """Refuses what is no image classification, before anything is downloaded."""
    features = [info.features[key] for key in info.supervised_keys or ()]
    kinds = [type(feature) for feature in features]
    if kinds != [tfds.features.Image, tfds.features.ClassLabel] or None in features[0].shape:
        raise ValueError(
            f"load: the data set must pair images of one size with class labels. Received: {name!r} with "
            f"{info.features} (for example {', '.join(SUGGESTED)})."
        )


def _pixel_statistics(train: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each color over the training images."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for images, _ in train.batch(1000).as_numpy_iterator():
        pixels = images.reshape(-1, images.shape[-1]).astype(np.float64)
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + (pixels**2).sum(0)
    mean = total / count
    return mean.astype(np.float32), np.sqrt(squares / count - mean**2).astype(np.float32)
