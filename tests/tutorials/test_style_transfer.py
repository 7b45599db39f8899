"""Digits in inks: how they are drawn, and what the notebook on style transfer shows."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from keras_norm.tutorials import data, inks
from support.backends import tensorflow_only
from support.notebooks import tables_of

pytestmark = tensorflow_only

STYLES = inks.random(200, [3, 4])


def test_shapes_are_the_digits_enlarged(data_dir):
    shapes, labels = inks.shapes(data.load("digits", 50, str(data_dir)).train_split, 24)
    assert shapes.shape == (50, 24, 24, 1) and labels.shape == (50,)
    assert shapes.min() >= 0 and shapes.max() <= 1 and shapes.max((1, 2, 3)).min() > 0.95
    (images, _), *_ = data.load("digits", 50, str(data_dir)).train_split.batch(50)
    centers = shapes[:, 1::3, 1::3]  # of the pixels that each was enlarged to
    given = images.numpy() / images.numpy().max((1, 2, 3), keepdims=True)
    assert (centers[given == 1] > 0.9).mean() > 0.99
    assert (centers[given == 0] < 0.1).mean() > 0.99


def test_a_shape_has_the_color_of_the_ink_where_it_is_1_and_of_the_paper_where_it_is_0():
    half = np.zeros((200, 6, 6, 1), "float32")
    half[:, :, :3] = 1
    drawn = inks.drawn(half, STYLES).numpy()
    expected = np.broadcast_to(STYLES.ink.numpy()[:, None, None], drawn[:, :, :3].shape)
    np.testing.assert_allclose(drawn[:, :, :3], expected, atol=1e-6)
    blank = STYLES.kind.numpy() == 0
    expected = np.broadcast_to(STYLES.paper.numpy()[blank, None, None], drawn[blank, :, 3:].shape)
    np.testing.assert_allclose(drawn[blank, :, 3:], expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "moved", "same"), [(1, (0, 6), True), (1, (2, 0), True), (1, (0, 3), False)])
def test_stripes_repeat_along_their_angle_only(kind, moved, same):
    style = inks.Inks(*(tf.constant(v, "float32")[None] for v in ([1, 1, 1], [0, 0, 0], [0, 1, 0], kind, 0.0)))
    pattern = inks.drawn(np.zeros((1, 24, 24, 1), "float32"), style).numpy()[0]
    assert np.allclose(np.roll(pattern, moved, (0, 1)), pattern, atol=1e-4) == same
    assert 0.4 < pattern[..., 1].mean() < 0.6


def test_checks_change_sides_with_half_a_period_either_way():
    style = inks.Inks(*(tf.constant(v, "float32")[None] for v in ([1, 1, 1], [0, 0, 0], [0, 1, 0], 2, 0.0)))
    pattern = inks.drawn(np.zeros((1, 24, 24, 1), "float32"), style).numpy()[0, ..., 1]
    for moved in ((3, 0), (0, 3)):
        np.testing.assert_allclose(np.roll(pattern, moved, (0, 1)), 1 - pattern, atol=1e-4)


def test_inks_are_brighter_than_the_paper_and_its_pattern():
    value = {
        name: np.array([colorsys.rgb_to_hsv(*color)[2] for color in getattr(STYLES, name).numpy()])
        for name in ("ink", "paper", "pattern")
    }
    assert value["ink"].min() > value["pattern"].max() > value["pattern"].min() > value["paper"].max()


def test_styles_differ_and_their_seed_determines_them():
    for one, again in zip(STYLES, inks.random(200, [3, 4]), strict=True):
        np.testing.assert_array_equal(one, again)
    assert len(np.unique(STYLES.ink.numpy(), axis=0)) == 200
    assert set(STYLES.kind.numpy()) == {0, 1, 2}
    assert len(np.unique(STYLES.angle)) == 4


def test_plain_shapes_are_white_on_black():
    shapes = np.random.default_rng(0).random((2, 3, 4, 1)).astype("float32")
    np.testing.assert_array_equal(inks.plain(shapes), np.concatenate([shapes] * 3, -1))


def test_the_notebook_transfers_the_style_and_keeps_the_content():
    *_, table = tables_of("13_style_transfer")
    distance, error = "style distance to the style image", "pixel error to the drawing"
    assert 30 < float(table["content", distance]) / float(table["transferred", distance]) < 36
    assert float(table["transferred", distance]) < float(table["drawn by program", distance])
    assert 0.4 < float(table["transferred", error]) / float(table["content", error]) < 0.5
    recognized = {
        row: float(table[row, "recognized as the content (%)"]) for row in ("transferred", "drawn by program")
    }
    assert recognized["drawn by program"] - 2 < recognized["transferred"] < recognized["drawn by program"]
    as_style = [float(table[row, "recognized as the style's digit (%)"]) for row in ("content", "transferred")]
    assert as_style[0] == as_style[1] < 10
