"""Segmentation and detection of scenes: their data, their networks, their scores, and what the runs show."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import detection
import segmentation
import transfer
from keras_norm.layers import FrozenBatchNormalization
from keras_norm.tutorials import dense, scenes, tables
from keras_norm.walk import all_layers
from support.backends import tensorflow_only
from support.notebooks import tables_of

pytestmark = tensorflow_only

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def data(data_dir):
    return scenes.load("digits", 24, 12, data_dir=str(data_dir))


def stored(split):
    return list(split.as_numpy_iterator())


def cells(canvas):
    """The four cells of a canvas, row by row."""
    return [canvas[top : top + 16, left : left + 16] for top in (0, 16) for left in (0, 16)]


def test_a_mask_shows_the_class_of_each_cell_and_a_box_is_just_around_it(data):
    for scene in stored(data.train_split):
        assert scene["image"].shape == (32, 32, 1)
        for i, (label, box, cell) in enumerate(zip(scene["labels"], scene["boxes"], cells(scene["mask"]), strict=True)):
            assert set(np.unique(cell)) <= {0, label + 1}
            rows, columns = np.nonzero(cell)
            if label < 0:
                assert len(rows) == 0 and not box.any()
                continue
            corner = np.array([16 * (i // 2), 16 * (i % 2)] * 2)
            tight = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            np.testing.assert_array_equal(box, tight + corner)


def test_an_item_is_brighter_than_what_is_around_it_in_the_same_light(data_dir):
    for scene in stored(scenes.load("digits", 16, 1, light=0.0, data_dir=str(data_dir)).train_split):
        image, item = scene["image"][..., 0], scene["mask"] > 0
        assert item.any() and image[item].mean() > 0.5 > image[~item].mean()


def test_a_white_item_fills_its_box_and_sizes_and_places_differ():
    white, black = np.full((4, 8, 8, 1), 255, np.uint8), np.zeros((4, 8, 8, 1), np.uint8)
    boxes = []
    for index in range(40):
        scene = scenes.compose((white, np.arange(4)), black, (0, index))
        for label, box in zip(scene["labels"].numpy(), scene["boxes"].numpy(), strict=True):
            if label >= 0:
                boxes.append(box)
                top, left, bottom, right = box.astype(int)
                assert (scene["mask"].numpy()[top:bottom, left:right] == label + 1).all()
    # Rounding may leave out the last row or column of an item.
    assert all(abs((bottom - top) - (right - left)) <= 1 for top, left, bottom, right in boxes)
    assert {max(bottom - top, right - left) for top, left, bottom, right in boxes} >= set(range(9, 15))
    assert {top % 16 for top, *_ in boxes} == set(range(8))  # the smallest item has 8 places
    assert 0.6 < len(boxes) / 160 < 0.9


def test_scenes_are_those_of_the_seed_and_differ_between_splits(data_dir):
    data, again = (scenes.load("digits", 24, 12, data_dir=str(data_dir)) for _ in range(2))
    other = scenes.load("digits", 24, 12, data_dir=str(data_dir), seed=1)
    for split in ("train_split", "test_split"):
        first, second, third = (stored(getattr(each, split)) for each in (data, again, other))
        for a, b, c in zip(first, second, third, strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            assert np.abs(a["image"] - c["image"]).max() > 0.1
    assert len({scene["image"].tobytes() for scene in stored(data.train_split) + stored(data.test_split)}) == 36


def test_the_light_differs_as_much_as_is_asked_for(data_dir):
    def spread(light):
        split = scenes.load("digits", 40, 1, light=light, data_dir=str(data_dir)).train_split
        return np.std([np.median(scene["image"]) for scene in stored(split)])

    assert spread(0.0) < 0.02 < 0.2 < spread(1.0)


def test_images_in_color_are_refused():
    with pytest.raises(ValueError, match=r"must have one channel.*\(32, 32, 3\)"):
        images = type("Images", (), {"image_shape": (32, 32, 3), "classes": 10})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scenes.data, "load", lambda *_, **__: images)
            scenes.load("cifar10", 1, 1)


def test_a_batch_has_the_size_that_is_asked_for_and_the_order_of_its_seed(data):
    (x, y), (again, _) = (next(iter(data.train(5, 3, scenes.mask))) for _ in range(2))
    assert x.shape == (5, 32, 32, 1) and y.shape == (5, 32, 32)
    np.testing.assert_array_equal(x, again)
    other, _ = next(iter(data.train(5, 4, scenes.mask)))
    assert np.abs(x - other).max() > 0


def test_what_is_encoded_is_decoded(data):
    found = 0
    for scene in stored(data.test_split):
        target = dense.encode({name: tf.constant(value) for name, value in scene.items()}).numpy()
        logits = 20.0 * np.eye(11)[target[..., 0].astype(int)]
        boxes, scores, classes, valid = dense.decode(np.concatenate([logits, target[..., 1:]], -1)[None])
        shown = scene["labels"] >= 0
        expected = sorted((c, *box) for c, box in zip(scene["labels"][shown], scene["boxes"][shown], strict=True))
        of_score = scores[0] > 0.5
        decoded = sorted((c, *box) for c, box in zip(classes[0][of_score], boxes[0][of_score], strict=True))
        assert len(decoded) == len(expected) <= valid[0]
        np.testing.assert_allclose(decoded, np.reshape(expected, np.shape(decoded)), atol=1e-3)
        found += len(expected)
    assert found > 12


def test_the_loss_is_cross_entropy_everywhere_and_the_error_of_boxes_where_there_are_some(data):
    scene = {name: tf.constant(value) for name, value in stored(data.test_split)[0].items()}
    target = dense.encode(scene).numpy()
    output = np.random.default_rng(0).normal(2, 3, (8, 8, 15)).astype("float32")
    total, boxes = 0.0, 0
    for t, o in zip(target.reshape(64, 5), output.reshape(64, 15), strict=True):
        total -= np.log(np.exp(o[int(t[0])]) / np.exp(o[:11]).sum())
        if t[0] > 0:
            boxes += 1
            total += np.abs(t[1:] - o[11:]).sum()
    np.testing.assert_allclose(dense.detection_loss(target[None], output[None])[0], total / boxes, rtol=1e-5)


def test_the_overlap_is_that_of_counted_pixels():
    random = np.random.default_rng(0)
    corners = random.integers(0, 10, (12, 2))
    boxes = np.concatenate([corners, corners + random.integers(1, 8, (12, 2))], 1)
    first, second = boxes[:5], boxes[5:]

    def covered(box):
        canvas = np.zeros((20, 20), bool)
        canvas[box[0] : box[2], box[1] : box[3]] = True
        return canvas

    expected = [[(covered(a) & covered(b)).sum() / (covered(a) | covered(b)).sum() for b in second] for a in first]
    np.testing.assert_allclose(dense.overlap(first, second), expected)


def detections(*rows):
    """Rows of (score, class, box) in a single image."""
    scores, classes, boxes = zip(*rows, strict=True)
    return np.array([boxes], float), np.array([scores]), np.array([classes], float), np.array([len(rows)])


def test_the_average_precision_counts_doubles_wrong_places_wrong_classes_and_what_is_missed():
    a, b, c = [0, 0, 10, 10], [0, 20, 10, 30], [20, 0, 30, 10]
    scene = {"boxes": np.array([a, b, c, [0] * 4], float), "labels": np.array([0, 0, 1, -1])}
    score = dense.mean_average_precision
    assert score(detections((0.9, 0, a), (0.8, 0, b), (0.7, 1, c)), [scene]) == 100
    # Class 0: right, double, right: half of 1 and half of 2/3. Class 1 is missed.
    assert score(detections((0.9, 0, a), (0.8, 0, a), (0.7, 0, b)), [scene]) == pytest.approx(100 * (5 / 6) / 2)
    # Class 0: one of two, after a wrong place: half of 1/2. Class 1: right.
    wrong = detections((0.9, 0, [0, 6, 10, 16]), (0.8, 0, b), (0.7, 1, c))
    assert score(wrong, [scene]) == pytest.approx(100 * (1 / 4 + 1) / 2)
    assert score(detections((0.9, 1, a), (0.8, 0, c)), [scene]) == 0


@pytest.mark.parametrize("name", transfer.METHODS)
@pytest.mark.parametrize(("head", "outputs", "shape"), [(dense.segmenter, 11, 32), (dense.detector, 15, 8)])
def test_every_method_keeps_the_backbone_and_shares_no_variable_with_it(name, head, outputs, shape):
    method = transfer.METHODS[name]
    body = dense.backbone(transfer.BODIES[method.body])
    model = head(method.convert(body), 10, method.heads)
    assert model(np.zeros((2, 32, 32, 1))).shape == (2, shape, shape, outputs)
    converted = model.get_layer("backbone")
    assert not {id(v) for v in body.variables} & {id(v) for v in model.variables}
    kernels = [[v.numpy() for v in each.variables if v.name == "kernel"] for each in (body, converted)]
    for before, after in zip(*kernels, strict=True):
        np.testing.assert_array_equal(before, after)
    frozen = [layer for layer in all_layers(model) if isinstance(layer, FrozenBatchNormalization)]
    assert len(frozen) == (4 if "frozen" in name else 0)


def test_devices_see_as_many_images_or_as_many_steps_as_one():
    args = transfer.argument_parser("").parse_args([])
    found = [
        (s.name, round(args.steps * s.length) * s.replicas * s.images) for s in transfer.settings("synchronized", args)
    ]
    usual = 2 * args.steps
    assert found == [
        ("2 devices, equal images", usual),
        ("2 devices, equal steps", 2 * usual),
        ("4 devices, equal images", usual),
        ("4 devices, equal steps", 4 * usual),
    ]
    single = [(s.name, round(args.steps * s.length) * s.images) for s in transfer.settings("batch", args)]
    assert single == [("1 image", usual), ("2 images", usual)]


@pytest.mark.slow
@pytest.mark.parametrize("script", [segmentation, detection])
def test_the_job_trains_every_method_and_draws_the_figure(script, data_dir, tmp_path):
    budget = [
        "--seeds",
        "1",
        "--steps",
        "32",
        "--pretraining-steps",
        "16",
        "--train-scenes",
        "64",
        "--test-scenes",
        "10",
    ]
    done = subprocess.run(
        [sys.executable, script.__file__, *budget, "--replicas", "2", "--lengths", "images", "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    name = Path(script.__file__).stem
    runs = pd.read_csv(tmp_path / f"{name}.csv")
    assert set(runs["method"]) == {*transfer.METHODS, "recalibrated"}
    assert runs["score"].between(0, 100).all()
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (corner, table), *_ = script.results(runs).items()
    assert tables.markdown(table, corner) in done.stdout


SETTINGS = ["2 devices, equal images", "2 devices, equal steps", "4 devices, equal images", "4 devices, equal steps"]


def scores(task):
    """The scores of the stored runs by seed, a column for each method and setting."""
    runs = tables.read(RESULTS / f"{task}_digits.csv")
    return runs.pivot(index="seed", columns=["method", "setting"], values="score")


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_every_method_has_five_seeds(task):
    found = scores(task)
    alone = {(name, "2 images") for name in (*transfer.ALONE, "recalibrated")}
    alone |= {(name, "1 image") for name in ("batch", "recalibrated", "group")}
    assert set(found.columns) == alone | {("synchronized", setting) for setting in SETTINGS}
    assert len(found) == 5 and not found.isna().to_numpy().any()


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_with_two_images_batch_normalization_leads_in_every_seed(task):
    of = scores(task).xs("2 images", axis=1, level="setting")
    for name in ("frozen", "frozen_group", "converted", "group"):
        assert (of["batch"] > of[name]).all()
    assert (of["batch"] - of["recalibrated"]).abs().max() < 1


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_one_image_a_step_costs_batch_normalization_points_and_group_normalization_none(task):
    of = scores(task)
    assert (of["batch", "1 image"] < of["batch", "2 images"] - 1).all()
    assert abs(of["group", "1 image"].mean() - of["group", "2 images"].mean()) < 2
    assert of["batch", "1 image"].mean() > of["group", "1 image"].mean()


def test_group_normalization_wants_a_backbone_trained_with_it_in_detection():
    detected, segmented = (
        scores(task).xs("2 images", axis=1, level="setting") for task in ("detection", "segmentation")
    )
    assert (detected["group"] > detected["converted"]).all()
    assert detected["group"].mean() > detected["converted"].mean() + 10
    assert abs(segmented["group"].mean() - segmented["converted"].mean()) < 3


def test_with_as_many_steps_more_devices_bring_nothing_and_with_as_many_images_they_lack_steps():
    for task in ("segmentation", "detection"):
        of = scores(task)
        for setting in SETTINGS[1::2]:
            assert abs(of["synchronized", setting].mean() - of["batch", "2 images"].mean()) < 1.5
        assert of["synchronized", SETTINGS[2]].mean() < of["synchronized", SETTINGS[0]].mean()


def test_the_notebook_shows_group_normalization_behind():
    for table, column in zip(
        tables_of("10_segmentation_and_detection"), ["mean IoU (%)", "average precision (%)"], strict=True
    ):
        batch, frozen, group = (
            table.measured(name, column).mean for name in ("BN", "frozen BN", "GN, backbone trained with BN")
        )
        assert min(batch, frozen) > group + 4
