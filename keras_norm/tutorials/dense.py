"""Networks for segmentation and detection on top of a backbone, and how detections are coded, found and scored."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn.metrics import average_precision_score

from keras_norm.tutorials.networks import convolution
from keras_norm.tutorials.scenes import Scene

Normalization = Callable[[], keras.layers.Layer]

FILTERS = (16, 32, 32)
"""The filters of the backbone, at strides 1, 2 and 4."""
STRIDE = 4
"""The pixels between neighboring locations of a detector's map."""
TYPICAL = 10.0
"""About the side of a box in pixels; the detector learns the logarithm of the quotient."""
MOST = 12
"""The largest number of detections in an image."""


def backbone(normalization: Normalization) -> keras.Model:
    """Four convolutions, which make maps of 16, 32 and 32 channels at strides 1, 2 and 4."""
    inputs = keras.Input((None, None, 1))
    x, maps = inputs, []
    for filters in FILTERS:
        x = layers.ReLU()(convolution(x, filters, 3, 1 if x is inputs else 2, normalization))
        maps.append(x)
    maps[-1] = layers.ReLU()(convolution(x, filters, 3, 1, normalization))
    return keras.Model(inputs, maps, name="backbone")


def classifier(body: keras.Model, classes: int) -> keras.Model:
    """The backbone with a linear layer behind the mean of its last map: logits of `classes`."""
    inputs = keras.Input((None, None, 1))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(body(inputs)[-1])))


