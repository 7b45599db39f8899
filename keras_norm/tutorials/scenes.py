"""Scenes for segmentation and detection: real images of a `tensorflow_datasets` set, several on one canvas.

The canvas is a square of cells. A cell shows an item, that is an image of the set in a random size at a random place,
or no item. Clutter, light and noise differ from scene to scene. Masks and boxes come from the composition.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import tensorflow as tf

from keras_norm.tutorials import data

CELL = 16
"""The side of a cell in pixels."""
SIZES = (9, 15)
"""The smallest side of an item in pixels, and the first one that is too large."""
FRAGMENT = 6
"""The side of a fragment of clutter in pixels."""
SHOWN = 0.75
"""How often a cell shows an item, where there are several cells."""
FOREGROUND = 0.3
"""An item covers the pixels that have at least this share of its maximum."""
NOISE = 0.05
"""The standard deviation of the noise, where an item is as bright as 1."""

Scene = dict[str, tf.Tensor]
"""The entries `image` (side, side, 1), `mask` (side, side), `boxes` (cells², 4) and `labels` (cells²,).

A mask is 0 on the background and 1 + the class on an item. A box is (top, left, bottom, right) in pixels. The label of
a cell without an item is -1, and its box is zero.
"""


@dataclass(frozen=True)
class Scenes:
    """Scenes of a training and a test split, held in memory."""

    classes: int
    side: int
    train_size: int
    train_split: tf.data.Dataset
    test_split: tf.data.Dataset

    def train(self, batch_size: int, seed: int, target: Callable[[Scene], tf.Tensor]) -> tf.data.Dataset:
        """Endless batches of exactly `batch_size` images and their targets, in a new order each time."""
        shuffled = self.train_split.shuffle(self.train_size, seed=seed).repeat()
        return _pairs(shuffled, target).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def test(self, target: Callable[[Scene], tf.Tensor], batch_size: int = 100) -> tf.data.Dataset:
        """All test images and their targets, in order."""
        return _pairs(self.test_split, target).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _pairs(split: tf.data.Dataset, target: Callable[[Scene], tf.Tensor]) -> tf.data.Dataset:
    return split.map(lambda scene: (scene["image"], target(scene)), num_parallel_calls=tf.data.AUTOTUNE)


def mask(scene: Scene) -> tf.Tensor:
    """The target of a segmentation: the class of each pixel, 0 for the background."""
    return scene["mask"]


def label(scene: Scene) -> tf.Tensor:
    """The target of a classification: the class of the item in the first cell."""
    return scene["labels"][0]


def load(
    name: str,
    train_scenes: int,
    test_scenes: int,
    cells: int = 2,
    light: float = 1.0,
    data_dir: str | None = None,
    seed: int = 0,
) -> Scenes:
    """Scenes of the images in the data set `name`: those of its train split for training, of its test split for tests.

    Args:
        name: a set that `data.load` takes, of images with one channel, bright on black.
        train_scenes: the number of training scenes.
        test_scenes: the number of test scenes.
        cells: the cells along a side. With one cell each scene shows a single item.
        light: how much the light differs: 0 for the same light in all scenes.
        data_dir: as in `data.load`.
        seed: another seed makes other scenes, and so does another `tf.random.set_seed`.

    Raises:
        ValueError: if the images of the set have several channels.
    """
    images = data.load(name, data_dir=data_dir)
    if images.image_shape[-1] != 1:
        raise ValueError(
            f"load: the images must have one channel, bright on black, to tell an item from the background. "
            f"Received: {name!r} with images of shape {images.image_shape} (for example digits, fashion_mnist)."
        )

    def split(items: tf.data.Dataset, scenes: int, seed: int) -> tf.data.Dataset:
        def shuffled(source: tf.data.Dataset, seed: int) -> tf.data.Dataset:
            size = int(source.cardinality())
            return source.repeat().shuffle(size, seed=seed).batch(cells**2, drop_remainder=True)

        # Clutter is of training images in both splits: a test must not show what the network has to find.
        pairs = tf.data.Dataset.zip(shuffled(items, seed), shuffled(images.train_split, seed + 1)).take(scenes)
        composed = pairs.enumerate().map(
            lambda index, pair: compose(pair[0], pair[1][0], (seed, index), light),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return data.in_memory(composed)

    train = split(images.train_split, train_scenes, 4 * seed)
    test = split(images.test_split, test_scenes, 4 * seed + 2)
    return Scenes(images.classes, cells * CELL, train_scenes, train, test)


def compose(
    items: tuple[tf.Tensor, tf.Tensor], clutter: tf.Tensor, seed: tuple[int, tf.Tensor], light: float = 1.0
) -> Scene:
    """A scene of square canvas, one cell for each item.

    Args:
        items: images of shape (cells², height, width, 1), and their classes.
        clutter: as many images, of which the scene shows fragments.
        seed: two integers, which determine all that is random.
        light: as in `load`.
    """
    images, labels = items
    number = len(images)
    cells = round(number**0.5)
    draws = count()

    def draw(shape: list[int], low: float, high: float) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, _numbered(seed, next(draws)), low, high)

    shown = draw([number], 0, 1) < (SHOWN if cells > 1 else 1.0)
    patches = tf.where(shown[:, None, None], _placed(images, draw), 0.0)
    masks = patches >= FOREGROUND
    fragments = tf.where(_windows(draw, number), _placed(clutter, draw), 0.0)
    pixels = _canvas(tf.where(masks, patches, tf.maximum(patches, fragments)), cells)
    side = cells * CELL
    ramp = tf.linspace(-0.5, 0.5, side)
    gain = 1 + light * draw([], -0.5, 0.5)
    offset, down, right = tf.unstack(light * draw([3], -0.5, 0.5))
    lit = gain * pixels + offset + down * ramp[:, None] + right * ramp
    noise = NOISE * tf.random.stateless_normal([side, side], _numbered(seed, next(draws)))
    labels = tf.where(shown, tf.cast(labels, tf.int32), -1)
    return {
        "image": (lit + noise)[..., None],
        "mask": _canvas(tf.where(masks, labels[:, None, None] + 1, 0), cells),
        "boxes": tf.where(shown[:, None], _boxes(masks, cells), 0.0),
        "labels": labels,
    }


def _numbered(seed: tuple[int, tf.Tensor], draw: int) -> tf.Tensor:
    """The seed of a draw, another one for each draw of each scene."""
    return tf.stack([tf.constant(100 * seed[0] + draw, tf.int64), tf.cast(seed[1], tf.int64)])


def _placed(images: tf.Tensor, draw: Callable[..., tf.Tensor]) -> tf.Tensor:
    """Each image in a random size at a random place of a black cell, with a maximum of about 1."""
    images = tf.cast(images, tf.float32)
    images /= tf.maximum(tf.reduce_max(images, [1, 2, 3], keepdims=True), 1.0)
    number = len(images)
    size = tf.floor(draw([number, 1], *SIZES))
    start = tf.floor(draw([number, 2], 0, 1) * (CELL + 1 - size))
    # The corners of the cell in the coordinates of the image, which are 0 and 1 at its first and last pixel.
    boxes = tf.concat([-start, CELL - 1 - start], 1) / (size - 1)
    return tf.image.crop_and_resize(images, boxes, tf.range(number), [CELL, CELL])[..., 0]


def _windows(draw: Callable[..., tf.Tensor], number: int) -> tf.Tensor:
    """True on a random square of each cell: what is seen of the clutter."""
    start = tf.floor(draw([number, 2, 1], 0, CELL - FRAGMENT + 1))
    inside = (tf.range(CELL, dtype=tf.float32) >= start) & (tf.range(CELL, dtype=tf.float32) < start + FRAGMENT)
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def _canvas(patches: tf.Tensor, cells: int) -> tf.Tensor:
    """The cells side by side."""
    rows = tf.reshape(patches, [cells, cells, CELL, CELL])
    return tf.reshape(tf.transpose(rows, [0, 2, 1, 3]), [cells * CELL, cells * CELL])


def _boxes(masks: tf.Tensor, cells: int) -> tf.Tensor:
    """The smallest box around each mask, on the canvas."""
    edges = []
    for axis in (1, 2):  # rows, then columns, that have a pixel of the mask
        occupied = tf.cast(tf.reduce_any(masks, 3 - axis), tf.int32)
        edges += [tf.argmax(occupied, 1), CELL - tf.argmax(occupied[:, ::-1], 1)]
    top, bottom, left, right = (tf.cast(edge, tf.float32) for edge in edges)
    corners = tf.cast(CELL * tf.stack([tf.range(cells**2) // cells, tf.range(cells**2) % cells], 1), tf.float32)
    return tf.stack([top, left, bottom, right], 1) + tf.tile(corners, [1, 2])
