"""The experiment on video: on a tiny budget, its clips, its network, and what its stored rows show."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import video
from keras_norm.tutorials import clips, tables
from support.backends import tensorflow_only
from support.notebooks import tables_of

pytestmark = tensorflow_only

STORED = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.slow
def test_the_experiment_writes_every_setting_and_the_figure(data_dir, tmp_path):
    budget = ["--epochs", "1", "--seeds", "1", "--train-images", "32", "--frames", "2", "4"]
    done = subprocess.run(
        [sys.executable, video.__file__, *budget, "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "video.csv").read_text().splitlines()))
    assert len(rows) == 2 * (4 + 3)  # lengths, settings of the two normalizations
    steps = {(row["setting"], int(row["steps"])) for row in rows}
    ghost, fewer = "8 clips, statistics over 2", "2 clips, as few steps"
    assert steps == {("8 clips", 4), (ghost, 4), ("2 clips", 16), (fewer, 4)}
    assert {row["normalization"] for row in rows if row["setting"] == ghost} == {"batch"}
    assert (tmp_path / "video.png").read_bytes().startswith(b"\x89PNG")
    assert "| digits, BN: test error (%) | 2 frames | 4 frames |" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--small 3", "--small: must divide --large. Received: 3 and 8 clips"),
        ("--large 2", "Received: 2 and 2 clips"),
        ("--frames 0", "must be a positive integer. Received: '0'"),
        ("--train-images 7", "Received: batch_size=8 of 7 clips"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_trained(flags, message, data_dir, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        video.main([*flags.split(), "--data-dir", str(data_dir), "--output", str(tmp_path / "none")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_an_image_moves_by_a_pixel_a_frame_and_comes_in_again():
    images = np.random.default_rng(0).normal(size=(40, 4, 5, 2)).astype("float32")
    made = clips.in_motion(tf.constant(images), 7, 0.0, tf.constant([3, 4])).numpy()
    assert made.shape == (40, 7, 4, 5, 2)
    moves = set()
    for image, frames in zip(images, made, strict=True):
        possible = [
            move
            for move in ((-1, 0), (1, 0), (0, -1), (0, 1))
            if all((frames[t] == np.roll(image, (t * move[0], t * move[1]), (0, 1))).all() for t in range(7))
        ]
        assert len(possible) == 1
        moves.update(possible)
    assert len(moves) == 4


def test_each_pixel_of_each_frame_has_noise_of_the_deviation_asked_for():
    images = tf.zeros((50, 8, 8, 1))
    noise = clips.in_motion(images, 10, 0.5, tf.constant([0, 1])).numpy()
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 0.5], atol=0.01)
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.1


def test_training_clips_differ_in_each_pass_and_test_clips_do_not(data_dir):
    data = clips.load("digits", noise=0.5, train_images=16, data_dir=str(data_dir))
    train = data.train(4, 8, seed=0)
    first, second = (np.concatenate([x for x, _ in train]) for _ in range(2))
    assert first.shape == (16, 4, 8, 8, 1)
    repeated = np.concatenate([x for x, _ in train.repeat(2)])
    for one, other in ((first, second), (repeated[:16], repeated[16:])):
        distances = ((one[:, None] - other[None]) ** 2).mean((2, 3, 4, 5))
        assert distances.min() > 0.25  # twice the variance of the noise, if not the same noise
    tests = [np.concatenate([x for x, _ in data.test(4)]) for _ in range(2)]
    assert tests[0].shape == (360, 4, 8, 8, 1)
    np.testing.assert_array_equal(*tests)


def test_larger_images_are_resized(data_dir):
    data = clips.load("digits", noise=0.0, data_dir=str(data_dir), side=6)
    assert data.frame_shape == (6, 6, 1)
    assert next(iter(data.train(3, 5, seed=0)))[0].shape == (5, 3, 6, 6, 1)


@pytest.mark.parametrize("frames", [8, 32])
def test_the_network_takes_clips_of_any_length_and_ends_at_one_pixel(frames):
    model = clips.network((8, 8, 1), 10, clips.NORMALIZATIONS["batch"])
    x = tf.zeros((2, frames, 8, 8, 1))
    for layer in model.layers[1:-2]:
        x = layer(x)
    assert x.shape == (2, frames // 4, 1, 1, 32)
    assert model(tf.zeros((2, frames, 8, 8, 1))).shape == (2, 10)


def test_the_changes_are_within_a_seed():
    settings = {("8 clips", 8): (10, 20), ("8 clips", 32): (9, 9), ("2 clips", 8): (13, 21), ("2 clips", 32): (11, 22)}
    rows = [
        ("digits", "batch", setting, frames, int(setting[0]), seed, error)
        for (setting, frames), errors in settings.items()
        for seed, error in enumerate(errors)
    ]
    columns = ["dataset", "normalization", "setting", "frames", "clips", "seed", "error"]
    table = video.changes(pd.DataFrame(rows, columns=columns))
    assert table.loc["BN, 2 clips"].to_list() == ["+2.0 ± 1.4", "-0.5 ± 2.1", "+1.5 ± 0.7"]


@pytest.fixture(scope="module")
def errors():
    """The stored errors: a row for each seed, a column for each (normalization, setting, frames)."""
    runs = tables.read(STORED / "video_digits.csv")
    return runs.pivot(index="seed", columns=["normalization", "setting", "frames"], values="error")


GHOST = "8 clips, statistics over 2"


@pytest.mark.parametrize("setting", [GHOST, "2 clips"])
def test_results_a_small_batch_costs_batch_normalization_and_longer_clips_win_it_back(errors, setting):
    cost = errors["batch", setting, 8] - errors["batch", "8 clips", 8]
    won = errors["batch", setting, 8] - errors["batch", setting, 32]
    assert (cost > 2).all()
    assert (won > 2).all()
    assert abs((cost - won).mean()) < cost.mean() / 2


def test_results_more_steps_hide_a_part_of_what_the_small_batch_costs_in_four_of_five_seeds(errors):
    assert len(errors) == 5
    assert (errors["batch", GHOST, 8] > errors["batch", "2 clips", 8]).sum() == 4


def test_results_longer_clips_help_batch_normalization_at_a_large_batch(errors):
    assert (errors["batch", "8 clips", 8] - errors["batch", "8 clips", 32] > 2).all()


def test_results_group_normalization_pays_nothing_for_a_small_batch(errors):
    assert (errors["group", "2 clips", 8] - errors["group", "8 clips", 8]).mean() < 0


@pytest.mark.parametrize("setting", ["8 clips", "2 clips"])
def test_results_longer_clips_do_not_help_group_normalization(errors, setting):
    gain = errors["group", setting, 8] - errors["group", setting, 32]
    assert gain.mean() < gain.std()


@pytest.mark.parametrize("frames", [8, 32])
def test_results_at_a_large_batch_batch_normalization_is_ahead(errors, frames):
    assert (errors["batch", "8 clips", frames] < errors["group", "8 clips", frames]).all()


def test_notebook_longer_clips_win_back_what_the_small_batch_costs_and_do_not_help_group_normalization():
    table = tables_of("08_video")[0]
    bn = {
        (over, frames): table.measured(f"BN, statistics of {over} clips", f"{frames} frames")
        for over in (2, 8)
        for frames in (8, 32)
    }
    gn = {frames: table.measured("GN, statistics of 1 clip", f"{frames} frames") for frames in (8, 32)}
    assert bn[2, 8].mean - bn[8, 8].mean > 2 * bn[2, 8].spread
    assert abs(bn[2, 32].mean - bn[8, 8].mean) < 2
    assert bn[8, 8].mean - bn[8, 32].mean > 2
    assert gn[32].mean > gn[8].mean
    assert gn[8].mean < bn[2, 8].mean
    assert all(bn[8, frames].mean < gn[frames].mean for frames in (8, 32))