def segmenter(body: keras.Model, classes: int, normalization: Normalization | None) -> keras.Model:
    """A U-Net: the last map of the backbone, enlarged twice and joined with the earlier ones.

    Its outputs are logits of the background and of `classes` for each pixel. Without `normalization` the convolutions
    of the decoder have a bias.
    """
    inputs = keras.Input((None, None, 1))
    *skips, x = body(inputs)
    for skip in reversed(skips):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skip])
        x = _head_convolution(x, skip.shape[-1] // 2, normalization)
    return keras.Model(inputs, layers.Conv2D(1 + classes, 1)(x))


def detector(body: keras.Model, classes: int, normalization: Normalization | None) -> keras.Model:
    """A detector of one stage: each location of the last map predicts logits of no item and `classes`, and a box.

    For the box see `encode`. Without `normalization` the convolutions of the head have a bias.
    """
    inputs = keras.Input((None, None, 1))
    x = body(inputs)[-1]
    for _ in range(2):
        x = _head_convolution(x, x.shape[-1], normalization)
    return keras.Model(inputs, layers.Conv2D(1 + classes + 4, 1)(x))


def _head_convolution(x: keras.KerasTensor, filters: int, normalization: Normalization | None) -> keras.KerasTensor:
    if normalization is None:
        return layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", activation="relu")(x)
    return layers.ReLU()(convolution(x, filters, 3, 1, normalization))


def encode(scene: Scene) -> tf.Tensor:
    """The target of a detector: at the location of each box's center its class and box, and zeros elsewhere.

    The last axis has 1 + the class, the center relative to the location in strides (down, right), and the logarithm of
    height and width in `TYPICAL`.
    """
    shown = scene["labels"] >= 0
    boxes, labels = tf.boolean_mask(scene["boxes"], shown), tf.boolean_mask(scene["labels"], shown)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    locations = tf.floor(centers / STRIDE)
    size = tf.math.log((boxes[:, 2:] - boxes[:, :2]) / TYPICAL)
    values = tf.concat([tf.cast(labels[:, None] + 1, tf.float32), centers / STRIDE - locations - 0.5, size], 1)
    side = scene["image"].shape[0] // STRIDE
    return tf.scatter_nd(tf.cast(locations, tf.int32), values, [side, side, 5])


@keras.saving.register_keras_serializable("keras_norm.tutorials")
def detection_loss(target: keras.KerasTensor, output: keras.KerasTensor) -> keras.KerasTensor:
    """Cross-entropy at all locations and absolute error of the box where one is, a value for each image.

    Both are divided by the number of boxes (Liu et al., SSD, ECCV 2016, https://arxiv.org/abs/1512.02325, equation 1).
    """
    here = ops.cast(target[..., 0] > 0, output.dtype)
    entropy = keras.losses.sparse_categorical_crossentropy(target[..., 0], output[..., :-4], from_logits=True)
    error = ops.sum(ops.abs(target[..., 1:] - output[..., -4:]), -1)
    return ops.sum(entropy + here * error, [1, 2]) / ops.maximum(ops.sum(here, [1, 2]), 1.0)


def decode(outputs: tf.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The detections in the outputs of a detector: boxes in pixels, scores, classes, and how many are valid.

    Of boxes of a class that overlap by more than half (intersection over union) the best one is kept.
    """
    logits, center, size = tf.split(tf.cast(outputs, tf.float32), [outputs.shape[-1] - 4, 2, 2], -1)
    rows, columns = outputs.shape[1:3]
    locations = tf.stack(tf.meshgrid(tf.range(rows), tf.range(columns), indexing="ij"), -1)
    middle = (tf.cast(locations, tf.float32) + 0.5 + center) * STRIDE
    half = TYPICAL * tf.exp(tf.minimum(size, 3.0)) / 2
    boxes = tf.reshape(tf.concat([middle - half, middle + half], -1), [-1, rows * columns, 1, 4])
    scores = tf.reshape(tf.nn.softmax(logits)[..., 1:], [-1, rows * columns, logits.shape[-1] - 1])
    found = tf.image.combined_non_max_suppression(
        boxes, scores, MOST, MOST, iou_threshold=0.5, score_threshold=0.05, clip_boxes=False
    )
    return tuple(part.numpy() for part in found)


def mean_average_precision(
    detections: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], scenes: Sequence[dict[str, np.ndarray]]
) -> float:
    """The average precision at an intersection over union of one half, in percent; the mean over the classes.

    A detection is right if it overlaps by at least one half with a box of its class that no detection with a higher
    score has taken. The average precision is the area under the steps of precision over recall, without interpolation,
    by `sklearn.metrics.average_precision_score`. It takes the recall relative to the boxes that were found, so the
    result is multiplied by their share of all boxes.
    """
    boxes, scores, classes, valid = detections
    right: dict[int, list[bool]] = {}
    score: dict[int, list[float]] = {}
    for i, scene in enumerate(scenes):
        for c in np.unique(classes[i, : valid[i]]):
            of_class = np.flatnonzero(classes[i, : valid[i]] == c)
            truth = scene["boxes"][scene["labels"] == c]
            right.setdefault(int(c), []).extend(_matched(boxes[i, of_class], truth))
            score.setdefault(int(c), []).extend(scores[i, of_class])
    labels = np.concatenate([scene["labels"] for scene in scenes])
    precisions = []
    for c in np.unique(labels[labels >= 0]):
        hits = np.array(right.get(int(c), []), bool)
        found = hits.sum() / (labels == c).sum()
        precisions.append(found * average_precision_score(hits, score[int(c)]) if found else 0.0)
    return 100 * float(np.mean(precisions))


def _matched(boxes: np.ndarray, truth: np.ndarray) -> list[bool]:
    """Whether each of `boxes`, best first, finds a box that none before it has found."""
    overlaps, free, matched = overlap(boxes, truth), np.ones(len(truth), bool), []
    for row in overlaps:
        candidates = np.where(free, row, 0.0)
        hit = bool(len(truth)) and candidates.max() >= 0.5
        if hit:
            free[candidates.argmax()] = False
        matched.append(hit)
    return matched


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The intersection over union of each box of `first` with each of `second`."""
    inner = np.minimum(first[:, None, 2:], second[:, 2:]) - np.maximum(first[:, None, :2], second[:, :2])
    shared = inner.clip(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)
